use std::fmt;

use http::Uri;
use http::uri::Scheme;

use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::grpc::health_check::HealthCheck;
use crate::grpc::http2::{Http2Connector, Http2Settings, Site};
use crate::grpc::load_reports::LoadReports;
use crate::grpc::probe::LoadProbe;
#[cfg(feature = "tls")]
use crate::grpc::tls::Tls;

/// Where a channel's connections come from. Sealed: [`Own`], and what
/// [`tonic_endpoints`](crate::grpc::Builder::tonic_endpoints) and
/// [`tonic_channels`](crate::grpc::Builder::tonic_channels) set.
pub trait Source: private::Sealed {}

mod private {
    use std::time::Duration;

    use crate::connection::Connector;
    use crate::endpoint::Endpoint;
    use crate::error::Error;
    use crate::grpc::health_check::HealthCheck;
    use crate::grpc::load_reports::LoadReports;
    use crate::grpc::probe::LoadProbe;
    use crate::health::Verdict;
    use crate::outcome::LoadReport;
    use crate::probe::{Probe, Watch};

    pub trait Sealed {
        type Connector: Connector;

        /// How its servers are asked for their load.
        type Probe: Probe<<Self::Connector as Connector>::Service> + From<LoadProbe>;

        /// How its servers report their load beside the calls.
        type LoadReports: Watch<<Self::Connector as Connector>::Service, Terms = Duration, Word = LoadReport>
            + From<LoadReports>;

        /// How its servers tell of their health.
        type HealthCheck: Watch<<Self::Connector as Connector>::Service, Terms = (), Word = Verdict>
            + From<HealthCheck>;

        /// Refuses an endpoint that could never be connected to.
        fn check(&self, endpoint: &Endpoint) -> Result<(), Error>;

        /// `max_connections`: how many an endpoint may have, if nothing else was set.
        fn connector(self, max_connections: Option<u32>) -> Result<Self::Connector, Error>;
    }
}

pub(super) use private::Sealed;

/// Connections by hyper's HTTP/2 client, made and watched by evenkeel itself. The default.
#[derive(Default)]
pub struct Own {
    pub(super) settings: Http2Settings,
    pub(super) connect: Option<Connect>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
}

/// Makes the connector over the user's transport.
type Connect = Box<dyn FnOnce(Http2Settings) -> Result<Http2Connector, Error> + Send>;

impl Source for Own {}

impl Own {
    /// Whether TLS can be spoken at all: else each dial would fail.
    fn check_tls(&self, address: &Uri) -> Result<(), Error> {
        #[cfg(feature = "tls")]
        let given = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let given = false;
        let missing = if cfg!(not(feature = "tls")) {
            "the feature tls"
        } else if !given
            && cfg!(not(any(
                feature = "tls-native-roots",
                feature = "tls-webpki-roots"
            )))
        {
            "certificates to trust: give some to tls(), or enable the feature tls-native-roots or \
             tls-webpki-roots"
        } else {
            return Ok(());
        };
        let message = format!("{address} needs {missing}");
        Err(Error::config("tls", message))
    }
}

impl Sealed for Own {
    type Connector = Http2Connector;
    type Probe = LoadProbe;
    type LoadReports = LoadReports;
    type HealthCheck = HealthCheck;

    fn check(&self, endpoint: &Endpoint) -> Result<(), Error> {
        match Site::of(endpoint)? {
            Site::Socket(socket) if self.connect.is_some() => Err(socket.needs_own_transport()),
            Site::Socket(_) => Ok(()),
            Site::Hosts(uris) => (uris.iter())
                .filter(|uri| uri.scheme() == Some(&Scheme::HTTPS))
                .try_for_each(|uri| self.check_tls(uri)),
        }
    }

    fn connector(mut self, max_connections: Option<u32>) -> Result<Http2Connector, Error> {
        let set = self.settings.max_connections;
        self.settings.max_connections = set.or(max_connections);
        let connector = match self.connect {
            Some(connect) => connect(self.settings)?,
            None => Http2Connector::new(self.settings)?,
        };
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return connector.with_tls(tls);
        }
        Ok(connector)
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Own")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
