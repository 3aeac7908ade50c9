//! A proxy that can stop forwarding, without a word to either side. In memory, so that pings may be
//! waited for in paused time.

use std::io;
use std::sync::Arc;

use evenkeel::grpc::{Builder, Channel};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tower::service_fn;

use crate::support::TestServer;

const BUFFER_BYTES: usize = 16 * 1024;

/// Forwards connections to one server.
pub struct Proxy {
    to: Arc<TestServer>,
    frozen: watch::Sender<bool>,
}

impl Proxy {
    /// A proxy that forwards.
    pub fn to(server: &Arc<TestServer>) -> Self {
        Self {
            to: Arc::clone(server),
            frozen: watch::Sender::new(false),
        }
    }

    /// A channel that knows the server by this proxy alone.
    pub fn channel(&self) -> Builder {
        let (to, frozen) = (Arc::clone(&self.to), self.frozen.clone());
        let connector = service_fn(move |_: Uri| {
            let (client, near) = tokio::io::duplex(BUFFER_BYTES);
            let (far, server) = tokio::io::duplex(BUFFER_BYTES);
            to.attach(server);
            tokio::spawn(forward(near, far, frozen.subscribe()));
            std::future::ready(Ok::<_, io::Error>(TokioIo::new(client)))
        });
        Channel::builder()
            .endpoints(["http://proxy:1"])
            .connector(connector)
    }

    /// From now on nothing is forwarded and nothing is closed; or all that was held back is.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }
}

async fn forward(near: DuplexStream, far: DuplexStream, frozen: watch::Receiver<bool>) {
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    tokio::join!(
        pump(near_read, far_write, frozen.clone()),
        pump(far_read, near_write, frozen)
    );
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut frozen: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if frozen.wait_for(|frozen| !frozen).await.is_err()
            || to.write_all(&buffer[..read]).await.is_err()
        {
            break;
        }
    }
    // The other side has gone already if this fails.
    let _ = to.shutdown().await;
}
