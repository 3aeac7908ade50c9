//! The connections of one endpoint, and the calls that wait for one of them to have room.
//!
//! There is one, until its server allows no more streams (`MAX_CONCURRENT_STREAMS`) and more are allowed by the
//! settings (gRFC A105). A call gets the oldest that has room. Where none has, it waits in a queue, in the order in
//! which the calls came, and whoever makes room serves the queue: a stream that ends, a server that allows more, a
//! further connection. Only what waits, and what makes room while somebody waits, takes the lock.
//!
//! For the balancer all of them are one connection. It is told of the end of the last one.

use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready as ready_or_pending};

use arc_swap::ArcSwap;
use http::{Request, Response};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::body::Body;

use crate::call::Reclaim;
use crate::connection::ConnectionEvents;

use super::body::Http2Body;
use super::error::AttemptError;
use super::growth::{Growing, Growth};
use super::service::{Connection, Sent};
use super::streams::{OpenStream, Streams};

/// Every one that may be called.
pub(super) struct Pool {
    members: Members,
    queue: Mutex<Queue>,
}

enum Members {
    /// There will be no other.
    One(Arc<Connection>),
    Several {
        /// Oldest first. Changed under the lock.
        live: ArcSwap<Vec<Arc<Connection>>>,
        growth: Growth,
    },
}

#[derive(Default)]
struct Queue {
    /// By their tickets, so that the first one came first.
    waiting: BTreeMap<u64, oneshot::Sender<Place>>,
    next_ticket: u64,
    /// The last connection has left.
    closed: bool,
    /// A further connection is being made, or the pause after one that could not be made is not over.
    growing: Option<Growing>,
    /// By which further ones tell of themselves. `None` once all have left.
    events: Option<ConnectionEvents>,
    /// Attempts in a row that failed, or whose connection did not hold.
    failures: u32,
    /// The last further connection by its streams, and when it came; if no attempt failed since.
    joined: Option<(Instant, Arc<Streams>)>,
}

impl Queue {
    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.joined = None;
    }

    /// Whether the last further connection has not yet held as long as one must to be a success: the first delay of
    /// the backoff.
    fn is_on_trial(&self) -> bool {
        let base = |events: &ConnectionEvents| events.dial_terms().backoff.base();
        let base = self.events.as_ref().map(base).unwrap_or_default();
        let joined = self.joined.as_ref();
        joined.is_some_and(|(joined, _)| joined.elapsed() < base)
    }
}

/// A stream on one of the connections, for a call to come.
pub(super) struct Place {
    /// `None` where there is only one.
    connection: Option<Arc<Connection>>,
    stream: OpenStream,
}

/// Which of a pool's connections has left.
pub(super) enum Left {
    /// The last one. Who waited hears of it by the drop: after the balancer has, else a call would find the connection
    /// up by all that it knows, and broken.
    Last(Hearers),
    /// One of several. The others go on.
    Others,
    /// None that is here, or any more.
    Before,
}

/// Who is to hear that a pool's last connection has left.
pub(super) struct Hearers {
    _waiting: BTreeMap<u64, oneshot::Sender<Place>>,
    _growing: Option<Growing>,
    _events: Option<ConnectionEvents>,
}

/// What a call gets where nothing has room at once.
pub(super) enum Turn {
    Now(Place),
    Later(Waiter),
    /// There is nothing to wait for.
    Never,
}

