//! A gRPC server that can be killed, drained and started again on its old address.
//!
//! It is tonic's router behind hyper's HTTP/2, one task for each connection, as in
//! `tonic::transport::Server`; but the accept loop is ours, since only its owner can cut a
//! connection in the middle of a call. What tonic's own server adds and this one does not: it
//! enforces `grpc-timeout` (here a deadline is the client's business alone).

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::Request;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;
use tokio::runtime::{Handle, Runtime};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::service::Routes;

use super::behaviour::{Behaviour, Control};
use super::counts::{Calls, Counts, Method};
use super::instance::{Instance, Listener, Site};
use super::ports::RefusedPort;
use super::proto::demo_server::DemoServer;
use super::service::Handler;
use super::tls::ServerTls;
use super::{PATIENCE, within};

/// How [`TestServer`] is to be started.
pub struct Builder {
    name: String,
    behaviour: Behaviour,
    tls: Option<ServerTls>,
    unix: Option<PathBuf>,
    own_thread: bool,
    max_streams: u32,
    wrap: fn(Routes) -> Routes,
    routes: Routes,
}

impl Builder {
    /// Speaks TLS.
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Listens on a Unix socket at `path`, not on a port. Behind a NUL it is a name in Linux's abstract namespace.
    pub fn unix(mut self, path: impl Into<PathBuf>) -> Self {
        self.unix = Some(path.into());
        self
    }

    /// Runs on a runtime of its own with one thread, not on the current one, so that server and
    /// client do not take turns.
    pub fn own_thread(mut self) -> Self {
        self.own_thread = true;
        self
    }

    /// How many calls a connection may carry at once. Default: 200, as hyper's.
    pub fn max_concurrent_streams(mut self, streams: u32) -> Self {
        self.max_streams = streams;
        self
    }

    /// Puts something around all its services.
    pub fn wrap(mut self, wrap: fn(Routes) -> Routes) -> Self {
        self.wrap = wrap;
        self
    }

    /// Serves `service` too, beside the demo service. Its calls are not counted.
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: tower::Service<Request<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S: tower::Service<Request<Body>, Response = http::Response<Body>>,
        S::Future: Send + 'static,
    {
        self.routes = self.routes.add_service(service);
        self
    }

    /// Starts the server. The port is open when this returns.
    ///
    /// # Panics
    /// If the address cannot be listened on, or outside a runtime unless it has its own thread.
    pub fn start(self) -> TestServer {
        let runtime = self.own_thread.then(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name(&self.name)
                .enable_all()
                .build()
                .expect("a runtime can be started")
        });
        let handle = match &runtime {
            Some(runtime) => runtime.handle().clone(),
            None => Handle::current(),
        };
        let control = Control::new(self.name, self.behaviour);
        let counts = Arc::new(Counts::default());
        let handler = Handler::new(control.clone(), Arc::clone(&counts));
        let routes = self.routes.add_service(DemoServer::new(handler)).prepare();
        let server = TestServer {
            control,
            address: match self.unix {
                Some(path) => Address::Unix(path),
                None => Address::Tcp(RefusedPort::reserve()),
            },
            site: Arc::new(Site {
                routes: (self.wrap)(routes),
                tls: self.tls.map(|tls| TlsAcceptor::from(tls.0)),
                max_streams: self.max_streams,
                counts,
            }),
            instances: Mutex::default(),
            handle,
            runtime,
        };
        server
            .open_port()
            .unwrap_or_else(|error| panic!("{} cannot listen: {error}", server.uri()));
        server
    }
}

/// A gRPC server on 127.0.0.1 or a Unix socket. It goes when dropped, like [`kill`](Self::kill).
pub struct TestServer {
    control: Control,
    address: Address,
    site: Arc<Site>,
    /// Those that may still run: the one that listens, and those that drain.
    instances: Mutex<Vec<Instance>>,
    handle: Handle,
    runtime: Option<Runtime>,
}

enum Address {
    /// The port stays ours between two instances.
    Tcp(RefusedPort),
    Unix(PathBuf),
}

impl TestServer {
    /// A plaintext server on a free port, on the current runtime.
    ///
    /// # Panics
    /// See [`Builder::start`].
    pub fn start(name: impl Into<String>, behaviour: Behaviour) -> Self {
        Self::builder(name, behaviour).start()
    }

    /// A server with more to say about it.
    pub fn builder(name: impl Into<String>, behaviour: Behaviour) -> Builder {
        Builder {
            name: name.into(),
            behaviour,
            tls: None,
            unix: None,
            own_thread: false,
            max_streams: 200,
            wrap: |routes| routes,
            routes: Routes::default(),
        }
    }

    /// The name in its replies.
    pub fn name(&self) -> &str {
        self.control.name()
    }

    /// Its address; it stays the same for life.
    ///
    /// # Panics
    /// On a Unix socket.
    pub fn addr(&self) -> SocketAddr {
        match &self.address {
            Address::Tcp(port) => port.addr(),
            Address::Unix(path) => panic!("{} is no port", path.display()),
        }
    }

