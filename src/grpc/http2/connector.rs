use std::fmt;
use std::future::Future;
use std::pin::Pin;
#[cfg(feature = "tls")]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream;
use http::Uri;
use http::uri::Scheme;
use hyper::client::conn::http2::Builder;
use hyper::rt::Executor;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tower_service::Service;

use crate::connection::{ConnectionEvents, Connector};
use crate::endpoint::{Authority, Endpoint};
use crate::error::{BoxError, Error};

use super::connect_error::{ConnectError, Stage};
use super::cork::Corked;
use super::cuts::Cuts;
use super::executor::Tasks;
use super::gauge::ConnectionGauge;
use super::growth::Growth;
use super::io::{ObservedIo, Refusing};
use super::parting::Parting;
use super::pool::Pool;
use super::race::{Family, name, none_answered, race};
use super::service::{Connection, Http2, Retire};
use super::settings::Http2Settings;
use super::site::Site;
use super::stall::{Caller, Stall};
use super::streams::Streams;
use super::tcp;

#[cfg(feature = "tls")]
use crate::grpc::tls::{Tls, TlsConnector};

/// Makes HTTP/2 connections to endpoints whose address is `http://host:port`,
/// `https://host:port`, or, where there are such, a Unix socket: `unix:path`, and on Linux `unix-abstract:name`. Cheap to clone; clones share the [`gauge`](Self::gauge).
///
/// Of an endpoint with several [addresses](Endpoint::addresses), or a host name with several, the first to
/// answer is connected to (Happy Eyeballs: RFC 8305, gRFC A61): IPv4 and IPv6 in turn, beginning with the
/// family of the first, the next one when the one before has failed or has not answered for
/// [some time](Http2Settings::connection_attempt_delay). Names are looked up all at once, and what is found
/// joins the others: an address that needs no look-up waits only if the first one is a name, and for at most
/// 50 ms (RFC 8305's resolution delay). An answer is a TCP connection; TLS and HTTP/2 are for the one that won,
/// by its own host. The connect timeout is for all of it.
///
/// `https://` needs the feature `tls`. A Unix socket is the only address of its endpoint; requests over it carry
/// `localhost`, as gRPC's do, and a certificate must too.
#[derive(Clone)]
pub struct Http2Connector {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Http2Settings,
    dial: Dial,
    /// Whether the transport is somebody else's, who is given hosts only.
    foreign: bool,
    gauge: ConnectionGauge,
    #[cfg(feature = "tls")]
    tls: TlsSetting,
}

#[cfg(feature = "tls")]
enum TlsSetting {
    /// For `https://` only, with the roots that the features bring. Those are read when the first
    /// such endpoint is dialled.
    Default(OnceLock<TlsConnector>),
    /// For every endpoint.
    Always(TlsConnector),
}

/// A byte stream to an endpoint.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

type BoxTransport = Box<dyn Transport>;

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
/// A byte stream to whichever address answers first, and that address.
type Dialled = (BoxTransport, Uri);
type Dial = Box<dyn Fn(Vec<Uri>) -> BoxFuture<Result<Dialled, BoxError>> + Send + Sync>;

impl Http2Connector {
    /// A connector over TCP.
    ///
    /// # Errors
    ///
    /// A configuration error if a setting cannot be used.
    pub fn new(settings: Http2Settings) -> Result<Self, Error> {
        let tcp = Arc::new(settings.clone());
        let dial = move |uris| -> BoxFuture<_> {
            let dialled = tcp::connect(tcp.clone(), uris);
            Box::pin(async move {
                let (stream, uri) = dialled.await?;
                Ok((Box::new(stream) as BoxTransport, uri))
            })
        };
        Self::from_dial(settings, Box::new(dial), false)
    }

    /// A connector over another transport: `connector` gets the endpoint's address and returns a
    /// byte stream. The settings whose names begin with `tcp` and `local_address` are then the connector's
    /// business, and so are the several addresses of a host name; those of an endpoint are dialled one
    /// beside the other, each by a clone.
    ///
    /// # Errors
    ///
    /// A configuration error if a setting cannot be used.
    pub fn with_connector<C>(settings: Http2Settings, connector: C) -> Result<Self, Error>
    where
        C: Service<Uri> + Clone + Send + 'static,
        C::Response: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
        C::Future: Send,
        C::Error: Into<BoxError>,
    {
        // Dialling is rare; the lock spares the user's type the bound `Sync`.
        let connector = Arc::new(Mutex::new(connector));
        let delay = settings.connection_attempt_delay;
        let dial = move |uris: Vec<Uri>| -> BoxFuture<_> {
            let connector = connector.clone();
            Box::pin(async move {
                let joining = stream::iter([uris.clone()]);
                let dialled = race(joining, Family::of_host, delay, |uri| {
                    let connector = connector.lock().unwrap_or_else(PoisonError::into_inner);
                    let dialled = dial(connector.clone(), uri.clone());
                    let uri = uri.clone();
                    async move {
                        let io = TokioIo::new(dialled.await?);
                        Ok((Box::new(io) as BoxTransport, uri))
                    }
                });
                dialled.await.map_err(|failed| {
                    let named = failed.into_iter().map(|(uri, error)| (name(&uri), error));
                    none_answered(named.collect(), &uris)
                })
            })
        };
        Self::from_dial(settings, Box::new(dial), true)
    }

