//! A TCP proxy that can stop forwarding, without a word to either side.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

/// Forwards connections to one address.
pub struct Proxy {
    addr: SocketAddr,
    frozen: watch::Sender<bool>,
    task: AbortHandle,
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1.
    pub async fn start(to: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let frozen = watch::Sender::new(false);
        let watch = frozen.clone();
        let task = tokio::spawn(async move {
            let mut pumps = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                // Nodelay, so that the proxy adds no delay of its own.
                client.set_nodelay(true).unwrap();
                let Ok(server) = TcpStream::connect(to).await else {
                    continue;
                };
                server.set_nodelay(true).unwrap();
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                pumps.spawn(pump(client_read, server_write, watch.subscribe()));
                pumps.spawn(pump(server_read, client_write, watch.subscribe()));
            }
        });
        Self {
            addr,
            frozen,
            task: task.abort_handle(),
        }
    }

    /// `http://127.0.0.1:port`.
    pub fn uri(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// From now on nothing is forwarded and nothing is closed; or all that was held back is.
    pub fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut frozen: watch::Receiver<bool>) {
    let mut buffer = vec![0; 16 * 1024];
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
