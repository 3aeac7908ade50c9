//! Slow start: the part of the calls that a server gets which is new, or back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel::discovery::Handle;
use evenkeel::health::SlowStart;
use evenkeel::load::Measures;
use evenkeel::policy::{
    Adaptive, Candidates, LeastRequest, OrcaWeightedRoundRobin, PeakEwma, Picker, Policy, Random,
    RoundRobin, WeightedRandom, WeightedRoundRobin,
};
use tokio::time::{Instant, sleep, sleep_until};
use tower::ServiceExt;

use crate::builder;
use crate::world::*;

const SECOND: Duration = Duration::from_secs(1);
const WINDOW: Duration = Duration::from_secs(60);
/// A twentieth of the window, but a second at most.
const STEP: Duration = SECOND;
const CALLS: u32 = 4_000;

fn rules() -> SlowStart {
    SlowStart::new(WINDOW)
}

/// How many of so many calls, one after the other, go to `id`.
async fn share(balance: &Balanced, id: &str, calls: u32) -> f64 {
    let before = endpoint(balance, id).calls;
    for _ in 0..calls {
        let call = balance.clone().oneshot(ask("x"));
        within("a call", call).await.expect("all servers answer");
    }
    (endpoint(balance, id).calls - before) as f64
}

/// Checks that `b` beside `a`, which is at its full weight, gets what it should `time` after its beginning.
async fn assert_share(balance: &Balanced, time: Duration, rules: SlowStart, policy: &str) {
    let expected = |time| {
        let factor = rules.factor(time);
        f64::from(CALLS) * factor / (1.0 + factor)
    };
    // The factor is as old as a step, and the timer late by a millisecond or two.
    let least = expected(time.saturating_sub(STEP));
    let most = expected(time + Duration::from_millis(5));
    // Drawn at random: six standard deviations. What goes in turn is off by one at either end.
    let sigma = (most * (1.0 - most / f64::from(CALLS))).sqrt();
    let tolerance = 6.0 * sigma + 2.0;
    let got = share(balance, "b", CALLS).await;
    assert!(
        (least - tolerance..=most + tolerance).contains(&got),
        "{policy} after {time:?}: {got} of {CALLS}, not {least} to {most} ± {tolerance}"
    );
}

/// `b` joins `a`, which is warm.
async fn joined(policy: impl Policy, rules: Option<SlowStart>) -> (World, Handle, Balanced) {
    let world = World::new();
    let (handle, updates) = Handle::new(["a"]).unwrap();
    let builder = builder!(world).discovery(updates).policy(policy);
    let builder = match rules {
        Some(rules) => builder.slow_start(rules),
        None => builder,
    };
    let balance = builder.build().expect("the settings are right");
    connected(&balance, 1).await;
    sleep(2 * WINDOW).await;
    handle.insert("b").unwrap();
    connected(&balance, 2).await;
    (world, handle, balance)
}

