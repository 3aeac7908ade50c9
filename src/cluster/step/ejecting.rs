//! Who is out, and how it comes back.

use tokio::time::Instant;
use tracing::{info, warn};

use crate::cluster::step::Cluster;
use crate::cluster::step::entry::after;
use crate::health::{Cause, Change, Counts, Entry};

impl<S: Clone> Cluster<S> {
    /// The health of an endpoint changed.
    pub(super) fn health(&mut self, key: u64, change: Change, now: Instant) {
        let entry = self.entries.get_mut(&key);
        // What it did before it was drained may be heard of after.
        let Some(entry) = entry.filter(|entry| !entry.is_drained()) else {
            return;
        };
        match change {
            Change::Ejected(cause) => {
                self.eject(key, cause, now);
                return;
            }
            Change::ProbeFailed => {
                let before = entry.ejection.as_ref();
                let cause = before.map_or(Cause::ConsecutiveFailures, |before| before.cause);
                self.eject(key, cause, now);
                return;
            }
            // Out again already, and that was known first: it is the newer word.
            Change::Readmitted if entry.is_out(now) => {}
            // Perhaps out again by its calls; that word is on its way.
            Change::Readmitted => {
                entry.readmit(now);
                info!(endpoint = %entry.endpoint.id(), "back: its probing call went well");
                self.warm_up(key, now);
            }
            Change::ProbeReturned => {}
        }
        self.see_health_of(key, now);
    }

    fn eject(&mut self, key: u64, cause: Cause, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        let until = entry.eject(cause, &self.settings.ejection, now);
        self.ejection_ends.insert((until, key));
        let seconds = (until - now).as_secs_f64();
        warn!(endpoint = %entry.endpoint.id(), seconds, cause = cause.as_str(), "ejected");
        self.see_health_of(key, now);
    }

    fn see_health_of(&mut self, key: u64, now: Instant) {
        self.touch(key);
        if self.order.is_some() {
            self.look_at(key);
            self.spare(key, now);
        }
    }

    /// Ejects the outliers of an interval that is over.
    pub(super) fn compare(&mut self, now: Instant) {
        let Some(rules) = self.settings.ejection.outlier_detection().copied() else {
            return;
        };
        let interval = rules.interval();
        let due = *self.next_comparison.get_or_insert(after(now, interval));
        if now < due {
            return;
        }
        // What a busy task is late by must not move the later ones.
        let next = after(due, interval);
        self.next_comparison = Some(if next > now {
            next
        } else {
            after(now, interval)
        });
        let counted = |key| {
            let entry = self.entries.get(&key);
            entry.map_or_else(Counts::default, |e| e.subchannel.health().take_counts())
        };
        let counts: Vec<Counts> = self.rows.iter().map(|row| counted(row.key)).collect();
        let mut ejected = Vec::new();
        rules.judge(&counts, &mut self.rng, |index, cause| {
            let key = self.rows[index].key;
            let entry = self.entries.get(&key);
            if entry.is_some_and(|entry| entry.subchannel.eject()) {
                ejected.push((key, cause));
            }
        });
        for (key, cause) in ejected {
            // Its gate was open, so if it was out it is back, though that word is on its way yet.
            if let Some(entry) = self.entries.get_mut(&key)
                && entry.ejection.is_some()
            {
                entry.readmit(now);
            }
            self.eject(key, cause, now);
        }
    }

    /// How many are out, of all priorities.
    #[cfg(test)]
    pub(super) fn ejected(&self) -> usize {
        let rules = self.ejections.values();
        rules.map(|rules| rules.ejected()).sum()
    }

    /// Has those probed whose time is over.
    pub(super) fn end_ejections(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.ejection_ends.first() {
            if until > now {
                return;
            }
            self.ejection_ends.pop_first();
            if let Some(entry) = self.entries.get(&key) {
                entry.subchannel.health().gate().offer_probe();
                self.dirty = true;
                if self.order.is_some() {
                    self.spare(key, now);
                }
            }
        }
    }

    /// Nobody calls an endpoint that is not connected, so no call could show that it works again: its time
    /// was all that it had to serve.
    pub(super) fn spare(&mut self, key: u64, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.phase.connection().is_some() {
            return;
        }
        let subchannel = &entry.subchannel;
        let health = subchannel.health();
        if health.gate().enter() == Some(Entry::Probe)
            && health.pass_probe(subchannel.ejections()).is_some()
        {
            entry.readmit(now);
            self.touch(key);
        }
    }
}
