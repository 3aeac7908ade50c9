//! Everything at one moment of virtual time, and what happens next.

use std::time::Duration;

use evenkeel::health::Ejection;
use evenkeel::math::Rng;
use evenkeel::outcome::Outcome;

use crate::engine::calls::Attempt;
use crate::engine::client::{Client, Later};
use crate::engine::loads::Loads;
use crate::engine::probes::Probe;
use crate::engine::queue::{Nanos, Queue, nanos};
use crate::engine::server::{Condition, Server};
use crate::engine::slab::{Id, Slab};
use crate::engine::tally::{Counts, Latencies, Results};
use crate::rules::Rule;
use crate::scenario::Scenario;

/// Streams of random numbers, apart from each other, so that every policy meets the same calls and the
/// same course of the servers.
mod stream {
    pub(super) const ARRIVALS: u64 = 0;
    pub(super) const FAULTS: u64 = 1;
    pub(super) const POLLS: u64 = 2;
    pub(super) const REFRESHES: u64 = 3;
    pub(super) const CLIENTS: u64 = 1 << 32;
    pub(super) const SERVERS: u64 = 2 << 32;
}

/// How often the servers' loads are looked at.
const SAMPLE: Nanos = 1_000_000_000;

/// Runs `scenario` with `rule` from `seed`. The same three give the same results. `progress` hears how
/// much of the time has passed, of 1.
pub fn simulate(
    scenario: &Scenario,
    rule: &Rule,
    seed: u64,
    mut progress: impl FnMut(f64),
) -> Results {
    let mut world = World::new(scenario, rule, seed);
    let end = world.times.end as f64;
    let mut told = 0;
    while let Some((now, event)) = world.queue.pop() {
        world.now = now;
        if now / SAMPLE > told {
            told = now / SAMPLE;
            progress((now as f64 / end).min(1.0));
        }
        if now >= world.times.end && world.waiting == 0 {
            break;
        }
        world.happen(event);
    }
    world.results()
}

pub(super) enum Event {
    /// The next call is made.
    Arrival,
    /// The request has come to its server.
    Reached(Id),
    /// A server may have finished a call.
    Wake(usize),
    /// The answer has come to its client.
    Answered(Id, Outcome),
    /// The client gives up.
    TimedOut(Id),
    /// A probe has come to its server.
    ProbeReached(Id),
    /// Its answer has come to the client.
    ProbeAnswered(Id),
    /// The time of an ejection is over.
    EjectionEnds(usize, Later),
    /// A client dials a lost server.
    Dial(usize, Later),
    /// A client asks the servers.
    Poll(usize),
    /// A client's policy gets a new picker.
    Refresh(usize),
    /// The loads are looked at.
    Sample,
    /// Others on the machine of a server change.
    Redraw(usize),
    /// An event of the scenario begins; of a restart, the n-th time.
    Begin(usize, usize),
    /// It is over.
    End(usize),
    /// A new server is no longer slow; the factor that it was slow by.
    Warm(usize, f64),
}

pub(super) struct Times {
    pub(super) warm: Nanos,
    pub(super) phase: Nanos,
    pub(super) end: Nanos,
    pub(super) network: Nanos,
    pub(super) timeout: Option<Nanos>,
}

/// What it costs a server to talk of its load, in seconds of a core at speed 1.
pub(super) struct Costs {
    /// Each answer to a call.
    pub(super) report: f64,
    /// Each answer to a probe.
    pub(super) probe: f64,
}

pub(super) struct World<'s> {
    pub(super) scenario: &'s Scenario,
    pub(super) seed: u64,
    pub(super) now: Nanos,
    pub(super) queue: Queue<Event>,
    pub(super) servers: Vec<Server>,
    /// Who is in each slot; servers that have left stay in `servers`.
    pub(super) slots: Vec<usize>,
    pub(super) clients: Vec<Client>,
    pub(super) attempts: Slab<Attempt>,
    pub(super) probes: Slab<Probe>,
    /// Whether the servers report and the policy listens.
    pub(super) reports: bool,
    pub(super) costs: Costs,
    /// Servers at fault now.
    pub(super) faulty: usize,
    pub(super) times: Times,
    pub(super) arrivals: Rng,
    pub(super) faults: Rng,
    /// Calls per second, of each phase.
    pub(super) rates: Vec<f64>,
    pub(super) latencies: Vec<Latencies>,
    pub(super) counts: Counts,
    /// Measured calls that are not over.
    pub(super) waiting: usize,
    loads: Loads,
}

