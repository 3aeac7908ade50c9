//! One life of a server: its accept loop and its connections.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::counts::Counts;

/// What all instances of a server share.
pub(super) struct Site {
    pub(super) routes: Routes,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) max_streams: u32,
    pub(super) counts: Arc<Counts>,
}

/// One life of the server, from the opening of its port to the end of its last connection.
#[derive(Clone, Default)]
pub(super) struct Instance {
    /// Asks it to drain.
    pub(super) drain: CancellationToken,
    /// Asks it to end at once.
    pub(super) kill: CancellationToken,
    /// Says that the port is closed.
    pub(super) closed: CancellationToken,
    /// Says that all connections have ended.
    pub(super) ended: CancellationToken,
}

impl Instance {
    /// One connection that came by another way than the port.
    pub(super) async fn attach<I>(self, stream: I, site: Arc<Site>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let _open = site.counts.connected();
        let speak = speak(stream, &site, &self.drain);
        self.kill.run_until_cancelled(speak).await;
    }

    pub(super) async fn run(self, listener: Listener, site: Arc<Site>) {
        // In this order, and also when the runtime goes first.
        let _ended = self.ended.clone().drop_guard();
        let mut connections = JoinSet::new();
        let closed = self.closed.clone().drop_guard();
        loop {
            tokio::select! {
                biased;
                () = self.kill.cancelled() => break,
                () = self.drain.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok(stream) => {
                        let open = site.counts.connected();
                        let serve = serve(stream, Arc::clone(&site), self.drain.clone());
                        connections.spawn(async move {
                            let _open = open;
                            serve.await;
                        });
                    }
                    // Out of file descriptors, or a client that went at once.
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                },
            }
        }
        drop(listener);
        drop(closed);
        tokio::select! {
            biased;
            () = self.kill.cancelled() => {}
            () = async { while connections.join_next().await.is_some() {} } => {}
        }
        connections.shutdown().await;
    }
}

pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Either<TcpStream, UnixStream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Either::Left(stream))
            }
            Self::Unix(listener) => Ok(Either::Right(listener.accept().await?.0)),
        }
    }
}

/// One connection. That it failed is its client's doing or is shown by the counts.
async fn serve(stream: Either<TcpStream, UnixStream>, site: Arc<Site>, drain: CancellationToken) {
    let Some(tls) = &site.tls else {
        return speak(stream, &site, &drain).await;
    };
    let handshake = drain.run_until_cancelled(tls.accept(stream));
    if let Some(Ok(stream)) = handshake.await {
        speak(stream, &site, &drain).await;
    }
}

async fn speak<I>(io: I, site: &Site, drain: &CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = TowerToHyperService::new(site.routes.clone());
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        // A date that changes each second goes on filling both ends' HPACK tables for minutes: a few
        // KiB a connection that say nothing of the balancer whose memory is looked at.
        .auto_date_header(false)
        .max_concurrent_streams(site.max_streams)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        () = drain.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