    fn from_dial(settings: Http2Settings, dial: Dial, foreign: bool) -> Result<Self, Error> {
        settings.check()?;
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                dial,
                foreign,
                gauge: ConnectionGauge::default(),
                #[cfg(feature = "tls")]
                tls: TlsSetting::Default(OnceLock::new()),
            }),
        })
    }

    /// Speaks TLS to every endpoint, also to those at `http://`. Without this, only those at
    /// `https://` get it, with the roots of the features `tls-native-roots` and
    /// `tls-webpki-roots`.
    ///
    /// # Errors
    ///
    /// A configuration error of the field `tls` if a certificate, key or name cannot be read.
    #[cfg(feature = "tls")]
    pub fn with_tls(self, tls: &Tls) -> Result<Self, Error> {
        let tls = TlsSetting::Always(tls.build()?);
        // Nothing has cloned a connector that is still being built; if it was, the clone keeps its
        // own.
        Ok(match Arc::try_unwrap(self.inner) {
            Ok(inner) => Self {
                inner: Arc::new(Inner { tls, ..inner }),
            },
            Err(shared) => Self {
                inner: Arc::new(Inner {
                    settings: shared.settings.clone(),
                    gauge: shared.gauge.clone(),
                    foreign: shared.foreign,
                    dial: Box::new(move |uris| (shared.dial)(uris)),
                    tls,
                }),
            },
        })
    }

    /// Counts the connections that are open.
    pub fn gauge(&self) -> ConnectionGauge {
        self.inner.gauge.clone()
    }
}

async fn dial<C>(mut connector: C, uri: Uri) -> Result<C::Response, BoxError>
where
    C: Service<Uri>,
    C::Error: Into<BoxError>,
{
    std::future::poll_fn(|cx| connector.poll_ready(cx))
        .await
        .map_err(Into::into)?;
    connector.call(uri).await.map_err(Into::into)
}

impl Connector for Http2Connector {
    type Service = Http2;
    type Error = ConnectError;
    type Future = BoxFuture<Result<Http2, ConnectError>>;

    /// Dials, and waits for the server's SETTINGS. Dropping the future closes what is open. Further connections, if
    /// [so many](Http2Settings::max_connections) are allowed, are made later, by tasks on the same runtime.
    fn connect(&self, endpoint: &Endpoint, events: ConnectionEvents) -> Self::Future {
        let inner = self.inner.clone();
        let endpoint = endpoint.clone();
        Box::pin(async move {
            let cuts = Arc::<Cuts>::default();
            let streams = Arc::<Streams>::default();
            let most = inner.settings.connections();
            let beside = (most > 1).then(|| events.clone());
            let first = inner.connect(&endpoint, &cuts, streams, events).await?;
            let growth = beside.map(|events| {
                let tasks = cuts.clone();
                let growth = Growth::new(most, cuts, move |pool, events| {
                    let (inner, endpoint) = (inner.clone(), endpoint.clone());
                    let tasks = tasks.clone();
                    Box::pin(async move {
                        let streams = Arc::<Streams>::default();
                        streams.belong_to(pool);
                        let connection = inner.connect(&endpoint, &tasks, streams, events);
                        connection.await.map_err(Into::into)
                    })
                });
                (growth, events)
            });
            Ok(Http2::new(Pool::new(first, growth)))
        })
    }
}

impl Inner {
    /// One connection, whose task is among `tasks`.
    async fn connect(
        &self,
        endpoint: &Endpoint,
        tasks: &Arc<Cuts>,
        streams: Arc<Streams>,
        events: ConnectionEvents,
    ) -> Result<Arc<Connection>, ConnectError> {
        let site = Site::of(endpoint).map_err(|error| ConnectError::new(Stage::Address, error))?;
        // The name that the endpoint goes by, if it is not its address.
        let authority = endpoint.get::<Authority>();
        let ((transport, uri), at) = self.dial(site).await?;
        let host = authority.map(Authority::host);
        let (transport, secure) = self
            .secure(&uri, host.or(uri.host()).unwrap_or_default(), transport)
            .await
            .map_err(|error| ConnectError::new(Stage::Tls, error).at(&at))?;
        let authority = authority.map(Authority::of_uri);
        let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
        let origin = (scheme, authority.or(uri.authority()));
        self.handshake(origin, transport, tasks, streams, events)
            .await
            .map_err(|error| ConnectError::new(Stage::Http2, error).at(&at))
    }

