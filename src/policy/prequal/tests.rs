use super::*;

use crate::outcome::{LoadReport, Outcome};
use crate::policy::Tried;
use crate::policy::testing::{Fleet, at, pick, picked};

#[test]
fn as_many_are_asked_as_the_rate_says_and_none_twice_with_a_call() {
    let policy = Prequal::default().with_probe_rate(2.5).expect("it can be");
    let mut fleet = Fleet::new(policy, 50);
    let mut asked = vec![0_u32; 50];
    for call in 0..10_000 {
        let (_, probes) = fleet.pick(at(0));
        let mut distinct = probes.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), probes.len(), "{probes:?}");
        assert_eq!(probes.len(), 2 + call % 2, "2.5 a call");
        probes.iter().for_each(|&slot| asked[slot] += 1);
    }
    // 25,000 over 50: standard deviation 22; six of them.
    assert!(asked.iter().all(|&n| n.abs_diff(500) < 134), "{asked:?}");
}

#[test]
fn no_more_are_asked_than_there_are() {
    let policy = || Prequal::default().with_probe_rate(8.0).expect("it can be");
    for count in 1..=8 {
        let mut fleet = Fleet::new(policy(), count);
        for _ in 0..100 {
            let mut asked = fleet.pick(at(0)).1;
            asked.sort_unstable();
            assert_eq!(asked, (0..count).collect::<Vec<_>>(), "each of them, once");
        }
    }
}

#[test]
fn without_answers_any_endpoint_is_as_likely() {
    let mut fleet = Fleet::new(Prequal::default(), 10);
    let mut counts = [0_u32; 10];
    for _ in 0..100_000 {
        counts[fleet.pick(at(0)).0] += 1;
    }
    // Standard deviation 95; six of them.
    assert!(
        counts.iter().all(|&n| n.abs_diff(10_000) < 570),
        "{counts:?}"
    );
}

#[test]
fn calls_go_to_idle_and_fast_servers() {
    let mut fleet = Fleet::new(Prequal::default(), 40);
    let (mut busy, mut slow) = (0, 0);
    for call in 0..20_000 {
        let now = at(call);
        let (slot, probes) = fleet.pick(now);
        busy += u32::from(slot % 10 == 0);
        slow += u32::from(slot % 2 == 1);
        for probe in probes {
            // A tenth of them is busy and says that it is fast; of the others about half are slow.
            let (in_flight, latency) = match probe {
                probe if probe % 10 == 0 => (20, 1),
                probe if probe % 2 == 1 => (1, 50),
                _ => (1, 5),
            };
            fleet.says(probe, in_flight, latency, now);
        }
    }
    assert!(
        busy < 1_000,
        "of 20,000 calls {busy} went to the busy tenth"
    );
    assert!(slow < 2_000, "of 20,000 calls {slow} went to the slow half");
}

#[test]
fn a_report_that_comes_with_a_response_does_not_count() {
    let fleet = Fleet::new(Prequal::default(), 2);
    let queue = ServerQueue {
        in_flight: 0,
        latency: Duration::ZERO,
        at: at(0),
    };
    for candidate in fleet.candidates.all().iter() {
        let source = ReportSource::Response;
        fleet.policy.reported(candidate.subchannel(), queue, source);
    }
    let heard = fleet.policy.pool.heard_within(Duration::MAX, at(0));
    assert!(!heard, "only probes are heard");
}

/// Which part of the calls two servers of twenty get that fail at once, and so always look idle.
fn share_of_failing(policy: Prequal) -> f64 {
    let mut fleet = Fleet::new(policy, 20);
    let mut failing = 0;
    const CALLS: u64 = 20_000;
    for call in 0..CALLS {
        let now = at(call);
        let (slot, probes) = fleet.pick(now);
        let mut claim = fleet.candidates.all()[slot]
            .claim(true)
            .expect("ejections are ignored");
        claim.sent();
        failing += u64::from(slot < 2);
        claim.finish(if slot < 2 {
            Outcome::Failure
        } else {
            Outcome::Success
        });
        for probe in probes {
            let (in_flight, latency) = if probe < 2 { (0, 0) } else { (3, 20) };
            fleet.says(probe, in_flight, latency, now);
        }
    }
    failing as f64 / CALLS as f64
}

