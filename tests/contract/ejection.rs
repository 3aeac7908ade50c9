//! Ejection through `Balance`: who fails call after call is out for a while, and how it comes back.

use std::sync::Arc;
use std::time::Duration;

use evenkeel::balance::Plain;
use evenkeel::discovery::Handle;
use evenkeel::health::Ejection;
use evenkeel::outcome::{Classify, Outcome};
use evenkeel::policy::{Random, RoundRobin};
use evenkeel::{Balance, Endpoint};
use futures::poll;
use tokio::time::sleep;
use tower::{ServiceExt, service_fn};

use crate::builder;
use crate::world::*;

const CALLERS: usize = 64;
const THRESHOLD: usize = 5;

/// Each failure of the fifth and later ones may have been under way when the gate closed: all the
/// other callers at most.
const UNDER_WAY: usize = CALLERS - 1;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_of_three_that_always_fails_is_left_alone_by_64_callers() {
    const CALLS_EACH: usize = 200;
    let world = World::new();
    let names = ["good", "fine", "bad"];
    let bad = world.server("bad");
    bad.set_answer(Answer::Fail);
    let balance = balanced(&world, names, RoundRobin::default()).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|_| {
            let balance = balance.clone();
            tokio::spawn(async move {
                let mut failed = 0;
                for _ in 0..CALLS_EACH {
                    failed += usize::from(balance.clone().oneshot(ask("x")).await.is_err());
                }
                failed
            })
        })
        .collect();
    let mut failed = 0;
    for caller in callers {
        failed += tokio::time::timeout(Duration::from_secs(25), caller)
            .await
            .expect("far sooner than the first probing call")
            .unwrap();
    }
    assert_eq!(failed, bad.calls(), "only the bad one fails calls");
    assert!(
        (THRESHOLD..=THRESHOLD + UNDER_WAY).contains(&bad.calls()),
        "{} calls reached it: the threshold and what was under way, no more",
        bad.calls()
    );
    let total: usize = world.servers(names).iter().map(|s| s.calls()).sum();
    assert_eq!(total, CALLERS * CALLS_EACH, "every other call was answered");
}

#[tokio::test(start_paused = true)]
async fn each_readmission_costs_one_call() {
    let world = World::new();
    let names = ["good", "fine", "bad"];
    let bad = world.server("bad");
    bad.set_answer(Answer::Fail);
    let balance = balanced(&world, names, Random::default()).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let balance = balance.clone();
            tokio::spawn(async move {
                for call in 0..400_u64 {
                    let _ = balance.clone().oneshot(ask("x")).await;
                    // Not all in step.
                    sleep(Duration::from_millis(
                        900 + (caller as u64 * 7 + call) % 200,
                    ))
                    .await;
                }
            })
        })
        .collect();
    sleep(Duration::from_secs(29)).await;
    let first = bad.calls();
    assert!(
        (THRESHOLD..=THRESHOLD + UNDER_WAY).contains(&first),
        "{first} calls reached it before it was out"
    );
    // 30 s, then 60, 90, 120: probing calls at about 30, 90, 180 and 300 s.
    for (until_s, probes) in [(85, 1), (175, 2), (295, 3), (390, 4)] {
        sleep_until_second(&balance, until_s).await;
        assert_eq!(
            bad.calls() - first,
            probes,
            "one call for each readmission, at {until_s} s"
        );
    }
    for caller in callers {
        caller.await.unwrap();
    }
}

/// Sleeps to this second of the test, whose clock began at its ejection's.
async fn sleep_until_second<S, T>(balance: &Balance<S, T>, second: u64) {
    let ejected = endpoint(balance, "bad").ejected.expect("it is out");
    let age = ejected.since.as_secs_f64();
    sleep(Duration::from_secs_f64((second as f64 - age).max(0.0))).await;
}

