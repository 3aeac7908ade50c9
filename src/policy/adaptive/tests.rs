use super::*;
use crate::math::Rng;
use crate::outcome::{LoadReport, Outcome};
use crate::policy::{PeakEwma, ProbeRequests};

fn at(ms: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(ms))
}

struct Fleet {
    policy: Arc<dyn Policy>,
    candidates: Candidates,
    picker: Arc<dyn Picker>,
    rng: Rng,
}

impl Fleet {
    fn new(policy: Adaptive, count: usize) -> Self {
        let policy: Arc<dyn Policy> = Arc::new(policy);
        let endpoints = (0..count).map(|n| crate::endpoint::Endpoint::new(format!("e{n}")));
        let rules = Arc::new(crate::health::Ejections::new(crate::health::Ejection::off()));
        let all: Vec<Candidate> = (0_usize..)
            .zip(endpoints)
            .map(|(slot, endpoint)| {
                let connection = slot as u64 + 1;
                let id = endpoint.id().clone();
                let subchannel = Subchannel::new(connection, id, rules.clone())
                    .measuring(policy.measures())
                    .reporting_to(policy.clone());
                subchannel.connected(connection);
                let state = crate::endpoint::ConnectivityState::Ready;
                Candidate::new(slot, endpoint, Arc::new(subchannel), connection, state)
            })
            .collect();
        let candidates = Candidates::new(all, false);
        Self {
            picker: policy.build(&candidates, None),
            policy,
            candidates,
            rng: Rng::new(5),
        }
    }

    fn rebuild(&mut self, now: Moment) {
        let candidates = self.candidates.clone().with_now(now);
        self.picker = self.policy.build(&candidates, Some(&*self.picker));
    }

    fn pick(&mut self, now: Moment) -> (usize, Vec<usize>) {
        let mut probes = ProbeRequests::new();
        let mut context = PickContext::new(&mut self.rng)
            .with_now(now)
            .with_probes(&mut probes);
        match self.picker.pick(&mut context) {
            Pick::Endpoint(slot) => (slot, probes.slots().collect()),
            Pick::Nothing => panic!("all are usable, so one is picked"),
        }
    }

    fn report(&self, slot: usize, in_flight: u32, latency: u64, now: Moment) {
        let report = LoadReport::new()
            .with_in_flight(in_flight)
            .with_latency(Duration::from_millis(latency));
        let endpoint = self.candidates.all()[slot].subchannel();
        endpoint.reported(&report, ReportSource::Response, now);
    }

    /// How often each is picked, one call after the other.
    fn counts(&mut self, now: Moment, calls: u32) -> Vec<u32> {
        let mut counts = vec![0; self.candidates.all().len()];
        for _ in 0..calls {
            counts[self.pick(now).0] += 1;
        }
        counts
    }
}

#[test]
fn without_reports_it_picks_as_peak_ewma_does_and_asks_nobody() {
    let ewma = PeakEwma::default();
    let mut fleet = Fleet::new(Adaptive::default(), 10);
    let other = Candidates::connected_for((0..10).map(|n| format!("e{n}")), ewma.measures());
    let ewma = ewma.build(&other, None);
    let mut rng = fleet.rng.clone();
    for call in 0..5_000_u64 {
        let now = at(call);
        let (slot, probes) = fleet.pick(now);
        assert_eq!(probes.len(), 0, "nobody reports");
        let mut context = PickContext::new(&mut rng).with_now(now);
        let expected = ewma.pick(&mut context);
        assert_eq!(Pick::Endpoint(slot), expected, "call {call}");
        for candidates in [&fleet.candidates, &other] {
            let mut claim = candidates.all()[slot].claim(true).expect("usable");
            claim.begun(now);
            claim.sent();
            let latency = Duration::from_millis(1 + slot as u64 % 3);
            claim.finish_at(Outcome::Success, now + latency);
        }
    }
}

#[test]
fn once_nearly_all_report_it_goes_by_reports() {
    let mut fleet = Fleet::new(Adaptive::default(), 10);
    for slot in 0..8 {
        fleet.report(slot, 5, 50, at(0));
    }
    fleet.rebuild(at(1));
    let counts = fleet.counts(at(1), 2_000);
    assert!(
        counts[8] > 100 && counts[9] > 100,
        "two say nothing: {counts:?}"
    );

    fleet.report(8, 0, 1, at(2));
    fleet.report(9, 0, 2, at(2));
    fleet.rebuild(at(3));
    let (first, probes) = fleet.pick(at(3));
    assert_eq!(first, 8, "it said that it is idle and fast");
    assert_eq!(probes.len(), 1, "one probe a call");
}

#[test]
fn a_few_that_report_do_not_get_all_the_calls() {
    let mut fleet = Fleet::new(Adaptive::default(), 10);
    fleet.report(0, 0, 0, at(0));
    fleet.report(1, 0, 0, at(0));
    fleet.rebuild(at(1));
    let counts = fleet.counts(at(1), 10_000);
    // All cost the same. Standard deviation 30; six of them.
    assert!(
        counts.iter().all(|&n| n.abs_diff(1_000) < 180),
        "{counts:?}"
    );
}

#[test]
fn those_that_report_are_asked_so_that_the_rest_may_be_heard() {
    let mut fleet = Fleet::new(Adaptive::default(), 10);
    assert!(fleet.pick(at(0)).1.is_empty(), "nobody was heard");
    fleet.report(0, 0, 0, at(0));
    let asked: usize = (0..100).map(|_| fleet.pick(at(1)).1.len()).sum();
    assert_eq!(asked, 100, "one a call");
    assert!(fleet.pick(at(10_001)).1.is_empty(), "the report is too old");
}

#[test]
fn it_goes_back_when_reports_stop() {
    let mut fleet = Fleet::new(Adaptive::default(), 10);
    for slot in 0..10 {
        fleet.report(slot, 3, if slot == 9 { 1 } else { 50 }, at(0));
    }
    fleet.rebuild(at(1));
    assert_eq!(fleet.pick(at(1)).0, 9, "the fastest by its own word");
    let counts = fleet.counts(at(1_500), 10_000);
    assert!(counts[9] < 1_300, "answers count for a second: {counts:?}");
    fleet.rebuild(at(10_500));
    let picker: &AdaptivePicker = fleet.picker.downcast_ref().expect("its own picker");
    assert!(!picker.reports, "no report for ten seconds");
}

#[test]
fn a_small_fleet_has_no_pool() {
    let mut fleet = Fleet::new(Adaptive::default(), 5);
    for slot in 0..5 {
        fleet.report(slot, 9, if slot == 0 { 1 } else { 50 }, at(0));
    }
    fleet.rebuild(at(1));
    let counts = fleet.counts(at(1), 10_000);
    assert!(
        counts.iter().all(|&n| n.abs_diff(2_000) < 240),
        "{counts:?}"
    );
    assert!(fleet.pick(at(1)).1.is_empty(), "and nobody is asked");
}

#[test]
fn probes_can_be_left_out() {
    assert_eq!(Adaptive::default().without_probes().measures().probes, None);
    let slow = Adaptive::default().with_probe_timeout(Duration::from_millis(9));
    let rules = slow.measures().probes.expect("it probes");
    assert_eq!(rules.timeout, Duration::from_millis(9));
}
