use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::mpsc;

use crate::error::BoxError;
use crate::policy::Subchannel;

/// How a connection left the picks.
#[derive(Debug)]
pub(crate) enum End {
    /// The peer takes no new calls; those under way may finish. HTTP/2's GOAWAY.
    Draining,
    /// It is gone. The error is kept for the endpoint's report.
    Closed(Option<BoxError>),
    /// Its service failed to become ready for a call.
    NotReady(BoxError),
    /// The peer takes no new calls and wants to be left alone for a while.
    BackOff(BoxError),
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

/// By which a connection tells the balancer that it takes no more calls. Cheap to clone.
///
/// The word takes effect at once, before the control plane has heard it: no call is dispatched to
/// the connection after [`draining`](Self::draining) or [`closed`](Self::closed) has returned. Only
/// the first word counts.
#[derive(Clone)]
pub struct ConnectionEvents {
    inner: Arc<Inner>,
}

struct Inner {
    subchannel: Arc<Subchannel>,
    connection: u64,
    ended: AtomicBool,
    inbox: Option<Inbox>,
}

impl ConnectionEvents {
    pub(crate) fn new(subchannel: Arc<Subchannel>, connection: u64, inbox: Inbox) -> Self {
        Self {
            inner: Arc::new(Inner {
                subchannel,
                connection,
                ended: AtomicBool::new(false),
                inbox: Some(inbox),
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
                inbox: None,
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
        if let Some(inbox) = &inner.inbox {
            // An inbox without a reader belongs to a balancer that has ended.
            let _ = inbox.send(Ended {
                key: inner.subchannel.key(),
                connection: inner.connection,
                end,
            });
        }
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
