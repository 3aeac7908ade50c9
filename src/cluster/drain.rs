//! Endpoints that get no more calls, and the deadlines by which those under way have to end.
//!
//! ```text
//!   Finishing ── no call is under way ──► Closing ── the connections are closed ──► over
//!       │                                    │                                       ▲
//!       └── the deadline passes ──► Cut ◄────┴── a second passes                     │
//!                                    └── they are closed, or a second passes ────────┘
//! ```
//! The ends of calls and connections are events, so nothing is polled. A shutdown drains all endpoints at once.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::links::Links;
use crate::math::FAR;
use crate::observe::Drained;

/// How long a connection without calls may take to close by itself, and one that was cut to close at all. A task
/// needs a turn of the runtime; an HTTP/2 connection stays open while somebody holds a response that has ended; a
/// connector of the user's may do as it likes.
const CLOSING: Duration = Duration::from_secs(1);

/// The end of `limit` from now; `None` if that is none.
pub(super) fn deadline(limit: Duration) -> Option<Instant> {
    (limit < FAR).then(|| Instant::now() + limit)
}

/// One drain.
#[derive(Debug)]
pub(super) struct Drain {
    /// Whose calls go on.
    calling: HashSet<u64>,
    /// Whose connections are open, as far as they can be cut.
    open: HashSet<u64>,
    deadline: Option<Instant>,
    stage: Stage,
    outcome: Drained,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Finishing,
    /// Until then.
    Closing(Instant),
    /// Until then.
    Cut(Instant),
}

impl Drain {
    /// Of these endpoints, which have [left](Links::leave).
    pub(super) fn new(keys: impl Iterator<Item = u64> + Clone, links: &Links) -> Self {
        let those = |what: fn(&Links, u64) -> bool| {
            let keys = keys.clone();
            keys.filter(|key| what(links, *key)).collect()
        };
        Self {
            calling: those(Links::has_calls),
            open: those(Links::is_open),
            deadline: None,
            stage: Stage::Finishing,
            outcome: Drained::default(),
        }
    }

    /// The earlier of two deadlines holds.
    pub(super) fn end_by(&mut self, deadline: Option<Instant>) {
        self.deadline = [self.deadline, deadline].into_iter().flatten().min();
    }

    /// When [`tick`](Self::tick) is due, if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Finishing => self.deadline,
            Stage::Closing(until) => Some(self.deadline.map_or(until, |end| end.min(until))),
            Stage::Cut(until) => Some(until),
        }
    }

    /// Something of this endpoint has ended.
    pub(super) fn look(&mut self, key: u64, links: &Links) {
        if !links.has_calls(key) {
            self.calling.remove(&key);
        }
        if !links.is_open(key) {
            self.open.remove(&key);
        }
    }

    /// How it went, if it is over.
    pub(super) fn tick(&mut self, links: &Links, now: Instant) -> Option<Drained> {
        if let Stage::Cut(until) = self.stage {
            return (self.open.is_empty() || until <= now).then_some(self.outcome);
        }
        if self.calling.is_empty() && self.open.is_empty() {
            return Some(self.outcome);
        }
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            return self.cut(links, now);
        }
        match self.stage {
            Stage::Finishing if self.calling.is_empty() => {
                self.stage = Stage::Closing(now + CLOSING)
            }
            Stage::Closing(until) if until <= now => {
                // A pick may have been about to take the endpoint when it left.
                let late = self.open.iter().filter(|key| links.has_calls(**key));
                self.calling = late.copied().collect();
                if self.calling.is_empty() {
                    return self.cut(links, now);
                }
                self.stage = Stage::Finishing;
            }
            _ => {}
        }
        None
    }

    fn cut(&mut self, links: &Links, now: Instant) -> Option<Drained> {
        for key in self.calling.union(&self.open) {
            links.cut(*key, &mut self.outcome);
        }
        self.stage = Stage::Cut(now + CLOSING);
        self.open.is_empty().then_some(self.outcome)
    }
}
