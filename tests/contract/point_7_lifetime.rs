//! The driver lives as long as one handle or one queued call; then every task and connection ends.

use std::time::Duration;

use evenkeel::connection::ConnectionEvents;
use evenkeel::discovery::Handle;
use evenkeel::{Balance, ConnectivityState, Endpoint};
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::builder;
use crate::world::*;

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn point_7_the_last_handle_takes_every_task_and_every_clone_with_it() {
    let world = World::new();
    let names = ["a", "b", "dead", "slow"];
    world.server("dead").set_dial(Dial::Refuse);
    world.server("slow").set_dial(Dial::Hang);
    let before = alive_tasks();
    let (source, updates) = Handle::new(names).unwrap();
    let balance = builder!(world).discovery(updates).build().unwrap();
    connected(&balance, 2).await;
    for _ in 0..10 {
        within("a call", balance.clone().oneshot(ask("x")))
            .await
            .unwrap();
    }
    let mut watch = balance.watch_state();
    assert_eq!(watch.get(), ConnectivityState::Ready);
    assert!(
        alive_tasks() > before,
        "there is a driver, and a dial under way"
    );

    let clone = balance.clone();
    drop(balance);
    settle().await;
    within("one handle is enough", clone.clone().oneshot(ask("x")))
        .await
        .unwrap();
    drop(clone);
    until("every task ends", || alive_tasks() == before).await;
    for server in world.servers(names) {
        assert_eq!(
            server.clones_alive(),
            0,
            "no clone of {}'s service is left",
            server.name
        );
    }
    assert_eq!(world.dialing(), 0, "dials under way are given up");
    assert_eq!(watch.changed().await, None, "a watch keeps nothing alive");
    assert_eq!(watch.get(), ConnectivityState::Shutdown);
    source.replace(["c"]).unwrap();
    assert_eq!(
        source.endpoints().len(),
        1,
        "a source outlives its balancer"
    );
}

