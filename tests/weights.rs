//! One suite over every policy that knows weights: who gets how many calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use evenkeel::Endpoint;
use evenkeel::load::ReportSource;
use evenkeel::math::{Moment, Rng};
use evenkeel::outcome::LoadReport;
use evenkeel::policy::{
    Adaptive, C3, Candidate, Candidates, IpHash, LeastRequest, Maglev, OrcaWeightedRoundRobin,
    PeakEwma, Pick, PickContext, PickFirst, Picker, Policy, Prequal, Random, Rendezvous, RingHash,
    RoundRobin, Tried, WeightedRandom, WeightedRoundRobin,
};
use proptest::prelude::*;

const SIGMAS: f64 = 6.0;

/// A policy, and whether its shares are exact instead of drawn.
fn policies() -> Vec<(Arc<dyn Policy>, bool)> {
    let choices = |n| LeastRequest::default().with_choices(n).unwrap();
    vec![
        (Arc::new(WeightedRoundRobin::default()), true),
        (Arc::new(WeightedRandom::default()), false),
        (Arc::new(LeastRequest::default()), false),
        (Arc::new(LeastRequest::default().with_replacement()), false),
        (Arc::new(choices(3)), false),
        (Arc::new(choices(3).with_replacement()), false),
        (Arc::new(choices(10)), false),
        (Arc::new(LeastRequest::full_scan()), false),
        (Arc::new(PeakEwma::default()), false),
        (Arc::new(Adaptive::default()), false),
    ]
}

fn weighted(weights: &[u32]) -> Candidates {
    let endpoint = |(i, &weight): (usize, &u32)| Endpoint::new(format!("e{i}")).with_weight(weight);
    Candidates::connected(weights.iter().enumerate().map(endpoint))
}

fn pick(picker: &dyn Picker, rng: &mut Rng, tried: &Tried) -> Option<usize> {
    match picker.pick(&mut PickContext::new(rng).with_tried(tried)) {
        Pick::Endpoint(slot) => Some(slot),
        _ => None,
    }
}

/// Checks that `counts` are by `weights`, of which all must be known.
fn assert_by_weight(policy: &dyn Policy, exact: bool, weights: &[u32], counts: &[u64]) {
    let picks: u64 = counts.iter().sum();
    let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
    let greatest = weights.iter().copied().map(f64::from).fold(0.0, f64::max);
    for (slot, (&weight, &count)) in weights.iter().zip(counts).enumerate() {
        let share = f64::from(weight) / total;
        let expected = share * picks as f64;
        let tolerance = if exact {
            // One at either end of the run for each entry, of which a heavy one has up to one per
            // ten of its weight over the mean; and weights are rounded to 1/65,535 of the greatest,
            // so by that over the weight itself.
            let parts = (share * weights.len() as f64 / 10.0).ceil();
            2.0 * parts + expected * (greatest / f64::from(weight) + 1.0) / 65_535.0
        } else {
            SIGMAS * (expected * (1.0 - share)).sqrt() + 1.0
        };
        assert!(
            (count as f64 - expected).abs() <= tolerance,
            "{policy:?}: slot {slot} of weight {weight} got {count}, expected {expected} ± {tolerance}"
        );
    }
}

#[test]
fn an_idle_clients_calls_fall_by_weight() {
    let mut one_of_many = vec![1; 200];
    one_of_many[130] = 200;
    for (weights, picks) in [
        (vec![1], 100),
        (vec![1, 3], 20_000),
        (vec![1, 99], 50_000),
        (vec![1, 2, 3], 20_000),
        ((1..=10).collect(), 20_000),
        ((0..100).map(|i| 1 + i % 7).collect(), 20_000),
        (one_of_many, 20_000),
        (vec![u32::MAX, u32::MAX / 2, u32::MAX / 4], 20_000),
    ] {
        for (policy, exact) in policies() {
            let picker = policy.build(&weighted(&weights), None);
            let mut rng = Rng::new(61);
            let mut counts = vec![0; weights.len()];
            for _ in 0..picks {
                counts[pick(&*picker, &mut rng, &Tried::new()).expect("all are usable")] += 1;
            }
            assert_by_weight(&*policy, exact, &weights, &counts);
        }
    }
}