#[test]
fn servers_that_fail_at_once_draw_nearly_nothing() {
    let share = share_of_failing(Prequal::default());
    assert!(share < 0.01, "two of twenty, that look idle, got {share}");
}

#[test]
fn one_that_works_again_is_called_again() {
    let mut fleet = Fleet::new(Prequal::default(), 2);
    let failing = fleet.candidates.all()[0].subchannel().clone();
    for _ in 0..3 {
        let mut claim = fleet.candidates.all()[0].claim(true).expect("usable");
        claim.sent();
        claim.finish(Outcome::Failure);
    }
    assert_eq!(failing.health().consecutive_failures(), 3);
    let mut calls = 0;
    for call in 0..20_000 {
        let (slot, probes) = fleet.pick(at(call));
        calls += u32::from(slot == 0);
        for probe in probes {
            fleet.says(probe, 0, u64::from(probe == 1), at(call));
        }
    }
    // Believed 1 time in 512, at most twice a call.
    assert!(calls > 10, "it was called {calls} times");
}

#[test]
fn an_answer_of_one_that_a_call_may_not_use_is_not_gone_by() {
    let mut fleet = Fleet::new(Prequal::default(), 4);
    let connection = |slot: usize| slot as u64 + 1;
    let mut tried = Tried::new();
    tried.insert(connection(0));
    let subchannel = |slot: usize| fleet.candidates.all()[slot].subchannel();
    subchannel(1).disconnected(connection(1));
    assert!(subchannel(2).health().gate().eject());
    for call in 0..100 {
        for slot in 0..4 {
            // The three are the fastest.
            fleet.says(slot, 0, if slot == 3 { 50 } else { 1 }, at(call));
        }
        let context = PickContext::new(&mut fleet.rng)
            .with_now(at(call))
            .with_tried(&tried);
        assert_eq!(
            picked(&*fleet.picker, context),
            3,
            "tried, lost and ejected"
        );
    }
}

#[test]
fn an_endpoint_that_left_is_not_named() {
    let policy = Prequal::default();
    let before = Candidates::connected_for(["a", "b", "c"], policy.measures());
    let mut fleet = Fleet::new(policy, 0);
    for candidate in before.all().iter() {
        let queue = ServerQueue {
            in_flight: 0,
            latency: Duration::ZERO,
            at: at(0),
        };
        let source = ReportSource::Probe;
        fleet.policy.reported(candidate.subchannel(), queue, source);
    }
    let after = Candidates::new(before.all()[..1].to_vec(), false);
    let picker = fleet.policy.build(&after, Some(&*fleet.picker));
    for _ in 0..100 {
        assert_eq!(pick(&*picker, &mut fleet.rng), 0, "only a is left");
    }
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let field = |result: Result<Prequal, Error>| {
        let error = result.expect_err("it cannot be");
        error.field().expect("a setting is named").to_owned()
    };
    let prequal = Prequal::default;
    for size in [0, 1, 65, usize::MAX] {
        assert_eq!(field(prequal().with_pool_size(size)), "pool_size");
    }
    for bad in [-0.1, 8.1, f64::NAN, f64::INFINITY] {
        assert_eq!(field(prequal().with_probe_rate(bad)), "probe_rate");
        assert_eq!(field(prequal().with_remove_rate(bad)), "remove_rate");
        assert_eq!(field(prequal().with_hot_quantile(bad)), "hot_quantile");
    }
    assert_eq!(field(prequal().with_max_age(Duration::ZERO)), "max_age");
}

#[test]
fn a_probes_answer_reaches_the_pool_by_the_endpoint() {
    let policy: Arc<dyn Policy> = Arc::new(Prequal::default());
    let rules = Arc::new(crate::health::Ejections::new(
        crate::health::Ejection::default(),
    ));
    let endpoint = Subchannel::new(7, "e".into(), rules)
        .measuring(policy.measures())
        .reporting_to(policy.clone());
    endpoint.reported(
        &LoadReport::new().with_in_flight(3),
        ReportSource::Probe,
        at(1),
    );
    let heard = endpoint.reports().queue().map(|queue| queue.in_flight);
    assert_eq!(heard, Some(3), "the endpoint knows it");
    let debug = format!("{policy:?}");
    assert!(debug.contains("who: 7"), "and so does the pool: {debug}");
}
