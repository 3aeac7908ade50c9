//! Calls on their way: from a client over the network to a server, and back.

use evenkeel::outcome::Outcome;
use evenkeel::policy::Tried;

use crate::engine::client::Hold;
use crate::engine::draw::exponential;
use crate::engine::queue::{Nanos, nanos};
use crate::engine::server::Condition;
use crate::engine::slab::Id;
use crate::engine::world::{Event, World, after};

/// What the caller wanted.
#[derive(Clone)]
struct Call {
    client: usize,
    made: Nanos,
    work: f64,
    key: u64,
    retries: u32,
    tried: Tried,
}

/// One try of a call at one server.
pub(super) struct Attempt {
    call: Call,
    pub(super) server: usize,
    hold: Hold,
    reached: Option<Nanos>,
    /// While it runs: by what name the server knows it.
    running: Option<u64>,
    /// It has left the server.
    left: bool,
}

impl World<'_> {
    pub(super) fn plan_arrival(&mut self) {
        let rate = self.rates[self.phase(self.now)];
        let at = self.now + nanos(exponential(&mut self.arrivals, 1.0 / rate));
        if at < self.times.end {
            self.queue.push(at, Event::Arrival);
        }
    }

    pub(super) fn arrive(&mut self) {
        let call = Call {
            client: self.arrivals.below(self.clients.len()),
            made: self.now,
            work: self.scenario.work.draw(&mut self.arrivals),
            key: self.arrivals.next_u64(),
            retries: 0,
            tried: Tried::new(),
        };
        self.plan_arrival();
        self.waiting += usize::from(self.is_measured(self.now));
        self.send(call);
    }

    /// Picks a server for a call and sends it there.
    fn send(&mut self, call: Call) {
        let client = &mut self.clients[call.client];
        let Some(taken) = client.take(self.now, call.key, &call.tried) else {
            // Another try at once would find nothing either.
            self.end_call(&call, true);
            return;
        };
        let server = self.slots[taken.slot];
        let condition = self.servers[server].condition();
        if self.is_measured(self.now) {
            self.counts.attempts += 1;
            self.counts.misnamed += u64::from(taken.misnamed);
            if self.faulty > 0 {
                self.counts.attempts_in_trouble += 1;
                self.counts.attempts_to_faulty += u64::from(condition != Condition::Well);
            }
        }
        self.servers[server].gauge.sent();
        let id = self.attempts.insert(Attempt {
            call,
            server,
            hold: taken.hold,
            reached: None,
            running: None,
            left: false,
        });
        self.queue
            .push(self.now + self.times.network, Event::Reached(id));
        if let Some(timeout) = self.times.timeout {
            self.queue.push(self.now + timeout, Event::TimedOut(id));
        }
    }

    pub(super) fn reach(&mut self, id: Id) {
        let Some(attempt) = self.attempts.get_mut(id) else {
            return;
        };
        let number = attempt.server;
        let server = &mut self.servers[number];
        attempt.reached = Some(self.now);
        server.gauge.arrived();
        match server.condition() {
            Condition::Fails { rate, after } if self.faults.unit() < rate => {
                let at = self.now + after + self.times.network;
                self.queue.push(at, Event::Answered(id, Outcome::Failure));
            }
            Condition::Well | Condition::Fails { .. } => {
                attempt.running = Some(server.begin(self.now, id, attempt.call.work));
                self.plan_wake(number);
            }
            Condition::Silent => {}
            Condition::Down => {
                let at = self.now + self.times.network;
                self.queue
                    .push(at, Event::Answered(id, Outcome::ConnectionLost));
            }
        }
    }

    pub(super) fn wake(&mut self, number: usize) {
        if !self.servers[number].woken(self.now) {
            return;
        }
        while let Some(id) = self.servers[number].finished(self.now) {
            let Some(attempt) = self.attempts.get_mut(id) else {
                continue;
            };
            // A report that rides on the answer would be read off the server here.
            attempt.running = None;
            attempt.left = true;
            self.servers[number].gauge.left(true);
            let made = attempt.call.made;
            if let Some(reached) = attempt.reached
                && (self.times.warm..self.times.end).contains(&made)
            {
                self.counts.served += 1;
                self.counts.served_nanos += self.now - reached;
            }
            let at = self.now + self.times.network;
            self.queue.push(at, Event::Answered(id, Outcome::Success));
        }
        self.plan_wake(number);
    }

    /// To be called after all that changes what runs on a server, or how fast.
    pub(super) fn plan_wake(&mut self, server: usize) {
        if let Some(at) = self.servers[server].next_wake(self.now) {
            self.queue.push(at, Event::Wake(server));
        }
    }

    /// The client has its answer, or has given up. Nothing happens if it had one before.
    pub(super) fn end_attempt(&mut self, id: Id, outcome: Outcome) {
        let Some(attempt) = self.attempts.remove(id) else {
            return;
        };
        let server = &mut self.servers[attempt.server];
        if let Some(end) = attempt.running {
            server.cancel(self.now, id, end);
        }
        if !attempt.left {
            server.gauge.left(attempt.reached.is_some());
        }
        if attempt.running.is_some() {
            self.plan_wake(attempt.server);
        }
        let mut call = attempt.call;
        call.tried.insert(attempt.hold.connection());
        let ejected = self.clients[call.client].finish(attempt.hold, outcome, self.now);
        if let Some(later) = ejected {
            self.counts.ejections += u64::from(self.is_measured(self.now));
            self.queue.push(
                self.now + after(later.after),
                Event::EjectionEnds(call.client, later),
            );
        }
        if outcome == Outcome::Success {
            self.end_call(&call, false);
        } else if call.retries < self.scenario.retries {
            call.retries += 1;
            self.send(call);
        } else {
            self.end_call(&call, true);
        }
    }

    fn end_call(&mut self, call: &Call, failed: bool) {
        if !self.is_measured(call.made) {
            return;
        }
        self.waiting -= 1;
        let took = self.now - call.made;
        let latency = match self.times.timeout {
            Some(timeout) if failed => took.max(timeout),
            _ => took,
        };
        let phase = self.phase(call.made);
        self.latencies[phase].add(latency, failed);
    }
}
