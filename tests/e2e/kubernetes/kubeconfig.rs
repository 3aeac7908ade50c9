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
use super::{error, slice, soon, state};
use crate::support::TestCa;

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
    let folder = tempfile();
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

/// A folder that goes with this.
struct Folder(std::path::PathBuf);

fn tempfile() -> Folder {
    let name = format!("evenkeel-kubeconfig-{}", std::process::id());
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).unwrap();
    Folder(folder)
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
