//! One client: a policy of its own over the servers, and the control plane around it.
//!
//! The picks, the loads and the health are the crate's. What is done here is what the balancer's own
//! control plane does, by the same rules, but in virtual time and at once: a new set of candidates when
//! an endpoint is lost, found again, ejected or back, the end of an ejection, and panic. Two things are
//! simpler here: a call that finds no endpoint fails instead of waiting for one that is being dialled, and
//! ejections of long ago are never forgiven. One is left out: the probe after a pause of
//! `ProbeRules::idle`, for which no scenario is quiet enough.

use std::sync::Arc;
use std::time::Duration;

use evenkeel::call::RequestInfo;
use evenkeel::health::panic_mode::is_panic;
use evenkeel::health::{Ejection, Ejections};
use evenkeel::load::Measures;
use evenkeel::math::{Backoff, Moment, Rng};
use evenkeel::outcome::{LoadReport, Outcome};
use evenkeel::policy::{
    Candidate, Candidates, Claim, Pick, PickContext, Picker, Policy, ProbeRequests, Subchannel,
    Tried,
};
use evenkeel::{ConnectivityState, Endpoint};

use crate::engine::queue::Nanos;
use crate::rules::{Contestant, Poll};

/// Policies are refreshed no more often than this.
const LEAST_REFRESH: Duration = Duration::from_millis(1);

/// A client.
pub struct Client {
    policy: Arc<dyn Policy>,
    poll: Option<Poll>,
    measures: Measures,
    timed: bool,
    rules: Arc<Ejections>,
    members: Vec<Member>,
    candidates: Candidates,
    picker: Arc<dyn Picker>,
    panic: bool,
    connections: u64,
    rng: Rng,
}

/// An endpoint as the client's control plane knows it.
struct Member {
    endpoint: Endpoint,
    subchannel: Arc<Subchannel>,
    connection: u64,
    failed_dials: u32,
    ejected_times: u32,
    /// Another endpoint may have come in its place since something was planned for it.
    tenancy: u32,
}

/// A call that has an endpoint.
pub struct Taken {
    /// The endpoint's slot.
    pub slot: usize,
    /// What it owes the endpoint.
    pub hold: Hold,
    /// Whether the policy named an endpoint that this call could not use.
    pub misnamed: bool,
}

/// What a call under way owes its endpoint.
pub struct Hold {
    claim: Claim,
    subchannel: Arc<Subchannel>,
    slot: usize,
    tenancy: u32,
    probes: bool,
}

/// What has to be done about an endpoint later.
#[derive(Debug, Clone, Copy)]
pub struct Later {
    /// The endpoint's slot.
    pub slot: usize,
    /// Whether it is the same endpoint still.
    pub tenancy: u32,
    /// In how long.
    pub after: Duration,
}

impl Hold {
    /// The connection that the call goes by.
    pub fn connection(&self) -> u64 {
        self.claim.connection()
    }

    /// The answer has come, with a report.
    pub fn reported(&self, report: &LoadReport, now: Nanos) {
        if self.claim.wants_report() {
            self.claim.reported(report, Moment::from_nanos(now));
        }
    }
}

impl Client {
    /// A client that is connected to all `endpoints`.
    pub fn new(
        contestant: Contestant,
        endpoints: impl Iterator<Item = Endpoint>,
        ejection: Ejection,
        rng: Rng,
    ) -> Self {
        let none = Candidates::connected(Vec::<Endpoint>::new());
        let measures = contestant.policy.measures();
        let mut client = Self {
            measures,
            timed: measures.need_clock(),
            picker: contestant.policy.build(&none, None),
            policy: contestant.policy,
            poll: contestant.poll,
            rules: Arc::new(Ejections::new(ejection)),
            members: Vec::new(),
            candidates: none,
            panic: false,
            connections: 0,
            rng,
        };
        for endpoint in endpoints {
            let member = client.member(endpoint, 0);
            client.members.push(member);
        }
        client.rules.set_endpoints(client.members.len());
        client.rebuild(0);
        client
    }

    /// Chooses an endpoint for a call; `None` if nothing can be used. Whom the policy wants to ask, it puts
    /// into `probes`.
    pub fn take(
        &mut self,
        now: Nanos,
        key: u64,
        tried: &Tried,
        probes: &mut ProbeRequests,
    ) -> Option<Taken> {
        let now = Moment::from_nanos(now);
        let mut context = PickContext::new(&mut self.rng)
            .with_request(RequestInfo::new().with_hash_key(key))
            .with_tried(tried)
            .with_ejections_ignored(self.panic);
        if self.timed {
            context = context.with_now(now);
        }
        if self.measures.probes.is_some() {
            context = context.with_probes(probes);
        }
        let all = self.candidates.all();
        let (candidate, ignore_ejections, misnamed) = match self.picker.pick(&mut context) {
            Pick::Endpoint(slot) => {
                let candidate = all.get(slot)?;
                (candidate, self.panic, !context.is_usable(candidate))
            }
            // An ejected endpoint is better than a failed call, says the balancer too.
            _ => {
                let start = self.rng.below(all.len());
                let mut order = all[start..].iter().chain(&all[..start]);
                let open = |c: &&Candidate| c.is_connected() && !tried.contains(c.connection());
                (order.find(open)?, true, false)
            }
        };
        let slot = candidate.slot();
        let gate = candidate.subchannel().health().gate();
        let probes = !gate.is_open() && gate.admits();
        let mut claim = candidate.claim(ignore_ejections)?;
        if self.timed {
            claim.begun(now);
        }
        claim.sent();
        let hold = Hold {
            claim,
            subchannel: candidate.subchannel().clone(),
            slot,
            tenancy: self.members[slot].tenancy,
            probes,
        };
        Some(Taken {
            slot,
            hold,
            misnamed,
        })
    }

