use std::collections::HashSet;
use std::thread;

use proptest::prelude::*;

use super::*;

const RULES: PoolRules = PoolRules {
    size: PoolSize::Fixed(4),
    max_age: Duration::from_secs(1),
    hot_quantile: 0.5,
    probe_rate: 3.0,
    report_rate: 0.0,
    remove_rate: 0.0,
    // So large that each is used as often as it may be.
    delta: 100.0,
    max_uses: 16,
    latency_grows: false,
    one_per_endpoint: true,
};

fn at(ms: u64) -> Moment {
    Moment::from_origin(Duration::from_millis(ms))
}

/// A pool for very many endpoints that these have answered, each a millisecond after the one before:
/// key, requests under way, latency in milliseconds.
fn pool(rules: PoolRules, answers: &[(u64, u32, u64)]) -> ProbePool {
    let pool = ProbePool::new(rules);
    pool.resize(1_000_000);
    for (ms, &(key, in_flight, latency)) in (0..).zip(answers) {
        answer(&pool, key, in_flight, latency, ms);
    }
    pool
}

fn answer(pool: &ProbePool, key: u64, in_flight: u32, latency: u64, ms: u64) {
    let queue = ServerQueue {
        in_flight,
        latency: Duration::from_millis(latency),
        at: at(ms),
    };
    pool.insert(key, &queue);
}

fn take(pool: &ProbePool, ms: u64) -> Option<u64> {
    pool.take(at(ms), 0, |_| true, Some)
}

fn keys(pool: &ProbePool, ms: u64) -> Vec<u64> {
    let answers = pool.in_use().iter().enumerate();
    let now = at(ms).as_nanos();
    let fresh = answers
        .filter_map(|(n, row)| row.read(n))
        .filter(|answer| now.saturating_sub(answer.at) <= 1_000_000_000);
    let mut keys: Vec<u64> = fresh.map(|answer| answer.who).collect();
    keys.sort_unstable();
    keys
}

#[test]
fn a_fraction_is_spread_over_the_calls() {
    let counts = |rate| -> Vec<u64> {
        let count = |call| share_of_call(rate, call).count() as u64;
        (0..8).map(count).collect()
    };
    assert_eq!(counts(0.5), [0, 1, 0, 1, 0, 1, 0, 1]);
    assert_eq!(counts(2.25), [2, 2, 2, 3, 2, 2, 2, 3]);
    assert_eq!(counts(0.0), [0; 8]);
    assert_eq!(share_of_call(3.0, u64::MAX).count(), 0, "no overflow");
}

#[test]
fn an_answer_is_used_as_often_as_the_published_formula_says() {
    let prequal = |endpoints| {
        let rules = PoolRules {
            remove_rate: 1.0,
            delta: 1.0,
            ..RULES
        };
        rules.uses(16, endpoints)
    };
    // (1 + 1) / ((1 - 16/100) * 3 - 1) = 2 / 1.52
    assert!((prequal(100) - 2.0 / 1.52).abs() < 1e-9);
    assert_eq!(
        prequal(16),
        16.0,
        "none come in, so each is used up to 16 times"
    );
    assert_eq!(prequal(24), 16.0, "(1 - 16/24) * 3 - 1 is 0");
    assert_eq!(prequal(0), 16.0);
    let with_responses = PoolRules {
        probe_rate: 1.0,
        report_rate: 1.0,
        remove_rate: 0.5,
        delta: 1.0,
        ..RULES
    };
    // (1 + 1) / ((1 - 4/10) * 2 - 0.5) = 2 / 0.7
    assert!((with_responses.uses(4, 10) - 2.0 / 0.7).abs() < 1e-9);
    let often = PoolRules {
        probe_rate: 8.0,
        delta: 1.0,
        ..RULES
    };
    assert_eq!(often.uses(2, 1_000), 1.0, "at least once");
}

#[test]
fn the_fastest_of_the_cold_ones_and_without_any_the_shortest_queue() {
    // The limit is the second of 1, 2, 9, 9.
    let answers = [(1, 9, 1), (2, 2, 30), (3, 1, 40), (4, 9, 2)];
    let pool = pool(RULES, &answers);
    assert_eq!(
        take(&pool, 4),
        Some(2),
        "hot ones may say that they are fast"
    );
    for key in [2, 3] {
        pool.rows.iter().for_each(|row| row.clear(key));
    }
    assert_eq!(take(&pool, 4), Some(1), "of two queues of 9 the faster one");
    assert_eq!(take(&pool, 4), Some(4), "the other has 10 under way now");
}

