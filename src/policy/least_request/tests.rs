use super::*;
use crate::math::Rng;
use crate::policy::Claim;
use crate::policy::testing::{pick, weighted};

/// Claims that make `calls[slot]` calls be under way on each slot.
fn busy(candidates: &Candidates, calls: &[usize]) -> Vec<Claim> {
    let claims = |(candidate, &calls): (&Candidate, _)| {
        let claims = (0..calls).map(|_| candidate.claim(false).expect("it is not ejected"));
        claims.collect::<Vec<_>>()
    };
    candidates
        .all()
        .iter()
        .zip(calls)
        .flat_map(claims)
        .collect()
}

/// Every way of choosing, over the bounds of how many.
fn all_modes() -> Vec<LeastRequest> {
    let mut modes = vec![LeastRequest::full_scan()];
    for choices in [2, 3, 10] {
        let distinct = LeastRequest::default().with_choices(choices).unwrap();
        modes.extend([distinct, distinct.with_replacement()]);
    }
    modes
}

#[test]
fn choices_outside_the_bounds_of_a48_are_refused() {
    for bad in [0, 1, 11, u32::MAX] {
        let error = LeastRequest::default().with_choices(bad).unwrap_err();
        assert_eq!(error.field(), Some("choices"), "{bad}: {error}");
    }
    for good in 2..=10 {
        assert!(LeastRequest::default().with_choices(good).is_ok(), "{good}");
    }
    assert_eq!(
        LeastRequest::default().with_choices(2).unwrap(),
        LeastRequest::default(),
        "2 is the default"
    );
}

#[test]
fn k_samples_are_different_so_k_of_k_plus_1_miss_the_best_at_most_that_often() {
    let candidates = Candidates::connected((0..4).map(|i| format!("e{i}")));
    let _claims = busy(&candidates, &[0, 1, 2, 3]);
    let policy = LeastRequest::default().with_choices(3).unwrap();
    let picker = policy.build(&candidates, None);
    let mut rng = Rng::new(11);
    let mut picks = [0_i32; 4];
    for _ in 0..4000 {
        picks[pick(&*picker, &mut rng)] += 1;
    }
    // The idlest is among 3 different ones of 4 with 3/4; else the next one is, always.
    // Standard deviation sqrt(4000 * 3/4 * 1/4) = 27; five of them.
    assert!((picks[0] - 3000).abs() < 137, "{picks:?}");
    assert_eq!(picks[0] + picks[1], 4000, "3 of 4 hold one of the best two");
}

#[test]
fn drawn_with_replacement_the_picks_are_those_of_grpc() {
    let candidates = Candidates::connected(["a", "b", "c"]);
    let mut rng = Rng::new(1);
    let mut claims = Vec::new();
    let mut picks = Vec::new();
    for (a, b) in [
        (0, 0),
        (0, 1),
        (1, 2),
        (0, 0),
        (1, 0),
        (2, 0),
        (0, 0),
        (2, 2),
        (2, 1),
    ] {
        let mut draws = [a, b].into_iter();
        let best = best_of(
            2,
            candidates.usable(),
            &mut PickContext::new(&mut rng),
            |_| 1,
            |_| draws.next().expect("two draws"),
        );
        let best = best.expect("all are usable");
        picks.push(best.slot());
        claims.push(best.claim(false));
    }
    assert_eq!(picks, [0, 1, 2, 0, 1, 2, 0, 2, 1], "none of them finishes");
}

#[test]
fn drawn_with_replacement_the_fullest_is_picked_when_it_comes_twice() {
    for weights in [[1, 1, 1], [1, 2, 3]] {
        let candidates = weighted(weights);
        let _claims = busy(&candidates, &[90, 0, 0]);
        let share = |policy: LeastRequest| {
            let picker = policy.build(&candidates, None);
            let mut rng = Rng::new(12);
            let picks = (0..9000).filter(|_| pick(&*picker, &mut rng) == 0).count();
            picks as f64 / 9000.0
        };
        assert_eq!(share(LeastRequest::default()), 0.0, "the other is idle");
        let expected = (f64::from(weights[0]) / f64::from(weights.iter().sum::<u32>())).powi(2);
        // Six standard deviations.
        let tolerance = 6.0 * (expected * (1.0 - expected) / 9000.0).sqrt();
        let got = share(LeastRequest::default().with_replacement());
        assert!(
            (got - expected).abs() < tolerance,
            "{weights:?}: {got}, expected {expected} ± {tolerance}"
        );
    }
}

