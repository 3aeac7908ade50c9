//! A server's first GOAWAY, kept from hyper for a moment.
//!
//! A server that shuts down gracefully sends a GOAWAY that refuses no stream yet and a PING; the
//! answer to the PING tells it that the client has read both, so it names the last stream that it
//! will process, finishes those, and closes. hyper answers the PING at once, ahead of the requests
//! that it has queued. So those arrive when the server reads no more; a socket that is closed with
//! unread input is reset, and a reset throws away all that the other side has not acknowledged yet:
//! the last responses, of calls that the server did process.
//!
//! So hyper gets to read the two only when what it has queued is on its way. The server processes
//! those requests, and none follows.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::ReadBuf;
use tokio::time::Sleep;

/// How long hyper may go on writing at most: long uploads never pause, and the server waits.
const GRACE: Duration = Duration::from_millis(100);

/// How many flushes in a row must find nothing new. After the first, hyper's task yields once more,
/// and a request that another of hyper's tasks has in hand is queued.
const QUIET_FLUSHES: u8 = 2;

/// What the server sent from its first GOAWAY on.
#[derive(Debug)]
pub(super) struct Farewell {
    bytes: Bytes,
    written: bool,
    quiet_flushes: u8,
    grace: Pin<Box<Sleep>>,
}

impl Farewell {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self {
            bytes: Bytes::copy_from_slice(bytes),
            written: true,
            quiet_flushes: 0,
            grace: Box::pin(tokio::time::sleep(GRACE)),
        }
    }

    /// Something was written, or is about to be.
    pub(super) fn written(&mut self) {
        self.written = true;
        self.quiet_flushes = 0;
    }

    /// All that was written is on its way.
    pub(super) fn flushed(&mut self, cx: &mut Context<'_>) {
        if !std::mem::take(&mut self.written) {
            self.quiet_flushes = self.quiet_flushes.saturating_add(1);
        }
        // Nothing else may bring hyper back to the reading side.
        cx.waker().wake_by_ref();
    }

    /// Nothing is going to be written any more.
    pub(super) fn release(&mut self) {
        self.quiet_flushes = QUIET_FLUSHES;
    }

    /// Passes on what was kept, when its time has come; `true` when that was all.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<bool> {
        if self.quiet_flushes < QUIET_FLUSHES {
            ready!(self.grace.as_mut().poll(cx));
            self.release();
        }
        let len = self.bytes.len().min(buf.remaining());
        buf.put_slice(&self.bytes.split_to(len));
        Poll::Ready(self.bytes.is_empty())
    }
}
