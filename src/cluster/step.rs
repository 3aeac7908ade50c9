//! The rules of the control plane: events in, effects out. No clock, no I/O, no tasks.

mod entry;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::cluster::Settings;
use crate::cluster::snapshot::{Status, Summary};
use crate::connection::{End, Ended};
use crate::discovery::Update;
use crate::endpoint::{ConnectivityState, Endpoint, EndpointId};
use crate::error::{BoxError, describe};
use crate::health::panic_mode::is_panic;
use crate::health::{Change, Ejections};
use crate::math::Rng;
use crate::policy::{Candidate, Candidates, OnChange, Subchannel};
use entry::{Entry, Phase};

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The source of endpoints named a new state.
    Update(Update),
    /// The source of endpoints failed; its last state stands.
    DiscoveryFailed(BoxError),
    /// The source of endpoints will say nothing more; its last state stands.
    DiscoveryEnded,
    /// The dial for this connection ended.
    Dialed {
        key: u64,
        connection: u64,
        result: Result<(), BoxError>,
    },
    /// A connection ended or is about to.
    Ended(Ended),
    /// An endpoint was ejected, came back, or may be probed again.
    Health { key: u64, change: Change },
    /// Time passed.
    Tick,
}

/// What is to be done about it.
#[derive(Debug)]
pub(crate) enum Effect {
    /// Connect to this endpoint.
    Dial {
        endpoint: Endpoint,
        subchannel: Arc<Subchannel>,
        connection: u64,
    },
    /// Drop the service of this endpoint, so that its connection closes when its calls are done.
    Disconnect { key: u64 },
    /// The endpoint left: as `Disconnect`, and give up a dial that is under way.
    Forget { key: u64 },
}

/// The set of endpoints and what is known of each.
pub(crate) struct Cluster {
    settings: Settings,
    rng: Rng,
    ejections: Arc<Ejections>,
    on_change: Option<OnChange>,
    entries: HashMap<u64, Entry>,
    keys: HashMap<EndpointId, u64>,
    /// The order of slots: the source's.
    order: Vec<u64>,
    /// Who waits for a dial, by when it is due.
    dial_queue: BTreeSet<(Instant, u64)>,
    dialing: usize,
    /// Who is ejected, by when that is over.
    ejection_ends: BTreeSet<(Instant, u64)>,
    resolved: bool,
    discovery_error: Option<Arc<str>>,
    last_error: Option<Arc<str>>,
    next_key: u64,
    next_connection: u64,
    panic: bool,
    /// Something that a snapshot shows has changed.
    dirty: bool,
    effects: Vec<Effect>,
}

impl Cluster {
    pub(crate) fn new(settings: Settings, on_change: Option<OnChange>) -> Self {
        let rng = Rng::new(settings.seed);
        let ejections = Arc::new(Ejections::new(settings.ejection));
        Self {
            settings,
            rng,
            ejections,
            on_change,
            entries: HashMap::new(),
            keys: HashMap::new(),
            order: Vec::new(),
            dial_queue: BTreeSet::new(),
            dialing: 0,
            ejection_ends: BTreeSet::new(),
            resolved: false,
            discovery_error: None,
            last_error: None,
            next_key: 0,
            next_connection: 0,
            panic: false,
            dirty: true,
            effects: Vec::new(),
        }
    }

    /// Takes one event in.
    pub(crate) fn step(&mut self, event: Event, now: Instant) {
        match event {
            Event::Update(update) => self.update(update, now),
            Event::DiscoveryFailed(error) => {
                let error: Arc<str> = describe(&*error).into();
                warn!(%error, "the source of endpoints failed; the last state stands");
                self.discovery_error = Some(error);
                self.dirty = true;
            }
            // A source that ends without a word has named the empty set: else calls wait for ever.
            Event::DiscoveryEnded => {
                self.dirty |= !self.resolved;
                self.resolved = true;
            }
            Event::Dialed {
                key,
                connection,
                result,
            } => self.dialed(key, connection, result, now),
            Event::Ended(ended) => self.ended(ended, now),
            Event::Health { key, change } => self.health(key, change, now),
            Event::Tick => {}
        }
        self.end_ejections(now);
        self.start_dials(now);
    }

