use proptest::prelude::*;

use super::*;
use crate::math::testing::seeded;

/// A sequence at tick `tick` of `stride`.
fn at(tick: u64, stride: &StaticStride) -> Sequence {
    Sequence(AtomicU64::new(Place::at(tick, stride.count).to_word()))
}

/// The next tick; they start over after 65,535 generations.
fn tick(sequence: &Sequence, stride: &StaticStride) -> u64 {
    let place = Place::from_word(sequence.0.load(Ordering::Relaxed));
    u64::from(place.generation) * u64::from(stride.count) + u64::from(place.index)
}

/// How often each number comes in so many picks, and the ticks that they took.
fn counts_and_ticks(
    stride: &StaticStride,
    sequence: &Sequence,
    n: usize,
    picks: usize,
) -> (Vec<usize>, u64) {
    let period = u64::from(stride.count) * u64::from(K);
    let (mut counts, mut ticks) = (vec![0; n], 0);
    let mut before = tick(sequence, stride);
    for _ in 0..picks {
        counts[stride.next(sequence, || 0).expect("there are entries")] += 1;
        let now = tick(sequence, stride);
        ticks += (now + period - before) % period;
        before = now;
    }
    (counts, ticks)
}

fn take(stride: &StaticStride, sequence: &Sequence, count: usize) -> Vec<usize> {
    (0..count)
        .map(|_| stride.next(sequence, || 0).expect("there are entries"))
        .collect()
}

fn counts(stride: &StaticStride, sequence: &Sequence, n: usize, picks: usize) -> Vec<usize> {
    let mut counts = vec![0; n];
    for _ in 0..picks {
        counts[stride.next(sequence, || 0).expect("there are entries")] += 1;
    }
    counts
}

#[test]
fn the_order_of_1_2_3_is_that_of_a58() {
    let stride = StaticStride::new(&[1.0, 2.0, 3.0]);
    let sequence = at(0, &stride);
    for round in 0..10 {
        assert_eq!(
            take(&stride, &sequence, 6),
            [1, 2, 2, 0, 1, 2],
            "round {round}"
        );
    }
    for start in 0..1000 {
        let sequence = at(start, &stride);
        assert_eq!(
            counts(&stride, &sequence, 3, 6),
            [1, 2, 3],
            "any 6 picks, here from tick {start}"
        );
    }
    let sequence = at(0, &stride);
    assert_eq!(counts(&stride, &sequence, 3, 131_070)[2], 65_535);
}

#[test]
fn a_heavy_entry_does_not_get_its_picks_in_one_burst() {
    let stride = StaticStride::new(&[9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
    let picks = take(&stride, &at(0, &stride), 18_000);
    let runs = picks.chunk_by(|a, b| a == b).filter(|run| run[0] == 0);
    assert_eq!(runs.map(<[usize]>::len).max(), Some(5), "of nine a round");
}

#[test]
fn ticks_that_are_passed_over_are_used_up() {
    let stride = StaticStride::new(&[2.0, 3.0, 6.0]);
    let sequence = at(0, &stride);
    let steps: Vec<_> = (0..6)
        .map(|_| (take(&stride, &sequence, 1)[0], tick(&sequence, &stride)))
        .collect();
    assert_eq!(steps, [(1, 2), (2, 3), (2, 6), (0, 7), (1, 8), (2, 9)]);
}

#[test]
fn with_fewer_than_two_known_weights_it_is_plain_round_robin() {
    for weights in [
        [0.0, 0.0, 0.0],
        [0.0, 7.0, 0.0],
        [f64::NAN, 7.0, -1.0],
        [4.0, 4.0, 4.0],
        [4.0, 0.0, 4.0],
    ] {
        let stride = StaticStride::new(&weights);
        let sequence = at(4, &stride);
        assert_eq!(take(&stride, &sequence, 4), [1, 2, 0, 1], "{weights:?}");
    }
    let one = StaticStride::new(&[3.0]);
    assert_eq!(take(&one, &Sequence::unstarted(), 3), [0, 0, 0]);
}

#[test]
fn an_unknown_weight_counts_as_the_mean() {
    let known = StaticStride::new(&[1.0, 2.0, 3.0]);
    for unknown in [0.0, f64::NAN, -5.0, f64::INFINITY] {
        let stride = StaticStride::new(&[1.0, unknown, 3.0]);
        assert_eq!(stride.entries, known.entries, "{unknown}");
    }
}

#[test]
fn nothing_comes_of_nothing() {
    let stride = StaticStride::new(&[]);
    assert_eq!(stride.next(&Sequence::unstarted(), || 0), None);
}

#[test]
fn the_first_use_starts_the_sequence_and_the_next_ones_go_on() {
    let stride = StaticStride::new(&[1.0; 4]);
    let sequence = Sequence::default();
    assert_eq!(stride.next(&sequence, || 6), Some(2));
    let again = || panic!("it has started");
    assert_eq!(stride.next(&sequence, again), Some(3));
    assert_eq!(tick(&sequence, &stride), 8);
}

#[test]
fn another_set_goes_on_at_the_same_entry() {
    let of = |n: usize| StaticStride::new(&vec![1.0; n]);
    let sequence = at(7, &of(10));
    assert_eq!(of(10).next(&sequence, || 0), Some(7));
    assert_eq!(of(20).next(&sequence, || 0), Some(8), "more");
    assert_eq!(of(5).next(&sequence, || 0), Some(4), "fewer: 9 modulo 5");
    assert_eq!(of(5).next(&sequence, || 0), Some(0));
}

#[test]
fn the_order_has_no_seam_where_the_generations_start_over() {
    let stride = StaticStride::new(&[1.0, 2.0, 3.0]);
    let period = 3 * u64::from(K);
    let last = period - 9;
    for start in [last, u64::MAX / period * period - 9] {
        let sequence = Sequence::unstarted();
        let picks: Vec<_> = (0..12)
            .filter_map(|_| stride.next(&sequence, || start))
            .collect();
        assert_eq!(picks, [1, 2, 2, 0, 1, 2, 1, 2, 2, 0, 1, 2], "from {start}");
    }
    // A weight whose period is all 65,535 generations.
    let stride = StaticStride::new(&[1.0, 1000.0]);
    let sequence = at(1234, &stride);
    let (counts, ticks) = counts_and_ticks(&stride, &sequence, 2, 65_535 + 66);
    assert_eq!(
        (counts, ticks),
        (vec![66, 65_535], 2 * 65_535),
        "one period"
    );
}

#[test]
fn a_weight_far_over_the_mean_is_split_and_costs_no_long_search() {
    // 1,000 light ones and one that takes half of all: 500 times the mean.
    let mut weights = vec![1.0; 1001];
    weights[300] = 1000.0;
    let stride = StaticStride::new(&weights);
    let sequence = at(0, &stride);
    let (counts, ticks) = counts_and_ticks(&stride, &sequence, 1001, 200_000);
    let heavy = counts[300];
    // Its 51 parts are off by one each at either end of the run.
    assert!(heavy.abs_diff(100_000) <= 102, "half of all: {heavy}");
    assert!(ticks < 11 * 200_000, "{ticks} ticks for 200,000 picks");
    let picks = take(&stride, &sequence, 20_000);
    let longest = picks.chunk_by(|a, b| a == b).map(<[usize]>::len).max();
    assert!(
        longest <= Some(3),
        "the parts are apart: {longest:?} in a row"
    );
}

#[test]
fn threads_share_one_order() {
    let stride = StaticStride::new(&[1.0, 2.0, 3.0]);
    let sequence = at(77, &stride);
    let total: Vec<usize> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| counts(&stride, &sequence, 3, 6_000)))
            .collect();
        let counts = threads.into_iter().map(|t| t.join().expect("no panic"));
        counts
            .reduce(|a, b| a.iter().zip(&b).map(|(a, b)| a + b).collect())
            .expect("there are threads")
    });
    assert_eq!(total, [4_000, 8_000, 12_000], "no tick is given out twice");
}

