use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::warn;

use crate::error::BoxError;
use crate::math::Backoff;
use crate::policy::Subchannel;

/// How a connection left the picks, or nearly.
#[derive(Debug)]
pub(crate) enum End {
    /// It has not: it goes on, and an attempt to make another one beside it ended, well or with this error.
    Beside(Option<BoxError>),
    /// It has not: it goes on by other transports than the one that ended or takes no new calls.
    Moved,
    /// The peer takes no new calls; those under way may finish. HTTP/2's GOAWAY.
    Draining,
    /// It is gone. The error is kept for the endpoint's report.
    Closed(Option<BoxError>),
    /// Its service failed to become ready for a call.
    NotReady(BoxError),
    /// The peer takes no new calls and wants to be left alone for a while.
    BackOff(BoxError),
    /// It has left the picks before, and now nothing is left of it. Only of those that can be cut.
    Gone,
}

/// The end of a connection, as the control plane hears of it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) key: u64,
    pub(crate) connection: u64,
    pub(crate) end: End,
}

/// Where the ends go.
pub(crate) type Inbox = mpsc::UnboundedSender<Ended>;

/// How a connector is to go about it that makes further transports by itself, where one connection of the balancer
/// is several of them.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct DialTerms {
    /// How long an attempt may take.
    pub connect_timeout: Duration,
    /// The delays between attempts.
    pub backoff: Backoff,
    /// For the randomness of the delays; another one for each connection.
    pub seed: u64,
}

impl Default for DialTerms {
    /// gRPC's connection backoff: 20 s, and delays from 1 s on.
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(20),
            backoff: Backoff::default(),
            seed: 0,
        }
    }
}

/// By which a connection tells the balancer that it takes no more calls. Cheap to clone.
///
/// The word takes effect at once, before the control plane has heard it: no call is dispatched to
/// the connection after [`draining`](Self::draining) or [`closed`](Self::closed) has returned. Only
/// the first word counts.
///
/// The other way, the balancer tells by it that the connection is to be [closed at once](Self::on_cut).
#[derive(Clone)]
pub struct ConnectionEvents {
    inner: Arc<Inner>,
}

struct Inner {
    subchannel: Arc<Subchannel>,
    connection: u64,
    ended: AtomicBool,
    moves: AtomicUsize,
    inbox: Option<Inbox>,
    terms: DialTerms,
    /// Looked at when a connection begins and when it is cut, and not by calls.
    cut: Mutex<Cut>,
}

/// How the connection is closed with its calls under way.
enum Cut {
    /// Nobody has said how.
    Unknown,
    By(Box<dyn FnOnce() + Send>),
    /// To be done as soon as it is known how.
    Due,
    Done,
}

impl Cut {
    fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown | Self::Due)
    }
}