    /// A byte stream, and how to call where it leads to in an error.
    async fn dial(&self, site: Site) -> Result<(Dialled, String), ConnectError> {
        match site {
            Site::Hosts(uris) => {
                let dialled = (self.dial)(uris.clone()).await;
                let dialled =
                    dialled.map_err(|error| ConnectError::new(Stage::Dial, error).at_all(&uris))?;
                let at = dialled.1.to_string();
                Ok((dialled, at))
            }
            Site::Socket(socket) if self.foreign => {
                let error = socket.needs_own_transport();
                Err(ConnectError::new(Stage::Address, error))
            }
            #[cfg(unix)]
            Site::Socket(socket) => {
                let failed = |error| ConnectError::new(Stage::Dial, error).at(&socket);
                let stream = socket.connect().await.map_err(failed)?;
                let dialled = (Box::new(stream) as BoxTransport, Site::uri_of_sockets());
                Ok((dialled, socket.to_string()))
            }
            #[cfg(not(unix))]
            Site::Socket(socket) => socket.is_not_here(),
        }
    }

    #[cfg(feature = "tls")]
    async fn secure(
        &self,
        uri: &Uri,
        host: &str,
        transport: BoxTransport,
    ) -> Result<(BoxTransport, bool), BoxError> {
        let tls = match &self.tls {
            TlsSetting::Always(tls) => tls,
            TlsSetting::Default(_) if uri.scheme() != Some(&Scheme::HTTPS) => {
                return Ok((transport, false));
            }
            TlsSetting::Default(read) => match read.get() {
                Some(tls) => tls,
                None => {
                    let tls = Tls::new().build()?;
                    read.get_or_init(|| tls)
                }
            },
        };
        let secured = tls.connect(host, transport);
        Ok((Box::new(secured.await?), true))
    }

    #[cfg(not(feature = "tls"))]
    async fn secure(
        &self,
        uri: &Uri,
        _host: &str,
        transport: BoxTransport,
    ) -> Result<(BoxTransport, bool), BoxError> {
        if uri.scheme() == Some(&Scheme::HTTPS) {
            let message = "an https:// endpoint needs evenkeel's feature tls";
            return Err(Error::config("tls", message).into());
        }
        Ok((transport, false))
    }

    async fn handshake(
        &self,
        (scheme, authority): (Scheme, Option<&http::uri::Authority>),
        transport: BoxTransport,
        cuts: &Arc<Cuts>,
        streams: Arc<Streams>,
        events: ConnectionEvents,
    ) -> Result<Arc<Connection>, BoxError> {
        let refusing = Refusing::default();
        let counted = self.gauge.enter();
        let caller = Caller::default();
        let stall = Stall::new(&caller, self.settings.keep_alive_timeout);
        let (io, settings_seen) =
            ObservedIo::new(transport, events.clone(), refusing.clone(), stall, counted);
        let io = io.counting(streams.clone());
        let (tasks, driver) = Tasks::new();
        let io = Parting::new(io, refusing.clone());
        let io = Corked::new(io, driver.cork());
        let builder = self.builder(tasks.clone());
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
        let driver = AbortOnDrop(Some(tokio::spawn(driver)));
        if let Some(task) = &driver.0 {
            // The task is the connection: all of its calls go with it.
            cuts.add(task.abort_handle());
            let cuts = cuts.clone();
            events.on_cut(move || cuts.cut());
        }
        drop(events);
        match settings_seen.await {
            Ok(seen) => seen?,
            Err(_) => return Err("the connection's task is gone".into()),
        }
        let origin = self.settings.origin.as_ref();
        let authority = origin
            .and_then(Uri::authority)
            .or(authority)
            .ok_or("no authority")?;
        let open = Arc::new(Connection::new(
            caller,
            sender,
            origin.and_then(Uri::scheme).unwrap_or(&scheme).clone(),
            authority.clone(),
            refusing,
            streams,
            self.settings.replay_limit_bytes,
        ));
        let retire = Retire::new(&open);
        tasks.execute(async move {
            let ended = connection.await;
            drop(retire);
            if let Err(error) = ended {
                tracing::debug!(%error, "connection ended");
            }
        });
        driver.keep();
        Ok(open)
    }

    fn builder(&self, tasks: Tasks) -> Builder<Tasks> {
        let settings = &self.settings;
        let mut builder = Builder::new(tasks);
        let (interval, timeout) = settings.keep_alive();
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout)
            .keep_alive_while_idle(settings.keep_alive_while_idle)
            .initial_stream_window_size(settings.initial_stream_window_bytes)
            .initial_connection_window_size(settings.initial_connection_window_bytes)
            .max_header_list_size(settings.max_header_list_bytes);
        if settings.adaptive_window {
            builder.adaptive_window(true);
        }
        if let Some(bytes) = settings.max_frame_bytes {
            builder.max_frame_size(bytes);
        }
        builder
    }
}

/// The task of a connection that is still being made. It would wait for a peer that reads nothing.
struct AbortOnDrop(Option<JoinHandle<()>>);

impl AbortOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

impl fmt::Debug for Http2Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Connector")
            .field("settings", &self.inner.settings)
            .field("open", &self.inner.gauge.open())
            .finish_non_exhaustive()
    }
}
