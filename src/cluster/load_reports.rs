//! What servers report of their load beside the calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tracing::{debug, warn};

use crate::cluster::watches::Watches;
use crate::cluster::{Settings, clock};
use crate::load::ReportSource;
use crate::outcome::LoadReport;
use crate::policy::Subchannel;
use crate::probe::{Heard, Target, Watch};

/// The stream of random numbers that pauses go by.
const STREAM: u64 = u64::MAX - 1;

/// The watches for load reports, over every connection that is up.
pub(super) struct LoadReports<W> {
    watches: Watches<W, Duration>,
    /// By the keys of endpoints: it was said loudly that the server does not report, so that servers which hang
    /// up now and then do not fill a log with it.
    told: HashMap<u64, Arc<AtomicBool>>,
}

impl<W> LoadReports<W> {
    /// Nobody is watched without a `watch`, nor if the policy does not want it.
    pub(super) fn new(watch: Option<W>, settings: &Settings) -> Self {
        let watch = watch.zip(settings.measures.out_of_band());
        Self {
            watches: Watches::new(watch, settings, STREAM),
            told: HashMap::new(),
        }
    }

    /// Whether anybody is watched.
    pub(super) fn is_wanted(&self) -> bool {
        self.watches.is_wanted()
    }

    /// `connection` was taken up; if it is still the endpoint's, its server is heard from now on.
    pub(super) fn begin<S>(
        &mut self,
        target: Target<S>,
        subchannel: Arc<Subchannel>,
        connection: u64,
    ) where
        S: Clone + Send + Sync + 'static,
        W: Watch<S, Terms = Duration, Word = LoadReport>,
    {
        if !self.is_wanted() || subchannel.connection() != connection {
            return;
        }
        let told = self.told.entry(subchannel.key()).or_default().clone();
        let listener = subchannel.clone();
        let heard = move |heard| match heard {
            Heard::Word(report) => {
                // What the server of a connection that is gone said is not true of the next one.
                if listener.connection() == connection {
                    listener.reported(&report, ReportSource::OutOfBand, clock::now());
                }
            }
            Heard::Lost(_) => {}
            Heard::Unsupported => {
                let id = listener.id();
                if told.swap(true, Ordering::Relaxed) {
                    debug!(endpoint = %id, connection, "its server does not report its load beside the calls");
                } else {
                    warn!(
                        endpoint = %id,
                        "its server does not report its load beside the calls; only its next connection is asked again"
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
        self.told.remove(&key);
    }
}

#[cfg(test)]
mod tests;
