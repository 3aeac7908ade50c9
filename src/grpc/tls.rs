//! TLS by rustls, with the ring provider named outright: no process-wide default is needed or set.

use std::fmt;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use crate::error::{BoxError, Error};

const FIELD: &str = "tls";
const ALPN_H2: &[u8] = b"h2";

/// How to speak TLS to the endpoints.
///
/// Without [`ca_certificate`](Self::ca_certificate) the roots of the features `tls-native-roots`
/// and `tls-webpki-roots` are trusted; with it, only the certificates given, unless
/// [`enabled_roots`](Self::enabled_roots) adds those too.
#[derive(Clone, Default)]
pub struct Tls {
    ca_pems: Vec<Vec<u8>>,
    identity: Option<Identity>,
    domain_name: Option<String>,
    enabled_roots: bool,
    assume_http2: bool,
}

#[derive(Clone)]
struct Identity {
    certificate_pem: Vec<u8>,
    key_pem: Vec<u8>,
}

impl Tls {
    /// TLS with the roots that the features bring, and no client certificate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the certificate authorities in `pem`, one or more. May be called again.
    #[must_use]
    pub fn ca_certificate(mut self, pem: impl AsRef<[u8]>) -> Self {
        self.ca_pems.push(pem.as_ref().to_vec());
        self
    }

    /// Trusts the roots of the enabled features besides the certificates given. Default: only when
    /// none are given.
    #[must_use]
    pub fn enabled_roots(mut self) -> Self {
        self.enabled_roots = true;
        self
    }

    /// Shows the server a client certificate: its chain and its private key (PKCS #8, PKCS #1 or
    /// SEC 1), both in PEM.
    #[must_use]
    pub fn identity(
        mut self,
        certificate_pem: impl AsRef<[u8]>,
        key_pem: impl AsRef<[u8]>,
    ) -> Self {
        self.identity = Some(Identity {
            certificate_pem: certificate_pem.as_ref().to_vec(),
            key_pem: key_pem.as_ref().to_vec(),
        });
        self
    }

    /// The name (or IP address) that the servers' certificates must carry, and that is sent as SNI.
    /// Default: the host of the endpoint's [`Authority`](crate::endpoint::Authority), or else of its address.
    #[must_use]
    pub fn domain_name(mut self, name: impl Into<String>) -> Self {
        self.domain_name = Some(name.into());
        self
    }

    /// Speaks HTTP/2 even to a server that does not agree to it by ALPN. Default `false`: such a
    /// connection fails.
    #[must_use]
    pub fn assume_http2(mut self, assume: bool) -> Self {
        self.assume_http2 = assume;
        self
    }

    pub(in crate::grpc) fn build(&self) -> Result<TlsConnector, Error> {
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("no usable protocol version", error))?
            .with_root_certificates(self.roots()?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some(identity) => {
                let chain = certificates(&identity.certificate_pem, "the client certificate")?;
                let key = PrivateKeyDer::from_pem_slice(&identity.key_pem)
                    .map_err(|error| bad("the client's private key cannot be read", error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| bad("the client certificate cannot be used", error))?
            }
        };
        config.alpn_protocols.push(ALPN_H2.to_vec());
        let domain = match &self.domain_name {
            None => None,
            Some(name) => Some(ServerName::try_from(name.clone()).map_err(|error| {
                bad(format!("{name:?} is no name that a server can have"), error)
            })?),
        };
        Ok(TlsConnector {
            config: Arc::new(config),
            domain,
            assume_http2: self.assume_http2,
        })
    }

    fn roots(&self) -> Result<RootCertStore, Error> {
        let mut roots = RootCertStore::empty();
        for pem in &self.ca_pems {
            for certificate in certificates(pem, "a CA certificate")? {
                roots
                    .add(certificate)
                    .map_err(|error| bad("a CA certificate cannot be used", error))?;
            }
        }
        if self.enabled_roots || self.ca_pems.is_empty() {
            add_enabled_roots(&mut roots)?;
        }
        if roots.is_empty() {
            return Err(Error::config(
                FIELD,
                "no certificate is trusted: give one, or enable the feature tls-native-roots or \
                 tls-webpki-roots",
            ));
        }
        Ok(roots)
    }
}

#[cfg_attr(
    not(any(feature = "tls-native-roots", feature = "tls-webpki-roots")),
    expect(clippy::unnecessary_wraps, reason = "there are no roots to add")
)]
fn add_enabled_roots(roots: &mut RootCertStore) -> Result<(), Error> {
    #[cfg(feature = "tls-native-roots")]
    {
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "a certificate of the system cannot be loaded");
        }
        let (added, _) = roots.add_parsable_certificates(found.certs);
        if added == 0 && !cfg!(feature = "tls-webpki-roots") {
            return Err(Error::config(
                FIELD,
                "the system has no trusted certificates",
            ));
        }
    }
    #[cfg(feature = "tls-webpki-roots")]
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let _ = roots;
    Ok(())
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let certificates = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad(format!("{what} cannot be read"), error))?;
    if certificates.is_empty() {
        return Err(Error::config(FIELD, format!("{what} is not in PEM")));
    }
    Ok(certificates)
}

fn bad(message: impl Into<std::borrow::Cow<'static, str>>, error: impl Into<BoxError>) -> Error {
    Error::config_because(FIELD, message, error)
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys stay out of logs.
        f.debug_struct("Tls")
            .field("ca_certificates", &self.ca_pems.len())
            .field("identity", &self.identity.is_some())
            .field("domain_name", &self.domain_name)
            .field("enabled_roots", &self.enabled_roots)
            .field("assume_http2", &self.assume_http2)
            .finish()
    }
}

/// [`Tls`], read and ready.
#[derive(Clone)]
pub(in crate::grpc) struct TlsConnector {
    config: Arc<ClientConfig>,
    domain: Option<ServerName<'static>>,
    assume_http2: bool,
}

impl TlsConnector {
    pub(in crate::grpc) async fn connect<T>(
        &self,
        host: &str,
        transport: T,
    ) -> Result<TlsStream<T>, BoxError>
    where
        T: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.domain {
            Some(domain) => domain.clone(),
            // An IPv6 address stands in brackets in a URI, and only there.
            None => {
                let host = host.trim_start_matches('[').trim_end_matches(']');
                ServerName::try_from(host.to_owned())?
            }
        };
        let connector = tokio_rustls::TlsConnector::from(self.config.clone());
        let stream = connector.connect(name, transport).await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(ALPN_H2) && !self.assume_http2 {
            return Err("the server did not agree to HTTP/2 by ALPN".into());
        }
        Ok(stream)
    }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
