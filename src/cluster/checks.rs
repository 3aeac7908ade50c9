//! The health checks of all endpoints that are connected, and what comes of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::cluster::Settings;
use crate::cluster::watches::Watches;
use crate::connection::ConnectionEvents;
use crate::health::Verdict;
use crate::policy::{Connects, Subchannel};
use crate::probe::{Heard, Target, Watch, WatchError};

/// The stream of random numbers that pauses go by.
const STREAM: u64 = u64::MAX - 2;

/// What a health check says of a connection.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) subchannel: Arc<Subchannel>,
    pub(super) connection: u64,
    pub(super) verdict: Verdict,
    pub(super) events: ConnectionEvents,
}

/// The health checks, over every connection that is up.
pub(super) struct Checks<H> {
    watches: Watches<Prompt<H>, ()>,
    verdicts: mpsc::UnboundedSender<Checked>,
    /// It was said that a server does not tell of its health.
    told: Arc<AtomicBool>,
}

impl<H> Checks<H> {
    /// Nobody is checked without a `check`, nor where the policy wants one connection only.
    pub(super) fn new(
        check: Option<H>,
        settings: &mut Settings,
    ) -> (Self, mpsc::UnboundedReceiver<Checked>) {
        let check = check.filter(|_| settings.connects == Connects::All);
        let check = check.map(|check| Prompt {
            check,
            within: settings.connect_timeout,
        });
        settings.health_checked = check.is_some();
        let (verdicts, heard) = mpsc::unbounded_channel();
        let checks = Self {
            watches: Watches::new(check.map(|check| (check, ())), settings, STREAM),
            verdicts,
            told: Arc::default(),
        };
        (checks, heard)
    }

    /// Whether anybody is checked.
    pub(super) fn is_wanted(&self) -> bool {
        self.watches.is_wanted()
    }

    /// `connection` was taken up: its server is checked from now on.
    pub(super) fn begin<S>(
        &mut self,
        target: Target<S>,
        subchannel: Arc<Subchannel>,
        connection: u64,
        events: ConnectionEvents,
    ) where
        S: Clone + Send + Sync + 'static,
        H: Watch<S, Terms = (), Word = Verdict>,
    {
        let mut teller = Teller {
            subchannel: subchannel.clone(),
            connection,
            events,
            verdicts: self.verdicts.clone(),
            last: None,
            moves: 0,
        };
        let told = self.told.clone();
        let heard = move |heard| match heard {
            Heard::Word(verdict) => {
                teller.has_moved();
                teller.tell(verdict);
            }
            // Its transport ended and not the connection, which is asked anew at once.
            Heard::Lost(_) if teller.has_moved() => {}
            Heard::Lost(why) => teller.tell(Verdict::not_serving(why)),
            Heard::Unsupported => {
                teller.tell(Verdict::Serving);
                let id = teller.subchannel.id();
                if told.swap(true, Ordering::Relaxed) {
                    debug!(endpoint = %id, "its server does not tell of its health: it counts as healthy");
                } else {
                    warn!(
                        endpoint = %id,
                        "its server does not tell of its health: it counts as healthy, and so do others like it"
                    );
                }
            }
        };
        self.watches.begin(target, subchannel, connection, heard);
    }

    /// This connection of the endpoint goes on by other transports.
    pub(super) fn moved(&self, key: u64, connection: u64) {
        self.watches.moved(key, connection);
    }

    /// This connection of the endpoint takes no more calls.
    pub(super) fn end(&mut self, key: u64, connection: u64) {
        self.watches.end(key, connection);
    }

    /// The endpoint left, or is not wanted now.
    pub(super) fn forget(&mut self, key: u64) {
        self.watches.forget(key);
    }
}

/// A check that says something within this time: an endpoint must not look as if it were about to connect for
/// ever.
struct Prompt<H> {
    check: H,
    within: Duration,
}

impl<S, H> Watch<S> for Prompt<H>
where
    H: Watch<S, Terms = (), Word = Verdict>,
{
    type Terms = ();
    type Word = Verdict;
    type Stream = BoxStream<'static, Result<Verdict, WatchError>>;

    fn watch(&self, target: Target<S>, terms: &()) -> Self::Stream {
        let verdicts = Box::pin(self.check.watch(target, terms));
        let within = Some(self.within);
        stream::unfold((verdicts, within), |(mut verdicts, within)| async move {
            let verdict = match within {
                None => verdicts.next().await,
                Some(within) => match timeout(within, verdicts.next()).await {
                    Ok(verdict) => verdict,
                    Err(_) => {
                        let why = format!("it said nothing within {within:?}");
                        Some(Ok(Verdict::not_serving(why)))
                    }
                },
            };
            verdict.map(|verdict| (verdict, (verdicts, None)))
        })
        .boxed()
    }
}

/// Tells of each new verdict. Dropped by a check that ends without an order to, it says that the endpoint is not
/// serving: nobody would learn otherwise that it serves.
struct Teller {
    subchannel: Arc<Subchannel>,
    connection: u64,
    events: ConnectionEvents,
    verdicts: mpsc::UnboundedSender<Checked>,
    last: Option<Verdict>,
    /// Of those that the connection has been through.
    moves: usize,
}

impl Teller {
    /// Whether one of the connection's transports has ended since this was last asked.
    fn has_moved(&mut self) -> bool {
        let before = std::mem::replace(&mut self.moves, self.events.moves());
        before != self.moves
    }

    fn tell(&mut self, verdict: Verdict) {
        if self.last.as_ref() == Some(&verdict) {
            return;
        }
        self.last = Some(verdict.clone());
        // Without a reader the balancer has ended, and so has the need to know.
        let _ = self.verdicts.send(Checked {
            subchannel: self.subchannel.clone(),
            connection: self.connection,
            verdict,
            events: self.events.clone(),
        });
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell(Verdict::not_serving("it panicked"));
        }
    }
}
