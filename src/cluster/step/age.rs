//! Connections that are replaced because they are old.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::cluster::step::Cluster;
use crate::cluster::step::entry::after;
use crate::connection::{End, Ended};

/// By what part an age is longer or shorter at random, as gRPC's servers spread theirs: connections that came
/// up together are not to go together.
const JITTER: f64 = 0.1;

impl<S: Clone> Cluster<S> {
    /// A connection came up.
    pub(super) fn begin_age(&mut self, key: u64, now: Instant) {
        let Some(age) = self.settings.max_connection_age else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let factor = 1.0 + JITTER * (2.0 * self.rng.unit() - 1.0);
        let age = Duration::try_from_secs_f64(age.as_secs_f64() * factor);
        let due = after(now, age.unwrap_or(Duration::MAX));
        if let Some(before) = entry.retires.replace(due) {
            self.ages.remove(&(before, key));
        }
        self.ages.insert((due, key));
    }

    /// Has those replaced whose time is over, as if their servers had asked for it.
    pub(super) fn retire_old(&mut self, now: Instant) {
        while let Some(&(due, key)) = self.ages.first() {
            if due > now {
                return;
            }
            self.ages.pop_first();
            let Some(entry) = self.entries.get_mut(&key) else {
                continue;
            };
            entry.retires = None;
            let Some(connection) = entry.phase.connection() else {
                continue;
            };
            debug!(endpoint = %entry.endpoint.id(), connection, "its connection is old, and is replaced");
            let end = End::Draining;
            self.ended(
                Ended {
                    key,
                    connection,
                    end,
                },
                now,
            );
        }
    }
}
