//! `poll_ready` never errs; where it waits, it misses no wake-up and keeps its word.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use evenkeel::ConnectivityState;
use tower::{Service, ServiceExt};

use crate::builder;
use crate::world::*;

#[test]
fn point_2_poll_ready_never_errs_even_after_the_runtime_shut_down() {
    for wait in [false, true] {
        let world = World::new();
        world.server("a").set_dial(Dial::Hang);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let mut balance = runtime.block_on(async {
            builder!(world)
                .endpoints(["a"])
                .wait_in_poll_ready(wait)
                .build()
                .unwrap()
        });
        let mut cx = Context::from_waker(Waker::noop());
        let before = Service::<Ask>::poll_ready(&mut balance, &mut cx);
        match wait {
            true => assert!(before.is_pending(), "nothing is connected yet"),
            false => assert!(matches!(before, Poll::Ready(Ok(())))),
        }
        drop(runtime);
        for _ in 0..3 {
            assert!(
                matches!(
                    Service::<Ask>::poll_ready(&mut balance, &mut cx),
                    Poll::Ready(Ok(()))
                ),
                "an error here would poison every layer above for good"
            );
            let error = futures::executor::block_on(balance.call(ask("x"))).unwrap_err();
            assert!(error.is_unavailable() && error.is_closed(), "{error}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn point_2_by_default_a_handle_is_always_ready() {
    let world = World::new();
    world.server("a").set_dial(Dial::Refuse);
    let mut balance = builder!(world).endpoints(["a"]).build().unwrap();
    settle().await;
    assert!(
        matches!(ready_now(&mut balance).await, Poll::Ready(Ok(()))),
        "what waiting there is happens in the call"
    );
}

#[tokio::test(start_paused = true)]
async fn point_2_wait_in_poll_ready_waits_and_stays_ready_until_the_call() {
    let world = World::new();
    let server = world.server("a");
    server.set_dial(Dial::Hang);
    let mut balance = builder!(world)
        .endpoints(["a"])
        .wait_in_poll_ready(true)
        .build()
        .unwrap();
    let watcher = balance.clone();
    settle().await;
    assert!(
        ready_now(&mut balance).await.is_pending(),
        "nothing is usable yet"
    );

    let mut waiting = balance.clone();
    let waiting = tokio::spawn(async move {
        within(
            "woken by the connection",
            ServiceExt::<Ask>::ready(&mut waiting),
        )
        .await
        .unwrap();
    });
    settle().await;
    server.set_dial(Dial::Connect);
    waiting.await.unwrap();
    within("ready by now", ServiceExt::<Ask>::ready(&mut balance))
        .await
        .unwrap();

    server.set_dial(Dial::Refuse);
    server.connection().closed(None);
    until("the endpoint is lost", || {
        watcher.state() != ConnectivityState::Ready
    })
    .await;
    for _ in 0..3 {
        assert!(
            ready_now(&mut balance).await.is_ready(),
            "Ready is a promise until the next call"
        );
    }
    // The endpoint is gone, so the call fails or waits; the promise is used up either way.
    drop(balance.call(ask("x")));
    assert!(
        ready_now(&mut balance).await.is_pending(),
        "the call used the promise up"
    );
}

/// Readiness comes on one thread while another one is between its look and its sleep.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn point_2_no_wake_up_is_lost_between_the_look_and_the_sleep() {
    for round in 0..300 {
        let world = World::new();
        let server = world.server("a");
        server.set_dial(Dial::Hang);
        let mut balance = builder!(world)
            .endpoints(["a"])
            .wait_in_poll_ready(true)
            .build()
            .unwrap();
        let waiter = tokio::spawn(async move {
            ServiceExt::<Ask>::ready(&mut balance).await.unwrap();
        });
        for _ in 0..round % 50 {
            std::hint::spin_loop();
        }
        server.set_dial(Dial::Connect);
        tokio::time::timeout(Duration::from_secs(10), waiter)
            .await
            .unwrap_or_else(|_| panic!("round {round}: the waker is there before the last look"))
            .unwrap();
    }
}
