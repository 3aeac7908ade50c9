//! Endpoints that get no more calls by order, and not because of what they do.
//!
//! A drained endpoint keeps its row, since the source names it and a report shows it, and its place in tables that
//! are built over all endpoints. It is nobody's candidate: no call, no dial, no check, and it counts neither among
//! those that may be ejected nor for a panic. When it is back it is as new, by another key: the calls that it had
//! are none of the next connection's.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;
use tracing::info;

use crate::cluster::step::entry::{Entry, Phase};
use crate::cluster::step::order::Order;
use crate::cluster::step::{Cluster, Effect};
use crate::health::Ejections;

impl<S: Clone> Cluster<S> {
    /// All endpoints leave, and no other will come.
    pub(super) fn shut_down(&mut self) {
        for row in std::mem::take(&mut self.rows) {
            self.remove(row.key);
        }
        self.touched.clear();
        self.next_comparison = None;
        self.warming = Default::default();
        self.order = self.order.take().map(Order::emptied);
        self.count_endpoints();
        self.dirty = true;
    }

    /// Takes the endpoint of this id out until it is [back](Self::undrain), or has left and come again. Returns its
    /// key, if there is one.
    pub(crate) fn drain(&mut self, id: &str) -> Option<u64> {
        let key = *self.keys.get(id)?;
        let mut entry = self.entries.remove(&key)?;
        if !entry.is_drained() {
            info!(endpoint = %entry.endpoint.id(), "drained: it gets no more calls");
            self.let_go(key, &entry);
            entry.drain();
            self.drained += 1;
            self.touch(key);
        }
        self.entries.insert(key, entry);
        self.count_endpoints();
        Some(key)
    }

    /// The calls that the endpoint had when it was drained are over.
    pub(crate) fn drain_is_over(&mut self, key: u64) {
        if let Some(entry) = self.entries.get_mut(&key)
            && entry.is_drained()
        {
            entry.phase = Phase::Drained { over: true };
            self.touch(key);
        }
    }

    /// Has the endpoint back, if it is drained. `false` if there is none of this id.
    pub(crate) fn undrain(&mut self, id: &str, now: Instant) -> bool {
        let Some(key) = self.keys.get(id).copied() else {
            return false;
        };
        let entry = self.entries.get(&key).filter(|entry| entry.is_drained());
        let slot = self.rows.iter().position(|row| row.key == key);
        if let (Some(entry), Some(slot)) = (entry, slot) {
            info!(endpoint = %entry.endpoint.id(), "drained no more");
            let endpoint = entry.endpoint.clone();
            self.remove(key);
            self.rows[slot] = self.add(endpoint, now);
            self.dirty = true;
            self.count_endpoints();
            self.reorder();
        }
        true
    }

    /// The endpoint gets no more calls by this key: nothing of it is waited for any more.
    pub(super) fn let_go(&mut self, key: u64, entry: &Entry<S>) {
        match entry.phase {
            Phase::Waiting { due } => {
                self.dial_queue.remove(&(due, key));
            }
            Phase::Dialing { .. } => self.dialing -= 1,
            Phase::Ready { connection, .. } => {
                entry.subchannel.disconnected(connection);
            }
            Phase::Drained { .. } => self.drained -= 1,
        }
        if let Some(due) = entry.retires {
            self.ages.remove(&(due, key));
        }
        if let Some(ejection) = &entry.ejection {
            self.ejection_ends.remove(&(ejection.until, key));
        }
        let subchannel = &entry.subchannel;
        subchannel.health().retire(subchannel.ejections());
        self.effects.push(Effect::Forget { key });
        self.effects.push(Effect::Left { key });
    }

    /// How many there are that calls may go to.
    pub(super) fn count_endpoints(&mut self) {
        // The priority of one that has left is of no use any more.
        self.ejections
            .retain(|_, rules| Arc::strong_count(rules) > 1);
        let all = self.rows.len() - self.drained;
        if let (1, Some(rules)) = (self.ejections.len(), self.ejections.values().next()) {
            rules.set_endpoints(all);
            return;
        }
        let mut counts: HashMap<*const Ejections, usize> = HashMap::new();
        for entry in self.entries.values().filter(|entry| !entry.is_drained()) {
            *counts
                .entry(Arc::as_ptr(entry.subchannel.ejections()))
                .or_default() += 1;
        }
        for rules in self.ejections.values() {
            let these = counts.get(&Arc::as_ptr(rules)).copied().unwrap_or(0);
            rules.set_endpoints_beside(these, all - these);
        }
    }
}
