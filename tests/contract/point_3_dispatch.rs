//! The pick happens in the call; the request leaves only for a service that is ready.

use std::time::Duration;

use evenkeel::ConnectivityState;
use evenkeel::discovery::Handle;
use evenkeel::policy::RoundRobin;
use futures::poll;
use tower::{Service, ServiceExt};

use crate::builder;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn point_3_the_pick_happens_in_the_call() {
    let world = World::new();
    let (handle, updates) = Handle::new(["a"]).unwrap();
    let mut balance = builder!(world).discovery(updates).build().unwrap();
    connected(&balance, 1).await;
    within("ready", ServiceExt::<Ask>::ready(&mut balance))
        .await
        .unwrap();
    handle.replace(["b"]).unwrap();
    until("b is in", || find(balance.report(), "b").is_some()).await;
    let answer = within("a call", balance.call(ask("x"))).await.unwrap();
    assert_eq!(answer, "b", "being ready chose no endpoint");
}

#[tokio::test(start_paused = true)]
async fn point_3_not_ready_means_the_next_candidate() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    a.set_readiness(Readiness::Queue);
    let balance = balanced(&world, ["a", "b"], RoundRobin::default()).await;
    for _ in 0..20 {
        let answer = within("b is ready", balance.clone().oneshot(ask("x"))).await;
        assert_eq!(answer.unwrap(), "b", "a is not ready, so b is asked");
    }
    assert_eq!((a.calls(), b.calls()), (0, 20), "a was sent nothing");
    assert_eq!(
        endpoint(&balance, "a").in_flight,
        0,
        "a's load was given back"
    );
    assert_eq!(endpoint(&balance, "a").calls, 0, "a was sent nothing");
    assert_eq!(
        endpoint(&balance, "a").state,
        ConnectivityState::Ready,
        "busy is not broken"
    );
}

#[tokio::test(start_paused = true)]
async fn point_3_the_number_of_candidates_asked_is_bounded() {
    let world = World::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for server in world.servers(names) {
        server.set_readiness(Readiness::Queue);
    }
    let balance = builder!(world).endpoints(names).build().unwrap();
    connected(&balance, 8).await;
    let mut call = Box::pin(balance.clone().oneshot(ask("x")));
    for _ in 0..5 {
        assert!(poll!(&mut call).is_pending());
    }
    let queued: usize = world.servers(names).iter().map(|s| s.queued()).sum();
    assert_eq!(
        queued, 3,
        "a call asks three endpoints at most, however often it is polled"
    );
}

