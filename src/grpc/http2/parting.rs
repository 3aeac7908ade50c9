//! Window updates, kept from a server that is about to close.
//!
//! A server that shuts down closes when it has written its last response, most of which is then
//! still on its way. What reaches a closed socket is answered with a reset, and a reset throws away
//! all that the other side has not acknowledged yet. Of what a client sends to a server that takes
//! no more requests, window updates come so late: they are answers to the responses, where almost
//! all else belongs to a call that the server has not ended. And a server that has ended all calls
//! needs no window any more.
//!
//! So after a GOAWAY window updates wait until the server may need them: when it has used what it
//! still had, or when nothing comes for a moment.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::frames::FrameHeaders;
use super::io::Refusing;
use super::unwritten::Unwritten;

/// How long nothing must come before the server is taken to wait for an update. A server that is
/// busy is silent too, and may say all it has and close without a look at what came meanwhile; so
/// this is longer than it is busy mostly. A download that is read late may lose so much for each of
/// its windows.
const SILENCE: Duration = Duration::from_millis(100);

/// h2 renews a window when a third of it is used: the server then has twice as much left.
const LEFT_PER_INCREMENT: usize = 2;

/// How a WINDOW_UPDATE begins (RFC 9113 section 6.9): its length, its type, and no flags.
const HEADER: [u8; 5] = [0, 0, 4, FrameHeaders::WINDOW_UPDATE, 0];

/// The header, and 31 bits of increment.
const FRAME_LEN: usize = FrameHeaders::LEN + 4;

/// A transport whose window updates wait once the connection takes no more calls.
pub(in crate::grpc) struct Parting<T> {
    io: T,
    refusing: Refusing,
    /// Whole frames, in their order.
    updates: Unwritten,
    /// How much may come before the server can need the first of them.
    allowance_bytes: usize,
    silence: Option<Pin<Box<Sleep>>>,
    due: bool,
}

impl<T> Parting<T> {
    pub(in crate::grpc) fn new(io: T, refusing: Refusing) -> Self {
        Self {
            io,
            refusing,
            updates: Unwritten::default(),
            allowance_bytes: 0,
            silence: None,
            due: false,
        }
    }

    /// Takes `bytes` if they are window updates and nothing else.
    fn keeps(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> bool {
        if self.due || !self.refusing.get() {
            return false;
        }
        // What is taken goes out in its order in any case, so the middle of another frame that
        // looks like this is no harm.
        let frames = bytes.chunks_exact(FRAME_LEN);
        if !frames.remainder().is_empty() || !frames.clone().all(|f| f.starts_with(&HEADER)) {
            return false;
        }
        let Some(&[.., a, b, c, d]) = bytes.first_chunk::<FRAME_LEN>() else {
            return false;
        };
        if self.updates.is_empty() {
            // The first bit is reserved.
            let increment = u32::from_be_bytes([a & 0x7f, b, c, d]) as usize;
            self.allowance_bytes = increment.saturating_mul(LEFT_PER_INCREMENT);
            self.silence = Some(Box::pin(tokio::time::sleep(SILENCE)));
        }
        self.updates.push(bytes);
        self.silent(cx);
        true
    }

    fn received(&mut self, len: usize) {
        if self.updates.is_empty() || len == 0 {
            return;
        }
        self.allowance_bytes = self.allowance_bytes.saturating_sub(len);
        self.due |= self.allowance_bytes == 0;
        if let Some(silence) = &mut self.silence {
            silence.as_mut().reset(Instant::now() + SILENCE);
        }
    }

    /// Nothing comes at present: waits for how long that lasts.
    fn silent(&mut self, cx: &mut Context<'_>) {
        if let Some(silence) = &mut self.silence {
            self.due |= silence.as_mut().poll(cx).is_ready();
        }
    }

    fn forget(&mut self) {
        self.updates.clear();
        self.silence = None;
        self.due = false;
    }
}

impl<T: AsyncWrite + Unpin> Parting<T> {
    /// Writes what waits.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.updates.is_empty() {
            return Poll::Ready(Ok(()));
        }
        // A frame that is begun must be ended, and nothing may come between its parts.
        self.due = true;
        ready!(self.updates.poll_write(cx, &mut self.io))?;
        self.forget();
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Parting<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.io).poll_read(cx, buf);
        if this.updates.is_empty() {
            return polled;
        }
        match &polled {
            Poll::Ready(_) => this.received(buf.filled().len().saturating_sub(before)),
            Poll::Pending => this.silent(cx),
        }
        // A connection flushes after it has read, so these do not stay in a buffer.
        if this.due
            && let Poll::Ready(Err(_)) = this.poll_drain(cx)
        {
            // The transport gives the same answer to the next write.
            this.forget();
        }
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Parting<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.keeps(cx, buf) {
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
        // h2 sends what is no DATA as one slice, if the transport takes slices.
        if let [buf] = bufs
            && this.keeps(cx, buf)
        {
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.due {
            ready!(this.poll_drain(cx))?;
        }
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.due {
            ready!(this.poll_drain(cx))?;
        }
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
#[path = "parting_tests.rs"]
mod tests;
