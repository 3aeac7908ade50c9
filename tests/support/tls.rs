//! Certificates for one test, made when it starts.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// A certificate authority that nobody else trusts.
pub struct TestCa {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its private key.
    pub key: String,
}

/// How a server speaks TLS. It offers HTTP/2 by ALPN.
#[derive(Debug, Clone)]
pub struct ServerTls(pub(super) Arc<ServerConfig>);

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

impl TestCa {
    /// A new authority, with a new key.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
            .distinguished_name
            .push(DnType::CommonName, "evenkeel test authority");
        let key = KeyPair::generate().expect("a key can be made");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority can be made");
        Self { issuer }
    }

    /// What a client must trust, in PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// An identity for a server that goes by these DNS names and IP addresses.
    pub fn server_identity(&self, names: &[&str]) -> Identity {
        self.identity(names, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// An identity for a client.
    pub fn client_identity(&self, name: &str) -> Identity {
        self.identity(&[name], ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// TLS for a server at `localhost` and `127.0.0.1`.
    pub fn server_tls(&self) -> ServerTls {
        self.server_tls_for(&["localhost", "127.0.0.1"])
    }

    /// TLS for a server that goes by these DNS names and IP addresses.
    pub fn server_tls_for(&self, names: &[&str]) -> ServerTls {
        self.tls(names, None)
    }

    /// TLS for a server at `localhost` and `127.0.0.1` that turns away clients without an identity
    /// from this authority.
    pub fn mutual_tls(&self) -> ServerTls {
        let mut roots = RootCertStore::empty();
        roots
            .add(self.issuer.der().clone())
            .expect("the authority can be trusted");
        self.tls(&["localhost", "127.0.0.1"], Some(roots))
    }

    fn identity(&self, names: &[&str], usage: ExtendedKeyUsagePurpose) -> Identity {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("the names must be valid");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key can be made");
        let certificate = params
            .signed_by(&key, &self.issuer)
            .expect("a certificate can be signed");
        Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    fn tls(&self, names: &[&str], client_roots: Option<RootCertStore>) -> ServerTls {
        let identity = self.server_identity(names);
        let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes())
            .expect("the certificate is PEM");
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("the key is PEM");
        // Named, since another crate in the build may bring a second provider.
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("ring speaks TLS 1.2 and 1.3");
        let builder = match client_roots {
            None => builder.with_no_client_auth(),
            Some(roots) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .expect("the authority can verify clients"),
            ),
        };
        let mut config = builder
            .with_single_cert(vec![certificate], key)
            .expect("the key fits the certificate");
        config.alpn_protocols = vec![b"h2".to_vec()];
        ServerTls(Arc::new(config))
    }
}
