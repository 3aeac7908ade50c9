//! The rules of the control plane: events in, effects out. No clock, no I/O, no tasks.

mod age;
mod draining;
mod ejecting;
mod entry;
mod grouping;
mod order;
mod publishing;
mod rows;
mod sites;
mod warming;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::cluster::Settings;
use crate::connection::{End, Ended};
use crate::discovery::Update;
use crate::endpoint::{Endpoint, EndpointId};
use crate::error::{BoxError, describe};
use crate::health::limits::Limiter;
use crate::health::{Change, Ejections, Verdict};
use crate::math::Rng;
use crate::policy::{OnChange, Subchannel};
use crate::topology::Narrowing;
use entry::{Entry, Phase};
use order::Order;
pub(crate) use publishing::Published;
use rows::{Fresh, Row};
use sites::Sites;
use warming::Warming;

/// What happened. `S` is the service of a connected endpoint.
#[derive(Debug)]
pub(crate) enum Event<S> {
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
        result: Result<S, BoxError>,
    },
    /// A health check said something new of this connection.
    Checked {
        key: u64,
        connection: u64,
        verdict: Verdict,
    },
    /// A connection ended or is about to.
    Ended(Ended),
    /// An endpoint was ejected, came back, or may be probed again.
    Health { key: u64, change: Change },
    /// Nobody gets a call any more.
    ShutDown,
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
    /// This connection takes no more calls, and need not be watched.
    End { key: u64, connection: u64 },
    /// The endpoint left, or is not wanted now: give up a dial that is under way, or a watch.
    Forget { key: u64 },
    /// The endpoint gets no more calls by this key, for good.
    Left { key: u64 },
}

