//! An update that names the same id keeps its connection, load and health; another address is
//! another server.

use std::time::Duration;

use evenkeel::discovery::Handle;
use evenkeel::health::Ejection;
use evenkeel::policy::RoundRobin;
use evenkeel::{ConnectivityState, Endpoint};
use tower::ServiceExt;

use crate::builder;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn point_9_a_new_weight_keeps_connection_load_and_health() {
    let world = World::new();
    let names = ["a", "b", "c"];
    let a = world.server("a");
    let (handle, updates) = Handle::new(names).unwrap();
    let balance = builder!(world)
        .discovery(updates)
        .policy(RoundRobin::default())
        .build()
        .unwrap();
    connected(&balance, 3).await;
    a.set_answer(Answer::Fail);
    for _ in 0..15 {
        let _ = within("a call", balance.clone().oneshot(ask("x"))).await;
    }
    settle().await;
    let before = endpoint(&balance, "a");
    assert!(
        before.ejected.is_some() && before.failures == 5,
        "a is out: {before}"
    );
    let b = world.server("b");
    b.set_answer(Answer::Hang);
    world.server("c").set_answer(Answer::Hang);
    let calls: Vec<_> = (0..4)
        .map(|_| tokio::spawn(balance.clone().oneshot(ask("x"))))
        .collect();
    until("b and c are busy", || {
        endpoint(&balance, "b").in_flight == 2
    })
    .await;

    handle
        .replace(names.map(|name| Endpoint::new(name).with_weight(9)))
        .unwrap();
    until("the weights are in", || endpoint(&balance, "a").weight == 9).await;
    let after = endpoint(&balance, "a");
    assert!(after.ejected.is_some(), "an ejected endpoint stays out");
    assert_eq!(
        (after.calls, after.failures),
        (before.calls, before.failures)
    );
    assert_eq!(endpoint(&balance, "b").in_flight, 2, "its load stays");
    for server in world.servers(names) {
        assert_eq!(server.dials().len(), 1, "its connection stays");
        server.set_answer(Answer::Name);
    }
    for call in calls {
        within("calls in flight finish", call)
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(
        endpoint(&balance, "b").in_flight,
        0,
        "load is given back to the same record"
    );
}

#[tokio::test(start_paused = true)]
async fn point_9_a_new_address_is_dialled_anew() {
    let world = World::new();
    let [old, new] = world.servers(["10.0.0.1:1", "10.0.0.2:1"]);
    let (handle, updates) = Handle::new([Endpoint::new("10.0.0.1:1").with_id("pod")]).unwrap();
    let balance = builder!(world).discovery(updates).build().unwrap();
    connected(&balance, 1).await;
    within("a call", balance.clone().oneshot(ask("x")))
        .await
        .unwrap();
    old.set_answer(Answer::Hang);
    let in_flight = tokio::spawn(balance.clone().oneshot(ask("x")));
    until("it is under way", || old.under_way() == 1).await;

    handle
        .insert(Endpoint::new("10.0.0.2:1").with_id("pod"))
        .unwrap();
    until("the new one is connected", || {
        let pod = endpoint(&balance, "pod");
        pod.address == "10.0.0.2:1" && pod.state == ConnectivityState::Ready
    })
    .await;
    let pod = endpoint(&balance, "pod");
    assert_eq!(
        (pod.calls, pod.in_flight),
        (0, 0),
        "another server starts with a clean record"
    );
    let answer = within("a call", balance.clone().oneshot(ask("x"))).await;
    assert_eq!(answer.unwrap(), "10.0.0.2:1");
    assert_eq!(new.dials().len(), 1);
    old.set_answer(Answer::Name);
    let answer = within("the old one's call finishes", in_flight)
        .await
        .unwrap();
    assert_eq!(answer.unwrap(), "10.0.0.1:1");
    until("the old one is closed", || old.clones_alive() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn point_9_a_flood_of_equal_updates_changes_nothing() {
    let world = World::new();
    let (handle, updates) = Handle::new(["a", "b"]).unwrap();
    let balance = builder!(world)
        .discovery(updates)
        .ejection(Ejection::off())
        .build()
        .unwrap();
    connected(&balance, 2).await;
    for _ in 0..100 {
        handle.replace(["b", "a"]).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for server in world.servers(["a", "b"]) {
        assert_eq!(server.dials().len(), 1, "it is the same endpoint each time");
    }
}
