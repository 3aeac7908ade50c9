//! Calls on their way: from a client over the network to a server, and back.

use std::time::Duration;

use evenkeel::outcome::{LoadReport, Outcome};
use evenkeel::policy::{ProbeRequests, Tried};

use crate::engine::client::Hold;
use crate::engine::draw::exponential;
use crate::engine::queue::{Nanos, nanos};
use crate::engine::server::{Condition, Task};
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
    /// How many others were under way at the server when it came.
    met: u32,
    /// While it runs: by what name the server knows it.
    running: Option<u64>,
    /// It has left the server.
    left: bool,
    /// Rides on the answer.
    report: Option<LoadReport>,
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
        let mut probes = ProbeRequests::new();
        let taken = client.take(self.now, call.key, &call.tried, &mut probes);
        self.probe(call.client, &probes);
        let Some(taken) = taken else {
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
            met: 0,
            running: None,
            left: false,
            report: None,
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
        attempt.met = server.gauge.in_flight();
        server.gauge.arrived();
        match server.condition() {
            Condition::Fails { rate, after } if self.faults.unit() < rate => {
                if self.reports {
                    // As of now, not of when the error goes out: a server that does nothing has little
                    // else to tell by then.
                    server.reporter.failed(self.now);
                    attempt.report = Some(server.report(self.now, attempt.met));
                }
                let at = self.now + after + self.times.network;
                self.queue.push(at, Event::Answered(id, Outcome::Failure));
            }
            Condition::Well | Condition::Fails { .. } => {
                let work = attempt.call.work + self.costs.report;
                attempt.running = Some(server.begin(self.now, Task::Call(id), work));
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
        while let Some(task) = self.servers[number].finished(self.now) {
            let id = match task {
                Task::Call(id) => id,
                Task::Probe(id) => {
                    self.answer_probe(id);
                    continue;
                }
            };
            let Some(attempt) = self.attempts.get_mut(id) else {
                continue;
            };
            attempt.running = None;
            attempt.left = true;
            let server = &mut self.servers[number];
            server.gauge.left(true);
            if let Some(reached) = attempt.reached
                && self.reports
            {
                let latency = Duration::from_nanos(self.now - reached);
                server.reporter.answered(latency, attempt.met, self.now);
                attempt.report = Some(server.report(self.now, server.gauge.in_flight()));
            }
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

    /// The answer has come to its client, unless that has given up.
    pub(super) fn answered(&mut self, id: Id, outcome: Outcome) {
        if let Some(attempt) = self.attempts.get_mut(id)
            && let Some(report) = attempt.report.take()
        {
            attempt.hold.reported(&report, self.now);
        }
        self.end_attempt(id, outcome);
    }

    /// The client has its answer, or has given up. Nothing happens if it had one before.
    pub(super) fn end_attempt(&mut self, id: Id, outcome: Outcome) {
        let Some(attempt) = self.attempts.remove(id) else {
            return;
        };
        let server = &mut self.servers[attempt.server];
        if let Some(end) = attempt.running {
            server.cancel(self.now, Task::Call(id), end);
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
