//! What happens to servers: the events of the scenario, and others on their machines.

use evenkeel::outcome::Outcome;

use crate::engine::queue::{Nanos, nanos};
use crate::engine::server::{Condition, Server};
use crate::engine::world::{Event, World};
use crate::scenario::EventKind;

/// How long an error takes that a server answers without working.
const FAST_FAILURE_MS: f64 = 1.0;

impl World<'_> {
    /// Puts the events of the scenario into the queue; their times count from `start`.
    pub(super) fn plan_script(&mut self, start: Nanos) {
        for (index, event) in self.scenario.events.iter().enumerate() {
            let at = start + nanos(event.at_seconds);
            self.queue.push(at, Event::Begin(index, 0));
            if let Some(seconds) = event.for_seconds
                && event.kind != EventKind::Restart
            {
                self.queue.push(at + nanos(seconds), Event::End(index));
            }
        }
    }

    /// A new server for `slot`. Returns its number.
    pub(super) fn new_server(&mut self, slot: usize) -> usize {
        let number = self.servers.len();
        let mut groups = self.scenario.servers.iter();
        let mut first = 0;
        let group = groups
            .find(|group| {
                first += group.count;
                slot < first
            })
            .expect("a slot belongs to a group");
        let rng = self.server_rng(number);
        let name = format!("server-{number}");
        self.servers.push(Server::new(name, slot, group, rng));
        if self.scenario.antagonists.is_some() {
            self.redraw(number);
        }
        number
    }

    /// Others on the server's machine change what they use.
    pub(super) fn redraw(&mut self, number: usize) {
        if let Some(others) = &self.scenario.antagonists {
            let next = self.servers[number].redraw(self.now, others);
            self.plan_wake(number);
            self.queue.push(next, Event::Redraw(number));
        }
    }

    /// Event `index` begins. A restart does so again and again; this is the `time`-th, from 0.
    pub(super) fn begin_event(&mut self, index: usize, time: usize) {
        let event = &self.scenario.events[index];
        let factor = event.factor.unwrap_or(1.0);
        let first = event.first + time * event.servers;
        for slot in first..first + event.servers {
            let slot = slot % self.slots.len();
            match event.kind {
                EventKind::Fail => {
                    let after = event.after_ms.unwrap_or(FAST_FAILURE_MS);
                    let condition = Condition::Fails {
                        rate: event.rate.unwrap_or(1.0),
                        after: nanos(after / 1e3),
                    };
                    self.set_condition(slot, condition);
                }
                EventKind::Silent => self.set_condition(slot, Condition::Silent),
                EventKind::Down => self.take_down(slot),
                EventKind::Slow | EventKind::FewerCores => self.scale(slot, event.kind, factor),
                EventKind::Restart => self.restart(slot, factor, event.for_seconds),
            }
        }
        if let Some(seconds) = event.every_seconds {
            let at = self.now + nanos(seconds);
            if at < self.end() {
                self.queue.push(at, Event::Begin(index, time + 1));
            }
        }
    }

    /// Event `index` is over.
    pub(super) fn end_event(&mut self, index: usize) {
        let event = &self.scenario.events[index];
        for slot in event.first..event.first + event.servers {
            match event.kind {
                EventKind::Fail | EventKind::Silent | EventKind::Down => {
                    self.set_condition(slot, Condition::Well);
                }
                EventKind::Slow | EventKind::FewerCores => {
                    self.scale(slot, event.kind, 1.0 / event.factor.unwrap_or(1.0));
                }
                EventKind::Restart => {}
            }
        }
    }

    fn set_condition(&mut self, slot: usize, condition: Condition) {
        let server = &mut self.servers[self.slots[slot]];
        self.faulty -= usize::from(server.condition() != Condition::Well);
        self.faulty += usize::from(condition != Condition::Well);
        server.set_condition(condition);
    }

    /// The server is gone, and every call on it.
    fn take_down(&mut self, slot: usize) {
        self.set_condition(slot, Condition::Down);
        let number = self.slots[slot];
        for (client, state) in self.clients.iter_mut().enumerate() {
            let later = state.lose(slot, self.now);
            self.queue.push(self.now, Event::Dial(client, later));
        }
        let lost: Vec<_> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| attempt.server == number)
            .map(|(id, _)| id)
            .collect();
        for id in lost {
            self.end_attempt(id, Outcome::ConnectionLost);
        }
        self.lose_probes(number);
    }

    fn scale(&mut self, slot: usize, kind: EventKind, factor: f64) {
        let number = self.slots[slot];
        let server = &mut self.servers[number];
        if kind == EventKind::Slow {
            server.scale_speed(self.now, factor);
        } else {
            server.scale_cores(self.now, factor);
        }
        self.plan_wake(number);
    }

    /// The server gets no new call and ends those it has; a new one is in its place at once, at `factor`
    /// of its speed at first.
    fn restart(&mut self, slot: usize, factor: f64, slow_for: Option<f64>) {
        self.faulty -= usize::from(self.servers[self.slots[slot]].condition() != Condition::Well);
        let number = self.new_server(slot);
        self.slots[slot] = number;
        self.servers[number].scale_speed(self.now, factor);
        if let Some(seconds) = slow_for {
            let at = self.now + nanos(seconds);
            self.queue.push(at, Event::Warm(number, factor));
        }
        let endpoint = self.servers[number].endpoint.clone();
        for client in &mut self.clients {
            client.replace(slot, endpoint.clone(), self.now);
        }
    }
}