impl Pool {
    /// With one connection, which stays the only one without `growth`.
    pub(super) fn new(
        first: Arc<Connection>,
        growth: Option<(Growth, ConnectionEvents)>,
    ) -> Arc<Self> {
        let streams = first.streams().clone();
        let mut queue = Queue::default();
        let members = match growth {
            None => Members::One(first),
            Some((growth, events)) => {
                queue.events = Some(events);
                let live = ArcSwap::from_pointee(vec![first]);
                Members::Several { live, growth }
            }
        };
        let queue = Mutex::new(queue);
        let pool = Arc::new(Self { members, queue });
        streams.belong_to(Arc::downgrade(&pool));
        pool
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // Nothing of a user's runs under the lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place on the oldest connection that has room, if one has.
    #[inline]
    pub(super) fn place(&self) -> Option<Place> {
        match &self.members {
            Members::One(only) => {
                let stream = only.takes_calls().then(|| only.streams().open())??;
                Some(Place {
                    connection: None,
                    stream,
                })
            }
            Members::Several { live, .. } => first_with_room(&live.load(), Streams::open),
        }
    }

    /// A place, if there is a connection at all. For who did not wait for room.
    #[cold]
    pub(super) fn place_anyway(&self) -> Option<Place> {
        self.place().or_else(|| {
            let usable = |connection: &&Arc<Connection>| connection.takes_calls();
            let oldest = self.with_live(|live| live.iter().find(usable).cloned())?;
            Some(Place {
                stream: oldest.streams().open_anyway(),
                connection: Some(oldest),
            })
        })
    }

    /// A place in its turn.
    #[cold]
    pub(super) fn turn(self: &Arc<Self>) -> Turn {
        let mut queue = self.lock();
        let taken = self.with_live(|live| {
            if queue.closed || !live.iter().any(|connection| connection.takes_calls()) {
                return Some(Turn::Never);
            }
            if !queue.waiting.is_empty() {
                return None;
            }
            // Ahead of the last look, so that what is given back after it is seen.
            tell(live, true);
            let place = first_with_room(live, Streams::open_in_turn)?;
            tell(live, false);
            Some(Turn::Now(place))
        });
        if let Some(turn) = taken {
            return turn;
        }
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        let (place, granted) = oneshot::channel();
        queue.waiting.insert(ticket, place);
        self.grow(&mut queue);
        Turn::Later(Waiter {
            pool: Arc::downgrade(self),
            ticket,
            granted,
        })
    }

    /// There may be room: gives it to those who wait.
    #[cold]
    pub(super) fn serve(self: &Arc<Self>) {
        let mut granted = Vec::new();
        let mut queue = self.lock();
        self.with_live(|live| {
            while let Some(first) = queue.waiting.first_entry() {
                let Some(place) = first_with_room(live, Streams::open_in_turn) else {
                    return;
                };
                granted.push((first.remove(), place));
            }
            tell(live, false);
        });
        self.grow(&mut queue);
        drop(queue);
        for (waiter, place) in granted {
            // One who is gone gives it back by that.
            let _ = waiter.send(place);
        }
    }

    /// Begins to make a further connection, if somebody waits for one and it may be.
    fn grow(self: &Arc<Self>, queue: &mut Queue) {
        let Members::Several { live, growth } = &self.members else {
            return;
        };
        let wanted = !queue.waiting.is_empty() && queue.growing.is_none();
        if wanted && queue.joined.is_some() && !queue.is_on_trial() {
            queue.failures = 0;
        }
        if let Some(events) = queue.events.as_ref()
            && wanted
            && live.load().len() < growth.most()
        {
            let events = events.clone();
            queue.growing = Some(growth.begin(Arc::downgrade(self), queue.failures, events));
        }
    }

    /// Makes no further connection for as long as after an attempt that failed.
    fn pause(self: &Arc<Self>, queue: &mut Queue) {
        if let (Members::Several { growth, .. }, Some(events)) = (&self.members, &queue.events) {
            let pause = growth.pause(Arc::downgrade(self), queue.failures, events);
            queue.growing = Some(pause);
            queue.failed();
        }
    }

    /// A further connection is there.
    pub(super) fn join(self: &Arc<Self>, connection: Arc<Connection>) {
        let Members::Several { live, .. } = &self.members else {
            return;
        };
        let mut queue = self.lock();
        queue.growing = None;
        // One that ended meanwhile has left already, and would stay.
        if !queue.closed && !connection.takes_calls() {
            self.pause(&mut queue);
        } else if !queue.closed {
            queue.joined = Some((Instant::now(), connection.streams().clone()));
            if !queue.waiting.is_empty() {
                connection.streams().count().begin_waiting();
            }
            let mut all = Vec::clone(&live.load());
            all.push(connection);
            live.store(Arc::new(all));
        }
        drop(queue);
        self.serve();
    }

    /// A further connection could not be made.
    pub(super) fn dial_failed(&self) {
        self.lock().failed();
    }

    /// The pause after one that could not be made is over. The next one is made when it is wanted.
    pub(super) fn pause_is_over(self: &Arc<Self>) {
        self.lock().growing = None;
        self.serve();
    }

    /// The connection of these streams takes no more calls. `calm`: and its server wants to be left alone for a while.
    pub(super) fn leave(self: &Arc<Self>, streams: &Arc<Streams>, calm: bool) -> Left {
        // Dropped after the lock is: with a connection go the calls in its queue, whose streams ask for the lock.
        let before;
        let mut queue = self.lock();
        let (gone, stay) = match &self.members {
            Members::One(_) => (1, 0),
            Members::Several { live, .. } => {
                before = live.load_full();
                let stays = |c: &&Arc<Connection>| !Arc::ptr_eq(c.streams(), streams);
                let after: Vec<_> = before.iter().filter(stays).cloned().collect();
                let counts = (before.len() - after.len(), after.len());
                live.store(Arc::new(after));
                counts
            }
        };
        if gone > 0 && stay == 0 {
            queue.closed = true;
            return Left::Last(Hearers {
                _waiting: std::mem::take(&mut queue.waiting),
                _growing: queue.growing.take(),
                _events: queue.events.take(),
            });
        }
        // A server that accepts and hangs up must not be dialled in a tight loop.
        let joined = queue.joined.as_ref();
        let is_new =
            joined.is_some_and(|(_, new)| Arc::ptr_eq(new, streams)) && queue.is_on_trial();
        if gone > 0 && (calm || (is_new && queue.growing.is_none())) {
            self.pause(&mut queue);
        }
        drop(queue);
        // Those who wait may want another one in its place.
        self.serve();
        match gone {
            0 => Left::Before,
            _ => Left::Others,
        }
    }

    fn with_live<R>(&self, look: impl FnOnce(&[Arc<Connection>]) -> R) -> R {
        match &self.members {
            Members::One(only) => look(std::slice::from_ref(only)),
            Members::Several { live, .. } => look(&live.load()),
        }
    }
}

#[inline]
fn first_with_room(
    live: &[Arc<Connection>],
    open: impl Fn(&Arc<Streams>) -> Option<OpenStream>,
) -> Option<Place> {
    (live.iter().filter(|connection| connection.takes_calls())).find_map(|connection| {
        let stream = open(connection.streams())?;
        let connection = Some(connection.clone());
        Some(Place { connection, stream })
    })
}

/// Whether somebody waits, to be heard by who gives a stream back.
fn tell(live: &[Arc<Connection>], waits: bool) {
    for connection in live {
        let count = connection.streams().count();
        match waits {
            true => count.begin_waiting(),
            false => count.end_waiting(),
        }
    }
}

impl Place {
    /// The connection that it is on. It was taken from `pool`.
    #[inline]
    fn connection<'a>(&'a self, pool: &'a Pool) -> Option<&'a Arc<Connection>> {
        match &pool.members {
            Members::One(only) => Some(only),
            Members::Several { .. } => self.connection.as_ref(),
        }
    }

