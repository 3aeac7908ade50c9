//! Tonic's own endpoints and channels behind a [`Channel`](crate::grpc::Channel).
//!
//! For who has a `tonic::transport::Endpoint` configured in a way that is to stay, or channels that
//! another library made. The connection is then tonic's, with its queue and its task; evenkeel
//! watches what it can:
//!
//! - **Endpoints**: dialled by evenkeel through `connect_with_connector`, so that the transport
//!   passes by here. Its end is seen at once, and so is a GOAWAY where there is no TLS. tonic would
//!   dial again by itself, and keep a dead endpoint in use meanwhile; that second dial is refused,
//!   so that eviction, backoff and re-dial are evenkeel's. The endpoint's configuration is kept, but
//!   for `local_address` and a Unix socket's path, which tonic does not tell: use
//!   [`Builder::connector`] for those. Of an endpoint with several addresses the first is dialled.
//! - **Channels**: only the outcomes of calls are seen. A dead one is ejected after the failures in
//!   a row of [`Ejection`](crate::health::Ejection) and tried again later.
//!
//! A request that tonic has taken never comes back, so nothing is sent a second time.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll, ready as ready_or_pending};

use http::uri::Scheme;
use http::{Request, Response, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tonic::body::Body;
use tonic::transport;
use tower_service::Service;

use crate::connection::{ConnectionEvents, Connector};
use crate::endpoint::{Endpoint, EndpointId};
use crate::error::{BoxError, Error};
use crate::grpc::builder::Builder;
use crate::grpc::health_check::HealthCheck;
use crate::grpc::http2::{
    AttemptError, Caller, ConnectionGauge, Http2Settings, ObservedIo, Refusing, SettingsSeen,
    Sever, Severable, Stall,
};
use crate::grpc::load_reports::LoadReports;
use crate::grpc::probe::LoadProbe;
use crate::grpc::source::{Own, Sealed, Source};

impl Builder<Own> {
    /// Tonic endpoints, each dialled and watched by evenkeel as [this module](crate::grpc::wrap)
    /// says. Their URIs are the endpoints' ids.
    pub fn tonic_endpoints(
        self,
        endpoints: impl IntoIterator<Item = transport::Endpoint>,
    ) -> Builder<TonicEndpoints> {
        let endpoints: Vec<Endpoint> = endpoints.into_iter().map(wrap_endpoint).collect();
        self.with_source(endpoints, TonicEndpoints::default())
    }

    /// Tonic channels that are there already, each with its id.
    pub fn tonic_channels<I: Into<EndpointId>>(
        self,
        channels: impl IntoIterator<Item = (I, transport::Channel)>,
    ) -> Builder<TonicChannels> {
        let endpoints: Vec<Endpoint> = channels
            .into_iter()
            .map(|(id, channel)| {
                let id = id.into();
                Endpoint::new(id.as_str()).with(channel)
            })
            .collect();
        self.with_source(endpoints, TonicChannels(()))
    }
}

/// An endpoint that brings its tonic configuration along, for
/// [`Handle`](crate::discovery::Handle) or a source of one's own under
/// [`Builder::tonic_endpoints`]. Its URI is its id.
pub fn wrap_endpoint(endpoint: transport::Endpoint) -> Endpoint {
    Endpoint::new(endpoint.uri().to_string()).with(endpoint)
}

/// Dials tonic endpoints; see [`Builder::tonic_endpoints`]. An endpoint that brought no tonic
/// configuration gets tonic's defaults for its address.
#[derive(Debug, Clone, Default)]
pub struct TonicEndpoints {
    gauge: ConnectionGauge,
}

impl Source for TonicEndpoints {}

impl Sealed for TonicEndpoints {
    type Connector = Self;
    type Probe = LoadProbe;
    type LoadReports = LoadReports;
    type HealthCheck = HealthCheck;

    fn check(&self, endpoint: &Endpoint) -> Result<(), Error> {
        configuration(endpoint).map(drop)
    }

    fn connector(self, _: Option<u32>) -> Result<Self, Error> {
        Ok(self)
    }
}

impl Connector for TonicEndpoints {
    type Service = TonicService;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<TonicService, BoxError>> + Send>>;

    fn connect(&self, endpoint: &Endpoint, events: ConnectionEvents) -> Self::Future {
        let endpoint = configuration(endpoint);
        let counted = self.gauge.clone();
        Box::pin(async move {
            let endpoint = endpoint?;
            let refusing = Refusing::default();
            let caller = Caller::default();
            // tonic does not tell its own keep-alive timeout.
            let stall = Stall::new(&caller, Http2Settings::default().keep_alive_timeout);
            let (dial, settings) =
                OneDial::new(&endpoint, events, refusing.clone(), stall, counted);
            let service = TonicService {
                watched: Some(Watched {
                    refusing,
                    _caller: caller,
                }),
                channel: endpoint.connect_with_connector(dial).await?,
            };
            // Under TLS the frames cannot be read; its handshake has shown that the server is there.
            if !is_encrypted(endpoint.uri())
                && let Ok(seen) = settings.await
            {
                seen.await
                    .map_err(|_| "the connection ended before the server's SETTINGS")??;
            }
            Ok(service)
        })
    }
}

fn configuration(endpoint: &Endpoint) -> Result<transport::Endpoint, Error> {
    match endpoint.get::<transport::Endpoint>() {
        Some(endpoint) => Ok(endpoint.clone()),
        None => transport::Endpoint::from_shared(endpoint.address().to_owned()).map_err(|error| {
            let message = format!("{} is no address for tonic", endpoint.address());
            Error::config_because("endpoints", message, error)
        }),
    }
}

/// tonic's rule: its TLS is for `https://`, and only there.
fn is_encrypted(uri: &Uri) -> bool {
    uri.scheme() == Some(&Scheme::HTTPS)
}

/// Dials once, and hands what it got to a watch.
struct OneDial {
    http: HttpConnector,
    watch: Option<Watch>,
}

struct Watch {
    events: ConnectionEvents,
    refusing: Refusing,
    stall: Stall,
    gauge: ConnectionGauge,
    settings: oneshot::Sender<SettingsSeen>,
}

impl OneDial {
    fn new(
        endpoint: &transport::Endpoint,
        events: ConnectionEvents,
        refusing: Refusing,
        stall: Stall,
        gauge: ConnectionGauge,
    ) -> (Self, oneshot::Receiver<SettingsSeen>) {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(endpoint.get_tcp_nodelay());
        http.set_keepalive(endpoint.get_tcp_keepalive());
        http.set_keepalive_interval(endpoint.get_tcp_keepalive_interval());
        http.set_keepalive_retries(endpoint.get_tcp_keepalive_retries());
        http.set_connect_timeout(endpoint.get_connect_timeout());
        let (settings, seen) = oneshot::channel();
        let watch = Watch {
            events,
            refusing,
            stall,
            gauge,
            settings,
        };
        let dial = Self {
            http,
            watch: Some(watch),
        };
        (dial, seen)
    }
}

impl Service<Uri> for OneDial {
    type Response = TokioIo<ObservedIo<Severable<TcpStream>>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Some(watch) = self.watch.take() else {
            return Box::pin(ready(Err(NoSecondDial.into())));
        };
        let encrypted = is_encrypted(&uri);
        let dial = self.http.call(uri);
        Box::pin(async move {
            let stream = dial.await?.into_inner();
            let sever = Sever::default();
            let stream = Severable::new(stream, sever.clone());
            watch.events.on_cut(move || sever.sever());
            let counted = watch.gauge.enter();
            let (io, seen) =
                ObservedIo::new(stream, watch.events, watch.refusing, watch.stall, counted);
            let io = if encrypted { io.encrypted() } else { io };
            // Nobody listens when the attempt was given up.
            let _ = watch.settings.send(seen);
            Ok(TokioIo::new(io))
        })
    }
}

