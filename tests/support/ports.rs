//! Addresses with nobody behind them, and with somebody who says nothing.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{AbortHandle, JoinSet};

use super::counts::Counts;

/// A port that refuses every connection for as long as this lives.
///
/// The port is bound and not listened on. So nobody else is given it, and a server may still listen
/// on it, again and again: with SO_REUSEADDR on both sides, two sockets may share a port as long as
/// at most one of them listens.
#[derive(Debug)]
pub struct RefusedPort {
    _socket: TcpSocket,
    addr: SocketAddr,
}

impl RefusedPort {
    /// Takes a free port of 127.0.0.1.
    ///
    /// # Panics
    /// If there is none.
    pub fn reserve() -> Self {
        let socket = bound(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a port is free");
        let addr = socket.local_addr().expect("a bound socket has an address");
        Self {
            _socket: socket,
            addr,
        }
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as `http://127.0.0.1:port`.
    pub fn uri(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// A listener on the port. Needs a runtime's context.
    pub(super) fn listen(&self) -> io::Result<TcpListener> {
        bound(self.addr)?.listen(1024)
    }
}

fn bound(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

/// Accepts connections, reads what they say and never says anything, until the client gives up or
/// this is dropped.
#[derive(Debug)]
pub struct SilentListener {
    port: RefusedPort,
    counts: Arc<Counts>,
    task: AbortHandle,
}

impl SilentListener {
    /// Listens on a free port of 127.0.0.1, on the current runtime.
    ///
    /// # Panics
    /// If there is no free port, or outside a runtime.
    pub fn start() -> Self {
        let port = RefusedPort::reserve();
        let listener = port.listen().expect("a reserved port can be listened on");
        let counts = Arc::new(Counts::default());
        let seen = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let open = seen.connected();
                connections.spawn(async move {
                    let _open = open;
                    // An error is the client's way to go.
                    let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
                });
            }
        });
        Self {
            port,
            counts,
            task: task.abort_handle(),
        }
    }

    /// Its address.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// Its address as `http://127.0.0.1:port`.
    pub fn uri(&self) -> String {
        self.port.uri()
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.counts.accepted()
    }

    /// Connections that the client has not given up.
    pub fn open(&self) -> u64 {
        self.counts.open()
    }
}

impl Drop for SilentListener {
    fn drop(&mut self) {
        self.task.abort();
    }
}