fn any_weight() -> impl Strategy<Value = f64> {
    prop_oneof![
        (1_u32..1000).prop_map(f64::from),
        (1_u32..1_000_000_000).prop_map(f64::from),
        1e-300..1e300_f64,
    ]
}

proptest! {
    #![proptest_config(seeded(64, 11))]

    #[test]
    fn every_entry_comes_as_evenly_as_whole_numbers_allow(
        weights in prop::collection::vec(any_weight(), 2..40),
        start in any::<u32>(),
        generations in 1..300_u64,
    ) {
        let stride = StaticStride::new(&weights);
        // The greatest of a few is not over ten times their mean, which is at least their share of it.
        prop_assume!(stride.owners.is_empty() && !stride.entries.is_empty());
        let (n, k) = (stride.count, u64::from(K));
        for (index, entry) in stride.entries.iter().enumerate() {
            let first = u64::from(start);
            let picked = (first..first + generations)
                .filter(|g| entry.is_picked((g % k) as u32))
                .count() as u64;
            let weight = entry.weight;
            let exact = u64::from(weight) * generations;
            prop_assert!(
                picked == exact / k || picked == exact.div_ceil(k),
                "entry {index} of {n}: {picked} of {generations} generations, weight {weight} / {K}"
            );
        }
    }

    #[test]
    fn whatever_the_weights_each_number_is_in_bounds_and_its_share_right(
        weights in prop::collection::vec((1_u32..100_000).prop_map(f64::from), 1..60),
        heavy in 1.0..10_000.0_f64,
        start in any::<u32>(),
    ) {
        let mut weights = weights;
        weights[0] *= heavy;
        let n = weights.len();
        let stride = StaticStride::new(&weights);
        let sequence = at(u64::from(start), &stride);
        let picks = 100_000;
        let (counts, ticks) = counts_and_ticks(&stride, &sequence, n, picks);
        let total: f64 = weights.iter().sum();
        let all = f64::from(stride.count);
        prop_assert!(ticks <= 11 * picks as u64 + u64::from(stride.count), "{ticks} ticks");
        for (number, (&weight, &count)) in weights.iter().zip(&counts).enumerate() {
            let expected = weight / total * picks as f64;
            // Each entry is off by one at each end of the run, and its weight by half of 1/65,535 of the
            // greatest (all of it, where it is raised to that): per generation, of which there are
            // ticks / entries.
            let entries = stride.owners.iter().filter(|&&o| o as usize == number).count().max(1) as f64;
            let generations = ticks as f64 / all;
            let tolerance = 2.0 * entries + 2.0 * entries * generations / f64::from(K)
                + expected * all / f64::from(K);
            prop_assert!(
                (count as f64 - expected).abs() <= tolerance,
                "number {number} of {n}: {count}, expected {expected} ± {tolerance}"
            );
        }
    }

    #[test]
    fn anything_at_all_gives_numbers_in_bounds(
        weights in prop::collection::vec(any::<f64>(), 0..30),
        start in any::<u64>(),
    ) {
        let stride = StaticStride::new(&weights);
        let sequence = Sequence::unstarted();
        for _ in 0..100 {
            match stride.next(&sequence, || start) {
                Some(number) => prop_assert!(number < weights.len()),
                None => prop_assert!(weights.is_empty()),
            }
        }
    }
}
