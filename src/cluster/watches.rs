//! The tasks that hear what servers say beside the calls: one for each connection that is up.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::cluster::Settings;
use crate::connection::ConnectionEvents;
use crate::endpoint::Endpoint;
use crate::math::{Backoff, Rng};
use crate::policy::Subchannel;
use crate::probe::{Heard, Pauses, Target, Watch, keep};

/// Whom to watch by a connection. If its service turns out to be broken, that is its end: while a health check
/// keeps calls away, none could find it out.
pub(super) fn target<S>(
    endpoint: Endpoint,
    service: S,
    connection: &ConnectionEvents,
) -> Target<S> {
    let events = connection.clone();
    Target::new(endpoint, service).broken_to(move |error| events.not_ready(error))
}

/// One watch of every endpoint. Dropping it ends them all.
pub(super) struct Watches<W, T> {
    watch: Option<Arc<(W, T)>>,
    backoff: Backoff,
    rng: Rng,
    /// By the keys of endpoints.
    running: HashMap<u64, Running>,
}

struct Running {
    connection: u64,
    moved: Arc<Notify>,
    _task: AbortOnDrop,
}

/// A task that ends with who started it.
pub(super) struct AbortOnDrop(pub(super) AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<W, T> Watches<W, T> {
    /// Nobody is watched without a `watch`. `stream` is that of the random numbers; the handles count theirs
    /// from 0.
    pub(super) fn new(watch: Option<(W, T)>, settings: &Settings, stream: u64) -> Self {
        Self {
            watch: watch.map(Arc::new),
            backoff: settings.backoff,
            rng: Rng::stream(settings.seed, stream),
            running: HashMap::new(),
        }
    }

    /// Whether anybody is watched.
    pub(super) fn is_wanted(&self) -> bool {
        self.watch.is_some()
    }

    /// Begins to watch over this connection, in place of any other of the endpoint.
    pub(super) fn begin<S>(
        &mut self,
        target: Target<S>,
        subchannel: Arc<Subchannel>,
        connection: u64,
        mut heard: impl FnMut(Heard<W::Word>) + Send + 'static,
    ) where
        S: Clone + Send + Sync + 'static,
        W: Watch<S, Terms = T>,
        T: Send + Sync + 'static,
    {
        let Some(watch) = self.watch.clone() else {
            return;
        };
        let key = subchannel.key();
        let (backoff, seed) = (self.backoff, self.rng.next_u64());
        let target = target.known_by(subchannel, self.rng.next_u64());
        let moved = Arc::<Notify>::default();
        let moves = moved.clone();
        let task = tokio::spawn(async move {
            let (watch, terms) = &*watch;
            loop {
                let rng = Rng::new(seed);
                let pauses = Pauses { backoff, rng };
                tokio::select! {
                    biased;
                    () = moves.notified() => {}
                    () = keep(target.clone(), watch, terms, pauses, &mut heard) => return,
                }
            }
        });
        let running = Running {
            connection,
            moved,
            _task: AbortOnDrop(task.abort_handle()),
        };
        self.running.insert(key, running);
    }

    /// This connection of the endpoint goes on by other transports: the watch is begun anew, since it may run over the
    /// one that does not, and would hold up a server that shuts down.
    pub(super) fn moved(&self, key: u64, connection: u64) {
        let running = self.running.get(&key);
        if let Some(running) = running.filter(|running| running.connection == connection) {
            running.moved.notify_one();
        }
    }

    /// This connection of the endpoint takes no more calls.
    pub(super) fn end(&mut self, key: u64, connection: u64) {
        if (self.running.get(&key)).is_some_and(|running| running.connection == connection) {
            self.running.remove(&key);
        }
    }

    /// The endpoint left, or is not wanted now.
    pub(super) fn forget(&mut self, key: u64) {
        self.running.remove(&key);
    }
}