/// The set of endpoints and what is known of each.
pub(crate) struct Cluster<S> {
    settings: Settings,
    rng: Rng,
    /// Who may be out, of each priority.
    ejections: BTreeMap<u32, Arc<Ejections>>,
    limiter: Option<Arc<Limiter>>,
    on_change: Option<OnChange>,
    entries: HashMap<u64, Entry<S>>,
    keys: HashMap<EndpointId, u64>,
    /// What a snapshot shows, in the order of slots, which is the source's.
    rows: Vec<Row<S>>,
    sites: Sites,
    narrowing: Narrowing,
    /// The endpoints that are not in the subset.
    left_out: Arc<[Endpoint]>,
    /// Whose rows are not true any more.
    touched: Vec<u64>,
    /// Whose turn it is, if the policy wants one connection only.
    order: Option<Order>,
    /// Who waits for a dial, by when it is due.
    dial_queue: BTreeSet<(Instant, u64)>,
    dialing: usize,
    /// How many are drained.
    drained: usize,
    /// When the endpoints are compared next, if they are.
    next_comparison: Option<Instant>,
    /// Whose connection is to be replaced, by when.
    ages: BTreeSet<(Instant, u64)>,
    /// Who is ejected, by when that is over.
    ejection_ends: BTreeSet<(Instant, u64)>,
    warming: Warming,
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

impl<S: Clone> Cluster<S> {
    /// `limiter`: what all calls are counted against, if there are limits.
    pub(crate) fn new(
        settings: Settings,
        limiter: Option<Arc<Limiter>>,
        on_change: Option<OnChange>,
    ) -> Self {
        let rng = Rng::new(settings.seed);
        let order = Order::of(settings.connects);
        Self {
            settings,
            rng,
            ejections: BTreeMap::new(),
            limiter,
            on_change,
            entries: HashMap::new(),
            keys: HashMap::new(),
            rows: Vec::new(),
            sites: Sites::default(),
            narrowing: Narrowing::default(),
            left_out: Arc::new([]),
            touched: Vec::new(),
            order,
            dial_queue: BTreeSet::new(),
            dialing: 0,
            drained: 0,
            next_comparison: None,
            ages: BTreeSet::new(),
            ejection_ends: BTreeSet::new(),
            warming: Warming::default(),
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
    pub(crate) fn step(&mut self, event: Event<S>, now: Instant) {
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
            Event::Checked {
                key,
                connection,
                verdict,
            } => self.checked(key, connection, verdict, now),
            Event::Ended(ended) => self.ended(ended, now),
            Event::Health { key, change } => self.health(key, change, now),
            Event::ShutDown => self.shut_down(),
            Event::Tick => {}
        }
        self.compare(now);
        self.end_ejections(now);
        self.retire_old(now);
        self.keep_warming(now);
        self.keep_order(now);
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
        let age = self.ages.first().map(|&(due, _)| due);
        let wakes = [
            dial,
            ejection,
            age,
            self.next_turn(),
            self.next_comparison,
            self.warming.due,
        ];
        wakes.into_iter().flatten().min()
    }

    fn update(&mut self, update: Update, now: Instant) {
        self.resolved = true;
        self.discovery_error = None;
        self.dirty = true;
        let rows = std::mem::take(&mut self.rows);
        let mut endpoints = update.into_endpoints();
        if let Some(subset) = self.settings.subset {
            // What cannot be used must not take a place.
            endpoints.retain(is_valid);
            let seed = self.settings.seed;
            let (used, left_out) = self.narrowing.split(subset, endpoints, seed);
            endpoints = used;
            self.left_out = left_out.into();
        }
        let (mut diff, listed) = rows::diff(rows, endpoints);
        let mut fresh = Vec::with_capacity(listed.len());
        for Fresh { place, endpoint } in listed {
            if !is_valid(&endpoint) {
                continue;
            }
            let row = match self.keys.get(endpoint.id()).copied() {
                None => self.add(endpoint, now),
                Some(key) => match diff.take(key, place) {
                    Some(row) => self.renew(row, endpoint, now),
                    None => {
                        warn!(endpoint = %endpoint.id(), "an endpoint is named twice; the first counts");
                        continue;
                    }
                },
            };
            fresh.push((place, row));
        }
        let (rows, left) = diff.join(fresh);
        self.rows = rows;
        for row in left {
            self.remove(row.key);
        }
        self.count_endpoints();
        self.reorder();
    }

    /// Takes the new description of a known endpoint; at other addresses it is another server, and
    /// the old one is gone.
    fn renew(&mut self, row: Row<S>, endpoint: Endpoint, now: Instant) -> Row<S> {
        let entry = self
            .entries
            .get_mut(&row.key)
            .expect("every row's key has an entry");
        if !entry.endpoint.is_at_the_addresses_of(&endpoint) {
            self.remove(row.key);
            return self.add(endpoint, now);
        }
        self.sites.leave(entry.site);
        let subset = self.settings.topology.subset_of(&endpoint);
        entry.site = self.sites.join(&endpoint, subset);
        entry.endpoint = endpoint;
        self.touch(row.key);
        row
    }

    fn add(&mut self, endpoint: Endpoint, now: Instant) -> Row<S> {
        self.next_key += 1;
        let key = self.next_key;
        let rules = self.ejections.entry(endpoint.priority());
        let rules = rules.or_insert_with(|| Arc::new(Ejections::new(self.settings.ejection)));
        let mut subchannel = Subchannel::new(key, endpoint.id().clone(), rules.clone())
            .measuring(self.settings.measures);
        if let Some(listener) = &self.settings.listener {
            subchannel = subchannel.reporting_to(listener.clone());
        }
        if let Some(limiter) = &self.limiter {
            subchannel = subchannel.limited_by(limiter.clone());
        }
        if let Some(on_change) = &self.on_change {
            subchannel = subchannel.on_change(on_change.clone());
        }
        debug!(endpoint = %endpoint.id(), "endpoint added");
        self.keys.insert(endpoint.id().clone(), key);
        let subset = self.settings.topology.subset_of(&endpoint);
        let site = self.sites.join(&endpoint, subset);
        let mut entry = Entry::new(endpoint, Arc::new(subchannel), site, now);
        if self.order.as_ref().is_some_and(Order::has_failed) {
            entry.joins_failed();
        }
        // Its slot is set with those of all others.
        let row = Row::new(key, 0, &entry);
        self.entries.insert(key, entry);
        self.wait_for_dial(now, key);
        row
    }

    fn remove(&mut self, key: u64) {
        let Some(entry) = self.entries.remove(&key) else {
            return;
        };
        debug!(endpoint = %entry.endpoint.id(), "endpoint removed");
        self.keys.remove(entry.endpoint.id());
        self.sites.leave(entry.site);
        self.let_go(key, &entry);
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
            self.effects.push(Effect::Dial {
                endpoint: entry.endpoint.clone(),
                subchannel: entry.subchannel.clone(),
                connection,
            });
            self.touch(key);
        }
    }

