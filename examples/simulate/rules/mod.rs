//! Who takes part: the policies of the crate by name, and rules of the literature to compare them with.
//!
//! A new policy is one line in [`ALL`].

mod least_loaded;
mod limits;
mod linear;
mod yarp;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use evenkeel::policy::{
    Adaptive, BoundedLoad, C3, Candidate, Candidates, LeastRequest, Maglev, OrcaWeightedRoundRobin,
    PeakEwma, PickFirst, Policy, Prequal, Random, Rendezvous, RingHash, RoundRobin,
};

use crate::engine::gauge::Gauge;
use crate::scenario::Scenario;
use least_loaded::LeastLoaded;
use linear::Linear;

/// One way to balance.
pub struct Rule {
    /// What `--policy` and the rows call it.
    pub name: &'static str,
    /// A line for people.
    pub about: &'static str,
    /// Whether it takes part when no policy is named.
    pub standard: bool,
    /// A new one, for one client of the scenario.
    pub make: fn(&Scenario) -> Contestant,
}

impl Rule {
    /// Whether it knows what no client can: a mark, and no policy.
    pub fn sees_all(&self) -> bool {
        matches!(self.name, limits::SHORTEST_QUEUE | limits::OMNISCIENT)
    }
}

/// A policy as one client has it.
#[derive(Debug)]
pub struct Contestant {
    /// The policy.
    pub policy: Arc<dyn Policy>,
    /// Whether it asks the servers now and then.
    pub poll: Option<Poll>,
}

/// A policy that asks all servers from time to time.
pub struct Poll {
    /// How often.
    pub every: Duration,
    /// Asks them.
    pub ask: Box<dyn Fn(&Candidates)>,
}

impl Contestant {
    fn of(policy: impl Policy) -> Self {
        Self {
            policy: Arc::new(policy),
            poll: None,
        }
    }
}

impl fmt::Debug for Poll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poll")
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

/// All there are.
#[rustfmt::skip]
pub const ALL: &[Rule] = &[
    Rule { name: "round_robin", standard: true, about: "one after the other", make: |_| Contestant::of(RoundRobin::default()) },
    Rule { name: "random", standard: true, about: "any", make: |_| Contestant::of(Random::default()) },
    Rule { name: "least_request", standard: true, about: "fewer calls of this client, of two", make: |_| Contestant::of(LeastRequest::default()) },
    Rule { name: "least_request_full", standard: true, about: "fewest calls of this client, of all", make: |_| Contestant::of(LeastRequest::full_scan()) },
    Rule { name: "peak_ewma", standard: true, about: "least latency times calls, of two", make: |_| Contestant::of(PeakEwma::default()) },
    Rule { name: "wrr", standard: true, about: "in turn, by requests over utilisation as the servers report them", make: |scenario| Contestant::of(wrr(scenario)) },
    Rule { name: "prequal", standard: true, about: "by the servers' answers to three probes a call", make: |_| Contestant::of(Prequal::default()) },
    Rule { name: "adaptive", standard: true, about: "as peak_ewma, and by the servers' own reports and a probe a call once they report", make: |_| Contestant::of(Adaptive::default()) },
    Rule { name: "c3", standard: true, about: "C3: least score by calls here, and requests and latency as the servers report them, of all", make: |scenario| Contestant::of(C3::default().with_clients(clients(scenario))) },
    Rule { name: "ring_hash", standard: false, about: "by a random key", make: |_| Contestant::of(RingHash::default()) },
    Rule { name: "maglev", standard: false, about: "by a random key", make: |_| Contestant::of(Maglev::default()) },
    Rule { name: "maglev_bounded", standard: false, about: "by a random key, at most 1.25 times its share", make: |_| Contestant::of(Maglev::default().with_bounded_load(BoundedLoad::default())) },
    Rule { name: "rendezvous", standard: false, about: "by a random key", make: |_| Contestant::of(Rendezvous::default()) },
    Rule { name: "pick_first", standard: false, about: "all to the first", make: |_| Contestant::of(PickFirst::default()) },
    Rule { name: "yarp", standard: true, about: "fewer calls at the server as of the last poll (500 ms), of two", make: |_| yarp::contestant() },
    Rule { name: "least_loaded", standard: false, about: "fewest calls of this client, of all; of equals the first in an order of the client's own", make: |_| Contestant::of(LeastLoaded) },
    Rule { name: "linear", standard: true, about: "half latency, half requests, over a pool of answers to probes", make: |scenario| Contestant::of(Linear::new(scenario)) },
    Rule { name: limits::SHORTEST_QUEUE, standard: true, about: "limit: fewest calls of all clients, as of now, of all", make: |_| Contestant::of(limits::ShortestQueue) },
    Rule { name: limits::OMNISCIENT, standard: true, about: "limit: as that, and knows each server's cores, speed and faults", make: |_| Contestant::of(limits::Omniscient) },
];

fn clients(scenario: &Scenario) -> u32 {
    u32::try_from(scenario.clients).unwrap_or(u32::MAX)
}

/// By reports. The blackout is its default of 10 s, but no longer than the warm-up: in a shortened run
/// plain round robin would be measured in its place.
fn wrr(scenario: &Scenario) -> OrcaWeightedRoundRobin {
    let policy = OrcaWeightedRoundRobin::default();
    if scenario.warmup_seconds < 10.0 {
        policy.with_blackout_period(Duration::from_secs_f64(scenario.warmup_seconds))
    } else {
        policy
    }
}

/// What is true of each of `candidates`, in their order.
fn gauges(candidates: &[Candidate]) -> Vec<Gauge> {
    let gauge = |candidate: &Candidate| candidate.endpoint().get().cloned();
    candidates
        .iter()
        .map(|candidate| gauge(candidate).unwrap_or_default())
        .collect()
}

/// The rule of this name.
pub fn named(name: &str) -> Option<&'static Rule> {
    ALL.iter().find(|rule| rule.name == name)
}
