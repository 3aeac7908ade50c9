//! Limits: no more calls under way, and no more that wait, than allowed; who finds no room is told at once.

use std::time::Duration;

use evenkeel::health::Limits;
use evenkeel::policy::{LeastRequest, RoundRobin};
use evenkeel::{Balance, Error};
use futures::future::join_all;
use tokio::task::JoinHandle;
use tower::{Service, ServiceExt};

use crate::builder;
use crate::world::*;

type Call = JoinHandle<Result<String, Error>>;

fn call<S, T>(balance: &Balance<S, T>) -> Call
where
    Balance<S, T>: Service<Ask, Response = String, Error = Error, Future: Send> + Send,
    S: Clone + Send + Sync + 'static,
    T: Clone + Send + 'static,
{
    tokio::spawn(balance.clone().oneshot(ask("x")))
}

async fn refused(call: Call) -> String {
    let error = within("it is told at once", call).await.unwrap();
    let error = error.expect_err("there is no room");
    assert!(error.is_unavailable(), "{error}");
    error.to_string()
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_full_is_passed_over_and_calls_fail_when_all_are() {
    let world = World::new();
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(RoundRobin::default())
        .limits(Limits::default().with_max_in_flight_per_endpoint(3))
        .build()
        .unwrap();
    connected(&balance, 2).await;
    let servers = world.servers(["a", "b"]);
    servers[0].set_answer(Answer::Hang);
    let first: Vec<Call> = (0..7).map(|_| call(&balance)).collect();
    settle().await;
    assert_eq!(servers[0].under_way(), 3, "a is full");
    for _ in 0..10 {
        let answer = within("b has room", balance.clone().oneshot(ask("x"))).await;
        assert_eq!(answer.unwrap(), "b", "a is passed over");
    }
    servers[1].set_answer(Answer::Hang);
    let second: Vec<Call> = (0..3).map(|_| call(&balance)).collect();
    settle().await;
    let why = refused(call(&balance)).await;
    assert!(
        why.contains("3 calls, the most allowed, are under way to each"),
        "{why}"
    );
    let waits = tokio::spawn(balance.clone().oneshot(ask_and_wait("x")));
    refused(waits).await;
    for name in ["a", "b"] {
        let report = endpoint(&balance, name);
        assert_eq!(report.in_flight, 3, "{report}");
        assert!(
            report.ejected.is_none(),
            "a refusal is no failure: {report}"
        );
    }
    // A caller that gives up gives its place back.
    second[0].abort();
    settle().await;
    let next = call(&balance);
    settle().await;
    assert_eq!(servers[1].under_way(), 3, "taken again");
    for server in &servers {
        server.set_answer(Answer::Name);
    }
    for call in first
        .into_iter()
        .chain(second.into_iter().skip(1))
        .chain([next])
    {
        within("it ends", call).await.unwrap().unwrap();
    }
    for name in ["a", "b"] {
        assert_eq!(endpoint(&balance, name).in_flight, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn all_endpoints_together_have_a_limit() {
    let world = World::new();
    let balance = builder!(world)
        .endpoints(["a", "b", "c"])
        .limits(Limits::default().with_max_in_flight(4))
        .build()
        .unwrap();
    connected(&balance, 3).await;
    let servers = world.servers(["a", "b", "c"]);
    for server in &servers {
        server.set_answer(Answer::Hang);
    }
    let calls: Vec<Call> = (0..4).map(|_| call(&balance)).collect();
    settle().await;
    let why = refused(call(&balance)).await;
    assert!(
        why.contains("4 calls are under way, the most allowed"),
        "{why}"
    );
    drop(
        calls
            .into_iter()
            .map(|call| call.abort())
            .collect::<Vec<_>>(),
    );
    settle().await;
    for server in &servers {
        server.set_answer(Answer::Name);
    }
    for _ in 0..20 {
        let calls = join_all((0..4).map(|_| balance.clone().oneshot(ask("x"))));
        for answer in within("four at once", calls).await {
            answer.expect("each call's end makes room for another");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_handed_back_and_readiness_errors_keep_no_place() {
    let world = World::new();
    let limits = Limits::default()
        .with_max_in_flight(1)
        .with_max_in_flight_per_endpoint(1);
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(LeastRequest::default())
        .limits(limits)
        .build()
        .unwrap();
    connected(&balance, 2).await;
    let servers = world.servers(["a", "b"]);
    servers[0].set_answer(Answer::HandBack);
    servers[1].set_readiness(Readiness::Broken);
    for _ in 0..3 {
        let end = within("it ends", balance.clone().oneshot(ask("x"))).await;
        end.expect_err("one hands back, the other is broken");
    }
    servers[0].set_answer(Answer::Name);
    for _ in 0..10 {
        let answer = within("there is room", balance.clone().oneshot(ask("x"))).await;
        answer.expect("no place is lost");
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_may_wait_for_a_connection_and_no_more() {
    let world = World::new();
    world.server("a").set_dial(Dial::Hang);
    let balance = builder!(world)
        .endpoints(["a"])
        .limits(Limits::default().with_max_pending(2))
        .build()
        .unwrap();
    let calls = [call(&balance), call(&balance)];
    settle().await;
    let why = refused(call(&balance)).await;
    assert!(why.contains("2 calls wait, the most allowed"), "{why}");
    let [first, second] = calls;
    first.abort();
    settle().await;
    let third = call(&balance);
    settle().await;
    assert!(!third.is_finished(), "who gives up makes room");
    world.server("a").set_dial(Dial::Connect);
    for call in [second, third] {
        assert_eq!(within("it goes on", call).await.unwrap().unwrap(), "a");
    }
    for _ in 0..5 {
        let answer = within("nobody waits", balance.clone().oneshot(ask("x"))).await;
        answer.expect("and all places are free");
    }
}

#[tokio::test(start_paused = true)]
async fn so_many_may_wait_for_one_service_and_others_look_elsewhere() {
    let world = World::new();
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(RoundRobin::default())
        .limits(Limits::default().with_max_pending_per_endpoint(2))
        .build()
        .unwrap();
    connected(&balance, 2).await;
    let servers = world.servers(["a", "b"]);
    for server in &servers {
        server.set_readiness(Readiness::Queue);
    }
    // Each of them waits for both.
    let waits = [call(&balance), call(&balance)];
    settle().await;
    let why = refused(call(&balance)).await;
    assert!(
        why.contains("2 calls, the most allowed, wait for each"),
        "{why}"
    );
    for server in &servers {
        server.set_readiness(Readiness::Ready);
    }
    for call in waits {
        within("it is let in", call).await.unwrap().unwrap();
    }
    for server in &servers {
        server.set_readiness(Readiness::Queue);
    }
    let again = call(&balance);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!again.is_finished(), "the places were given back");
    again.abort();
}

#[tokio::test(start_paused = true)]
async fn endpoints_that_are_full_are_no_reason_to_call_one_that_is_out() {
    let world = World::new();
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(RoundRobin::default())
        .ejection(at_the_first_failure().with_panic_threshold_percent(1))
        .limits(Limits::default().with_max_in_flight_per_endpoint(1))
        .build()
        .unwrap();
    connected(&balance, 2).await;
    let servers = world.servers(["a", "b"]);
    servers[0].set_answer(Answer::Fail);
    for _ in 0..2 {
        let _ = within("a call", balance.clone().oneshot(ask("x"))).await;
    }
    settle().await;
    assert!(endpoint(&balance, "a").ejected.is_some());
    servers[1].set_answer(Answer::Hang);
    let held = call(&balance);
    settle().await;
    let before = servers[0].calls();
    refused(call(&balance)).await;
    assert_eq!(servers[0].calls(), before, "it is out, and stays so");
    held.abort();
}

#[tokio::test(start_paused = true)]
async fn of_many_endpoints_that_are_all_crowded_a_call_is_told_at_once() {
    let world = World::new();
    let names: Vec<String> = (0..20).map(|n| format!("e{n}")).collect();
    let balance = builder!(world)
        .endpoints(names.clone())
        .policy(RoundRobin::default())
        .limits(Limits::default().with_max_pending_per_endpoint(0))
        .build()
        .unwrap();
    connected(&balance, 20).await;
    for name in &names {
        world.server(name).set_readiness(Readiness::Queue);
    }
    let why = refused(call(&balance)).await;
    assert!(
        why.contains("0 calls, the most allowed, wait for each"),
        "{why}"
    );
    world.server("e7").set_readiness(Readiness::Ready);
    world.server("e8").set_readiness(Readiness::Ready);
    let mut answers = 0;
    for _ in 0..20 {
        let answer = within("it is told at once", call(&balance)).await;
        answers += usize::from(answer.unwrap().is_ok());
    }
    assert!(answers > 0, "some looks find one that is ready");
}
