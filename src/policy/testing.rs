//! What the policies' unit tests share.

use std::sync::Arc;
use std::time::Duration;

use crate::endpoint::Endpoint;
use crate::load::ReportSource;
use crate::math::{Moment, Rng};
use crate::outcome::LoadReport;
use crate::policy::{Candidates, Pick, PickContext, Picker, Policy, ProbeRequests};

/// A time of so many milliseconds.
pub(super) fn at(ms: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(ms))
}

/// Connected endpoints `e0`, `e1` and so on, of these weights.
pub(super) fn weighted(weights: impl IntoIterator<Item = u32>) -> Candidates {
    let endpoint = |(n, weight)| Endpoint::new(format!("e{n}")).with_weight(weight);
    Candidates::connected((0_usize..).zip(weights).map(endpoint))
}

/// The slot that is picked.
pub(super) fn pick(picker: &dyn Picker, rng: &mut Rng) -> usize {
    picked(picker, PickContext::new(rng))
}

/// The slot that a call of this hash goes to.
pub(super) fn pick_by(picker: &dyn Picker, hash: u64) -> usize {
    picked(
        picker,
        PickContext::new(&mut Rng::new(1)).with_hash(Some(hash)),
    )
}

/// The slot that is picked for this call.
pub(super) fn picked(picker: &dyn Picker, mut context: PickContext<'_>) -> usize {
    match picker.pick(&mut context) {
        Pick::Endpoint(slot) => slot,
        Pick::Nothing => panic!("some are usable, so one is picked"),
    }
}

/// A client of servers that say how much they have to do. It takes no note of ejections, so that what a policy does
/// of itself shows.
pub(super) struct Fleet<P> {
    pub(super) policy: P,
    pub(super) candidates: Candidates,
    pub(super) picker: Arc<dyn Picker>,
    pub(super) rng: Rng,
}

impl<P: Policy> Fleet<P> {
    /// Of so many servers, `e0`, `e1` and so on.
    pub(super) fn new(policy: P, count: usize) -> Self {
        Self::of((0..count).map(|n| format!("e{n}")), policy)
    }

    pub(super) fn of<E: Into<Endpoint>>(endpoints: impl IntoIterator<Item = E>, policy: P) -> Self {
        let candidates = Candidates::connected_for(endpoints, policy.measures());
        Self {
            picker: policy.build(&candidates, None),
            policy,
            candidates,
            rng: Rng::new(5),
        }
    }

    pub(super) fn rebuild(&mut self, now: Moment) {
        let candidates = self.candidates.clone().with_now(now);
        self.picker = self.policy.build(&candidates, Some(&*self.picker));
    }

    /// Picks, and says whom to ask.
    pub(super) fn pick(&mut self, now: Moment) -> (usize, Vec<usize>) {
        let mut probes = ProbeRequests::new();
        let context = PickContext::new(&mut self.rng)
            .with_now(now)
            .with_ejections_ignored(true)
            .with_probes(&mut probes);
        let slot = picked(&*self.picker, context);
        (slot, probes.slots().collect())
    }

    /// How often each is picked, one call after the other.
    pub(super) fn counts(&mut self, now: Moment, calls: u32) -> Vec<u32> {
        let mut counts = vec![0; self.candidates.all().len()];
        for _ in 0..calls {
            counts[self.pick(now).0] += 1;
        }
        counts
    }

    /// A server says that it has so many calls under way and needs so many milliseconds for one.
    pub(super) fn says(&self, slot: usize, in_flight: u32, latency: u64, now: Moment) {
        let report = LoadReport::new()
            .with_in_flight(in_flight)
            .with_latency(Duration::from_millis(latency));
        let endpoint = self.candidates.all()[slot].subchannel();
        endpoint.reported(&report, ReportSource::Probe, now);
        let queue = endpoint.reports().queue().expect("it is measured");
        self.policy.reported(endpoint, queue, ReportSource::Probe);
    }
}