#[tokio::test(start_paused = true)]
async fn point_3_all_pending_waits_on_the_clone_already_held() {
    let world = World::new();
    let names = ["a", "b"];
    for server in world.servers(names) {
        server.set_readiness(Readiness::Queue);
    }
    let balance = builder!(world).endpoints(names).build().unwrap();
    connected(&balance, 2).await;
    for name in names {
        let server = world.server(name);
        let mut call = Box::pin(balance.clone().oneshot(ask("x")));
        for _ in 0..50 {
            assert!(poll!(&mut call).is_pending());
        }
        assert_eq!(server.queued(), 1, "one clone queues, and it is kept");
        assert!(server.admit());
        let answer = within(
            "the clone that was let in is the one that is called",
            &mut call,
        );
        assert_eq!(answer.await.unwrap(), name);
        // The other one's place in the queue belongs to a clone that is gone.
        for server in world.servers(names) {
            while server.admit() {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn point_3_a_call_that_waits_is_woken_by_the_service_alone() {
    let world = World::new();
    let server = world.server("a");
    server.set_readiness(Readiness::Queue);
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    connected(&balance, 1).await;
    let calls: Vec<_> = (0..10)
        .map(|_| tokio::spawn(balance.clone().oneshot(ask("x"))))
        .collect();
    until("each call queues by its own clone", || {
        server.queued() == 10
    })
    .await;
    for call in calls {
        assert!(server.admit());
        let answer = within("each clone has its own wake", call).await.unwrap();
        assert_eq!(answer.unwrap(), "a");
    }
}

#[tokio::test(start_paused = true)]
async fn point_3_a_readiness_error_takes_the_endpoint_out_and_spares_the_request() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    a.set_readiness(Readiness::Broken);
    let balance = balanced(&world, ["a", "b"], RoundRobin::default()).await;
    for _ in 0..20 {
        let answer = within("b works", balance.clone().oneshot(ask("x"))).await;
        assert_eq!(answer.unwrap(), "b", "the request was not consumed");
    }
    settle().await;
    let report = endpoint(&balance, "a");
    assert_eq!(
        report.state,
        ConnectivityState::TransientFailure,
        "a is out"
    );
    let reason = report.last_error.unwrap();
    assert!(
        reason.contains("not ready any more"),
        "the reason is kept: {reason}"
    );
    assert_eq!(
        (report.calls, report.in_flight),
        (0, 0),
        "a was sent nothing"
    );
    assert_eq!((a.calls(), b.calls()), (0, 20), "a was sent nothing");
    assert_eq!(
        a.dials().len(),
        1,
        "a is dialled anew after its backoff only"
    );

    a.set_readiness(Readiness::Ready);
    tokio::time::sleep(Duration::from_secs(2)).await;
    connected(&balance, 2).await;
    assert_eq!(a.dials().len(), 2, "a came back after its backoff");
}

#[tokio::test(start_paused = true)]
async fn point_3_all_broken_fails_with_the_reason() {
    let world = World::new();
    for server in world.servers(["a", "b"]) {
        server.set_readiness(Readiness::Broken);
    }
    let balance = builder!(world).endpoints(["a", "b"]).build().unwrap();
    connected(&balance, 2).await;
    let error = within("no endpoint is left", balance.clone().oneshot(ask("x")))
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(
        error.to_string().contains("2 failing") && error.to_string().contains("not ready any more"),
        "{error}"
    );
}

/// The endpoint that a call waits for may leave before it is ready.
#[tokio::test(start_paused = true)]
async fn point_3_a_call_lets_go_of_a_pending_service_whose_connection_ended() {
    let world = World::new();
    let names = ["a", "b", "c"];
    let (handle, updates) = Handle::new(names).unwrap();
    for server in world.servers(names) {
        server.set_readiness(Readiness::Queue);
    }
    let balance = builder!(world).discovery(updates).build().unwrap();
    connected(&balance, 3).await;
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    until("the call waits for all three", || {
        world.servers(names).iter().all(|s| s.queued() == 1)
    })
    .await;

    handle.replace(["d"]).unwrap();
    let answer = within("d is there and ready", call).await.unwrap();
    assert_eq!(
        answer.unwrap(),
        "d",
        "what a call waits for may not keep it from others"
    );
    for server in world.servers(names) {
        server.admit();
        assert_eq!(server.calls(), 0, "an endpoint that left gets no new call");
        until("its connection closes", || server.clones_alive() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn point_3_no_call_is_dispatched_to_a_connection_that_has_ended() {
    let world = World::new();
    let server = world.server("a");
    server.set_readiness(Readiness::Queue);
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    connected(&balance, 1).await;
    let mut call = Box::pin(balance.clone().oneshot(ask("x")));
    assert!(poll!(&mut call).is_pending());
    server.set_dial(Dial::Hang);
    server.connection().draining();
    assert!(server.admit());
    assert!(
        poll!(&mut call).is_pending(),
        "the word of a connection's end takes effect at once"
    );
    assert_eq!(server.calls(), 0, "a draining connection takes no new call");
    server.set_readiness(Readiness::Ready);
    server.set_dial(Dial::Connect);
    let answer = within("the next connection takes it", call).await;
    assert_eq!(answer.unwrap(), "a");
}