/// Lets `a` of [a, b] fail until it is out.
async fn ejected(
    names: &[&'static str],
    ejection: Ejection,
) -> (World, Arc<Server>, Handle, Subject) {
    let world = World::new();
    let a = world.server("a");
    let (handle, updates) = Handle::new(names.iter().copied()).unwrap();
    let balance = builder!(world)
        .discovery(updates)
        .policy(RoundRobin::default())
        .ejection(ejection)
        .build()
        .unwrap();
    connected(&balance, names.len()).await;
    a.set_answer(Answer::Fail);
    let subject = Subject(balance);
    for _ in 0..1000 {
        if a.calls() == THRESHOLD {
            break;
        }
        let _ = subject.call("x").await;
    }
    until("the ejection is known", || {
        subject.find("a").ejected.is_some()
    })
    .await;
    (world, a, handle, subject)
}

type Call = futures::future::BoxFuture<'static, Result<String, evenkeel::Error>>;

struct Subject(Balanced);

impl Subject {
    fn call(&self, text: &'static str) -> Call {
        Box::pin(self.0.clone().oneshot(ask(text)))
    }

    fn report(&self) -> evenkeel::observe::Report {
        self.0.report()
    }

    fn find(&self, id: &str) -> evenkeel::observe::EndpointReport {
        endpoint(&self.0, id)
    }

    /// A call that probes `server`, which hangs.
    async fn probe(&self, server: &Server) -> Call {
        for _ in 0..10 {
            let mut call = self.call("probe");
            assert!(
                poll!(&mut call).is_ready() || server.under_way() == 1,
                "only who probes has to wait"
            );
            if server.under_way() == 1 {
                return call;
            }
        }
        panic!("one of the first calls probes");
    }

    /// How many of `count` calls, one after the other, `server` gets.
    async fn share(&self, server: &Server, count: usize) -> usize {
        let before = server.calls();
        for _ in 0..count {
            let _ = within("a call", self.call("x")).await;
        }
        server.calls() - before
    }
}

#[tokio::test(start_paused = true)]
async fn out_for_30_s_and_then_60_s_and_back_by_a_probing_call() {
    let (_world, a, _handle, subject) = ejected(&["a", "b"], Ejection::default()).await;
    assert_eq!(subject.share(&a, 20).await, 0, "it is out");
    sleep(Duration::from_millis(9_999)).await;
    assert_eq!(subject.share(&a, 20).await, 0, "at 9,999 ms still");
    sleep(Duration::from_millis(20_000)).await;
    assert_eq!(subject.share(&a, 20).await, 0, "at 29,999 ms still");
    sleep(Duration::from_millis(2)).await;
    assert_eq!(
        subject.share(&a, 20).await,
        1,
        "at 30,001 ms one call probes, and fails"
    );
    settle().await;
    assert_eq!(subject.find("a").ejected.unwrap().times, 2);
    sleep(Duration::from_millis(59_990)).await;
    assert_eq!(
        subject.share(&a, 20).await,
        0,
        "the second ejection lasts 60 s"
    );
    a.set_answer(Answer::Name);
    sleep(Duration::from_millis(20)).await;
    assert_eq!(
        subject.share(&a, 1).await + subject.share(&a, 1).await,
        1,
        "it probes"
    );
    settle().await;
    assert!(
        subject.find("a").ejected.is_none(),
        "the probing call went well"
    );
    assert_eq!(
        subject.share(&a, 20).await,
        10,
        "it has its full share again"
    );
}

#[tokio::test(start_paused = true)]
async fn while_one_call_probes_no_other_may() {
    let (_world, a, _handle, subject) = ejected(&["a", "b"], Ejection::default()).await;
    sleep(Duration::from_millis(30_001)).await;
    a.set_answer(Answer::Hang);
    let probe = subject.probe(&a).await;
    assert_eq!(subject.share(&a, 20).await, 0, "one probing call at a time");
    a.set_answer(Answer::Name);
    assert_eq!(within("the probing call", probe).await.unwrap(), "a");
    settle().await;
    assert_eq!(subject.share(&a, 20).await, 10, "it is back");
}

/// Also when a snapshot was made while the probing call was under way.
#[tokio::test(start_paused = true)]
async fn a_cancelled_probing_call_is_offered_again() {
    for snapshot_meanwhile in [false, true] {
        let (_world, a, handle, subject) = ejected(&["a", "b"], Ejection::default()).await;
        sleep(Duration::from_millis(30_001)).await;
        a.set_answer(Answer::Hang);
        let probe = subject.probe(&a).await;
        if snapshot_meanwhile {
            handle.insert(Endpoint::new("b").with_weight(2)).unwrap();
            until("a new snapshot", || subject.find("b").weight == 2).await;
        }
        drop(probe);
        assert_eq!(a.under_way(), 0, "the probing call was cancelled");
        a.set_answer(Answer::Name);
        settle().await;
        assert!(
            subject.share(&a, 4).await >= 1,
            "the probe is offered to the next call (snapshot meanwhile: {snapshot_meanwhile})"
        );
        settle().await;
        assert!(subject.find("a").ejected.is_none(), "and brings it back");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_is_woken_when_the_probing_call_is_cancelled() {
    let world = World::new();
    let names = ["a", "b"];
    let balance = builder!(world)
        .endpoints(names)
        .ejection(at_the_first_failure())
        .build()
        .unwrap();
    connected(&balance, 2).await;
    for server in world.servers(names) {
        server.set_answer(Answer::Fail);
    }
    for _ in 0..2 {
        within("a call", balance.clone().oneshot(ask("x")))
            .await
            .unwrap_err();
    }
    for server in world.servers(names) {
        assert_eq!(server.calls(), 1, "each has failed once and is out");
        server.set_answer(Answer::Hang);
    }
    sleep(Duration::from_millis(30_001)).await;
    let probes: Vec<_> = (0..2)
        .map(|_| tokio::spawn(balance.clone().oneshot(ask_and_wait("probe"))))
        .collect();
    until("both are probed", || {
        world.servers(names).iter().all(|s| s.under_way() == 1)
    })
    .await;
    let waiter = tokio::spawn(balance.clone().oneshot(ask_and_wait("x")));
    settle().await;
    assert!(!waiter.is_finished(), "both are being probed by others");
    for probe in probes {
        probe.abort();
    }
    settle().await;
    for server in world.servers(names) {
        server.set_answer(Answer::Name);
    }
    within("it may probe in their place", waiter)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_only_endpoint_is_never_ejected() {
    let world = World::new();
    let server = world.server("a");
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    connected(&balance, 1).await;
    server.set_answer(Answer::Fail);
    for _ in 0..50 {
        let error = within("a call", balance.clone().oneshot(ask("x")))
            .await
            .unwrap_err();
        assert!(error.is_endpoint(), "it is asked each time: {error}");
    }
    settle().await;
    assert_eq!(server.calls(), 50);
    assert!(endpoint(&balance, "a").ejected.is_none());
}

#[tokio::test(start_paused = true)]
async fn half_of_the_endpoints_at_most_are_out() {
    let world = World::new();
    let names = ["a", "b", "c", "d", "e"];
    for server in world.servers(names) {
        server.set_answer(Answer::Fail);
    }
    let balance = balanced(&world, names, RoundRobin::default()).await;
    for _ in 0..200 {
        within("a call", balance.clone().oneshot(ask("x")))
            .await
            .unwrap_err();
    }
    settle().await;
    let out = balance
        .report()
        .endpoints
        .iter()
        .filter(|e| e.ejected.is_some())
        .count();
    assert_eq!(out, 2, "50 % of five, rounded down");
}

#[tokio::test(start_paused = true)]
async fn in_a_panic_ejections_are_ignored_and_count_again_after_it() {
    let (world, a, handle, subject) = ejected(&["a", "b"], Ejection::default()).await;
    a.set_answer(Answer::Name);
    assert_eq!(subject.share(&a, 20).await, 0, "half usable is no panic");
    let c = world.server("c");
    c.set_dial(Dial::Refuse);
    handle.insert("c").unwrap();
    until("1 of 3 usable is under 50 %", || subject.report().panic).await;
    assert_eq!(subject.share(&a, 20).await, 10, "the ejection is ignored");
    assert!(
        subject.find("a").ejected.is_some(),
        "it is not over: calls in a panic prove nothing"
    );
    c.set_dial(Dial::Connect);
    until_panic_is_over(&subject).await;
    assert_eq!(
        subject.share(&a, 20).await,
        0,
        "2 of 3 are usable: it counts again"
    );
}

async fn until_panic_is_over(subject: &Subject) {
    for _ in 0..10 {
        if !subject.report().panic {
            return;
        }
        sleep(Duration::from_millis(500)).await;
    }
    panic!("c is dialled within 2 s, and the panic is over");
}

#[tokio::test(start_paused = true)]
async fn a_success_between_and_a_new_connection_start_the_count_anew() {
    let world = World::new();
    let a = world.server("a");
    let balance = balanced(&world, ["a", "b"], RoundRobin::default()).await;
    let fail = async |times: usize| {
        a.set_answer(Answer::Fail);
        let want = a.calls() + times;
        for _ in 0..4 * times {
            if a.calls() < want {
                let _ = balance.clone().oneshot(ask("x")).await;
            }
        }
        assert_eq!(a.calls(), want, "a has every other call");
        a.set_answer(Answer::Name);
    };
    fail(THRESHOLD - 1).await;
    for _ in 0..2 {
        balance.clone().oneshot(ask("x")).await.unwrap();
    }
    fail(THRESHOLD - 1).await;
    settle().await;
    assert!(
        endpoint(&balance, "a").ejected.is_none(),
        "in a row means in a row"
    );

    a.connection().closed(None);
    sleep(Duration::from_secs(1)).await;
    connected(&balance, 2).await;
    fail(THRESHOLD - 1).await;
    settle().await;
    assert!(
        endpoint(&balance, "a").ejected.is_none(),
        "READY clears the count"
    );
    fail(1).await;
    settle().await;
    assert!(
        endpoint(&balance, "a").ejected.is_some(),
        "five in a row do eject"
    );
}

#[tokio::test(start_paused = true)]
async fn only_failures_of_the_endpoint_count() {
    #[derive(Clone)]
    struct By(Outcome);
    impl<R, E> Classify<R, E> for By {
        fn response(&self, _: &R) -> Option<Outcome> {
            None
        }
        fn error(&self, _: &E) -> Outcome {
            self.0
        }
    }
    for (outcome, failures, out) in [
        (Outcome::Success, 0, 0),
        (Outcome::Ignored, 0, 0),
        (Outcome::ConnectionLost, 30, 0),
        (Outcome::Overload { retry_after: None }, 30, 0),
        (Outcome::Failure, 30, 1),
    ] {
        let failing = service_fn(|_: u32| async { Err::<(), _>(std::io::Error::other("no")) });
        let balance = Balance::builder()
            .services([("a", failing), ("b", failing)])
            .track(Plain::new().classified(By(outcome)))
            .policy(RoundRobin::default())
            .build()
            .unwrap();
        connected(&balance, 2).await;
        for _ in 0..30 {
            within("a call", balance.clone().oneshot(1))
                .await
                .unwrap_err();
        }
        settle().await;
        let report = balance.report();
        let failed: u64 = report.endpoints.iter().map(|e| e.failures).sum();
        let ejected = report
            .endpoints
            .iter()
            .filter(|e| e.ejected.is_some())
            .count();
        assert_eq!((failed, ejected), (failures, out), "{outcome:?}");
    }
}