    /// A call is over. `Some` if its endpoint is ejected for it, and until when.
    pub fn finish(&mut self, hold: Hold, outcome: Outcome, at: Nanos) -> Option<Later> {
        let now = Moment::from_nanos(at);
        let mut claim = hold.claim;
        let gate = hold.subchannel.health().gate();
        let was_open = gate.is_open();
        if outcome == Outcome::Success {
            claim.responded(now);
        }
        claim.finish_at(outcome, now);
        if gate.is_open() == was_open && !hold.probes {
            return None;
        }
        let member = &mut self.members[hold.slot];
        if member.tenancy != hold.tenancy {
            return None;
        }
        let mut later = None;
        if !gate.is_open() && !gate.admits() {
            member.ejected_times += 1;
            later = Some(Later {
                slot: hold.slot,
                tenancy: hold.tenancy,
                after: self.rules.rules().duration(member.ejected_times),
            });
        }
        self.rebuild(at);
        later
    }

    /// The time of an ejection is over: one call may try the endpoint.
    pub fn end_ejection(&mut self, later: Later, now: Nanos) {
        let member = &self.members[later.slot];
        if member.tenancy == later.tenancy && member.subchannel.health().gate().offer_probe() {
            self.rebuild(now);
        }
    }

    /// The connection to the endpoint is gone.
    pub fn lose(&mut self, slot: usize, now: Nanos) -> Later {
        let member = &mut self.members[slot];
        member.subchannel.disconnected(member.connection);
        member.connection = 0;
        member.failed_dials = 0;
        let tenancy = member.tenancy;
        self.rebuild(now);
        Later {
            slot,
            tenancy,
            after: Duration::ZERO,
        }
    }

    /// Dials the endpoint. `Some` if it was not there: when to dial again.
    pub fn dial(&mut self, later: Later, is_up: bool, now: Nanos) -> Option<Later> {
        let member = &mut self.members[later.slot];
        if member.tenancy != later.tenancy || member.connection != 0 {
            return None;
        }
        if !is_up {
            let after = Backoff::default().delay(member.failed_dials, &mut self.rng);
            member.failed_dials += 1;
            return Some(Later { after, ..later });
        }
        self.connections += 1;
        member.connection = self.connections;
        member.subchannel.connected(self.connections);
        self.rebuild(now);
        None
    }

    /// Another endpoint takes the place of the one in `slot`; calls on that one go on.
    pub fn replace(&mut self, slot: usize, endpoint: Endpoint, now: Nanos) {
        let old = &self.members[slot];
        old.subchannel.health().retire(&self.rules);
        let tenancy = old.tenancy + 1;
        self.members[slot] = self.member(endpoint, tenancy);
        self.rebuild(now);
    }

    /// Whether the policy wants to hear of the servers' load.
    pub fn wants_reports(&self) -> bool {
        self.measures.reports.is_some()
    }

    /// Who is asked, if the endpoint in `slot` can be, and how long its answer counts.
    pub fn ask(&self, slot: usize) -> Option<(Arc<Subchannel>, Duration)> {
        let rules = self.measures.probes?;
        let member = self.members.get(slot)?;
        (member.connection != 0).then(|| (member.subchannel.clone(), rules.timeout))
    }

    /// How often the policy wants a new picker though the set is the same, if it does.
    pub fn refresh_interval(&self) -> Option<Duration> {
        let every = self.policy.refresh()?;
        Some(every.max(LEAST_REFRESH))
    }

    /// How often the policy wants to ask the servers, if it does.
    pub fn poll_interval(&self) -> Option<Duration> {
        self.poll.as_ref().map(|poll| poll.every)
    }

    /// Asks the servers; says how many.
    pub fn poll(&self) -> usize {
        if let Some(poll) = &self.poll {
            (poll.ask)(&self.candidates);
        }
        self.candidates.all().len()
    }

    fn member(&mut self, endpoint: Endpoint, tenancy: u32) -> Member {
        self.connections += 1;
        let id = endpoint.id().clone();
        let mut subchannel =
            Subchannel::new(self.connections, id, self.rules.clone()).measuring(self.measures);
        if self.measures.reports.is_some() {
            subchannel = subchannel.reporting_to(self.policy.clone());
        }
        subchannel.connected(self.connections);
        Member {
            endpoint,
            subchannel: Arc::new(subchannel),
            connection: self.connections,
            failed_dials: 0,
            ejected_times: 0,
            tenancy,
        }
    }

    /// Makes the set of candidates anew, and its picker.
    pub fn rebuild(&mut self, now: Nanos) {
        let ejected = self.rules.ejected();
        let usable = self.members.iter().filter(|m| m.is_usable()).count();
        let threshold = self.rules.rules().panic_threshold_percent();
        self.panic = ejected > 0 && is_panic(usable, self.members.len(), threshold);
        let all: Vec<Candidate> = self
            .members
            .iter()
            .enumerate()
            .map(|(slot, member)| member.candidate(slot))
            .collect();
        self.candidates = Candidates::new(all, self.panic).with_now(Moment::from_nanos(now));
        self.picker = self.policy.build(&self.candidates, Some(&*self.picker));
    }
}

impl Member {
    fn is_usable(&self) -> bool {
        self.connection != 0 && self.subchannel.health().gate().is_open()
    }

    fn candidate(&self, slot: usize) -> Candidate {
        let state = if self.connection == 0 {
            ConnectivityState::TransientFailure
        } else {
            ConnectivityState::Ready
        };
        let subchannel = self.subchannel.clone();
        Candidate::new(
            slot,
            self.endpoint.clone(),
            subchannel,
            self.connection,
            state,
        )
    }
}
