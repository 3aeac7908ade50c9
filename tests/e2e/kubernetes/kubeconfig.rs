//! Whom to ask, by a kubeconfig and TLS.

use std::sync::Arc;

use base64::Engine;
use evenkeel::discovery::{Kubernetes, KubernetesError};
use serde_json::json;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::api_server::ApiServer;
use super::{error, slice, soon, state, watched, word};
use crate::support::{TestCa, within};

#[tokio::test]
async fn a_kubeconfig_says_whom_to_trust_and_who_one_is() {
    let ca = TestCa::new();
    let identity = ca.server_identity(&["127.0.0.1"]);
    let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let api = ApiServer::serve(Some(TlsAcceptor::from(Arc::new(config)))).await;
    api.put(slice("a", &[1]));
    let authority = base64::engine::general_purpose::STANDARD.encode(ca.pem());
    let text = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{}", api.address()),
            "certificate-authority-data": authority,
        }}],
        "users": [{"name": "u", "user": {"token": "s3cret"}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "here"}},
            {"name": "there", "context": {"cluster": "c", "user": "u", "namespace": "there"}},
        ],
    });
    let folder = tempfile("trust");
    let path = folder.0.join("config");
    std::fs::write(&path, text.to_string()).unwrap();
    for (context, namespace) in [(None, "here"), (Some("there"), "there")] {
        let mut source = Kubernetes::own_service("greeter")
            .unwrap()
            .with_kubeconfig(&path)
            .with_backoff(soon());
        if let Some(context) = context {
            source = source.with_context(context);
        }
        let mut updates = source.updates().unwrap();
        assert_eq!(state("over TLS", &mut updates).await.len(), 1);
        let asked = api.asked().pop().unwrap();
        assert_eq!(asked.authorization.as_deref(), Some("Bearer s3cret"));
        assert!(
            asked.path.contains(&format!("/namespaces/{namespace}/")),
            "{}",
            asked.path
        );
    }
    let mut updates = Kubernetes::own_service("greeter")
        .unwrap()
        .with_kubeconfig(folder.0.join("missing"))
        .updates()
        .unwrap();
    let told = error("no such file", &mut updates).await;
    assert!(matches!(told, KubernetesError::Access { .. }), "{told:?}");
    assert!(told.to_string().contains("missing"), "{told}");
}

#[tokio::test]
async fn a_server_that_has_moved_is_found_by_the_kubeconfig() {
    let (before, after) = (ApiServer::start().await, ApiServer::start().await);
    before.put(slice("a", &[1]));
    after.put(slice("a", &[2]));
    let folder = tempfile("moved");
    let path = folder.0.join("config");
    let write = |api: &ApiServer| {
        // No certificate of the system's is needed: the bundle is an empty line.
        let cluster = json!({
            "server": format!("http://{}", api.address()), "certificate-authority-data": "Cg==",
        });
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": {"token": "s3cret"}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&path, text.to_string()).unwrap();
    };
    write(&before);
    let mut updates = Kubernetes::service("prod", "greeter")
        .unwrap()
        .with_kubeconfig(&path)
        .with_backoff(soon())
        .updates()
        .unwrap();
    state("where it is", &mut updates).await;
    watched(&mut updates, &before).await;
    write(&after);
    drop(before);
    let mut told = 0;
    let moved = within("where it is now", async {
        loop {
            match word("it goes on", &mut updates).await {
                Ok(update) => return update.into_endpoints(),
                Err(_) => told += 1,
            }
        }
    });
    let moved = moved.await;
    assert_eq!(moved[0].id().as_str(), "uid-2:50051");
    assert!(told >= 1, "that it was gone is told");
}

/// A folder that goes with this.
struct Folder(std::path::PathBuf);

fn tempfile(name: &str) -> Folder {
    let name = format!("evenkeel-kubeconfig-{name}-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    Folder(folder)
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