impl<'s> World<'s> {
    fn new(scenario: &'s Scenario, rule: &Rule, seed: u64) -> Self {
        let warm = nanos(scenario.warmup_seconds);
        let phase = nanos(scenario.seconds);
        let phases = scenario.load.len();
        let mut world = Self {
            scenario,
            seed,
            now: 0,
            queue: Queue::default(),
            servers: Vec::new(),
            slots: Vec::new(),
            clients: Vec::new(),
            attempts: Slab::default(),
            probes: Slab::default(),
            reports: false,
            costs: Costs {
                report: 0.0,
                probe: scenario.probe_cost_us / 1e6,
            },
            faulty: 0,
            times: Times {
                warm,
                phase,
                end: warm + phase * phases as u64,
                network: nanos(scenario.network_ms / 1e3),
                timeout: Some(nanos(scenario.timeout_ms / 1e3)).filter(|&timeout| timeout > 0),
            },
            arrivals: Rng::stream(seed, stream::ARRIVALS),
            faults: Rng::stream(seed, stream::FAULTS),
            rates: scenario
                .load
                .iter()
                .map(|&load| scenario.rate(load))
                .collect(),
            latencies: vec![Latencies::default(); phases],
            counts: Counts::default(),
            waiting: 0,
            loads: Loads::default(),
        };
        for slot in 0..scenario.server_count() {
            let server = world.new_server(slot);
            world.slots.push(server);
        }
        let ejection = if scenario.ejection {
            Ejection::default()
        } else {
            Ejection::off()
        };
        for client in 0..scenario.clients {
            let endpoints = world.servers.iter().map(|server| server.endpoint.clone());
            let rng = Rng::stream(seed, stream::CLIENTS + client as u64);
            world
                .clients
                .push(Client::new((rule.make)(scenario), endpoints, ejection, rng));
        }
        if scenario.reports && world.clients.iter().any(Client::wants_reports) {
            world.reports = true;
            world.costs.report = scenario.report_cost_us / 1e6;
        }
        world.begin_polls();
        world.begin_refreshes();
        world.plan_script(warm);
        world.queue.push(SAMPLE, Event::Sample);
        world.plan_arrival();
        world
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrival => self.arrive(),
            Event::Reached(id) => self.reach(id),
            Event::Wake(server) => self.wake(server),
            Event::Answered(id, outcome) => self.answered(id, outcome),
            Event::TimedOut(id) => self.end_attempt(id, Outcome::Failure),
            Event::ProbeReached(id) => self.reach_probe(id),
            Event::ProbeAnswered(id) => self.end_probe(id),
            Event::EjectionEnds(client, later) => {
                self.clients[client].end_ejection(later, self.now);
            }
            Event::Dial(client, later) => self.dial(client, later),
            Event::Poll(client) => self.poll(client),
            Event::Refresh(client) => self.refresh(client),
            Event::Sample => self.sample(),
            Event::Redraw(server) => self.redraw(server),
            Event::Begin(index, time) => self.begin_event(index, time),
            Event::End(index) => self.end_event(index),
            Event::Warm(server, factor) => {
                self.servers[server].scale_speed(self.now, 1.0 / factor);
                self.plan_wake(server);
            }
        }
    }

    /// A generator of its own for a server, the `number`-th that there ever was.
    pub(super) fn server_rng(&self, number: usize) -> Rng {
        Rng::stream(self.seed, stream::SERVERS + number as u64)
    }

    pub(super) fn end(&self) -> Nanos {
        self.times.end
    }

    pub(super) fn phase(&self, made: Nanos) -> usize {
        let phase = made.saturating_sub(self.times.warm) / self.times.phase;
        (phase as usize).min(self.latencies.len() - 1)
    }

    pub(super) fn is_measured(&self, made: Nanos) -> bool {
        (self.times.warm..self.times.end).contains(&made)
    }

    fn dial(&mut self, client: usize, later: Later) {
        let is_up = self.servers[self.slots[later.slot]].condition() != Condition::Down;
        if let Some(later) = self.clients[client].dial(later, is_up, self.now) {
            self.queue
                .push(self.now + after(later.after), Event::Dial(client, later));
        }
    }

    /// Clients do not ask all at the same time.
    fn begin_polls(&mut self) {
        let mut rng = Rng::stream(self.seed, stream::POLLS);
        for (number, client) in self.clients.iter().enumerate() {
            if let Some(every) = client.poll_interval() {
                let first = nanos(every.as_secs_f64() * rng.unit());
                self.queue.push(first, Event::Poll(number));
            }
        }
    }

    fn poll(&mut self, number: usize) {
        let Some(every) = self.clients[number].poll_interval() else {
            return;
        };
        let asked = self.clients[number].poll();
        if self.is_measured(self.now) {
            self.counts.probes += asked as u64;
        }
        self.queue
            .push(self.now + after(every), Event::Poll(number));
    }

    /// Clients did not start all at the same time.
    fn begin_refreshes(&mut self) {
        let mut rng = Rng::stream(self.seed, stream::REFRESHES);
        for (number, client) in self.clients.iter().enumerate() {
            if let Some(every) = client.refresh_interval() {
                let first = nanos(every.as_secs_f64() * rng.unit());
                self.queue.push(first, Event::Refresh(number));
            }
        }
    }

    fn refresh(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.rebuild(self.now);
        if let Some(every) = client.refresh_interval() {
            self.queue
                .push(self.now + after(every), Event::Refresh(number));
        }
    }

    fn sample(&mut self) {
        let is_warm = self.now >= self.times.warm;
        self.loads
            .look(self.now, is_warm, &mut self.servers, &self.slots);
        if self.now + SAMPLE <= self.times.end {
            self.queue.push(self.now + SAMPLE, Event::Sample);
        }
    }

    fn results(self) -> Results {
        let mut whole = Latencies::default();
        for phase in &self.latencies {
            whole.merge(phase);
        }
        let whole = whole.figures();
        let phases = self.scenario.load.iter().zip(&self.latencies);
        let calls = whole.calls.max(1) as f64;
        let counts = self.counts;
        let faulty_share = counts.attempts_to_faulty as f64 / counts.attempts_in_trouble as f64;
        Results {
            phases: phases.map(|(&load, all)| (load, all.figures())).collect(),
            load: self.loads.whole(&self.servers, &self.slots),
            load_by_second: self.loads.samples,
            attempts_per_call: counts.attempts as f64 / calls,
            probes_per_call: counts.probes as f64 / calls,
            faulty_share: (counts.attempts_in_trouble > 0).then_some(faulty_share),
            ejections: counts.ejections,
            misnamed: counts.misnamed,
            server_mean_ms: counts.served_nanos as f64 / counts.served.max(1) as f64 / 1e6,
            whole,
        }
    }
}

pub(super) fn after(time: Duration) -> Nanos {
    nanos(time.as_secs_f64())
}