#[test]
fn shares_by_weight_hold_from_many_threads() {
    const THREADS: u64 = 4;
    const EACH: usize = 6_000;
    let weights = [1, 2, 3, 6];
    for (policy, exact) in policies() {
        let picker = policy.build(&weighted(&weights), None);
        let counts = weights.map(|_| AtomicU64::new(0));
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (picker, counts) = (&picker, &counts);
                scope.spawn(move || {
                    let mut rng = Rng::stream(67, thread);
                    for _ in 0..EACH {
                        let slot = pick(&**picker, &mut rng, &Tried::new());
                        counts[slot.expect("all are usable")].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let counts = counts.map(AtomicU64::into_inner);
        assert_by_weight(&*policy, exact, &weights, &counts);
    }
}

#[test]
fn with_one_lost_the_others_keep_to_their_weights() {
    let weights = [1, 2, 3, 4];
    for (policy, _) in policies() {
        let set = weighted(&weights);
        let picker = policy.build(&set, None);
        assert!(set.all()[3].subchannel().disconnected(4));
        let mut rng = Rng::new(71);
        let mut counts = [0; 4];
        for _ in 0..20_000 {
            counts[pick(&*picker, &mut rng, &Tried::new()).expect("three are usable")] += 1;
        }
        assert_eq!(counts[3], 0, "{policy:?}: it is lost");
        // Those who compare take the other one of a pair whose one is lost, which favours the light:
        // that lasts until the next set. Who does not compare draws again.
        if !format!("{policy:?}").starts_with("LeastRequest") {
            assert_by_weight(&*policy, false, &weights[..3], &counts[..3]);
        }
    }
}

#[test]
fn new_weights_go_on_from_the_old_sequence() {
    for (policy, exact) in policies() {
        let mut rng = Rng::new(73);
        let old = policy.build(&weighted(&[1, 2, 3]), None);
        for _ in 0..100 {
            assert!(pick(&*old, &mut rng, &Tried::new()).is_some());
        }
        let weights = [5, 1, 1, 3];
        let new = policy.build(&weighted(&weights), Some(&*old));
        let mut counts = [0; 4];
        for _ in 0..10_000 {
            counts[pick(&*new, &mut rng, &Tried::new()).expect("all are usable")] += 1;
        }
        assert_by_weight(&*policy, exact, &weights, &counts);
    }
}

/// The endpoints of this set, each with the factor of its slow start.
fn starting(set: &Candidates, factors: &[f64]) -> Candidates {
    let all = set.all().iter().zip(factors);
    let all = all.map(|(c, factor)| c.clone().with_slow_start_factor(*factor));
    Candidates::new(all.collect::<Vec<_>>(), false)
}

#[test]
fn an_idle_clients_calls_fall_by_weight_times_the_factor_of_slow_start() {
    for (weights, factors, expected) in [
        (vec![1, 1], vec![0.1, 1.0], vec![1, 10]),
        (vec![7, 7, 7], vec![0.5, 0.25, 1.0], vec![2, 1, 4]),
        (vec![1, 3], vec![1.0, 0.2], vec![5, 3]),
        (vec![2, 0, 4], vec![1.0, 0.1, 0.5], vec![20, 3, 20]),
        (
            vec![1; 100],
            [vec![0.1], vec![1.0; 99]].concat(),
            [vec![1], vec![10; 99]].concat(),
        ),
        (vec![u32::MAX, u32::MAX], vec![0.1, 1.0], vec![1, 10]),
    ] {
        for (policy, exact) in policies() {
            let set = starting(&weighted(&weights), &factors);
            let picker = policy.build(&set, None);
            let mut rng = Rng::new(89);
            let mut counts = vec![0; weights.len()];
            for _ in 0..50_000 {
                counts[pick(&*picker, &mut rng, &Tried::new()).expect("all are usable")] += 1;
            }
            assert!(
                counts.iter().all(|&count| count > 0),
                "{policy:?}: who starts slowly is called too: {counts:?}"
            );
            assert_by_weight(&*policy, exact, &expected, &counts);
        }
    }
}

#[test]
fn what_servers_report_is_multiplied_by_the_factor_too() {
    let policy = OrcaWeightedRoundRobin::default().with_blackout_period(std::time::Duration::ZERO);
    for (busy, factors, expected) in [
        ([Some(0.1), Some(0.9)], [1.0, 0.5], [18, 1]),
        ([Some(0.5), Some(0.5)], [1.0, 0.1], [10, 1]),
        ([None, None], [0.2, 1.0], [1, 5]),
    ] {
        let set = Candidates::connected_for(["a", "b"], policy.measures());
        for (candidate, busy) in set.all().iter().zip(busy) {
            let Some(busy) = busy else { continue };
            let report = LoadReport::new().with_application_utilization(busy);
            let endpoint = candidate.subchannel();
            endpoint.reported(
                &report.with_qps(100.0),
                ReportSource::Response,
                Moment::default(),
            );
        }
        let picker = policy.build(&starting(&set, &factors), None);
        let mut rng = Rng::new(97);
        let mut counts = [0; 2];
        for _ in 0..10_000 {
            counts[pick(&*picker, &mut rng, &Tried::new()).expect("all are usable")] += 1;
        }
        assert_by_weight(&policy, true, &expected, &counts);
    }
}

/// The picks of a client whose calls go on, over this set.
fn picks(policy: &dyn Policy, set: &Candidates) -> Vec<Option<usize>> {
    let picker = policy.build(set, None);
    let mut rng = Rng::new(101);
    let mut claims = Vec::new();
    let mut next = |number| {
        let hash = rng.next_u64();
        let context = &mut PickContext::new(&mut rng).with_hash((number % 2 == 0).then_some(hash));
        let Pick::Endpoint(slot) = picker.pick(context) else {
            return None;
        };
        claims.push(set.all()[slot].claim(false));
        Some(slot)
    };
    (0..200).map(&mut next).collect()
}

#[test]
fn endpoints_that_all_start_together_are_picked_as_if_none_did() {
    for (policy, _) in policies() {
        for weights in [[1; 5], [3, 1, 2, 5, 4]] {
            let plain = picks(&*policy, &weighted(&weights));
            assert!(
                plain.iter().all(Option::is_some),
                "{policy:?}: all are usable"
            );
            let starting = picks(&*policy, &starting(&weighted(&weights), &[0.5; 5]));
            assert_eq!(
                plain, starting,
                "{policy:?}: by the ratio alone, {weights:?}"
            );
        }
    }
}

#[test]
fn policies_without_weights_and_those_that_hash_take_no_note_of_slow_start() {
    let policies: Vec<Box<dyn Policy>> = vec![
        Box::new(RoundRobin::default()),
        Box::new(Random::default()),
        Box::new(PickFirst::default()),
        Box::new(IpHash::default()),
        Box::new(RingHash::default()),
        Box::new(Maglev::default()),
        Box::new(Rendezvous::default()),
        Box::new(Prequal::default()),
        Box::new(C3::default()),
    ];
    for policy in policies {
        let set = || weighted(&[1, 1, 2]);
        let plain = picks(&*policy, &set());
        assert!(
            plain.iter().all(Option::is_some),
            "{policy:?}: all are usable"
        );
        let starting = picks(&*policy, &starting(&set(), &[0.1, 1.0, 0.5]));
        assert_eq!(plain, starting, "{policy:?}");
    }
}

#[test]
fn a_candidates_factor_is_above_0_and_at_most_1() {
    let candidate = weighted(&[1]).all()[0].clone();
    assert_eq!(candidate.slow_start_factor(), 1.0, "unless it is said");
    assert!(
        size_of::<Candidate>() <= 32,
        "two of them on a cache line, as without it"
    );
    for (said, kept) in [
        (1.0, 1.0),
        (2.0, 1.0),
        (f64::INFINITY, 1.0),
        (f64::NAN, 1.0),
        (0.0, 1.0 / 65_535.0),
        (-1.0, 1.0 / 65_535.0),
        (1e-300, 1.0 / 65_535.0),
        (0.2, 0.2),
    ] {
        let factor = candidate.clone().with_slow_start_factor(said);
        assert_eq!(factor.slow_start_factor(), kept, "of {said}");
    }
}

/// A weight, missing ones and great ones among them.
fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), 1..5_u32, 1..100_000_u32, any::<u32>()]
}