    fn dialed(&mut self, key: u64, connection: u64, result: Result<S, BoxError>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if !matches!(entry.phase, Phase::Dialing { connection: c, .. } if c == connection) {
            return;
        }
        self.dialing -= 1;
        let mut ended = None;
        match result {
            Ok(service) => {
                debug!(endpoint = %entry.endpoint.id(), connection, "ready");
                let checked = self.settings.health_checked;
                ended = entry.ready(connection, service, checked, now);
                self.begin_age(key, now);
            }
            Err(error) => {
                let error: Arc<str> = describe(&*error).into();
                let due = entry.failed(error.clone(), &self.settings.backoff, &mut self.rng, now);
                debug!(endpoint = %entry.endpoint.id(), %error, "dial failed");
                self.last_error = Some(error);
                self.wait_for_dial(due, key);
            }
        }
        self.touch(key);
        self.warm_up(key, now);
        self.look_at(key);
        if let Some(end) = ended {
            let ended = Ended {
                key,
                connection,
                end,
            };
            self.ended(ended, now);
        }
    }

    fn checked(&mut self, key: u64, connection: u64, verdict: Verdict, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.phase.connection() != Some(connection) {
            return;
        }
        let id = entry.endpoint.id();
        match &verdict {
            Verdict::Serving => info!(endpoint = %id, connection, "its health check passes"),
            Verdict::NotServing(why) if entry.unhealthy().is_some() => {
                debug!(endpoint = %id, %why, "its health check still fails");
            }
            Verdict::NotServing(why) => {
                warn!(endpoint = %id, %why, "its health check fails: it gets no calls");
            }
        }
        entry.checked(verdict);
        self.touch(key);
        self.warm_up(key, now);
    }

    /// What the endpoint is and how to call it, if it is ready over this connection.
    pub(crate) fn connected(&self, key: u64, connection: u64) -> Option<(Endpoint, S)> {
        let entry = self.entries.get(&key)?;
        let service = entry.service()?;
        let ready = entry.usable_connection() == Some(connection);
        ready.then(|| (entry.endpoint.clone(), service))
    }

    fn ended(&mut self, ended: Ended, now: Instant) {
        if matches!(ended.end, End::Gone | End::Moved) {
            return;
        }
        let Some(entry) = self.entries.get_mut(&ended.key) else {
            return;
        };
        if let End::Beside(error) = ended.end {
            if entry.phase.connection() == Some(ended.connection) {
                let error = error.map(|error| Arc::from(describe(&*error)));
                debug!(endpoint = %entry.endpoint.id(), error = error.as_deref(), "a further connection was dialled");
                entry.beside(error);
                self.touch(ended.key);
            }
            return;
        }
        if let Phase::Dialing {
            connection,
            ended: early @ None,
        } = &mut entry.phase
            && *connection == ended.connection
        {
            *early = Some(ended.end);
            return;
        }
        if entry.phase.connection() != Some(ended.connection) {
            return;
        }
        entry.subchannel.disconnected(ended.connection);
        // A watch would keep it open.
        self.effects.push(Effect::End {
            key: ended.key,
            connection: ended.connection,
        });
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
            End::Gone | End::Moved | End::Beside(_) => return,
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
        self.wait_for_dial(due, ended.key);
        self.touch(ended.key);
    }
}

fn is_valid(endpoint: &Endpoint) -> bool {
    let valid = endpoint.validate();
    if let Err(error) = &valid {
        warn!(%error, "an endpoint was left out");
    }
    valid.is_ok()
}

#[cfg(test)]
mod tests;
