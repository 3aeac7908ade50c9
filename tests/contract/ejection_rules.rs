//! What beyond failures in a row ejects, and what a panic does where calls are to fail in it.

use std::sync::Arc;
use std::time::Duration;

use evenkeel::Balance;
use evenkeel::balance::Plain;
use evenkeel::call::RequestInfo;
use evenkeel::health::Ejection;
use evenkeel::outcome::{Classify, Outcome};
use evenkeel::policy::{PeakEwma, RoundRobin};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::builder;
use crate::world::*;

/// Errors say that the server has no room.
#[derive(Debug, Clone)]
struct Busy;

impl Classify<String, Refusal> for Busy {
    fn response(&self, _: &String) -> Option<Outcome> {
        None
    }

    fn error(&self, _: &Refusal) -> Outcome {
        Outcome::Overload { retry_after: None }
    }
}

#[tokio::test(start_paused = true)]
async fn overload_answers_in_a_row_eject_only_who_is_told_to() {
    for (overloads, asked) in [(Some(3), 3), (None, 20)] {
        let world = World::new();
        let names = ["a", "b"];
        let read: for<'a> fn(&'a Ask) -> RequestInfo<'a> = |_| RequestInfo::new();
        let balance = Balance::builder()
            .connector(world.clone())
            .track(Plain::new().classified(Busy).reading(read))
            .endpoints(names)
            .policy(RoundRobin::default())
            .ejection(Ejection::default().with_consecutive_overloads(overloads))
            .build()
            .unwrap();
        connected(&balance, 2).await;
        let a = world.server("a");
        a.set_answer(Answer::Fail);
        for _ in 0..40 {
            let _ = within("a call", balance.clone().oneshot(ask("x"))).await;
            settle().await;
        }
        assert_eq!(a.calls(), asked, "calls to the busy one by {overloads:?}");
        let reason = endpoint(&balance, "a").ejected.map(|e| e.reason);
        let expected = overloads.map(|_| "consecutive overload answers");
        assert_eq!(reason, expected, "and the report says why");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_out_for_overload_is_out_again_if_its_probing_call_meets_it() {
    let world = World::new();
    let read: for<'a> fn(&'a Ask) -> RequestInfo<'a> = |_| RequestInfo::new();
    let balance = Balance::builder()
        .connector(world.clone())
        .track(Plain::new().classified(Busy).reading(read))
        .endpoints(["a", "b"])
        .policy(RoundRobin::default())
        .ejection(Ejection::default().with_consecutive_overloads(3))
        .build()
        .unwrap();
    connected(&balance, 2).await;
    let a = world.server("a");
    a.set_answer(Answer::Fail);
    let calls = async || {
        for _ in 0..20 {
            let _ = within("a call", balance.clone().oneshot(ask("x"))).await;
            settle().await;
        }
    };
    let times = || endpoint(&balance, "a").ejected.map(|ejected| ejected.times);
    calls().await;
    assert_eq!((a.calls(), times()), (3, Some(1)), "the third has it out");
    sleep(Duration::from_secs(31)).await;
    calls().await;
    assert_eq!(
        (a.calls(), times()),
        (3 + 1, Some(2)),
        "one call probes after 30 s, and its answer is another ejection"
    );
    sleep(Duration::from_secs(31)).await;
    calls().await;
    assert_eq!(a.calls(), 4, "which is twice as long");
    a.set_answer(Answer::Name);
    sleep(Duration::from_secs(31)).await;
    calls().await;
    assert_eq!(times(), None, "it is back once it has room");
}

/// One endpoint that can be called, and that may be ejected, since there is another one.
async fn alone() -> (World, Arc<Server>, Balanced) {
    let world = World::new();
    let server = world.server("a");
    world.server("b").set_dial(Dial::Refuse);
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(PeakEwma::default())
        .build()
        .unwrap();
    connected(&balance, 1).await;
    (world, server, balance)
}

fn is_out(balance: &Balanced) -> bool {
    endpoint(balance, "a").ejected.is_some()
}

/// Calls that their caller gives up after so long.
async fn give_up(balance: &Balanced, calls: usize, after_ms: u64) {
    for _ in 0..calls {
        let call = balance.clone().oneshot(ask("x"));
        let given_up = timeout(Duration::from_millis(after_ms), call).await;
        assert!(given_up.is_err(), "nothing answers");
        settle().await;
    }
}

/// Calls given up after so long are no failures and leave the endpoint in; those after so much eject it.
async fn judged_between(balance: &Balanced, spared: (u64, &str), ejected: (u64, &str)) {
    give_up(balance, 40, spared.0).await;
    assert!(!is_out(balance), "{}", spared.1);
    assert_eq!(endpoint(balance, "a").failures, 0, "{}", spared.1);
    give_up(balance, 25, ejected.0).await;
    assert!(is_out(balance), "{}", ejected.1);
}

