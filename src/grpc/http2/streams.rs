//! The streams of one connection, counted to their ends.

use std::sync::{Arc, OnceLock, Weak};

use crate::load::StreamCount;

use super::pool::Pool;

/// How many streams of a connection are open, and who wants to know that there is room again.
#[derive(Debug, Default)]
pub(in crate::grpc) struct Streams {
    count: StreamCount,
    /// Set when the connection is one that calls may get.
    pool: OnceLock<Weak<Pool>>,
}

impl Streams {
    pub(super) fn count(&self) -> &StreamCount {
        &self.count
    }

    /// Where the connection is to be one of several.
    pub(super) fn belong_to(&self, pool: Weak<Pool>) {
        // It never changes.
        let _ = self.pool.set(pool);
    }

    pub(super) fn pool(&self) -> Option<Arc<Pool>> {
        self.pool.get().and_then(Weak::upgrade)
    }

    /// The server said how many it allows.
    #[cold]
    pub(super) fn set_most(&self, most: u32) {
        self.count.set_most(most);
        if let Some(pool) = self.pool() {
            pool.serve();
        }
    }

    /// One more, if there is room and nobody waits for it.
    #[inline]
    pub(super) fn open(self: &Arc<Self>) -> Option<OpenStream> {
        self.count.take().then(|| OpenStream(self.clone()))
    }

    /// One more for who is first of those that wait.
    pub(super) fn open_in_turn(self: &Arc<Self>) -> Option<OpenStream> {
        self.count.take_in_turn().then(|| OpenStream(self.clone()))
    }

    /// One more, which h2 keeps back if there is no room.
    pub(super) fn open_anyway(self: &Arc<Self>) -> OpenStream {
        self.count.take_anyway();
        OpenStream(self.clone())
    }
}

/// A stream that is open, or about to be, until this is dropped. It does not hold the connection open.
#[derive(Debug)]
pub(super) struct OpenStream(Arc<Streams>);

impl Drop for OpenStream {
    #[inline]
    fn drop(&mut self) {
        if self.0.count.give_back() {
            self.waited_for();
        }
    }
}

impl OpenStream {
    #[cold]
    #[inline(never)]
    fn waited_for(&self) {
        if let Some(pool) = self.0.pool() {
            pool.serve();
        }
    }
}
