//! A peer that takes no more bytes from a connection that nobody can call any more.
//!
//! Such a connection has some last words for its peer: the cancellation of calls, a GOAWAY. If the
//! peer reads nothing they would never be gone, and the socket and the task would stay for ever. As
//! long as somebody may call, that is for keep-alive pings to find out.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

/// Held by each who may call over a connection. To be dropped ahead of what wakes the connection's
/// task at the last drop.
#[derive(Debug, Clone, Default)]
pub(in crate::grpc) struct Caller(Arc<()>);

/// Bounds the time for which a peer may take nothing when no [`Caller`] is left.
#[derive(Debug)]
pub(in crate::grpc) struct Stall {
    callers: Weak<()>,
    limit: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    pub(in crate::grpc) fn new(caller: &Caller, limit: Duration) -> Self {
        Self {
            callers: Arc::downgrade(&caller.0),
            limit,
            waiting: None,
        }
    }

    /// What a write has come to; an error in place of `Pending` if that lasts too long.
    pub(super) fn bound<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.waiting = None;
            return polled;
        }
        if self.callers.strong_count() > 0 {
            return Poll::Pending;
        }
        let limit = self.limit;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(waiting.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("the server took no bytes for {limit:?}, and nobody calls it any more"),
        )))
    }
}