async fn ramps(policy: impl Policy, rules: SlowStart) {
    let name = format!("{policy:?}");
    let (_world, _handle, balance) = joined(policy, Some(rules)).await;
    let began = Instant::now();
    for seconds in [0, 6, 12, 30, 48, 61, 600] {
        let time = seconds * SECOND;
        sleep_until(began + time).await;
        assert_share(&balance, time, rules, &name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_part_of_who_joins_grows_by_the_formula_with_each_policy_that_knows_weights() {
    for rules in [
        rules(),
        rules().with_aggression(2.0).with_min_weight_percent(1.0),
    ] {
        ramps(WeightedRoundRobin::default(), rules).await;
        ramps(OrcaWeightedRoundRobin::default(), rules).await;
        ramps(WeightedRandom::default(), rules).await;
        ramps(LeastRequest::default(), rules).await;
        ramps(LeastRequest::full_scan(), rules).await;
        ramps(PeakEwma::default(), rules).await;
        ramps(Adaptive::default(), rules).await;
    }
}

#[tokio::test(start_paused = true)]
async fn policies_that_know_no_weights_are_as_without_it() {
    let (_world, _handle, balance) = joined(RoundRobin::default(), Some(rules())).await;
    assert_eq!(share(&balance, "b", 100).await, 50.0, "round robin");
    let (_world, _handle, balance) = joined(Random::default(), Some(rules())).await;
    // Standard deviation sqrt(4,000 / 4) = 32; six of them.
    let random = share(&balance, "b", CALLS).await;
    assert!((random - 2_000.0).abs() < 190.0, "random: {random}");
}

#[tokio::test(start_paused = true)]
async fn servers_that_are_all_new_share_evenly() {
    let world = World::new();
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(WeightedRoundRobin::default())
        .slow_start(rules())
        .build()
        .unwrap();
    connected(&balance, 2).await;
    for _ in 0..12 {
        assert_eq!(share(&balance, "b", 100).await, 50.0, "as without it");
        sleep(7 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_back_from_an_ejection_gets_one_call_and_then_little_by_little() {
    let world = World::new();
    let b = world.server("b");
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(WeightedRoundRobin::default())
        .ejection(at_the_first_failure())
        .slow_start(rules())
        .build()
        .unwrap();
    connected(&balance, 2).await;
    sleep(2 * WINDOW).await;
    b.set_answer(Answer::Fail);
    // They go in turn, so one of two goes to b.
    for _ in 0..2 {
        let _ = within("a call", balance.clone().oneshot(ask("x"))).await;
    }
    until("b is ejected", || endpoint(&balance, "b").ejected.is_some()).await;
    b.set_answer(Answer::Name);
    sleep(31 * SECOND).await;
    let probe = share(&balance, "b", 2).await;
    assert_eq!(probe, 1.0, "one call probes");
    let began = Instant::now();
    until("b is back", || endpoint(&balance, "b").ejected.is_none()).await;
    assert_share(&balance, Duration::ZERO, rules(), "at once").await;
    sleep_until(began + 30 * SECOND).await;
    assert_share(&balance, 30 * SECOND, rules(), "half of the window").await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_an_old_connection_goes_on_as_it_was() {
    let policy = WeightedRoundRobin::default();
    let (world, _handle, balance) = joined(policy, Some(rules())).await;
    let b = world.server("b");
    sleep(2 * WINDOW).await;
    assert_eq!(share(&balance, "b", 100).await, 50.0, "it is warm");
    b.connection().draining();
    until("b is dialled anew", || b.dials().len() == 2).await;
    connected(&balance, 2).await;
    assert_eq!(share(&balance, "b", 100).await, 50.0, "and stays so");

    b.set_dial(Dial::Refuse);
    b.connection().closed(None);
    sleep(SECOND / 2).await;
    assert!(b.dials().len() > 2, "a dial of b failed");
    b.set_dial(Dial::Connect);
    sleep(4 * SECOND).await;
    connected(&balance, 2).await;
    let got = share(&balance, "b", 110).await;
    // In turn, so off by one at either end.
    assert!(
        (got - 10.0).abs() <= 2.0,
        "it failed, so it begins anew, with 10 %: {got}"
    );
}

/// Counts the pickers that are built.
#[derive(Debug)]
struct Counted(WeightedRoundRobin, Arc<AtomicUsize>);

impl Policy for Counted {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.build(candidates, previous)
    }

    fn measures(&self) -> Measures {
        self.0.measures()
    }
}

/// How many pickers are built after `b` joined: in the window, and in the hour after that.
async fn built(rules: Option<SlowStart>) -> (usize, usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let policy = Counted(WeightedRoundRobin::default(), count.clone());
    let (_world, _handle, _balance) = joined(policy, rules).await;
    settle().await;
    let joined = count.load(Ordering::SeqCst);
    sleep(2 * WINDOW).await;
    let warm = count.load(Ordering::SeqCst);
    sleep(60 * WINDOW).await;
    (warm - joined, count.load(Ordering::SeqCst) - warm)
}

#[tokio::test(start_paused = true)]
async fn sets_are_published_anew_in_the_window_only_and_never_without_slow_start() {
    assert_eq!(built(None).await, (0, 0), "nothing ticks");
    let (window, after) = built(Some(rules())).await;
    // Each timer rounds up to the next millisecond.
    assert!((59..=61).contains(&window), "one a second: {window}");
    assert_eq!(after, 0, "nobody is in its window any more");
}