    /// Whether its connection still takes calls.
    #[inline]
    pub(super) fn is_good(&self, pool: &Pool) -> bool {
        (self.connection(pool)).is_some_and(|connection| connection.takes_calls())
    }

    /// Sends `request` here.
    #[inline]
    pub(super) fn send(self, pool: &Arc<Pool>, request: Request<Body>) -> Sent {
        match &pool.members {
            Members::One(only) => only.send(request, self.stream),
            Members::Several { .. } => match self.connection {
                Some(connection) => {
                    let sent = connection.send(request, self.stream);
                    Box::pin(resend(sent, connection, Arc::downgrade(pool)))
                }
                None => Box::pin(ready(Err(AttemptError::refusing(Some(request))))),
            },
        }
    }
}

/// How often a call that its connection handed back goes to another one of the same endpoint.
const MAX_RESENDS: usize = 3;

/// A call that comes back unprocessed because its connection takes no more goes to another connection: to the balancer
/// all of them are one, to which a call does not go twice.
async fn resend(
    mut sent: Sent,
    mut connection: Arc<Connection>,
    pool: Weak<Pool>,
) -> Result<Response<Http2Body>, AttemptError> {
    for _ in 0..MAX_RESENDS {
        let error = match sent.await {
            Err(error) if !connection.takes_calls() => error,
            result => return result,
        };
        let request = error.reclaim()?;
        // Neither the call nor its turn holds the pool, which is its owners' to close.
        let turn = pool.upgrade().map_or(Turn::Never, |pool| pool.turn());
        let place = match turn {
            Turn::Now(place) => Some(place),
            Turn::Later(waiter) => waiter.await,
            Turn::Never => None,
        };
        let Some(Place {
            connection: Some(other),
            stream,
        }) = place
        else {
            return Err(AttemptError::refusing(Some(request)));
        };
        sent = other.send(request, stream);
        connection = other;
    }
    sent.await
}

/// A call that waits for its turn. Dropping it gives the turn, or the place that came of it, to the next one.
pub(super) struct Waiter {
    pool: Weak<Pool>,
    ticket: u64,
    granted: oneshot::Receiver<Place>,
}

impl Future for Waiter {
    /// `None` when there is nothing to wait for any more.
    type Output = Option<Place>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Place>> {
        let granted = ready_or_pending!(Pin::new(&mut self.granted).poll(cx));
        Poll::Ready(granted.ok())
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        let mut queue = pool.lock();
        let left = queue.waiting.remove(&self.ticket);
        if left.is_some() && queue.waiting.is_empty() {
            pool.with_live(|live| tell(live, false));
        }
        drop(queue);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.with_live(|live| f.debug_list().entries(live).finish())
    }
}
