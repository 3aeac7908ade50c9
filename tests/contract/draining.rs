//! Endpoints that are taken out of service, and put back.

use std::time::Duration;

use evenkeel::ConnectivityState;
use evenkeel::discovery::Handle;
use evenkeel::observe::DrainStage;
use evenkeel::policy::{PickFirst, RoundRobin};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::builder;
use crate::lifecycle::{Cuttable, busy, busy_by};
use crate::world::*;

const LONG: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn a_drained_endpoint_finishes_its_calls_gets_no_other_and_comes_back() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    let balance = balanced(&Cuttable(world.clone()), ["a", "b"], RoundRobin::default()).await;
    a.set_answer(Answer::Hang);
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    let other = tokio::spawn(balance.clone().oneshot(ask("x")));
    until("one is under way at a", || a.under_way() == 1).await;

    let drain = balance.drain("a", LONG);
    for _ in 0..20 {
        let answer = within("b", balance.clone().oneshot(ask("x"))).await;
        assert_eq!(answer.unwrap(), "b", "from now on no new call goes to it");
    }
    settle().await;
    let report = endpoint(&balance, "a");
    assert_eq!(report.state, ConnectivityState::Shutdown);
    assert_eq!(report.drain, Some(DrainStage::Draining));
    assert_eq!(report.in_flight, 1, "a report shows what is waited for");
    assert!(report.to_string().contains(", draining"), "{report}");
    assert_eq!(
        balance.state(),
        ConnectivityState::Ready,
        "by the other one"
    );
    assert_eq!((a.calls(), a.under_way()), (1, 1), "its call goes on");

    let start = Instant::now();
    a.set_answer(Answer::Name);
    let outcome = within("its call has ended", drain).await.unwrap();
    assert!(outcome.is_clean(), "{outcome:?}");
    assert_eq!(start.elapsed(), Duration::ZERO, "no deadline is waited for");
    for call in [call, other] {
        within("it finishes", call).await.unwrap().unwrap();
    }
    assert_eq!(a.clones_alive(), 0, "its connection is closed");
    settle().await;
    assert_eq!(endpoint(&balance, "a").drain, Some(DrainStage::Drained));
    tokio::time::sleep(LONG * 10).await;
    assert_eq!(a.dials().len(), 1, "it is not dialled");
    let again = within("it is over", balance.drain("a", LONG)).await;
    assert!(
        again.unwrap().is_clean(),
        "a second drain has nothing to do"
    );

    within("it is put back", balance.undrain("a"))
        .await
        .unwrap();
    connected(&balance, 2).await;
    let report = endpoint(&balance, "a");
    assert_eq!((report.drain, report.calls), (None, 0), "it is as new");
    for _ in 0..2 {
        within("a call", balance.clone().oneshot(ask("x")))
            .await
            .unwrap();
    }
    assert_eq!(a.calls(), 2, "it gets calls again");
    drop(b);
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_drain_cuts_its_calls_and_no_others() {
    for limits in [&[0][..], &[5], &[60, 5], &[5, 60]] {
        let world = World::new();
        let [a, b] = world.servers(["a", "b"]);
        let balance = balanced(&Cuttable(world.clone()), ["a", "b"], RoundRobin::default()).await;
        for server in [&a, &b] {
            server.set_answer(Answer::Hang);
        }
        let calls = [(); 2].map(|()| tokio::spawn(balance.clone().oneshot(ask("x"))));
        until("one is under way at each", || {
            (a.under_way(), b.under_way()) == (1, 1)
        })
        .await;
        let start = Instant::now();
        let drains = limits
            .iter()
            .map(|secs| balance.drain("a", Duration::from_secs(*secs)));
        let drains = futures::future::join_all(drains);
        for outcome in within("the earliest deadline holds", drains).await {
            let outcome = outcome.unwrap();
            assert_eq!((outcome.cut, outcome.left), (1, 0), "{limits:?}");
        }
        let earliest = limits.iter().min().copied();
        assert_eq!(Some(start.elapsed().as_secs()), earliest, "{limits:?}");
        assert_eq!((a.clones_alive(), b.under_way()), (0, 1), "b goes on");
        b.set_answer(Answer::Name);
        let mut failed = 0;
        for call in calls {
            failed += usize::from(within("it ends", call).await.unwrap().is_err());
        }
        assert_eq!(failed, 1, "the call that was cut");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_endpoint_is_an_error_that_names_it() {
    let world = World::new();
    let balance = balanced(&world, ["a"], RoundRobin::default()).await;
    let drained = within("no hang", balance.drain("nobody", LONG)).await;
    let undrained = within("no hang", balance.undrain("nobody")).await;
    for error in [drained.unwrap_err(), undrained.unwrap_err()] {
        assert!(error.is_unknown_endpoint(), "{error}");
        assert!(error.to_string().contains("nobody"), "{error}");
    }
    within("a is not drained", balance.undrain("a"))
        .await
        .unwrap();
    let _ = balance.shutdown(LONG).await;
    let error = within("no hang", balance.drain("a", LONG)).await;
    assert!(error.unwrap_err().is_shut_down(), "it says why");
}

#[tokio::test(start_paused = true)]
async fn with_all_drained_calls_fail_and_those_for_ready_wait() {
    let world = World::new();
    let balance = balanced(&world, ["a"], RoundRobin::default()).await;
    within("nothing is under way", balance.drain("a", LONG))
        .await
        .unwrap();
    let error = within("no hang", balance.clone().oneshot(ask("x"))).await;
    let error = error.unwrap_err();
    assert!(error.is_unavailable() && !error.is_closed(), "{error}");
    assert!(
        error.to_string().contains("1 drained"),
        "it says why: {error}"
    );
    assert_eq!(balance.state(), ConnectivityState::TransientFailure);
    let waiting = tokio::spawn(balance.clone().oneshot(ask_and_wait("x")));
    settle().await;
    assert!(!waiting.is_finished(), "it waits for ready");
    within("it is put back", balance.undrain("a"))
        .await
        .unwrap();
    let answer = within("it finds it", waiting).await.unwrap();
    assert_eq!(answer.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn a_drain_lasts_until_the_source_names_the_endpoint_anew() {
    let world = World::new();
    let (handle, updates) = Handle::new(["a", "b"]).unwrap();
    let balance = builder!(world).discovery(updates).build().unwrap();
    connected(&balance, 2).await;
    within("nothing is under way", balance.drain("a", LONG))
        .await
        .unwrap();
    handle.insert("c").unwrap();
    connected(&balance, 2).await;
    assert!(
        endpoint(&balance, "a").drain.is_some(),
        "it is still drained"
    );
    handle.remove("a");
    until("a is out", || find(balance.report(), "a").is_none()).await;
    handle.insert("a").unwrap();
    connected(&balance, 3).await;
    assert_eq!(endpoint(&balance, "a").drain, None, "it is back");
}

#[tokio::test(start_paused = true)]
async fn a_drain_outlives_its_future_and_waits_for_an_endpoint_that_leaves() {
    let (handle, updates) = Handle::new(["a"]).unwrap();
    let (_a, balance, call) = busy_by(updates).await;
    drop(balance.drain("a", LONG));
    let start = Instant::now();
    handle.remove("a");
    let error = within("it is cut", call).await.unwrap().unwrap_err();
    assert!(error.is_endpoint(), "{error}");
    assert_eq!(
        start.elapsed().as_secs(),
        LONG.as_secs(),
        "by the deadline of a drain that nobody waits for, though its endpoint left"
    );
}

#[tokio::test(start_paused = true)]
async fn the_future_of_a_drain_keeps_the_balancer_alive() {
    let (_a, balance, call) = busy().await;
    let drain = balance.drain("a", LONG);
    drop(balance);
    let outcome = within("the deadline holds", drain).await.unwrap();
    assert_eq!(outcome.cut, 1);
    within("it is cut", call).await.unwrap().unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn of_a_list_of_preference_the_next_takes_over() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(PickFirst::default())
        .build()
        .unwrap();
    connected(&balance, 1).await;
    within("nothing is under way", balance.drain("a", LONG))
        .await
        .unwrap();
    let answer = within("b", balance.clone().oneshot(ask("x"))).await;
    assert_eq!(answer.unwrap(), "b");
    assert_eq!((a.dials().len(), b.dials().len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_drain_under_way_is_answered_when_a_shutdown_ends_before_it() {
    let world = World::new();
    // Its connections cannot be cut.
    let balance = balanced(&world, ["a"], RoundRobin::default()).await;
    let a = world.server("a");
    a.set_answer(Answer::Hang);
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    until("it is under way", || a.under_way() == 1).await;
    let drain = balance.drain("a", LONG);
    settle().await;
    let outcome = within("it ends", balance.shutdown(Duration::ZERO)).await;
    assert_eq!((outcome.cut, outcome.left), (0, 1), "the call goes on");
    let error = within("the drain is answered", drain).await.unwrap_err();
    assert!(
        error.is_shut_down(),
        "it says that the balancer was shut down, and not that its task is gone: {error}"
    );
    call.abort();
}

/// Whatever order the calls, the drains and the shutdown come in, each call and each order ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_drains_and_a_shutdown_at_once_leave_nothing_behind() {
    for round in 0..20_u64 {
        let world = World::new();
        let names = ["a", "b", "c"];
        let balance = balanced(&Cuttable(world.clone()), names, RoundRobin::default()).await;
        let callers: Vec<_> = (0..8)
            .map(|_| {
                let balance = balance.clone();
                tokio::spawn(async move {
                    loop {
                        match balance.clone().oneshot(ask("x")).await {
                            Err(error) if error.is_shut_down() => return,
                            _ => tokio::task::yield_now().await,
                        }
                    }
                })
            })
            .collect();
        let operator = {
            let balance = balance.clone();
            tokio::spawn(async move {
                for n in 0..30 {
                    let name = names[n % 3];
                    match balance.drain(name, Duration::from_secs(30)).await {
                        Ok(outcome) => assert!(outcome.is_clean(), "{outcome:?}"),
                        Err(error) => return assert!(error.is_shut_down(), "{error}"),
                    }
                    let _ = balance.undrain(name).await;
                }
            })
        };
        tokio::time::sleep(Duration::from_millis(round % 7)).await;
        let outcome = within("all calls end", balance.shutdown(Duration::from_secs(30))).await;
        assert!(outcome.is_clean(), "no call takes long: {outcome:?}");
        for task in callers.into_iter().chain([operator]) {
            within("it ends", task).await.unwrap();
        }
        for server in world.servers(names) {
            until("no connection is left", || server.clones_alive() == 0).await;
        }
    }
}