impl ConnectionEvents {
    pub(crate) fn new(
        subchannel: Arc<Subchannel>,
        connection: u64,
        inbox: Inbox,
        terms: DialTerms,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                subchannel,
                connection,
                ended: AtomicBool::new(false),
                moves: AtomicUsize::new(0),
                inbox: Some(inbox),
                terms,
                cut: Mutex::new(Cut::Unknown),
            }),
        }
    }

    /// Events that nobody listens to, for a connector's own tests.
    pub fn detached() -> Self {
        let rules = Arc::new(crate::health::Ejections::new(crate::health::Ejection::off()));
        Self {
            inner: Arc::new(Inner {
                subchannel: Arc::new(Subchannel::new(0, "detached".into(), rules)),
                connection: 0,
                ended: AtomicBool::new(false),
                moves: AtomicUsize::new(0),
                inbox: None,
                terms: DialTerms::default(),
                cut: Mutex::new(Cut::Unknown),
            }),
        }
    }

    /// The peer takes no new calls (GOAWAY): the endpoint is dialled anew at once, and the calls
    /// under way finish on this connection.
    pub fn draining(&self) {
        self.end(End::Draining);
    }

    /// The peer takes no new calls and asks for a pause: as [`draining`](Self::draining), but the
    /// endpoint is dialled anew only after the backoff, and counts as failing until then.
    pub fn back_off(&self, why: impl Into<BoxError>) {
        self.end(End::BackOff(why.into()));
    }

    /// The connection is gone.
    pub fn closed(&self, error: Option<BoxError>) {
        self.end(End::Closed(error));
    }

    /// Its service failed to become ready, which a watch found out.
    pub(crate) fn not_ready(&self, error: BoxError) {
        self.end(End::NotReady(error));
    }

    /// How further transports of this connection are to be made: as the balancer was told to make connections. They
    /// do not count among its dials at once.
    pub fn dial_terms(&self) -> DialTerms {
        let DialTerms { seed, .. } = self.inner.terms;
        DialTerms {
            // Not the same for all, which may be made at once.
            seed: seed ^ self.inner.connection,
            ..self.inner.terms
        }
    }

    /// An attempt to make a further transport ended, well or with an error. The connection goes on; the error is in the
    /// endpoint's report until an attempt ends well.
    pub fn beside(&self, error: Option<BoxError>) {
        self.inner.tell(End::Beside(error));
    }

    /// One of several transports ended, or takes no new calls, and the others go on. To be said ahead of the ends of
    /// what was under way on it. What watches the server is begun anew, since it may run over the one that left.
    pub fn moved(&self) {
        self.inner.moves.fetch_add(1, Ordering::SeqCst);
        self.inner.tell(End::Moved);
    }

    /// How often one of several transports ended or took no new calls.
    pub(crate) fn moves(&self) -> usize {
        self.inner.moves.load(Ordering::SeqCst)
    }

    /// Says how the connection is closed at once, with the calls under way on it, which are to fail: `cut` is
    /// called when the deadline of a [shutdown](crate::Balance::shutdown) or a [drain](crate::Balance::drain) is
    /// over, or the connection is open yet a second after the last of their calls; at most once, and by this very
    /// method if that was before. It must not block. Only the first one counts.
    ///
    /// Who says so keeps these events, or a clone, for as long as the connection is open, and no longer: by the drop
    /// of the last clone the balancer knows that it is closed. `cut` itself holds none: it is kept by them until it is
    /// called, and they would live for ever. Without this a connection cannot be cut: its service
    /// is dropped, and the calls under way go on to their own end.
    pub fn on_cut(&self, cut: impl FnOnce() + Send + 'static) {
        let mut state = self.inner.cut();
        match *state {
            Cut::Unknown => *state = Cut::By(Box::new(cut)),
            Cut::By(_) | Cut::Done => {}
            Cut::Due => {
                *state = Cut::Done;
                drop(state);
                cut();
            }
        }
    }

    /// The connection, as the balancer holds on to it without keeping it open.
    pub(crate) fn line(&self) -> Line {
        Line(Arc::downgrade(&self.inner))
    }

    /// Whether the connection has ended or is draining.
    pub fn has_ended(&self) -> bool {
        self.inner.ended.load(Ordering::SeqCst)
    }

    /// The balancer has just taken the connection up. If its end was told before, that took no effect
    /// then, and takes it now.
    pub(crate) fn taken_up(&self) {
        if self.has_ended() {
            self.inner.subchannel.disconnected(self.inner.connection);
        }
    }

    fn end(&self, end: End) {
        let inner = &*self.inner;
        if inner.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        inner.subchannel.disconnected(inner.connection);
        inner.tell(end);
    }
}

impl Inner {
    fn tell(&self, end: End) {
        if let Some(inbox) = &self.inbox {
            // An inbox without a reader belongs to a balancer that has ended.
            let _ = inbox.send(Ended {
                key: self.subchannel.key(),
                connection: self.connection,
                end,
            });
        }
    }

    fn cut(&self) -> MutexGuard<'_, Cut> {
        // Nothing of a user's runs under the lock.
        self.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let is_known = self.cut().is_known();
        if is_known {
            self.tell(End::Gone);
        }
    }
}

/// A connection that may be open yet.
#[derive(Debug)]
pub(crate) struct Line(Weak<Inner>);

impl Line {
    /// Whether anything is left of it.
    pub(crate) fn is_open(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Whether it is known how to close it at once. Of one that is not open it is not.
    pub(crate) fn can_be_cut(&self) -> bool {
        let open = self.0.upgrade();
        open.is_some_and(|inner| inner.cut().is_known())
    }

    /// Closes it, with the calls under way.
    pub(crate) fn cut(&self) {
        let Some(inner) = self.0.upgrade() else {
            return;
        };
        let mut state = inner.cut();
        let after = match state.is_known() {
            true => Cut::Done,
            false => Cut::Due,
        };
        let before = std::mem::replace(&mut *state, after);
        drop(state);
        if let Cut::By(cut) = before {
            run(cut);
        }
    }
}

/// One connector's panic must not keep the other connections open.
fn run(cut: Box<dyn FnOnce() + Send>) {
    if catch_unwind(AssertUnwindSafe(cut)).is_err() {
        warn!("a connection panicked as it was cut");
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ConnectionEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionEvents")
            .field("connection", &self.inner.connection)
            .field("ended", &self.has_ended())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(events: &ConnectionEvents, count: &Arc<AtomicUsize>) {
        let count = count.clone();
        events.on_cut(move || _ = count.fetch_add(1, Ordering::SeqCst));
    }

    #[test]
    fn a_connection_is_cut_once_whether_that_is_known_before_the_deadline_or_after() {
        for known_before in [true, false] {
            let events = ConnectionEvents::detached();
            let count = Arc::new(AtomicUsize::new(0));
            if known_before {
                counted(&events, &count);
            }
            events.line().cut();
            for _ in 0..2 {
                counted(&events, &count);
                events.line().cut();
            }
            let times = count.load(Ordering::SeqCst);
            assert_eq!(times, 1, "known before: {known_before}");
        }
    }

    #[test]
    fn a_panic_of_one_cut_goes_no_further() {
        let events = ConnectionEvents::detached();
        events.on_cut(|| panic!("on purpose"));
        events.line().cut();
        assert!(events.line().can_be_cut(), "it is done with");
    }
}
