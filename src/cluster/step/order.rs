//! One connection at a time, dialled in the order of the list: what gRPC's pick first wants (gRFC A62, A61).
//!
//! ```text
//!   ┌─────► Pass ── each has failed once ──► Failed
//!   │        │                                 │
//!   │        └────────── one is READY ─────────┤
//!   │                                          ▼
//!   └── it ended, was ejected, or left ───── Chosen
//! ```
//! In a pass only one endpoint at a time waits for a dial, its turn. Once all have failed, each is dialled
//! after its own backoff, as with any other policy. A list that does not name the one chosen begins a pass.

use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use crate::cluster::step::entry::Phase;
use crate::cluster::step::{Cluster, Effect};
use crate::math::Rng;
use crate::policy::{ATTEMPT_DELAYS, Connects};

#[derive(Debug)]
pub(super) struct Order {
    attempt_delay: Duration,
    shuffle: bool,
    list: Vec<u64>,
    stage: Stage,
    /// All have failed, and none was READY since (gRFC A62: sticky).
    failed: bool,
    /// Who became usable by the event at hand.
    seen: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// All before `next` had their turn; the one just before may have it still.
    Pass {
        next: usize,
    },
    Chosen(u64),
    Failed,
}

impl Order {
    pub(super) fn of(connects: Connects) -> Option<Self> {
        match connects {
            Connects::All => None,
            Connects::InOrder {
                attempt_delay,
                shuffle,
            } => Some(Self {
                attempt_delay: attempt_delay.clamp(*ATTEMPT_DELAYS.start(), *ATTEMPT_DELAYS.end()),
                shuffle,
                list: Vec::new(),
                stage: Stage::Pass { next: 0 },
                failed: false,
                seen: None,
            }),
        }
    }

    /// Of a list that is empty, for good.
    pub(super) fn emptied(self) -> Self {
        Self {
            list: Vec::new(),
            stage: Stage::Failed,
            seen: None,
            ..self
        }
    }

    /// Whether there is one connection, and no other is wanted.
    pub(super) fn has_chosen(&self) -> bool {
        matches!(self.stage, Stage::Chosen(_))
    }

    /// Whether each is dialled by its own backoff.
    #[cfg(test)]
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.stage, Stage::Failed)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }
}

impl<S: Clone> Cluster<S> {
    /// The endpoint may be dialled from `due` on: at once by the clock, or when it has its turn.
    pub(super) fn wait_for_dial(&mut self, due: Instant, key: u64) {
        let turns = self.order.as_ref();
        if turns.is_none_or(|order| matches!(order.stage, Stage::Failed)) {
            self.dial_queue.insert((due, key));
        }
    }

    /// Something happened to this endpoint that may have made it usable. If it did not, what was seen before
    /// in the same event stands: one may be ejected as another becomes READY.
    pub(super) fn look_at(&mut self, key: u64) {
        if self.is_usable(key)
            && let Some(order) = &mut self.order
        {
            order.seen = Some(key);
        }
    }

    /// The list is another one.
    pub(super) fn reorder(&mut self) {
        let Some(mut order) = self.order.take() else {
            return;
        };
        order.list = self.rows.iter().map(|row| row.key).collect();
        if order.shuffle {
            shuffle(&mut order.list, &mut self.rng);
        }
        if !order.has_chosen() {
            self.begin_pass(&mut order);
        }
        self.order = Some(order);
    }

    /// Brings order into what has just happened.
    pub(super) fn keep_order(&mut self, now: Instant) {
        let Some(mut order) = self.order.take() else {
            return;
        };
        let seen = order.seen.take();
        if let Stage::Chosen(key) = order.stage
            && !self.is_usable(key)
        {
            self.begin_pass(&mut order);
        }
        if !order.has_chosen() {
            match seen.filter(|key| self.is_usable(*key)) {
                Some(key) => self.choose(&mut order, key, now),
                None => self.go_on(&mut order, now),
            }
        }
        self.order = Some(order);
    }