/// A call that the server answers after so long.
async fn answered(balance: &Balanced, server: &Server, after_ms: u64) {
    server.set_answer(Answer::Hang);
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    sleep(Duration::from_millis(after_ms)).await;
    server.set_answer(Answer::Name);
    within("a call", call).await.unwrap().unwrap();
    server.set_answer(Answer::Hang);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_swallows_its_calls_is_out_though_its_callers_only_give_up() {
    let (_world, a, balance) = alone().await;
    answered(&balance, &a, 100).await;
    give_up(&balance, 24, 150).await;
    assert!(!is_out(&balance), "four times five in a row are 4 failures");
    give_up(&balance, 1, 150).await;
    assert!(is_out(&balance), "the fifth failure in a row");
    let report = endpoint(&balance, "a");
    assert_eq!(report.ejected.unwrap().reason, "consecutive failures");
    assert_eq!(report.failures, 5, "and they count as such");
}

#[tokio::test(start_paused = true)]
async fn callers_without_patience_say_nothing_of_the_server() {
    let (_world, a, balance) = alone().await;
    answered(&balance, &a, 100).await;
    let spared = (50, "no call was as old as they get here");
    judged_between(&balance, spared, (150, "each older than it takes")).await;
}

#[tokio::test(start_paused = true)]
async fn who_has_not_answered_yet_is_given_a_second() {
    let (_world, a, balance) = alone().await;
    a.set_answer(Answer::Hang);
    let spared = (900, "nobody knows how long it takes");
    judged_between(&balance, spared, (1_100, "but not so long")).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_endpoint_is_not_judged_by_callers_who_change_their_minds() {
    let (_world, a, balance) = alone().await;
    answered(&balance, &a, 100).await;
    sleep(Duration::from_secs(600)).await;
    let spared = (20, "a quarter of 100 ms is due at least");
    judged_between(&balance, spared, (30, "what was longer counts")).await;
}

#[tokio::test(start_paused = true)]
async fn who_failed_once_and_swallows_its_calls_then_is_found_as_others_are() {
    let (_world, a, balance) = alone().await;
    a.set_answer(Answer::Fail);
    within("a call", balance.clone().oneshot(ask("x")))
        .await
        .expect_err("it fails once, which counts as slow");
    a.set_answer(Answer::Hang);
    // The penalty is 5 s and falls to a third in 10.
    sleep(Duration::from_secs(60)).await;
    give_up(&balance, 20, 1_100).await;
    assert!(is_out(&balance), "that failure, and four times five calls");
}

#[tokio::test(start_paused = true)]
async fn an_answer_between_ends_the_row_of_calls_given_up() {
    let (_world, a, balance) = alone().await;
    for _ in 0..20 {
        answered(&balance, &a, 100).await;
        give_up(&balance, 4, 150).await;
    }
    assert_eq!(endpoint(&balance, "a").failures, 0, "never five in a row");
    assert!(!is_out(&balance));
}

#[tokio::test(start_paused = true)]
async fn probing_calls_given_up_send_the_endpoint_out_again() {
    let (_world, a, balance) = alone().await;
    answered(&balance, &a, 50).await;
    give_up(&balance, 25, 100).await;
    let times = |balance: &Balanced| endpoint(balance, "a").ejected.map(|e| e.times);
    assert_eq!(times(&balance), Some(1), "it is out");
    sleep(Duration::from_secs(31)).await;
    give_up(&balance, 4, 100).await;
    assert_eq!(times(&balance), Some(1), "the next call probes each time");
    give_up(&balance, 1, 100).await;
    assert_eq!(times(&balance), Some(2), "the fifth has failed its probe");
    assert_eq!(a.calls(), 31, "and it gets no more");
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_calls_fail_where_they_are_to_and_the_probing_ones_end_it() {
    let world = World::new();
    let names = ["a", "b", "c"];
    let balance = builder!(world)
        .endpoints(names)
        .policy(RoundRobin::default())
        .ejection(
            at_the_first_failure()
                .with_panic_threshold_percent(50)
                .with_failing_in_panic(true),
        )
        .build()
        .unwrap();
    connected(&balance, 3).await;
    let [a, b, c] = world.servers(names);
    for bad in [&a, &b] {
        bad.set_answer(Answer::Fail);
    }
    for _ in 0..3 {
        let _ = within("a call", balance.clone().oneshot(ask("x"))).await;
    }
    until("two are out", || balance.report().panic).await;
    let before = c.calls();
    for _ in 0..20 {
        let call = balance.clone().oneshot(ask("x"));
        let error = within("a call in a panic", call).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        let told = "2 ejected, 0 failing; so few that calls fail until there are more";
        assert!(error.to_string().contains(told), "it says why: {error}");
    }
    assert_eq!(c.calls(), before, "the last good one is spared");
    let patient = tokio::spawn(balance.clone().oneshot(ask_and_wait("x")));
    settle().await;
    assert!(!patient.is_finished(), "who waits for ready waits");
    for bad in [&a, &b] {
        bad.set_answer(Answer::Name);
    }
    sleep(Duration::from_millis(30_001)).await;
    within("it probes", patient).await.unwrap().unwrap();
    until("the panic is over", || !balance.report().panic).await;
    for _ in 0..3 {
        let call = balance.clone().oneshot(ask("x"));
        within("a call", call).await.unwrap();
    }
    assert!(c.calls() > before, "and the others get calls again");
}
