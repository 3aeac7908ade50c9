//! A transport that can be ended from outside, for connections whose task is not ours to abort.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Ends a [`Severable`] transport. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(in crate::grpc) struct Sever(Arc<State>);

#[derive(Debug, Default)]
struct State {
    severed: AtomicBool,
    reader: AtomicWaker,
}

impl Sever {
    /// From now on the transport reads and writes nothing but an error. Its reader hears of it at once, as HTTP/2
    /// always has one.
    pub(in crate::grpc) fn sever(&self) {
        self.0.severed.store(true, Ordering::SeqCst);
        self.0.reader.wake();
    }

    fn check(&self) -> io::Result<()> {
        match self.0.severed.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection was cut by a deadline of this side",
            )),
        }
    }
}

/// A transport that a [`Sever`] ends.
pub(in crate::grpc) struct Severable<T> {
    io: T,
    sever: Sever,
}

impl<T> Severable<T> {
    pub(in crate::grpc) fn new(io: T, sever: Sever) -> Self {
        Self { io, sever }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Severable<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.sever.check()?;
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if polled.is_pending() {
            this.sever.0.reader.register(cx.waker());
            // It may have come before there was anybody to wake.
            this.sever.check()?;
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Severable<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.sever.check()?;
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.sever.check()?;
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.sever.check()?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.sever.check()?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_bytes_is_woken_and_nothing_goes_through_after() {
        let (near, _far) = tokio::io::duplex(64);
        let sever = Sever::default();
        let mut io = Severable::new(near, sever.clone());
        io.write_all(b"before")
            .await
            .expect("it is not severed yet");
        let reader = tokio::spawn(async move { (io.read_u8().await, io) });
        tokio::task::yield_now().await;
        sever.sever();
        let minute = std::time::Duration::from_secs(60);
        let reader = tokio::time::timeout(minute, reader)
            .await
            .expect("it is woken");
        let (read, mut io) = reader.expect("it does not panic");
        let kind = read.map_err(|error| error.kind());
        let aborted = io::ErrorKind::ConnectionAborted;
        assert_eq!(kind, Err(aborted), "a read that waits ends");
        let wrote = io.write_all(b"after").await.map_err(|error| error.kind());
        assert_eq!(wrote, Err(aborted), "and no byte is written any more");
    }
}
