//! What a server has seen.

use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The methods of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Method {
    /// One request, one reply.
    Echo,
    /// One request, a stream of replies.
    ServerStream,
    /// A stream of requests, one reply.
    ClientStream,
    /// A stream of both.
    BidiStream,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Echo,
        Self::ServerStream,
        Self::ClientStream,
        Self::BidiStream,
    ];
}

/// How many calls a server has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Reached the handler.
    pub started: u64,
    /// Ended by the server's own word: a reply, the end of its stream, or a status.
    pub finished: u64,
    /// Ended from outside: the caller gave up, or the connection went.
    pub cancelled: u64,
}

impl Calls {
    /// Neither finished nor cancelled.
    pub fn in_flight(&self) -> u64 {
        self.started
            .saturating_sub(self.finished)
            .saturating_sub(self.cancelled)
    }
}

impl Add for Calls {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            started: self.started + other.started,
            finished: self.finished + other.finished,
            cancelled: self.cancelled + other.cancelled,
        }
    }
}

/// The counters themselves.
#[derive(Debug, Default)]
pub struct Counts {
    methods: [Counters; Method::ALL.len()],
    accepted: AtomicU64,
    closed: AtomicU64,
}

#[derive(Debug, Default)]
struct Counters {
    started: AtomicU64,
    finished: AtomicU64,
    cancelled: AtomicU64,
}

impl Counts {
    /// The calls of one method.
    pub fn calls(&self, method: Method) -> Calls {
        let counters = &self.methods[method as usize];
        // Ends are read first, so that no call is seen to end before it began.
        let finished = counters.finished.load(Ordering::SeqCst);
        let cancelled = counters.cancelled.load(Ordering::SeqCst);
        Calls {
            started: counters.started.load(Ordering::SeqCst),
            finished,
            cancelled,
        }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        let closed = self.closed.load(Ordering::SeqCst);
        self.accepted() - closed
    }

    pub(super) fn enter(self: &Arc<Self>, method: Method) -> Call {
        let counters = &self.methods[method as usize];
        counters.started.fetch_add(1, Ordering::SeqCst);
        Call {
            counts: Arc::clone(self),
            method,
            finished: false,
        }
    }

    pub(super) fn connected(self: &Arc<Self>) -> Open {
        self.accepted.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(self))
    }
}

/// A call under way. Dropped unfinished, it counts as cancelled.
#[derive(Debug)]
pub(super) struct Call {
    counts: Arc<Counts>,
    method: Method,
    finished: bool,
}

impl Call {
    pub(super) fn finish(mut self) {
        self.finished = true;
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let counters = &self.counts.methods[self.method as usize];
        let ended = if self.finished {
            &counters.finished
        } else {
            &counters.cancelled
        };
        ended.fetch_add(1, Ordering::SeqCst);
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Open(Arc<Counts>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.closed.fetch_add(1, Ordering::SeqCst);
    }
}