#[test]
fn an_idle_clients_calls_fall_by_weight() {
    let weights = [1, 2, 3, 4];
    let candidates = weighted(weights);
    for policy in all_modes() {
        let picker = policy.build(&candidates, None);
        let mut rng = Rng::new(13);
        let mut picks = [0_u32; 4];
        for _ in 0..10_000 {
            picks[pick(&*picker, &mut rng)] += 1;
        }
        for (picks, weight) in picks.into_iter().zip(weights) {
            // Standard deviation at most sqrt(10,000 * 0.4 * 0.6) = 49; six of them.
            assert!(
                picks.abs_diff(1000 * weight) < 294,
                "{policy:?}: weight {weight} of 10 got {picks} of 10,000"
            );
        }
    }
}

#[test]
fn calls_that_do_not_end_pile_up_by_weight() {
    let weights = [1, 1, 2, 3, 5, 8, 1, 20];
    let total: u32 = weights.iter().sum();
    for policy in all_modes() {
        let candidates = weighted(weights);
        let picker = policy.build(&candidates, None);
        let mut rng = Rng::new(14);
        let mut claims = Vec::new();
        for _ in 0..total * 100 {
            claims.push(candidates.all()[pick(&*picker, &mut rng)].claim(false));
        }
        for (candidate, weight) in candidates.all().iter().zip(weights) {
            let calls = candidate.in_flight();
            // By draws alone, a weight of 1 would be off by sqrt(100) = 10 and a weight of 20 by 36.
            // Two choices keep it within a few, whatever the total (Wieder, "Balanced allocations
            // with heterogenous bins", 2007); each unit of weight may have its own.
            assert!(
                calls.abs_diff(100 * weight) <= 4 + 2 * weight,
                "{policy:?}: weight {weight} has {calls}"
            );
        }
    }
}

#[test]
fn calls_are_compared_per_unit_of_weight() {
    for (one, other, expected) in [
        ((0, 1), (0, 3), false),
        ((0, 3), (0, 1), false),
        ((0, 1), (1, 3), true),
        ((1, 3), (1, 1), true),
        ((2, 3), (1, 1), true),
        ((3, 3), (1, 1), false),
        ((1, 1), (4, 3), true),
        // No overflow at either end.
        (((1 << 24) - 1, 1), (0, u32::MAX.into()), false),
        ((0, u32::MAX.into()), ((1 << 24) - 1, 1), true),
    ] {
        assert_eq!(is_idler(one, other), expected, "{one:?} {other:?}");
    }
}

#[test]
fn a_full_scan_keeps_to_the_weights_at_every_step() {
    let weights = [1, 2, 3, 7];
    let candidates = weighted(weights);
    let picker = LeastRequest::full_scan().build(&candidates, None);
    let mut rng = Rng::new(15);
    let mut claims = Vec::new();
    for total in 1..=1300_u32 {
        claims.push(candidates.all()[pick(&*picker, &mut rng)].claim(false));
        for (candidate, weight) in candidates.all().iter().zip(weights) {
            let calls = f64::from(candidate.in_flight());
            let fair = f64::from(total * weight) / 13.0;
            // An endpoint gets a call only while none has fewer per weight, so it is at most that one
            // call above its share; and so at most three below it, if the three others are.
            assert!(
                calls - fair < 1.0 + 1e-9 && fair - calls < 3.0 + 1e-9,
                "{calls} of {total} on weight {weight}"
            );
        }
    }
}

#[test]
fn missing_weights_count_as_the_mean_and_equal_ones_need_no_table() {
    let missing = LeastRequest::default().build(&weighted([1, 0, 3]), None);
    let missing = missing
        .downcast_ref::<WeightedPicker>()
        .expect("they differ");
    assert_eq!(
        [0, 1, 2].map(|index| missing.weighted.weight(index)),
        [1, 2, 3]
    );
    for weights in [[1, 1, 1], [9, 9, 9], [0, 5, 0], [5, 0, 5]] {
        let picker = LeastRequest::default().build(&weighted(weights), None);
        assert!(
            picker.downcast_ref::<LeastRequestPicker>().is_some(),
            "{weights:?} say nothing"
        );
    }
}

#[test]
fn a_very_heavy_one_does_not_hide_the_others() {
    let candidates = weighted([1_000_000, 1, 1, 1]);
    for policy in [
        LeastRequest::default(),
        LeastRequest::default().with_choices(3).unwrap(),
    ] {
        let picker = policy.build(&candidates, None);
        let claims = busy(&candidates, &[1_000_000]);
        let mut rng = Rng::new(16);
        let light = (0..100).filter(|_| pick(&*picker, &mut rng) != 0).count();
        assert_eq!(light, 100, "{policy:?}: it has all that it can take");
        drop(claims);
    }
}
