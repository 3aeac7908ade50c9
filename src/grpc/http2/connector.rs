use std::fmt;
use std::future::Future;
use std::pin::Pin;
#[cfg(feature = "tls")]
use std::sync::OnceLock;
use std::sync::{Arc, Mutex, PoisonError};

use http::Uri;
use http::uri::Scheme;
use hyper::client::conn::http2::Builder;
use hyper::rt::Executor;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tower_service::Service;

use crate::connection::{ConnectionEvents, Connector};
use crate::endpoint::Endpoint;
use crate::error::{BoxError, Error};

use super::address::check_address;
use super::connect_error::{ConnectError, Stage};
use super::cork::Corked;
use super::executor::Tasks;
use super::gauge::ConnectionGauge;
use super::io::{ObservedIo, Refusing};
use super::parting::Parting;
use super::service::{Connection, Http2, Retire};
use super::settings::Http2Settings;
use super::stall::{Caller, Stall};

#[cfg(feature = "tls")]
use crate::grpc::tls::{Tls, TlsConnector};

/// Makes HTTP/2 connections to endpoints whose address is `http://host:port` or
/// `https://host:port`. Cheap to clone; clones share the [`gauge`](Self::gauge).
///
/// `https://` needs the feature `tls`.
#[derive(Clone)]
pub struct Http2Connector {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Http2Settings,
    dial: Dial,
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
type Dial = Box<dyn Fn(Uri) -> BoxFuture<Result<BoxTransport, BoxError>> + Send + Sync>;

impl Http2Connector {
    /// A connector over TCP.
    ///
    /// # Errors
    ///
    /// A configuration error if a setting cannot be used.
    pub fn new(settings: Http2Settings) -> Result<Self, Error> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(settings.tcp_nodelay);
        tcp.set_keepalive(settings.tcp_keepalive);
        tcp.set_keepalive_interval(settings.tcp_keepalive_interval);
        tcp.set_keepalive_retries(settings.tcp_keepalive_retries);
        tcp.set_connect_timeout(settings.tcp_connect_timeout);
        tcp.set_happy_eyeballs_timeout(settings.happy_eyeballs_timeout);
        tcp.set_local_address(settings.local_address);
        let dial = move |uri| -> BoxFuture<_> {
            let dialled = dial(tcp.clone(), uri);
            Box::pin(async move { Ok(Box::new(dialled.await?.into_inner()) as BoxTransport) })
        };
        Self::from_dial(settings, Box::new(dial))
    }

    /// A connector over another transport: `connector` gets the endpoint's address and returns a
    /// byte stream. The settings whose names begin with `tcp`, `happy_eyeballs_timeout` and
    /// `local_address` are then the connector's business.
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
        let connector = Mutex::new(connector);
        let clone = move || {
            let connector = connector.lock().unwrap_or_else(PoisonError::into_inner);
            connector.clone()
        };
        let dial = move |uri| -> BoxFuture<_> {
            let dialled = dial(clone(), uri);
            Box::pin(async move { Ok(Box::new(TokioIo::new(dialled.await?)) as BoxTransport) })
        };
        Self::from_dial(settings, Box::new(dial))
    }

    fn from_dial(settings: Http2Settings, dial: Dial) -> Result<Self, Error> {
        settings.check()?;
        Ok(Self {
            inner: Arc::new(Inner {
                settings,
                dial,
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
                    dial: Box::new(move |uri| (shared.dial)(uri)),
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

    /// Dials, and waits for the server's SETTINGS. Dropping the future closes what is open.
    fn connect(&self, endpoint: &Endpoint, events: ConnectionEvents) -> Self::Future {
        let inner = self.inner.clone();
        let address = check_address(endpoint.address());
        Box::pin(async move {
            let uri = address.map_err(|error| ConnectError::new(Stage::Address, error))?;
            inner.connect(uri, events).await
        })
    }
}

impl Inner {
    async fn connect(&self, uri: Uri, events: ConnectionEvents) -> Result<Http2, ConnectError> {
        let transport = (self.dial)(uri.clone())
            .await
            .map_err(|error| ConnectError::new(Stage::Dial, error).at(&uri))?;
        let (transport, secure) = self
            .secure(&uri, transport)
            .await
            .map_err(|error| ConnectError::new(Stage::Tls, error).at(&uri))?;
        self.handshake(&uri, secure, transport, events)
            .await
            .map_err(|error| ConnectError::new(Stage::Http2, error).at(&uri))
    }

    #[cfg(feature = "tls")]
    async fn secure(
        &self,
        uri: &Uri,
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
        let secured = tls.connect(uri.host().unwrap_or_default(), transport);
        Ok((Box::new(secured.await?), true))
    }

    #[cfg(not(feature = "tls"))]
    async fn secure(
        &self,
        uri: &Uri,
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
        uri: &Uri,
        secure: bool,
        transport: BoxTransport,
        events: ConnectionEvents,
    ) -> Result<Http2, BoxError> {
        let refusing = Refusing::default();
        let counted = self.gauge.enter();
        let caller = Caller::default();
        let stall = Stall::new(&caller, self.settings.keep_alive_timeout);
        let (io, settings_seen) =
            ObservedIo::new(transport, events, refusing.clone(), stall, counted);
        let (tasks, driver) = Tasks::new();
        let io = Parting::new(io, refusing.clone());
        let io = Corked::new(io, driver.cork());
        let builder = self.builder(tasks.clone());
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await?;
        let driver = AbortOnDrop(Some(tokio::spawn(driver)));
        match settings_seen.await {
            Ok(seen) => seen?,
            Err(_) => return Err("the connection's task is gone".into()),
        }
        let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
        let origin = self.settings.origin.as_ref();
        let authority = origin
            .and_then(Uri::authority)
            .or(uri.authority())
            .ok_or("no authority")?;
        let open = Arc::new(Connection::new(
            caller,
            sender,
            origin.and_then(Uri::scheme).unwrap_or(&scheme).clone(),
            authority.clone(),
            refusing,
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
        Ok(Http2::new(open))
    }

    fn builder(&self, tasks: Tasks) -> Builder<Tasks> {
        let settings = &self.settings;
        let mut builder = Builder::new(tasks);
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(settings.keep_alive_interval)
            .keep_alive_timeout(settings.keep_alive_timeout)
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
