use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::math::Rng;

fn at(millis: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(millis))
}

/// By nearest rank, in microseconds.
fn exact(samples: &mut [u64], quantile: f64) -> u64 {
    samples.sort_unstable();
    let rank = (quantile * samples.len() as f64).ceil().max(1.0) as usize;
    samples[rank - 1]
}

fn estimate(samples: &[u64], quantile: f64) -> u64 {
    let estimate = RunningQuantile::new(quantile).with_min_samples(1);
    for &micros in samples {
        estimate.record(Duration::from_micros(micros), at(0));
    }
    estimate.refresh(at(0));
    let value = estimate.value().expect("there are samples");
    value.as_micros() as u64
}

#[test]
fn each_value_is_in_a_bucket_that_ends_at_most_a_32nd_above_it() {
    let estimate = RunningQuantile::new(0.5);
    assert_eq!(
        estimate.counts.len(),
        896,
        "28 octaves of 32 buckets above the first"
    );
    let mut last = 0;
    for octave in 0..32 {
        for step in 0..200 {
            let micros = (1_u64 << octave) + (1_u64 << octave) * step / 200;
            let bucket = estimate.bucket(micros);
            let end = estimate.upper_end(bucket);
            assert!(micros <= end, "{micros} is in a bucket up to {end}");
            assert!((end - micros) * 32 <= micros, "{micros}: up to {end}");
            assert!(bucket >= last, "longer ones are in later buckets");
            last = bucket;
        }
    }
    for beyond in [1 << 32, u64::MAX] {
        assert_eq!(estimate.bucket(beyond), 895, "counts as the longest");
    }
    assert_eq!(estimate.bucket(0), 0);
}

proptest! {
    #[test]
    fn the_estimate_is_the_exact_quantile_or_at_most_a_32nd_more(
        mut samples in vec(prop_oneof![0..100_u64, 0..100_000_u64, 0..4_000_000_000_u64], 1..400),
        quantile in prop_oneof![Just(0.0), Just(0.5), Just(0.95), Just(0.99), Just(1.0), 0.0..1.0],
    ) {
        let estimate = estimate(&samples, quantile);
        let exact = exact(&mut samples, quantile);
        prop_assert!(estimate >= exact, "{estimate} is not below {exact}");
        prop_assert!(estimate <= exact + exact / 32 + 1, "{estimate} is near {exact}");
    }
}

#[test]
fn parts_of_a_microsecond_are_not_cut_off() {
    for nanos in [1, 999, 1_001, 10_400, 63_999, 1_000_000_001, 3_999_999_999] {
        let estimate = RunningQuantile::new(0.5).with_min_samples(1);
        let sample = Duration::from_nanos(nanos);
        estimate.record(sample, at(0));
        let value = estimate.value().expect("one is enough");
        let most = sample + sample / 32 + Duration::from_micros(1);
        assert!((sample..=most).contains(&value), "{sample:?}: {value:?}");
    }
}

#[test]
fn another_resolution_forgets_the_value_too() {
    let estimate = RunningQuantile::new(0.5).with_min_samples(1);
    estimate.record(Duration::from_secs(1), at(1));
    assert!(estimate.value().is_some());
    let estimate = estimate.with_resolution(3, 20);
    assert_eq!(estimate.value(), None, "nothing is recorded");
    estimate.record(Duration::from_millis(1), at(200));
    let value = estimate.value().expect("one is enough");
    assert!(value < Duration::from_millis(2), "{value:?}");
}

#[test]
fn a_value_comes_with_enough_samples_and_within_a_tenth_of_a_second() {
    let estimate = RunningQuantile::new(0.95);
    for sample in 0..99 {
        estimate.record(Duration::from_millis(10), at(sample));
    }
    estimate.refresh(at(99));
    assert_eq!(estimate.value(), None, "99 are too few");
    estimate.record(Duration::from_millis(10), at(99));
    assert_eq!(estimate.value(), None, "looked at 99 ms ago");
    estimate.record(Duration::from_millis(10), at(100));
    let value = estimate.value().expect("it is known");
    assert!(
        (Duration::from_millis(10)..Duration::from_micros(10_320)).contains(&value),
        "{value:?}"
    );
}

#[test]
fn what_was_long_ago_fades() {
    let estimate = RunningQuantile::new(0.95);
    for step in 0..1_000 {
        estimate.record(Duration::from_millis(500), at(step));
    }
    // Ten a second from then on; a half-life is over each ten seconds.
    let mut changed = None;
    for step in 0..3_000 {
        let now = 1_000 + step * 100;
        estimate.record(Duration::from_millis(10), at(now));
        let value = estimate.value().expect("it stays known");
        if value < Duration::from_millis(20) {
            changed.get_or_insert(now / 1_000);
        }
    }
    let changed = changed.expect("it follows what comes now");
    assert!((20..=120).contains(&changed), "after {changed} s");
}

#[test]
fn an_idle_time_takes_it_down_to_the_least_number_and_no_lower() {
    let estimate = RunningQuantile::new(0.5);
    for step in 0..1_000 {
        estimate.record(Duration::from_millis(10), at(step));
    }
    let hour = 3_600_000;
    estimate.record(Duration::from_millis(10), at(hour));
    let left = estimate.total() / UNIT;
    assert!((100..=200).contains(&left), "{left} samples are left");
    assert!(estimate.value().is_some(), "and the value with them");
}

#[test]
fn samples_that_are_one_of_a_kind_fade_as_evenly_as_others() {
    let estimate = RunningQuantile::new(0.95).with_min_samples(1);
    let mut rng = Rng::new(7);
    for _ in 0..1_000 {
        let micros = 1_000 + rng.below(1_000_000) as u64;
        estimate.record(Duration::from_micros(micros), at(1));
    }
    estimate.refresh(at(1));
    let before = estimate.value().expect("known");
    estimate.refresh(at(10_100));
    let left = estimate.total();
    assert!(
        (499 * UNIT..=500 * UNIT).contains(&left),
        "half of each is left, also of a single one: {left}"
    );
    let after = estimate.value().expect("known");
    let change = after.as_secs_f64() / before.as_secs_f64();
    assert!((0.96..1.04).contains(&change), "the quantile stays");
}

#[test]
fn none_is_lost_by_many_threads() {
    let estimate = RunningQuantile::new(0.5).with_half_life(Duration::from_secs(3_600));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let estimate = &estimate;
            scope.spawn(move || {
                for step in 0..10_000 {
                    estimate.record(Duration::from_micros(step % 50 + thread), at(step));
                }
            });
        }
    });
    assert_eq!(estimate.total(), 40_000 * UNIT);
}

#[test]
fn no_quantile_and_no_clock_makes_it_panic() {
    for quantile in [f64::NAN, -1.0, 2.0, f64::INFINITY] {
        let estimate = RunningQuantile::new(quantile).with_min_samples(0);
        for now in [at(50_000), at(0), Moment::from_nanos(u64::MAX), at(1)] {
            estimate.record(Duration::MAX, now);
            estimate.record(Duration::ZERO, now);
            estimate.refresh(now);
        }
        assert!(estimate.value().is_some());
    }
    let coarse = RunningQuantile::new(0.5).with_resolution(99, 0);
    coarse.record(Duration::from_secs(1), at(0));
}