#[test]
fn less_than_two_answers_say_nothing() {
    let pool = pool(RULES, &[]);
    assert_eq!(take(&pool, 0), None);
    answer(&pool, 1, 0, 1, 0);
    assert_eq!(take(&pool, 0), None);
    answer(&pool, 2, 0, 2, 500);
    assert_eq!(take(&pool, 1_000), Some(1));
    assert_eq!(
        take(&pool, 1_001),
        None,
        "the first one is over a second old"
    );
}

#[test]
fn the_oldest_makes_room_and_an_endpoint_has_one_answer() {
    let pool = pool(RULES, &[(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4)]);
    answer(&pool, 1, 0, 9, 10);
    assert_eq!(keys(&pool, 10), [1, 2, 3, 4]);
    answer(&pool, 5, 0, 5, 11);
    assert_eq!(keys(&pool, 11), [1, 3, 4, 5], "2 was the oldest");
    assert_eq!(take(&pool, 11), Some(3), "1 said 9 ms later on");

    let many = PoolRules {
        one_per_endpoint: false,
        ..RULES
    };
    let pool = super::tests::pool(many, &[(1, 0, 1), (1, 0, 2), (2, 0, 3), (1, 0, 4)]);
    assert_eq!(keys(&pool, 4), [1, 1, 1, 2]);
}

#[test]
fn an_answer_is_used_up() {
    let rules = PoolRules {
        // (1 + 6) / (1 * 2 - 0) = 3.5 uses, so 3 and 4 in turn.
        delta: 6.0,
        probe_rate: 2.0,
        size: PoolSize::Fixed(3),
        hot_quantile: 1.0,
        ..RULES
    };
    // The limit is 100, so that no use makes one hot.
    let pool = pool(rules, &[(1, 0, 1), (2, 0, 2), (3, 100, 3)]);
    let taken: Vec<_> = (0..8).map(|_| take(&pool, 5).unwrap_or(0)).collect();
    assert_eq!(
        taken,
        [1, 1, 1, 2, 2, 2, 2, 0],
        "one answer alone says nothing"
    );
}

#[test]
fn a_call_that_goes_by_an_answer_makes_its_latency_longer_if_that_is_the_rule() {
    let rules = |latency_grows| PoolRules {
        // None is hot.
        hot_quantile: 1.0,
        latency_grows,
        ..RULES
    };
    let answers = [(1, 1, 10), (2, 0, 24), (3, 100, 90)];
    let taken = |latency_grows| {
        let pool = pool(rules(latency_grows), &answers);
        let taken: Vec<_> = (0..5).map(|_| take(&pool, 5)).collect();
        taken.into_iter().flatten().collect::<Vec<_>>()
    };
    assert_eq!(taken(false), [1; 5]);
    // 10, 15, 20 and 25 ms with 1 to 4 under way; 24 and 48 ms with 0 and 1.
    assert_eq!(taken(true), [1, 1, 1, 2, 1]);
}

#[test]
fn the_oldest_and_the_worst_are_dropped_in_turn() {
    let rules = PoolRules {
        size: PoolSize::Fixed(6),
        remove_rate: 1.0,
        ..RULES
    };
    // The limit is the third of 1, 1, 1, 5, 6, 7.
    let answers = [
        (1, 1, 10),
        (2, 1, 20),
        (3, 1, 30),
        (4, 5, 1),
        (5, 7, 1),
        (6, 6, 1),
    ];
    let pool = pool(rules, &answers);
    let drop = |call| pool.take(at(6), call, |_| true, |_| Some(()));
    drop(0);
    assert_eq!(keys(&pool, 6), [2, 3, 4, 5, 6], "the oldest");
    drop(1);
    assert_eq!(
        keys(&pool, 6),
        [2, 3, 4, 6],
        "the hot one with most under way"
    );
    drop(3);
    drop(5);
    assert_eq!(keys(&pool, 6), [2, 3], "they were hot, and so is 2 by now");

    let cold = PoolRules {
        hot_quantile: 1.0,
        ..rules
    };
    let answers = [(1, 9, 10), (2, 1, 30), (3, 1, 20)];
    let pool = super::tests::pool(cold, &answers);
    pool.take(at(3), 1, |_| true, |_| Some(()));
    assert_eq!(keys(&pool, 3), [1, 3], "without a hot one the slowest");
}

