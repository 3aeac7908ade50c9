use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::io::DuplexStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::WebPkiClientVerifier;

use super::*;

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.pem()
    }

    /// Certificate and key for `name`.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn server(&self, name: &str, alpn: &[&[u8]], client_ca: Option<&Authority>) -> TlsAcceptor {
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots
                    .add(CertificateDer::from_pem_slice(ca.pem().as_bytes()).unwrap())
                    .unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let (certificate, key) = self.issue(name);
        let chain = certificates(certificate.as_bytes(), "the certificate").unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Shakes hands and, to see a server that refuses the client's certificate, reads one byte.
async fn shake(tls: &Tls, host: &str, acceptor: TlsAcceptor) -> Result<(), BoxError> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (client, server): (DuplexStream, _) = tokio::io::duplex(1 << 16);
    let connector = tls.build()?;
    let client = async {
        let mut stream = connector.connect(host, client).await?;
        stream.read_u8().await?;
        Ok(())
    };
    let server = async {
        if let Ok(mut stream) = acceptor.accept(server).await {
            let _ = stream.write_u8(1).await;
            let _ = stream.flush().await;
        }
    };
    let both = async { tokio::join!(client, server).0 };
    timeout(Duration::from_secs(20), both)
        .await
        .expect("a handshake ends")
}

#[tokio::test]
async fn a_server_with_a_trusted_certificate_and_h2_is_accepted() {
    let ca = Authority::new();
    let tls = Tls::new().ca_certificate(ca.pem());
    for (name, host) in [("peer.test", "peer.test"), ("::1", "[::1]")] {
        shake(&tls, host, ca.server(name, &[b"h2"], None))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[tokio::test]
async fn another_authority_or_name_is_refused() {
    let (ca, other) = (Authority::new(), Authority::new());
    let tls = Tls::new().ca_certificate(ca.pem());
    let untrusted = other.server("peer.test", &[b"h2"], None);
    shake(&tls, "peer.test", untrusted)
        .await
        .expect_err("another authority");
    let server = || ca.server("peer.test", &[b"h2"], None);
    shake(&tls, "other.test", server())
        .await
        .expect_err("another name");
    let named = tls.clone().domain_name("peer.test");
    shake(&named, "other.test", server())
        .await
        .expect("the name of the settings counts, not the host's");
    let both = tls.ca_certificate(other.pem());
    let server = other.server("peer.test", &[b"h2"], None);
    shake(&both, "peer.test", server)
        .await
        .expect("a second authority adds to the first");
}

#[tokio::test]
async fn a_server_without_h2_is_refused_unless_assumed() {
    let ca = Authority::new();
    let tls = Tls::new().ca_certificate(ca.pem());
    let error = shake(&tls, "peer.test", ca.server("peer.test", &[], None))
        .await
        .expect_err("no ALPN");
    assert!(error.to_string().contains("ALPN"), "{error}");
    shake(
        &tls,
        "peer.test",
        ca.server("peer.test", &[b"http/1.1"], None),
    )
    .await
    .expect_err("another protocol");
    let assumed = tls.assume_http2(true);
    shake(&assumed, "peer.test", ca.server("peer.test", &[], None))
        .await
        .expect("assumed");
}

#[tokio::test]
async fn a_server_that_asks_for_it_gets_the_clients_certificate() {
    let (ca, clients) = (Authority::new(), Authority::new());
    let tls = Tls::new().ca_certificate(ca.pem());
    let server = || ca.server("peer.test", &[b"h2"], Some(&clients));
    shake(&tls, "peer.test", server())
        .await
        .expect_err("no certificate");
    let (certificate, key) = clients.issue("client.test");
    let known = tls.identity(certificate, key);
    shake(&known, "peer.test", server())
        .await
        .expect("the right certificate");
}

#[test]
fn what_cannot_be_read_is_refused_by_the_name_of_the_field() {
    let ca = Authority::new();
    let (certificate, key) = ca.issue("client.test");
    let (_, other_key) = ca.issue("client.test");
    let good = || Tls::new().ca_certificate(ca.pem());
    assert!(good().build().is_ok(), "what is changed below is good");
    let garbled = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    let no_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (what, bad) in [
        ("no PEM", Tls::new().ca_certificate("nonsense")),
        ("an empty CA", Tls::new().ca_certificate("")),
        ("garbled PEM", Tls::new().ca_certificate(garbled)),
        ("no certificate", Tls::new().ca_certificate(no_certificate)),
        (
            "a key without PEM",
            good().identity(&certificate, "nonsense"),
        ),
        ("no client certificate", good().identity("", &key)),
        ("another key", good().identity(&certificate, &other_key)),
        ("a bad name", good().domain_name("no name")),
    ] {
        let error = bad.build().err().unwrap_or_else(|| panic!("{what}"));
        assert_eq!(error.field(), Some("tls"), "{what}: {error}");
    }
}

#[test]
fn keys_stay_out_of_debug_output() {
    let (certificate, key) = Authority::new().issue("client.test");
    let text = format!("{:?}", Tls::new().identity(certificate, &key));
    let secret = key.lines().nth(1).expect("a line of the key");
    assert!(!text.contains(secret), "{text}");
}