/// tonic wanted to dial again.
#[derive(Debug)]
pub(super) struct NoSecondDial;

impl std::fmt::Display for NoSecondDial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection has ended; the balancer dials anew")
    }
}

impl std::error::Error for NoSecondDial {}

/// Hands out tonic channels that are there already; see [`Builder::tonic_channels`].
#[derive(Debug, Clone)]
pub struct TonicChannels(());

impl Source for TonicChannels {}

impl Sealed for TonicChannels {
    type Connector = Self;
    type Probe = LoadProbe;
    type LoadReports = LoadReports;
    type HealthCheck = HealthCheck;

    fn check(&self, _: &Endpoint) -> Result<(), Error> {
        Ok(())
    }

    fn connector(self, _: Option<u32>) -> Result<Self, Error> {
        Ok(self)
    }
}

impl Connector for TonicChannels {
    type Service = TonicService;
    type Error = Error;
    type Future = Ready<Result<TonicService, Error>>;

    fn connect(&self, endpoint: &Endpoint, _: ConnectionEvents) -> Self::Future {
        ready(match endpoint.get::<transport::Channel>() {
            Some(channel) => Ok(TonicService {
                watched: None,
                channel: channel.clone(),
            }),
            None => Err(Error::connect(format!(
                "{} came without a channel",
                endpoint.id()
            ))),
        })
    }
}

/// A tonic channel to one endpoint.
#[derive(Debug, Clone)]
pub struct TonicService {
    /// Where the transport is watched. Dropped ahead of the channel, as a [`Caller`] asks.
    watched: Option<Watched>,
    channel: transport::Channel,
}

#[derive(Debug, Clone)]
struct Watched {
    refusing: Refusing,
    _caller: Caller,
}

impl Service<Request<Body>> for TonicService {
    type Response = Response<Body>;
    type Error = AttemptError;
    type Future = TonicFuture;

    /// Fails once the connection has ended, and when tonic's task is gone.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        let watched = self.watched.as_ref();
        if watched.is_some_and(|watched| watched.refusing.get()) {
            return Poll::Ready(Err(AttemptError::refusing(None)));
        }
        self.channel.poll_ready(cx).map_err(AttemptError::foreign)
    }

    fn call(&mut self, request: Request<Body>) -> TonicFuture {
        TonicFuture(self.channel.call(request))
    }
}

/// A call on a [`TonicService`].
#[derive(Debug)]
pub struct TonicFuture(transport::channel::ResponseFuture);

impl Future for TonicFuture {
    type Output = Result<Response<Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready_or_pending!(Pin::new(&mut self.0).poll(cx));
        Poll::Ready(result.map_err(AttemptError::foreign))
    }
}
