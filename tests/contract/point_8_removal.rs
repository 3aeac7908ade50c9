//! An endpoint that leaves gets no new call; calls in flight on it finish; then it closes.

use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evenkeel::connection::connector_fn;
use evenkeel::discovery::Handle;
use evenkeel::{Balance, Endpoint};
use tower::{ServiceExt, service_fn};

use crate::builder;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn point_8_a_removed_endpoint_finishes_its_calls_and_closes() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    a.set_answer(Answer::Hang);
    let (handle, updates) = Handle::new(["a"]).unwrap();
    let balance = builder!(world).discovery(updates).build().unwrap();
    connected(&balance, 1).await;
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    until("it is under way", || a.under_way() == 1).await;

    handle.replace(["b"]).unwrap();
    until("a is out", || find(balance.report(), "a").is_none()).await;
    for _ in 0..20 {
        let answer = within("b", balance.clone().oneshot(ask("x"))).await;
        assert_eq!(
            answer.unwrap(),
            "b",
            "no new call goes to an endpoint that left"
        );
    }
    assert_eq!((a.calls(), a.under_way()), (1, 1), "its call goes on");
    until("the balancer holds no clone of its service", || {
        a.clones_alive() == 0
    })
    .await;
    a.set_answer(Answer::Name);
    assert_eq!(within("it finishes", call).await.unwrap().unwrap(), "a");
    drop(b);
}

/// A removal that is applied while the dial's last poll runs on another thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn point_8_a_dial_that_succeeds_as_its_endpoint_leaves_is_not_kept() {
    let kept = Arc::new(());
    let (entered, at_the_end) = mpsc::channel();
    let (go_on, removed) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(Some((entered, removed))));
    let service = kept.clone();
    let connector = connector_fn(move |_: &Endpoint, _| {
        let gate = gate.clone();
        let service = service.clone();
        async move {
            if let Some((entered, removed)) = gate.lock().unwrap().take() {
                entered.send(()).unwrap();
                removed.recv_timeout(Duration::from_secs(10)).unwrap();
            }
            Ok::<_, std::io::Error>(service_fn(move |n: u32| {
                let _ = &service;
                async move { Ok::<_, std::io::Error>(n) }
            }))
        }
    });
    let (handle, updates) = Handle::new(["a"]).unwrap();
    let balance = Balance::builder()
        .discovery(updates)
        .connector(connector)
        .build()
        .unwrap();
    tokio::task::spawn_blocking(move || at_the_end.recv_timeout(Duration::from_secs(10)).unwrap())
        .await
        .unwrap();
    handle.replace([] as [&str; 0]).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let wait = async |rule: &str, done: &dyn Fn() -> bool| {
        while !done() {
            assert!(tokio::time::Instant::now() < deadline, "{rule}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    wait("the removal is applied", &|| {
        balance.report().resolved && balance.report().endpoints.is_empty()
    })
    .await;
    go_on.send(()).unwrap();
    // One is ours, one is the connector's.
    wait("nobody keeps the service of an endpoint that left", &|| {
        Arc::strong_count(&kept) == 2
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn point_8_a_removal_gives_the_dial_up_and_its_place_to_the_next() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    a.set_dial(Dial::Hang);
    let (handle, updates) = Handle::new(["a", "b"]).unwrap();
    let balance = builder!(world)
        .discovery(updates)
        .max_concurrent_dials(1)
        .build()
        .unwrap();
    settle().await;
    assert_eq!(
        (a.dials().len(), b.dials().len()),
        (1, 0),
        "one dial at a time"
    );
    assert!(handle.remove("a"));
    connected(&balance, 1).await;
    assert_eq!((world.dialing(), b.dials().len()), (0, 1));
}
