//! A clone is not ready, shares everything but readiness, and has random numbers of its own.

use evenkeel::policy::{Random, RoundRobin};
use tower::{Service, ServiceExt};

use crate::builder;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn point_1_clones_share_endpoints_load_health_and_the_sequence() {
    let world = World::new();
    let balance = balanced(&world, ["a", "b"], RoundRobin::default()).await;
    let clone = balance.clone();

    let mut answers = Vec::new();
    for handle in [&balance, &clone, &balance, &clone] {
        answers.push(
            within("a call", handle.clone().oneshot(ask("x")))
                .await
                .unwrap(),
        );
    }
    assert_ne!(answers[0], answers[1], "clones take turns in one sequence");
    assert_eq!(answers[0], answers[2], "clones take turns in one sequence");
    assert_eq!(answers[1], answers[3], "clones take turns in one sequence");
    for server in world.servers(["a", "b"]) {
        assert_eq!(server.dials().len(), 1, "clones share one connection");
        server.set_answer(Answer::Hang);
    }

    let call = tokio::spawn(clone.clone().oneshot(ask("held")));
    until("the call reaches a server", || {
        world.servers(["a", "b"]).iter().any(|s| s.under_way() == 1)
    })
    .await;
    let seen = |report: evenkeel::observe::Report| -> Vec<_> {
        let seen = |e: &evenkeel::observe::EndpointReport| (e.in_flight, e.calls);
        report.endpoints.iter().map(seen).collect()
    };
    assert_eq!(
        seen(balance.report()),
        seen(clone.report()),
        "a call by one handle is load on all"
    );
    assert_eq!(
        seen(balance.report()).iter().map(|e| e.0).sum::<u32>(),
        1,
        "and it is counted once"
    );
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn point_1_a_clone_does_not_inherit_readiness() {
    let world = World::new();
    let mut balance = builder!(world)
        .endpoints(["a"])
        .wait_in_poll_ready(true)
        .build()
        .unwrap();
    within("a connects", balance.ready()).await.unwrap();
    let server = world.server("a");
    server.set_dial(Dial::Hang);
    server.connection().closed(None);
    until("the loss is seen", || {
        endpoint(&balance, "a").state != evenkeel::ConnectivityState::Ready
    })
    .await;

    let mut clone = balance.clone();
    assert!(
        ready_now(&mut clone).await.is_pending(),
        "a clone looks for itself"
    );
    assert!(
        ready_now(&mut balance).await.is_ready(),
        "who was told Ready is ready until its call"
    );
}

#[tokio::test(start_paused = true)]
async fn point_1_handles_draw_their_own_numbers_from_one_seed() {
    let picks = async |clones_before: usize| {
        let world = World::new();
        let balance = balanced(
            &world,
            ["a", "b", "c", "d", "e", "f", "g", "h"],
            Random::default(),
        )
        .await;
        for _ in 0..clones_before {
            drop(balance.clone());
        }
        let mut handle = balance.clone();
        let mut picks = Vec::new();
        for _ in 0..20 {
            let answer = handle.ready().await.unwrap().call(ask("x")).await;
            picks.push(answer.unwrap());
        }
        picks
    };
    assert_eq!(picks(0).await, picks(0).await, "same seed, same picks");
    assert_ne!(
        picks(0).await,
        picks(1).await,
        "two handles of one seed do not go in step"
    );
}
