//! Probes on their way: from a client over the network to a server, and back.
//!
//! A server that is down or silent answers none; one that fails its calls does, since it is up.

use std::sync::Arc;

use evenkeel::load::ReportSource;
use evenkeel::math::Moment;
use evenkeel::outcome::LoadReport;
use evenkeel::policy::{ProbeRequests, Subchannel};

use crate::engine::queue::Nanos;
use crate::engine::server::{Condition, Task};
use crate::engine::slab::Id;
use crate::engine::world::{Event, World, after};

/// A question to a server about its load.
pub(super) struct Probe {
    server: usize,
    subchannel: Arc<Subchannel>,
    /// An answer after this does not count.
    deadline: Nanos,
    /// While the answer costs the server time: by what name the server knows it.
    running: Option<u64>,
    report: Option<LoadReport>,
}

impl World<'_> {
    /// Sends the probes that a client's policy asked for. One to an endpoint that is not connected is not
    /// sent.
    pub(super) fn probe(&mut self, client: usize, requests: &ProbeRequests) {
        for slot in requests.slots() {
            let Some((subchannel, timeout)) = self.clients[client].ask(slot) else {
                continue;
            };
            self.counts.probes += u64::from(self.is_measured(self.now));
            let id = self.probes.insert(Probe {
                server: self.slots[slot],
                subchannel,
                deadline: self.now + after(timeout),
                running: None,
                report: None,
            });
            self.queue
                .push(self.now + self.times.network, Event::ProbeReached(id));
        }
    }

    pub(super) fn reach_probe(&mut self, id: Id) {
        let Some(probe) = self.probes.get_mut(id) else {
            return;
        };
        let number = probe.server;
        let server = &mut self.servers[number];
        let answers = match server.condition() {
            Condition::Well | Condition::Fails { .. } => self.reports,
            Condition::Silent | Condition::Down => false,
        };
        if !answers {
            self.probes.remove(id);
        } else if self.costs.probe > 0.0 {
            probe.running = Some(server.begin(self.now, Task::Probe(id), self.costs.probe));
            self.plan_wake(number);
        } else {
            self.answer_probe(id);
        }
    }

    /// The server answers.
    pub(super) fn answer_probe(&mut self, id: Id) {
        let Some(probe) = self.probes.get_mut(id) else {
            return;
        };
        let server = &mut self.servers[probe.server];
        let in_flight = server.gauge.in_flight();
        probe.running = None;
        probe.report = Some(server.report(self.now, in_flight));
        self.queue
            .push(self.now + self.times.network, Event::ProbeAnswered(id));
    }

    /// The answer has come to its client.
    pub(super) fn end_probe(&mut self, id: Id) {
        if let Some(probe) = self.probes.remove(id)
            && self.now <= probe.deadline
            && let Some(report) = &probe.report
        {
            let now = Moment::from_nanos(self.now);
            probe.subchannel.reported(report, ReportSource::Probe, now);
        }
    }

    /// The server is gone, with all that was on it.
    pub(super) fn lose_probes(&mut self, server: usize) {
        let lost: Vec<_> = self
            .probes
            .iter()
            .filter(|(_, probe)| probe.server == server)
            .map(|(id, probe)| (id, probe.running))
            .collect();
        for (id, running) in lost {
            self.probes.remove(id);
            if let Some(end) = running {
                self.servers[server].cancel(self.now, Task::Probe(id), end);
            }
        }
    }
}