    /// What there is to do since the last call.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// When [`Event::Tick`] is due, if nothing happens before.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let dial = self.dial_queue.first().map(|&(due, _)| due);
        let dial = dial.filter(|_| self.dialing < self.settings.max_concurrent_dials);
        let ejection = self.ejection_ends.first().map(|&(due, _)| due);
        [dial, ejection].into_iter().flatten().min()
    }

    /// Whether there is something new to publish; the answer clears it.
    pub(crate) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// The candidates in the order of slots, what is known of each, and the whole. In that order,
    /// `keep` is told the key and the connection of each slot.
    pub(crate) fn publish(
        &mut self,
        mut keep: impl FnMut(u64, Option<u64>),
    ) -> (Candidates, Vec<Arc<Status>>, Summary) {
        let mut summary = Summary {
            total: self.order.len(),
            resolved: self.resolved,
            discovery_error: self.discovery_error.clone(),
            last_error: self.last_error.clone(),
            ..Summary::default()
        };
        let mut all = Vec::with_capacity(self.order.len());
        let mut statuses = Vec::with_capacity(self.order.len());
        let mut usable = 0;
        for (slot, key) in self.order.iter().enumerate() {
            let entry = self
                .entries
                .get_mut(key)
                .expect("every key in the order has an entry");
            let status = entry.status().clone();
            let open = entry.subchannel.health().gate().is_open();
            let connection = entry.phase.connection();
            match status.state {
                ConnectivityState::Ready if open => usable += 1,
                ConnectivityState::Ready => {}
                ConnectivityState::Connecting => summary.connecting += 1,
                ConnectivityState::TransientFailure => summary.failing += 1,
                ConnectivityState::Idle | ConnectivityState::Shutdown => summary.idle += 1,
            }
            summary.ready += usize::from(status.state == ConnectivityState::Ready);
            summary.ejected += usize::from(!open);
            all.push(Candidate::new(
                slot,
                entry.endpoint.clone(),
                entry.subchannel.clone(),
                connection.unwrap_or(0),
                status.state,
            ));
            statuses.push(status);
            keep(*key, connection);
        }
        let threshold = self.settings.ejection.panic_threshold_percent();
        summary.panic = summary.ejected > 0 && is_panic(usable, summary.total, threshold);
        if summary.panic != self.panic {
            self.panic = summary.panic;
            if self.panic {
                warn!(
                    usable,
                    total = summary.total,
                    "panic: so few endpoints are usable that ejections are ignored"
                );
            } else {
                info!(
                    usable,
                    total = summary.total,
                    "the panic is over: ejections count again"
                );
            }
        }
        if summary.failing == 0 {
            self.last_error = None;
            summary.last_error = None;
        }
        (Candidates::new(all, summary.panic), statuses, summary)
    }

    fn update(&mut self, update: Update, now: Instant) {
        self.resolved = true;
        self.discovery_error = None;
        self.dirty = true;
        let mut order = Vec::with_capacity(update.endpoints().len());
        let mut keys = HashMap::with_capacity(update.endpoints().len());
        for endpoint in update.into_endpoints() {
            if let Err(error) = endpoint.validate() {
                warn!(%error, "an endpoint was left out");
                continue;
            }
            if keys.contains_key(endpoint.id()) {
                warn!(endpoint = %endpoint.id(), "an endpoint is named twice; the first counts");
                continue;
            }
            let key = self
                .keys
                .remove(endpoint.id())
                .filter(|key| self.renew(*key, &endpoint))
                .unwrap_or_else(|| self.add(&endpoint, now));
            keys.insert(endpoint.id().clone(), key);
            order.push(key);
        }
        for key in std::mem::replace(&mut self.keys, keys).into_values() {
            self.remove(key);
        }
        self.order = order;
        self.ejections.set_endpoints(self.order.len());
    }

    /// Takes the new description of a known endpoint. `false`: it is another server now, and the old
    /// one is gone.
    fn renew(&mut self, key: u64, endpoint: &Endpoint) -> bool {
        let entry = self
            .entries
            .get_mut(&key)
            .expect("every known id has an entry");
        if entry.endpoint.ptr_eq(endpoint) {
            return true;
        }
        if entry.endpoint.address() != endpoint.address() {
            self.remove(key);
            return false;
        }
        entry.set_endpoint(endpoint.clone());
        true
    }

    fn add(&mut self, endpoint: &Endpoint, now: Instant) -> u64 {
        self.next_key += 1;
        let key = self.next_key;
        let mut subchannel = Subchannel::new(key, endpoint.id().clone(), self.ejections.clone());
        if let Some(on_change) = &self.on_change {
            subchannel = subchannel.on_change(on_change.clone());
        }
        debug!(endpoint = %endpoint.id(), "endpoint added");
        self.entries
            .insert(key, Entry::new(endpoint.clone(), Arc::new(subchannel), now));
        self.dial_queue.insert((now, key));
        key
    }

    fn remove(&mut self, key: u64) {
        let Some(entry) = self.entries.remove(&key) else {
            return;
        };
        debug!(endpoint = %entry.endpoint.id(), "endpoint removed");
        match entry.phase {
            Phase::Waiting { due } => {
                self.dial_queue.remove(&(due, key));
            }
            Phase::Dialing { .. } => self.dialing -= 1,
            Phase::Ready { connection, .. } => {
                entry.subchannel.disconnected(connection);
            }
        }
        if let Some(ejection) = &entry.ejection {
            self.ejection_ends.remove(&(ejection.until, key));
        }
        entry.subchannel.health().retire(&self.ejections);
        self.effects.push(Effect::Forget { key });
    }

    fn start_dials(&mut self, now: Instant) {
        while self.dialing < self.settings.max_concurrent_dials {
            let Some(&(due, key)) = self.dial_queue.first() else {
                return;
            };
            if due > now {
                return;
            }
            self.dial_queue.pop_first();
            let entry = self
                .entries
                .get_mut(&key)
                .expect("who waits for a dial has an entry");
            self.next_connection += 1;
            let connection = self.next_connection;
            self.dialing += 1;
            entry.dial(connection, now);
            self.dirty = true;
            self.effects.push(Effect::Dial {
                endpoint: entry.endpoint.clone(),
                subchannel: entry.subchannel.clone(),
                connection,
            });
        }
    }

    fn dialed(&mut self, key: u64, connection: u64, result: Result<(), BoxError>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if !matches!(entry.phase, Phase::Dialing { connection: c } if c == connection) {
            return;
        }
        self.dialing -= 1;
        self.dirty = true;
        match result {
            Ok(()) => {
                debug!(endpoint = %entry.endpoint.id(), connection, "ready");
                entry.ready(connection, now);
            }
            Err(error) => {
                let error: Arc<str> = describe(&*error).into();
                let due = entry.failed(error.clone(), &self.settings.backoff, &mut self.rng, now);
                debug!(endpoint = %entry.endpoint.id(), %error, "dial failed");
                self.last_error = Some(error);
                self.dial_queue.insert((due, key));
            }
        }
    }

    fn ended(&mut self, ended: Ended, now: Instant) {
        let Some(entry) = self.entries.get_mut(&ended.key) else {
            return;
        };
        if entry.phase.connection() != Some(ended.connection) {
            return;
        }
        entry.subchannel.disconnected(ended.connection);
        self.dirty = true;
        let backoff = &self.settings.backoff;
        let due = match ended.end {
            End::Draining => {
                debug!(endpoint = %entry.endpoint.id(), "draining: the server takes no new calls");
                entry.ended(None, backoff, now)
            }
            End::Closed(error) => {
                let error: Option<Arc<str>> = error.map(|error| Arc::from(describe(&*error)));
                debug!(endpoint = %entry.endpoint.id(), error = error.as_deref(), "connection ended");
                entry.ended(error, backoff, now)
            }
            End::NotReady(error) => {
                let error: Arc<str> = describe(&*error).into();
                debug!(endpoint = %entry.endpoint.id(), %error, "service is not ready any more");
                self.last_error = Some(error.clone());
                entry.failed(error, backoff, &mut self.rng, now)
            }
            End::BackOff(error) => {
                let error: Arc<str> = describe(&*error).into();
                warn!(endpoint = %entry.endpoint.id(), %error, "the server asks to be left alone");
                self.last_error = Some(error.clone());
                entry.asked_to_back_off(error, backoff, &mut self.rng, now)
            }
        };
        self.dial_queue.insert((due, ended.key));
        self.effects.push(Effect::Disconnect { key: ended.key });
    }

    fn health(&mut self, key: u64, change: Change, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        self.dirty = true;
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
    }

    fn end_ejections(&mut self, now: Instant) {
        while let Some(&(until, key)) = self.ejection_ends.first() {
            if until > now {
                return;
            }
            self.ejection_ends.pop_first();
            if let Some(entry) = self.entries.get(&key) {
                entry.subchannel.health().gate().offer_probe();
                self.dirty = true;
            }
        }
    }
}

#[cfg(test)]
mod tests;