#[tokio::test(start_paused = true)]
async fn point_7_a_handle_that_was_never_used_ends_too() {
    let before = alive_tasks();
    let world = World::new();
    drop(builder!(world).endpoints(["a"]).build().unwrap());
    until("every task ends", || alive_tasks() == before).await;
    assert_eq!(world.server("a").clones_alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn point_7_a_queued_call_keeps_the_driver_alive() {
    let world = World::new();
    let server = world.server("a");
    server.set_dial(Dial::Refuse);
    let before = alive_tasks();
    let mut balance = builder!(world).endpoints(["a"]).build().unwrap();
    let call = balance.call(ask_and_wait("x"));
    drop(balance);
    settle().await;
    assert_eq!(
        server.dials().len(),
        1,
        "the driver runs for a call that nobody polls yet"
    );
    let call = tokio::spawn(call);
    // 1 s and 2.6 s after the first dial.
    tokio::time::sleep(Duration::from_secs(2)).await;
    server.set_dial(Dial::Connect);
    assert_eq!(within("it is dialled", call).await.unwrap().unwrap(), "a");
    assert_eq!(
        server.dials().len(),
        3,
        "reconnects go on for the queued call"
    );
    until("then everything ends", || alive_tasks() == before).await;
    assert_eq!(server.clones_alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn point_7_responses_in_flight_finish_after_the_last_handle() {
    let world = World::new();
    let server = world.server("a");
    server.set_answer(Answer::Hang);
    let before = alive_tasks();
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    connected(&balance, 1).await;
    let call = tokio::spawn(balance.oneshot(ask("x")));
    until("it is under way", || server.under_way() == 1).await;
    settle().await;
    server.set_answer(Answer::Name);
    assert_eq!(within("it finishes", call).await.unwrap().unwrap(), "a");
    until("then everything ends", || alive_tasks() == before).await;
    assert_eq!(server.clones_alive(), 0);
}

/// A stream lives on in its body, which holds no handle.
#[tokio::test(start_paused = true)]
async fn point_7_a_body_finishes_after_the_last_handle_without_keeping_the_driver() {
    use bytes::Bytes;
    use futures::channel::mpsc;
    use http::{Request, Response};
    use http_body::Frame;
    use http_body_util::{BodyExt, StreamBody};
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};

    let before = alive_tasks();
    let (feed, frames) = mpsc::unbounded::<Result<Frame<Bytes>, Infallible>>();
    let frames = Arc::new(Mutex::new(Some(frames)));
    let service = service_fn(move |_: Request<()>| {
        let body = StreamBody::new(frames.lock().unwrap().take().unwrap());
        async move { Ok::<_, Infallible>(Response::new(body)) }
    });
    let balance = Balance::builder()
        .services([("a", service)])
        .http()
        .build()
        .unwrap();
    let response = within("the head", balance.oneshot(Request::new(())))
        .await
        .unwrap();
    until("the driver ends", || alive_tasks() == before).await;
    feed.unbounded_send(Ok(Frame::data(Bytes::from_static(b"late"))))
        .unwrap();
    drop(feed);
    let body = within("the body", response.into_body().collect())
        .await
        .unwrap();
    assert_eq!(body.to_bytes(), "late", "what is in flight finishes");
}

#[tokio::test(start_paused = true)]
async fn point_7_idle_it_reconnects_and_applies_updates() {
    let world = World::new();
    let server = world.server("a");
    let (source, updates) = Handle::new(["a"]).unwrap();
    let balance = builder!(world).discovery(updates).build().unwrap();
    connected(&balance, 1).await;
    server.set_dial(Dial::Refuse);
    server.connection().closed(Some("reset".into()));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(
        server.dials().len() > 2,
        "no call is needed for a reconnect"
    );
    server.set_dial(Dial::Connect);
    tokio::time::sleep(Duration::from_secs(10)).await;
    connected(&balance, 1).await;
    source.insert("b").unwrap();
    connected(&balance, 2).await;
    assert_eq!(world.server("b").calls(), 0);
}

#[test]
fn point_7_a_runtime_that_is_gone_is_unavailable_and_no_panic() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (balance, layer) = runtime.block_on(async {
        let balance = builder!(world).endpoints(["a"]).build().unwrap();
        within("a call", balance.clone().oneshot(ask("x")))
            .await
            .unwrap();
        let layer = Balance::builder().endpoints(["a"]).layer().unwrap();
        (balance, layer)
    });
    let queued = {
        let world = World::new();
        world.server("b").set_dial(Dial::Hang);
        let mut balance =
            runtime.block_on(async { builder!(world).endpoints(["b"]).build().unwrap() });
        balance.call(ask("x"))
    };
    drop(runtime);
    assert_eq!(balance.state(), ConnectivityState::Shutdown);
    assert_eq!(balance.watch_state().get(), ConnectivityState::Shutdown);
    assert!(
        balance.report().endpoints.is_empty(),
        "a report still works"
    );

    let next = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    next.block_on(async {
        let error = within("no hang", balance.oneshot(ask("x")))
            .await
            .unwrap_err();
        assert!(error.is_unavailable() && error.is_closed(), "{error}");
        let error = within("no hang", queued).await.unwrap_err();
        assert!(error.is_unavailable() && error.is_closed(), "{error}");

        let make = service_fn(|_: Endpoint| async {
            Ok::<_, std::io::Error>(service_fn(
                |n: u32| async move { Ok::<_, std::io::Error>(n) },
            ))
        });
        let error = within("no hang", layer.layer(make).oneshot(1))
            .await
            .unwrap_err();
        assert!(error.is_unavailable() && error.is_closed(), "{error}");
    });
}

#[tokio::test(start_paused = true)]
async fn point_7_a_connector_that_panics_fails_its_dial_and_nothing_else() {
    let connector =
        evenkeel::connection::connector_fn(|endpoint: &Endpoint, _: ConnectionEvents| {
            assert_ne!(endpoint.address(), "bad-at-once", "on purpose");
            let bad = endpoint.address() == "bad-later";
            async move {
                assert!(!bad, "on purpose");
                Ok::<_, std::io::Error>(service_fn(
                    |n: u32| async move { Ok::<_, std::io::Error>(n) },
                ))
            }
        });
    let balance = Balance::builder()
        .endpoints(["bad-at-once", "bad-later", "good"])
        .connector(connector)
        .build()
        .unwrap();
    assert_eq!(
        within("good is good", balance.clone().oneshot(7))
            .await
            .unwrap(),
        7
    );
    until("both have failed", || {
        ["bad-at-once", "bad-later"].iter().all(|bad| {
            find(balance.report(), bad)
                .is_some_and(|e| e.state == ConnectivityState::TransientFailure)
        })
    })
    .await;
    let reason = endpoint(&balance, "bad-at-once").last_error.unwrap();
    assert!(reason.contains("panicked"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn point_7_a_policy_that_panics_closes_its_balancer_and_hangs_nobody() {
    use evenkeel::policy::{Candidates, Picker, Policy, RoundRobin};

    #[derive(Debug)]
    struct Panics;
    impl Policy for Panics {
        fn name(&self) -> &'static str {
            "panics"
        }
        fn build(
            &self,
            candidates: &Candidates,
            previous: Option<&dyn Picker>,
        ) -> std::sync::Arc<dyn Picker> {
            assert!(candidates.all().is_empty(), "on purpose");
            RoundRobin::default().build(candidates, previous)
        }
    }

    let world = World::new();
    let balance = builder!(world)
        .endpoints(["a"])
        .policy(Panics)
        .build()
        .unwrap();
    for _ in 0..2 {
        let error = within("no hang", balance.clone().oneshot(ask_and_wait("x")))
            .await
            .unwrap_err();
        assert!(error.is_unavailable() && error.is_closed(), "{error}");
        assert!(
            error.to_string().contains("a policy or a source"),
            "the runtime is still there: {error}"
        );
    }
    assert_eq!(
        balance.state(),
        ConnectivityState::Shutdown,
        "nothing will come any more"
    );
}

#[tokio::test(start_paused = true)]
async fn point_7_a_watch_sees_every_state_it_waits_for() {
    let world = World::new();
    let server = world.server("a");
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    let mut watch = balance.watch_state();
    assert!(within("ready", watch.wait_for(ConnectivityState::Ready)).await);
    server.set_dial(Dial::Refuse);
    server.connection().closed(None);
    assert!(
        within(
            "failing",
            watch.wait_for(ConnectivityState::TransientFailure)
        )
        .await
    );
    drop(balance);
    assert!(!within("the end", watch.wait_for(ConnectivityState::Ready)).await);
}
