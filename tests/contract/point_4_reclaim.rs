//! A request that the server did not process goes to an endpoint not yet tried, at most 3 times.

use evenkeel::policy::{Random, RoundRobin};
use tower::ServiceExt;

use crate::builder;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn point_4_a_reclaimed_request_goes_to_an_endpoint_not_yet_tried() {
    let world = World::new();
    let names = ["a", "b", "c", "d"];
    let [a, b, c, d] = world.servers(names);
    for server in [&a, &b, &c] {
        server.set_answer(Answer::HandBack);
    }
    let balance = builder!(world).endpoints(names).build().unwrap();
    connected(&balance, 4).await;
    for round in 1..=30 {
        let answer = within("d takes it", balance.clone().oneshot(ask("x"))).await;
        assert_eq!(answer.unwrap(), "d", "four endpoints, three re-dispatches");
        assert_eq!(d.calls(), round);
        for server in [&a, &b, &c] {
            assert!(server.calls() <= round, "no call tries an endpoint twice");
        }
    }
    for name in ["a", "b", "c"] {
        let report = endpoint(&balance, name);
        assert_eq!(
            (report.calls, report.failures, report.in_flight),
            (0, 0, 0),
            "a call that was handed back is as if it had never been"
        );
        assert!(report.ejected.is_none(), "it is no failure");
    }
}

#[tokio::test(start_paused = true)]
async fn point_4_three_times_at_most() {
    let world = World::new();
    let names = ["a", "b", "c", "d", "e", "f"];
    for server in world.servers(names) {
        server.set_answer(Answer::HandBack);
    }
    let balance = balanced(&world, names, RoundRobin::default()).await;
    let error = within("it ends", balance.clone().oneshot(ask("x")))
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    let calls: Vec<usize> = world.servers(names).iter().map(|s| s.calls()).collect();
    assert_eq!(
        calls.iter().sum::<usize>(),
        4,
        "once, and three times again"
    );
    assert!(
        calls.iter().all(|&calls| calls <= 1),
        "each time another one: {calls:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn point_4_the_only_endpoint_is_not_asked_in_a_circle() {
    let world = World::new();
    let server = world.server("a");
    server.set_answer(Answer::HandBack);
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    connected(&balance, 1).await;
    let error = within("it ends", balance.clone().oneshot(ask("x")))
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(
        error.to_string().contains("unprocessed from 1 endpoint,"),
        "an endpoint that is connected and well needs another reason: {error}"
    );
    assert_eq!(server.calls(), 1, "the only endpoint has been tried");
}

/// GOAWAY with a request still in the client's own queue: the next connection is worth a try.
#[tokio::test(start_paused = true)]
async fn point_4_a_new_connection_of_a_tried_endpoint_counts_as_not_tried() {
    let world = World::new();
    let server = world.server("a");
    server.set_answer(Answer::Hang);
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    connected(&balance, 1).await;
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    until("the call is there", || server.under_way() == 1).await;
    server.connection().draining();
    server.set_answer(Answer::HandBack);
    until("the call comes back", || server.under_way() == 0).await;
    server.set_answer(Answer::Name);
    let answer = within("the new connection takes it", call).await.unwrap();
    assert_eq!(answer.unwrap(), "a");
    assert_eq!((server.dials().len(), server.calls()), (2, 2));
}

/// An endpoint that was busy has been asked, and has not had the request.
#[tokio::test(start_paused = true)]
async fn point_4_an_endpoint_that_was_only_busy_counts_as_not_tried() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    a.set_readiness(Readiness::Queue);
    b.set_answer(Answer::HandBack);
    let balance = balanced(&world, ["a", "b"], Random::default()).await;
    for round in 1..=20 {
        let call = tokio::spawn(balance.clone().oneshot(ask("x")));
        until("b has handed it back", || b.calls() == round).await;
        settle().await;
        assert!(!call.is_finished(), "a may take it yet");
        while a.admit() {}
        let answer = within("a takes it", call).await.unwrap();
        assert_eq!(answer.unwrap(), "a", "call {round}");
    }
}