    /// `http://127.0.0.1:port`, `https://127.0.0.1:port` or `unix:///path`.
    pub fn uri(&self) -> String {
        match &self.address {
            Address::Tcp(port) if self.site.tls.is_some() => format!("https://{}", port.addr()),
            Address::Tcp(port) => port.uri(),
            Address::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    /// Behaves like this from now on.
    pub fn set(&self, behaviour: Behaviour) {
        self.control.set(behaviour);
    }

    /// Sets the behaviour from elsewhere.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// The calls of one method, over all lives of the server.
    pub fn calls(&self, method: Method) -> Calls {
        self.site.counts.calls(method)
    }

    /// All calls, over all lives of the server.
    pub fn total(&self) -> Calls {
        let all = Method::ALL.into_iter().map(|method| self.calls(method));
        all.fold(Calls::default(), |sum, calls| sum + calls)
    }

    /// Connections accepted so far, over all lives of the server.
    pub fn accepted(&self) -> u64 {
        self.site.counts.accepted()
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.site.counts.open()
    }

    /// Dies like a process that is killed: the port closes and every connection is cut at once, in
    /// the middle of its calls and without a GOAWAY or a TLS farewell. Done when it returns.
    ///
    /// # Panics
    /// If it is not over within [`PATIENCE`].
    pub async fn kill(&self) {
        let instances = std::mem::take(&mut *self.instances());
        for instance in &instances {
            instance.kill.cancel();
        }
        for instance in &instances {
            within("a killed server ends", instance.ended.cancelled()).await;
        }
    }

    /// Begins to end gracefully: the port closes and each connection is told GOAWAY. Returns when
    /// the port is closed; the calls under way go on, for as long as they take.
    ///
    /// # Panics
    /// If the port is not closed within [`PATIENCE`].
    pub async fn drain(&self) {
        let instances = self.instances().clone();
        for instance in &instances {
            instance.drain.cancel();
        }
        for instance in &instances {
            within(
                "a draining server closes its port",
                instance.closed.cancelled(),
            )
            .await;
        }
    }

    /// Ends gracefully: [`drain`](Self::drain), then waits for the calls under way and the
    /// connections to end by themselves. True if they did; false if they were still there after
    /// `grace` and were killed. Dropped early, it leaves the server draining.
    ///
    /// # Panics
    /// Like [`drain`](Self::drain) and [`kill`](Self::kill).
    pub async fn shutdown_within(&self, grace: Duration) -> bool {
        let instances = self.instances().clone();
        self.drain().await;
        let ended = async {
            for instance in &instances {
                instance.ended.cancelled().await;
            }
        };
        let graceful = tokio::time::timeout(grace, ended).await.is_ok();
        self.kill().await;
        graceful
    }

    /// [`shutdown_within`](Self::shutdown_within) [`PATIENCE`].
    ///
    /// # Panics
    /// Like [`drain`](Self::drain) and [`kill`](Self::kill).
    pub async fn shutdown(&self) -> bool {
        self.shutdown_within(PATIENCE).await
    }

    /// Opens the old port again, with the same name, behaviour and counts. A server that still
    /// listens is killed first; one that drains goes on beside the new one.
    ///
    /// # Panics
    /// If the address cannot be listened on within [`PATIENCE`].
    pub async fn restart(&self) {
        if self.instances().iter().any(|old| !old.drain.is_cancelled()) {
            self.kill().await;
        }
        within("the port opens again", async {
            // A draining server may be about to close it.
            while self.open_port().is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    }

    /// Serves `stream`, the far end of a pipe in memory, as if it had come through the port: in
    /// plaintext, counted, drained and killed with the rest. A server that is down hangs up.
    pub fn attach<I>(&self, stream: I)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let listening = |instance: &&Instance| !instance.closed.is_cancelled();
        if let Some(instance) = self.instances().iter().rev().find(listening) {
            let attached = instance.clone().attach(stream, Arc::clone(&self.site));
            self.handle.spawn(attached);
        }
    }

    fn instances(&self) -> MutexGuard<'_, Vec<Instance>> {
        self.instances
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn open_port(&self) -> io::Result<()> {
        let _runtime = self.handle.enter();
        let listener = match &self.address {
            Address::Tcp(port) => Listener::Tcp(port.listen()?),
            Address::Unix(path) => {
                remove(path)?;
                Listener::Unix(UnixListener::bind(path)?)
            }
        };
        let instance = Instance::default();
        self.handle
            .spawn(instance.clone().run(listener, Arc::clone(&self.site)));
        let mut instances = self.instances();
        instances.retain(|old| !old.ended.is_cancelled());
        instances.push(instance);
        Ok(())
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        for instance in self.instances().iter() {
            instance.kill.cancel();
        }
        if let Address::Unix(path) = &self.address {
            // What is left is an empty socket file, and nobody can be told.
            let _ = remove(path);
        }
        if let Some(runtime) = self.runtime.take() {
            // A plain drop would block, which a runtime's thread may not.
            runtime.shutdown_background();
        }
    }
}

/// A killed server leaves its socket file behind; a name in the abstract namespace has none.
fn remove(path: &Path) -> io::Result<()> {
    if path.as_os_str().as_encoded_bytes().starts_with(b"\0") {
        return Ok(());
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
