//! Who is out, and how it comes back.

use tokio::time::Instant;
use tracing::{info, warn};

use crate::cluster::step::Cluster;
use crate::health::{Change, Entry};

impl<S: Clone> Cluster<S> {
    /// The health of an endpoint changed.
    pub(super) fn health(&mut self, key: u64, change: Change, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        match change {
            Change::Ejected => {
                let until = entry.eject(&self.settings.ejection, now);
                self.ejection_ends.insert((until, key));
                warn!(endpoint = %entry.endpoint.id(), seconds = (until - now).as_secs_f64(), "ejected: too many failures in a row");
            }
            // Out again already, and that word came first: it is the newer one.
            Change::Readmitted if !entry.subchannel.health().gate().is_open() => {}
            Change::Readmitted => {
                entry.readmit(now);
                info!(endpoint = %entry.endpoint.id(), "back: its probing call went well");
            }
            Change::ProbeReturned => {}
        }
        self.touch(key);
        if self.order.is_some() {
            self.look_at(key);
            self.spare(key, now);
        }
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
        let health = entry.subchannel.health();
        if health.gate().enter() == Some(Entry::Probe)
            && health.pass_probe(&self.ejections).is_some()
        {
            entry.readmit(now);
            self.touch(key);
        }
    }
}
