use super::*;
use crate::endpoint::Endpoint;
use crate::outcome::Outcome;
use crate::policy::PeakEwma;
use crate::policy::testing::{Fleet, at};

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
        fleet.says(slot, 5, 50, at(0));
    }
    fleet.rebuild(at(1));
    let counts = fleet.counts(at(1), 2_000);
    assert!(
        counts[8] > 100 && counts[9] > 100,
        "two say nothing: {counts:?}"
    );

    fleet.says(8, 0, 1, at(2));
    fleet.says(9, 0, 2, at(2));
    fleet.rebuild(at(3));
    let (first, probes) = fleet.pick(at(3));
    assert_eq!(first, 8, "it said that it is idle and fast");
    assert_eq!(probes.len(), 1, "one probe a call");
}

#[test]
fn a_few_that_report_do_not_get_all_the_calls() {
    let mut fleet = Fleet::new(Adaptive::default(), 10);
    fleet.says(0, 0, 0, at(0));
    fleet.says(1, 0, 0, at(0));
    fleet.rebuild(at(1));
    let mut counts = [0_u32; 10];
    for _ in 0..10_000 {
        let (slot, probes) = fleet.pick(at(1));
        counts[slot] += 1;
        // With the response, and to probes: there are always two answers to go by.
        for reporter in probes.into_iter().chain([slot]).filter(|&slot| slot < 2) {
            fleet.says(reporter, 0, 0, at(1));
        }
    }
    // All cost the same. Standard deviation 30; six of them.
    assert!(
        counts.iter().all(|count| count.abs_diff(1_000) < 180),
        "each as often as any other: {counts:?}"
    );
}

#[test]
fn those_that_report_are_asked_so_that_the_rest_may_be_heard() {
    let mut fleet = Fleet::new(Adaptive::default(), 10);
    assert!(fleet.pick(at(0)).1.is_empty(), "nobody was heard");
    fleet.says(0, 0, 0, at(0));
    let asked: usize = (0..100).map(|_| fleet.pick(at(1)).1.len()).sum();
    assert_eq!(asked, 100, "one a call");
    assert!(fleet.pick(at(10_001)).1.is_empty(), "the report is too old");
}

#[test]
fn it_goes_back_when_reports_stop() {
    let mut fleet = Fleet::new(Adaptive::default(), 10);
    for slot in 0..10 {
        fleet.says(slot, 3, if slot == 9 { 1 } else { 50 }, at(0));
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
        fleet.says(slot, 9, if slot == 0 { 1 } else { 50 }, at(0));
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
fn a_fleet_of_six_has_a_pool() {
    let mut fleet = Fleet::new(Adaptive::default(), 6);
    for slot in 0..6 {
        fleet.says(slot, 9, if slot == 5 { 1 } else { 50 }, at(0));
    }
    fleet.rebuild(at(1));
    let (first, probes) = fleet.pick(at(1));
    assert_eq!((first, probes.len()), (5, 1), "it said that it is fast");
}

#[test]
fn a_call_makes_the_latency_that_its_server_said_longer() {
    let mut fleet = Fleet::new(Adaptive::default(), 10);
    for slot in 0..8 {
        // So many that neither of the other two is hot.
        fleet.says(slot, 100, 50, at(0));
    }
    fleet.says(8, 1, 10, at(1));
    fleet.says(9, 1, 14, at(1));
    fleet.rebuild(at(2));
    let picks = [(); 4].map(|()| fleet.pick(at(2)).0);
    // 10, 15 and 20 ms with 1 to 3 under way; 14 and 21 ms with 1 and 2.
    assert_eq!(picks, [8, 9, 8, 8]);
}

#[test]
fn where_weights_differ_no_report_overrules_them() {
    let endpoints = (0..10).map(|n| Endpoint::new(format!("e{n}")).with_weight(1 + 98 * (n % 2)));
    let mut fleet = Fleet::of(endpoints, Adaptive::default());
    for slot in 0..10 {
        fleet.says(slot, 0, if slot == 0 { 1 } else { 50 }, at(0));
    }
    fleet.rebuild(at(1));
    let counts = fleet.counts(at(1), 50_000);
    // 100 of 50,000 by weight: standard deviation 10; six of them.
    assert!(counts[0].abs_diff(100) < 60, "e0 has weight 1: {counts:?}");
    assert!(fleet.pick(at(1)).1.is_empty(), "and nobody is asked");
}

#[test]
fn probes_can_be_left_out() {
    assert_eq!(Adaptive::default().without_probes().measures().probes, None);
    let slow = Adaptive::default().with_probe_timeout(Duration::from_millis(9));
    let rules = slow.measures().probes.expect("it probes");
    assert_eq!(rules.timeout, Duration::from_millis(9));
}
