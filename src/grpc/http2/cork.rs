//! Writes of one turn of a connection's task, gathered into one.
//!
//! h2 lets a stream send its body only once its HEADERS are on their way, so hyper writes a small
//! request twice: the head, and a moment later the rest. Each write is a system call here, a wake-up
//! and a read at the server, and together they cost more than all else that a call does. While the
//! task of a connection is at work its [`Cork`] is held: small writes are copied into a buffer, and
//! the last thing that the task does is to write the buffer out.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::unwritten::Unwritten;

/// What does not fit is written at once: with that much in hand a system call is worth its cost, and
/// copying is not.
const BUFFER_BYTES: usize = 16 * 1024;

/// Holds back the writes of one [`Corked`] transport. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Cork(Arc<State>);

#[derive(Default)]
struct State {
    held: AtomicBool,
    waiting: AtomicBool,
    transport: AtomicWaker,
}

impl Cork {
    /// Writes are gathered from now on.
    pub(super) fn hold(&self) {
        self.0.held.store(true, Ordering::Release);
    }

    /// Writes go through from now on, and the future that made those which were gathered is woken
    /// to write them out.
    pub(super) fn release(&self) {
        self.0.held.store(false, Ordering::Release);
        if self.0.waiting.swap(false, Ordering::AcqRel) {
            self.0.transport.wake();
        }
    }

    /// Whether something was gathered.
    pub(super) fn is_waiting(&self) -> bool {
        self.0.waiting.load(Ordering::Acquire)
    }

    fn is_held(&self) -> bool {
        self.0.held.load(Ordering::Acquire)
    }

    fn wait(&self, cx: &Context<'_>) {
        self.0.transport.register(cx.waker());
        self.0.waiting.store(true, Ordering::Release);
    }
}

/// A transport whose writes a [`Cork`] may hold back.
pub(super) struct Corked<T> {
    io: T,
    cork: Cork,
    gathered: Unwritten,
}

impl<T> Corked<T> {
    pub(super) fn new(io: T, cork: Cork) -> Self {
        Self {
            io,
            cork,
            gathered: Unwritten::default(),
        }
    }
}

impl<T: AsyncWrite + Unpin> Corked<T> {
    /// Writes what was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.gathered.poll_write(cx, &mut self.io)
    }

    /// Whether a write of `len` bytes goes into the buffer.
    fn gathers(&self, len: usize) -> bool {
        self.cork.is_held() && self.gathered.len() + len <= BUFFER_BYTES
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Corked<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // A connection is polled for reading each time that it is polled at all, so here it learns
        // that the cork was released, or that the peer takes bytes again.
        if !this.gathered.is_empty() {
            if this.cork.is_held() {
                this.cork.wait(cx);
            } else if let Poll::Ready(Err(_)) = this.poll_drain(cx) {
                // The transport gives the same answer to the next write.
                this.gathered.clear();
            }
        }
        Pin::new(&mut this.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Corked<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.gathers(buf.len()) {
            this.gathered.push(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len = bufs.iter().map(|buf| buf.len()).sum();
        if this.gathers(len) {
            for buf in bufs {
                this.gathered.push(buf);
            }
            return Poll::Ready(Ok(len));
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.cork.is_held() && !this.gathered.is_empty() {
            this.cork.wait(cx);
            return Poll::Ready(Ok(()));
        }
        // What was too large to be gathered may still be in a buffer of the transport: TLS has one.
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "cork_tests.rs"]
mod tests;