#[derive(Debug, Clone, Copy)]
enum Loss {
    None,
    Disconnected,
    Ejected,
    Tried,
}

fn loss() -> impl Strategy<Value = Loss> {
    prop_oneof![
        Just(Loss::None),
        Just(Loss::Disconnected),
        Just(Loss::Ejected),
        Just(Loss::Tried),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: prop::test_runner::RngSeed::Fixed(79),
        ..ProptestConfig::default()
    })]

    #[test]
    fn what_cannot_be_used_is_never_picked_while_something_else_can(
        endpoints in prop::collection::vec((weight(), loss(), 0..4_usize), 1..12),
        seed in any::<u64>(),
        rebuild in any::<bool>(),
    ) {
        let weights: Vec<u32> = endpoints.iter().map(|endpoint| endpoint.0).collect();
        for (policy, _) in policies() {
            let set = weighted(&weights);
            let mut picker = policy.build(&set, None);
            let mut tried = Tried::new();
            let mut claims = Vec::new();
            let mut usable = vec![true; weights.len()];
            let mut tries = 0;
            for (slot, &(_, loss, calls)) in endpoints.iter().enumerate() {
                let candidate = &set.all()[slot];
                claims.extend((0..calls).map(|_| candidate.claim(false)));
                match loss {
                    Loss::Disconnected => {
                        usable[slot] = !candidate.subchannel().disconnected(candidate.connection());
                    }
                    Loss::Ejected => usable[slot] = !candidate.subchannel().health().gate().eject(),
                    // A call remembers eight.
                    Loss::Tried if tries < 8 => {
                        tries += 1;
                        tried.insert(candidate.connection());
                        usable[slot] = false;
                    }
                    Loss::Tried | Loss::None => {}
                }
            }
            if rebuild {
                picker = policy.build(&Candidates::new(set.all().clone(), false), Some(&*picker));
            }
            let mut rng = Rng::new(seed);
            for _ in 0..10 {
                match pick(&*picker, &mut rng, &tried) {
                    Some(slot) => prop_assert!(usable[slot], "{policy:?}: slot {slot} of {endpoints:?}"),
                    None => prop_assert!(
                        usable.iter().all(|usable| !usable),
                        "{policy:?}: one of {endpoints:?} can be used"
                    ),
                }
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_picks(
        weights in prop::collection::vec(weight(), 1..20),
        seed in any::<u64>(),
    ) {
        for (policy, _) in policies() {
            let run = || {
                let set = weighted(&weights);
                let picker = policy.build(&set, None);
                let mut rng = Rng::new(seed);
                let mut claims = Vec::new();
                (0..30)
                    .map(|_| {
                        let slot = pick(&*picker, &mut rng, &Tried::new()).expect("all are usable");
                        claims.push(set.all()[slot].claim(false));
                        slot
                    })
                    .collect::<Vec<_>>()
            };
            prop_assert_eq!(run(), run(), "{:?}", policy);
        }
    }
}
