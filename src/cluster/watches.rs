//! The tasks that hear what servers report beside the calls: one for each connection that is up.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::AbortHandle;
use tracing::{debug, warn};

use crate::cluster::{Settings, clock};
use crate::load::ReportSource;
use crate::math::{Backoff, Rng};
use crate::outcome::LoadReport;
use crate::policy::Subchannel;
use crate::probe::{Pauses, Watch, keep};

/// The stream of random numbers that pauses go by; the handles count theirs from 0.
const STREAM: u64 = u64::MAX - 1;

/// The watches of all endpoints. Dropping it ends them.
pub(super) struct Watches<W> {
    watch: Option<(Arc<W>, Duration)>,
    backoff: Backoff,
    rng: Rng,
    /// By the keys of endpoints.
    watched: HashMap<u64, Watched>,
}

/// An endpoint that was watched at least once.
#[derive(Default)]
struct Watched {
    running: Option<Running>,
    /// It was said loudly that its server does not report, so that servers which hang up now and then do not
    /// fill a log with it.
    told: Arc<AtomicBool>,
}

struct Running {
    connection: u64,
    _task: AbortOnDrop,
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl<W> Watches<W> {
    /// Nobody is watched without a `watch`, nor if the policy does not want it.
    pub(super) fn new(watch: Option<W>, settings: &Settings) -> Self {
        let watch = watch.zip(settings.measures.out_of_band());
        Self {
            watch: watch.map(|(watch, every)| (Arc::new(watch), every)),
            backoff: settings.backoff,
            rng: Rng::stream(settings.seed, STREAM),
            watched: HashMap::new(),
        }
    }

    /// A service to watch by, if anybody is watched.
    pub(super) fn wanted<S: Clone>(&self, service: &S) -> Option<S> {
        self.watch.is_some().then(|| service.clone())
    }

    /// `connection` was taken up; if it is still the endpoint's, its server is heard from now on.
    pub(super) fn begin<S>(&mut self, subchannel: Arc<Subchannel>, connection: u64, service: S)
    where
        S: Clone + Send + Sync + 'static,
        W: Watch<S, Terms = Duration, Word = LoadReport>,
    {
        let Some((watch, every)) = &self.watch else {
            return;
        };
        if subchannel.connection() != connection {
            return;
        }
        let key = subchannel.key();
        let (watch, every) = (watch.clone(), *every);
        let pauses = Pauses {
            backoff: self.backoff,
            rng: Rng::new(self.rng.next_u64()),
        };
        let watched = self.watched.entry(key).or_default();
        let told = watched.told.clone();
        let task = tokio::spawn(async move {
            let heard = |report: LoadReport| {
                // What the server of a connection that is gone said is not true of the next one.
                if subchannel.connection() == connection {
                    subchannel.reported(&report, ReportSource::OutOfBand, clock::now());
                }
            };
            let id = subchannel.id();
            keep(id, &*watch, &every, service, pauses, heard).await;
            if told.swap(true, Ordering::Relaxed) {
                debug!(endpoint = %id, connection, "its server does not report its load beside the calls");
            } else {
                warn!(
                    endpoint = %id,
                    "its server does not report its load beside the calls; only its next connection is asked again"
                );
            }
        });
        watched.running = Some(Running {
            connection,
            _task: AbortOnDrop(task.abort_handle()),
        });
    }

    /// This connection of the endpoint takes no more calls.
    pub(super) fn end(&mut self, key: u64, connection: u64) {
        if let Some(watched) = self.watched.get_mut(&key) {
            watched.running = watched
                .running
                .take()
                .filter(|r| r.connection != connection);
        }
    }

    /// The endpoint left, or is not wanted now.
    pub(super) fn forget(&mut self, key: u64) {
        self.watched.remove(&key);
    }
}

#[cfg(test)]
mod tests;