    /// When the next endpoint has its turn though the one before has not answered.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        let order = self.order.as_ref()?;
        let Stage::Pass { next } = order.stage else {
            return None;
        };
        if next >= order.list.len() {
            return None;
        }
        let entry = self.entries.get(order.list.get(next.checked_sub(1)?)?)?;
        matches!(entry.phase, Phase::Dialing { .. })
            .then(|| entry.last_dial() + order.attempt_delay)
    }

    fn is_usable(&self, key: u64) -> bool {
        self.entries.get(&key).is_some_and(|entry| {
            entry.phase.connection().is_some() && entry.subchannel.health().gate().is_open()
        })
    }

    fn begin_pass(&mut self, order: &mut Order) {
        order.stage = Stage::Pass { next: 0 };
        for key in &order.list {
            if let Some(entry) = self.entries.get(key)
                && let Phase::Waiting { due } = entry.phase
            {
                self.dial_queue.remove(&(due, *key));
            }
        }
    }

    fn go_on(&mut self, order: &mut Order, now: Instant) {
        let Stage::Pass { mut next } = order.stage else {
            return;
        };
        loop {
            let before = next.checked_sub(1).and_then(|at| order.list.get(at));
            if before.is_some_and(|key| self.has_turn(*key, order.attempt_delay, now)) {
                break;
            }
            let Some(&key) = order.list.get(next) else {
                if self.dialing == 0 {
                    self.all_failed(order);
                    return;
                }
                break;
            };
            next += 1;
            self.give_turn(key, now);
        }
        order.stage = Stage::Pass { next };
    }

    /// Whether the endpoint is about to be dialled, or was and may answer yet.
    fn has_turn(&self, key: u64, attempt_delay: Duration, now: Instant) -> bool {
        self.entries
            .get(&key)
            .is_some_and(|entry| match entry.phase {
                Phase::Waiting { due } => self.dial_queue.contains(&(due, key)),
                Phase::Dialing { .. } => now < entry.last_dial() + attempt_delay,
                Phase::Ready { .. } | Phase::Drained { .. } => false,
            })
    }

    /// Has the endpoint dialled, unless it failed and its backoff is not over, or it is ejected.
    fn give_turn(&mut self, key: u64, now: Instant) {
        let Some(entry) = self.entries.get(&key) else {
            return;
        };
        if let Phase::Waiting { due } = entry.phase
            && (due <= now || !entry.is_failing())
            && entry.subchannel.health().admits()
        {
            self.dial_queue.insert((due, key));
        }
    }

    fn all_failed(&mut self, order: &mut Order) {
        order.stage = Stage::Failed;
        // Who is drained has not failed, and must not come back as if it had.
        order.failed |= (order.list.iter()).any(|key| {
            let entry = self.entries.get(key);
            entry.is_some_and(|entry| !entry.is_drained())
        });
        for key in &order.list {
            if let Some(entry) = self.entries.get(key)
                && let Phase::Waiting { due } = entry.phase
            {
                self.dial_queue.insert((due, *key));
            }
        }
    }

    /// The endpoint is READY: no other dial, and no other connection, is wanted.
    fn choose(&mut self, order: &mut Order, key: u64, now: Instant) {
        order.stage = Stage::Chosen(key);
        order.failed = false;
        self.dirty = true;
        for &other in order.list.iter().filter(|other| **other != key) {
            let Some(entry) = self.entries.get_mut(&other) else {
                continue;
            };
            match entry.phase {
                Phase::Waiting { due } => {
                    self.dial_queue.remove(&(due, other));
                }
                Phase::Dialing { .. } => {
                    debug!(endpoint = %entry.endpoint.id(), "dial given up: another one is ready");
                    self.dialing -= 1;
                    self.effects.push(Effect::Forget { key: other });
                }
                // Calls under way on it go on to their end; a watch has none, and would keep it open.
                Phase::Ready { connection, .. } => {
                    entry.subchannel.disconnected(connection);
                    self.effects.push(Effect::Forget { key: other });
                }
                Phase::Drained { .. } => continue,
            }
            if entry.rest(&self.settings.backoff) {
                self.touch(other);
            }
            self.spare(other, now);
        }
    }
}

fn shuffle(list: &mut [u64], rng: &mut Rng) {
    for last in (1..list.len()).rev() {
        list.swap(last, rng.below(last + 1));
    }
}