#[test]
fn the_limit_is_that_of_the_last_answers_however_many_there_were() {
    let pool = pool(RULES, &[]);
    let limit = || pool.limit.load(Ordering::Relaxed);
    let mut ms = 0;
    let mut all_say = |in_flight, answers| {
        for _ in 0..answers {
            answer(&pool, 1, in_flight, 1, ms);
            ms += 1;
        }
    };
    all_say(3, 200);
    assert_eq!(limit(), 3);
    // Half of the last 64, and the few by which it may be late.
    all_say(70, 33 + MOVES_EVERY);
    assert_eq!(limit(), 70, "most of those that are remembered");
    all_say(5, 33 + MOVES_EVERY);
    assert_eq!(limit(), 5, "down too");
}

#[test]
fn an_age_that_no_clock_reaches_is_no_limit() {
    let rules = PoolRules {
        max_age: Duration::MAX,
        ..RULES
    };
    let pool = pool(rules, &[(1, 0, 1), (2, 0, 2)]);
    assert_eq!(take(&pool, 1 << 40), Some(1), "both count for ever");
}

#[test]
fn the_keys_of_no_endpoint_take_no_row() {
    let pool = pool(RULES, &[(0, 0, 1), (u64::MAX, 0, 1), (3, 0, 1)]);
    assert_eq!(keys(&pool, 3), [3], "they name nobody");
    let writing = pool.rows.iter();
    let writing = writing.filter(|row| row.who.load(Ordering::Relaxed) == WRITING);
    assert_eq!(writing.count(), 0, "and no row is lost to them");
}

#[test]
fn what_is_refused_is_dropped_and_the_next_best_taken() {
    let pool = pool(RULES, &[(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 0, 4)]);
    let taken = pool.take(at(4), 0, |_| true, |key| (key > 2).then_some(key));
    assert_eq!(taken, Some(3));
    assert_eq!(keys(&pool, 4), [3, 4]);
    assert_eq!(
        pool.take(at(4), 0, |_| true, |_| None::<u64>),
        None,
        "all are refused"
    );
    assert_eq!(keys(&pool, 4).len(), 1, "one answer alone says nothing");
}

#[test]
fn a_third_of_the_endpoints_but_2_to_16() {
    let sizes = [0, 6, 10, 20, 48, 100].map(|n| PoolSize::Third.of(n));
    assert_eq!(sizes, [2, 2, 4, 7, 16, 16]);
}

#[test]
fn many_threads_take_only_what_was_answered() {
    let pool = pool(RULES, &[]);
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let pool = &pool;
            scope.spawn(move || {
                for n in 0..20_000_u64 {
                    let key = thread * 1_000 + n % 50 + 1;
                    answer(pool, key, (n % 7) as u32, n % 11, n / 100);
                    let number = pool.count_call();
                    if let Some(key) = pool.take(at(n / 100), number, |_| true, Some) {
                        let (thread, n) = (key / 1_000, key % 1_000);
                        assert!(thread < 4 && (1..=50).contains(&n), "nobody is {key}");
                    }
                }
            });
        }
    });
    assert_eq!(
        pool.calls.load(Ordering::Relaxed),
        80_000,
        "each is counted"
    );
    let writing = pool
        .rows
        .iter()
        .filter(|row| row.who.load(Ordering::Relaxed) == WRITING);
    assert_eq!(writing.count(), 0, "no row is left half written");
}

proptest! {
    #[test]
    fn whatever_comes_nobody_is_taken_who_did_not_answer_within_the_time(
        steps in prop::collection::vec((1_u64..9, any::<u32>(), any::<u64>(), 0_u64..600), 1..60),
        remove_rate in 0.0..8.0,
        one_per_endpoint: bool,
    ) {
        let rules = PoolRules { remove_rate, one_per_endpoint, ..RULES };
        let pool = ProbePool::new(rules);
        pool.resize(9);
        let mut now = 0;
        let mut answers = Vec::new();
        for (key, in_flight, latency, passed) in steps {
            now += passed;
            answer(&pool, key, in_flight, latency >> 20, now);
            answers.push((key, now));
            let fresh: HashSet<u64> = answers
                .iter()
                .filter(|(_, at)| now - at <= 1_000)
                .map(|(key, _)| *key)
                .collect();
            let number = pool.count_call();
            if let Some(key) = pool.take(at(now), number, |_| true, Some) {
                prop_assert!(fresh.contains(&key), "{key} has not answered for a second");
            }
            prop_assert!(keys(&pool, now).len() <= 4, "no more than fit in");
        }
    }
}

#[test]
fn an_answer_of_others_is_left_to_them() {
    let pool = pool(RULES, &[(1, 0, 1), (2, 5, 2), (3, 6, 3)]);
    let before = keys(&pool, 4);
    let taken = pool.take(at(4), 0, |key| key != 1, Some);
    assert_eq!(taken, None, "the best one is theirs");
    assert_eq!(keys(&pool, 4), before, "and stays");
}
