//! One connection at a time, in the order of the list.

use std::time::Duration;

use evenkeel::ConnectivityState;
use evenkeel::discovery::Handle;
use evenkeel::policy::PickFirst;
use tower::ServiceExt;

use crate::builder;
use crate::world::*;

const DELAY: Duration = Duration::from_millis(250);

async fn first<const N: usize>(world: &World, names: [&str; N]) -> Balanced {
    let balance = builder!(world)
        .endpoints(names)
        .policy(PickFirst::default())
        .build()
        .expect("the settings are right");
    connected(&balance, 1).await;
    balance
}

async fn answer(balance: &Balanced) -> Result<String, evenkeel::Error> {
    within("a call", balance.clone().oneshot(ask("x"))).await
}

#[tokio::test(start_paused = true)]
async fn only_the_first_is_dialled_and_gets_all_calls() {
    let world = World::new();
    let [a, b, c] = world.servers(["a", "b", "c"]);
    let balance = first(&world, ["a", "b", "c"]).await;
    for _ in 0..50 {
        assert_eq!(answer(&balance).await.unwrap(), "a");
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let dials = [&a, &b, &c].map(|server| server.dials().len());
    assert_eq!(
        dials,
        [1, 0, 0],
        "one connection is enough, for an hour too"
    );
    assert_eq!(endpoint(&balance, "b").state, ConnectivityState::Idle);
    assert_eq!(balance.state(), ConnectivityState::Ready);
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_answer_holds_calls_up_for_the_delay_only() {
    let world = World::new();
    let [a, c] = world.servers(["a", "c"]);
    a.set_dial(Dial::Hang);
    let start = tokio::time::Instant::now();
    let balance = builder!(world)
        .endpoints(["a", "b", "c"])
        .policy(PickFirst::default())
        .build()
        .unwrap();
    assert_eq!(answer(&balance).await.unwrap(), "b", "who answers first");
    let took = start.elapsed();
    assert!(
        took >= DELAY && took < DELAY + Duration::from_millis(10),
        "250 ms (gRFC A61), not {took:?}"
    );
    until("the dial of a is given up", || world.dialing() == 0).await;
    a.set_dial(Dial::Connect);
    for _ in 0..10 {
        assert_eq!(
            answer(&balance).await.unwrap(),
            "b",
            "one that could be reached now does not take over"
        );
    }
    assert_eq!(c.dials().len(), 0, "b answered in time");
}

#[tokio::test(start_paused = true)]
async fn calls_go_on_to_the_next_when_it_is_lost_and_stay_there() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    let balance = first(&world, ["a", "b"]).await;
    assert_eq!(answer(&balance).await.unwrap(), "a");
    a.set_dial(Dial::Refuse);
    a.connection().closed(None);
    for _ in 0..10 {
        assert_eq!(answer(&balance).await.unwrap(), "b", "no call fails");
    }
    a.set_dial(Dial::Connect);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(answer(&balance).await.unwrap(), "b", "and it stays there");
    b.connection().draining();
    assert_eq!(
        answer(&balance).await.unwrap(),
        "a",
        "lost again: from the front of the list"
    );
}

#[tokio::test(start_paused = true)]
async fn once_all_have_failed_calls_fail_at_once_until_one_is_ready() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    a.set_dial(Dial::Refuse);
    b.set_dial(Dial::Refuse);
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(PickFirst::default())
        .build()
        .unwrap();
    let error = answer(&balance).await.expect_err("none can be reached");
    assert!(error.is_unavailable(), "{error}");
    assert!(error.to_string().contains("2 failing"), "{error}");

    // At 1 s both are dialled again, by their own backoff.
    a.set_dial(Dial::Hang);
    b.set_dial(Dial::Hang);
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(world.dialing(), 2, "side by side");
    let start = tokio::time::Instant::now();
    let error = answer(&balance).await.expect_err("sticky (gRFC A62)");
    assert!(
        error.is_unavailable() && start.elapsed().is_zero(),
        "{error}"
    );
    let waiting = tokio::spawn(balance.clone().oneshot(ask_and_wait("x")));
    settle().await;
    b.set_dial(Dial::Connect);
    let waited = within("wait-for-ready", waiting).await.unwrap();
    assert_eq!(waited.unwrap(), "b");
    assert_eq!(answer(&balance).await.unwrap(), "b");
    until("the dial of a is given up", || world.dialing() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn an_update_keeps_the_connection_or_begins_the_new_list() {
    let world = World::new();
    let [a, b, c] = world.servers(["a", "b", "c"]);
    let (handle, updates) = Handle::new(["b", "c"]).unwrap();
    let balance = builder!(world)
        .discovery(updates)
        .policy(PickFirst::default())
        .build()
        .unwrap();
    assert_eq!(answer(&balance).await.unwrap(), "b");
    handle.replace(["a", "b", "c"]).unwrap();
    until("the list is taken", || {
        balance.report().endpoints.len() == 3
    })
    .await;
    assert_eq!(answer(&balance).await.unwrap(), "b", "it is still named");
    assert_eq!((a.dials().len(), b.dials().len()), (0, 1));

    b.set_answer(Answer::Hang);
    let under_way = tokio::spawn(balance.clone().oneshot(ask("x")));
    until("it is under way", || b.under_way() == 1).await;
    handle.replace(["a", "c"]).unwrap();
    until("the list is taken", || {
        balance.report().endpoints.len() == 2
    })
    .await;
    assert_eq!(answer(&balance).await.unwrap(), "a", "the new list's first");
    b.set_answer(Answer::Name);
    let finished = within("the call under way", under_way).await.unwrap();
    assert_eq!(finished.unwrap(), "b", "it finishes where it is");
    assert_eq!((a.dials().len(), c.dials().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_its_calls_makes_room_and_its_streams_finish() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    let balance = first(&world, ["a", "b"]).await;
    a.set_answer(Answer::Hang);
    let under_way = tokio::spawn(balance.clone().oneshot(ask("x")));
    until("it is under way", || a.under_way() == 1).await;
    let failing: Vec<_> = (0..5)
        .map(|_| tokio::spawn(balance.clone().oneshot(ask("x"))))
        .collect();
    until("they are under way", || a.under_way() == 6).await;
    for call in &failing[..4] {
        assert!(!call.is_finished(), "they hang");
    }
    a.set_answer(Answer::Fail);
    for call in failing {
        let result = within("a failing call", call).await.unwrap();
        result.expect_err("a fails its calls");
    }
    drop(within("the first call", under_way).await.unwrap());
    until("the next one is connected", || {
        endpoint(&balance, "b").state == ConnectivityState::Ready
    })
    .await;
    for _ in 0..20 {
        assert_eq!(answer(&balance).await.unwrap(), "b", "a is ejected");
    }
    until("a's connection is let go", || a.clones_alive() == 0).await;
    assert_eq!(endpoint(&balance, "a").state, ConnectivityState::Idle);
    tokio::time::sleep(Duration::from_secs(31)).await;
    a.set_answer(Answer::Name);
    assert!(
        endpoint(&balance, "a").ejected.is_none(),
        "its time is over, though nobody called it"
    );
    b.set_dial(Dial::Refuse);
    b.connection().closed(None);
    assert_eq!(answer(&balance).await.unwrap(), "a");
}

/// The calls themselves eject it, before the control plane hears of that.
#[tokio::test(start_paused = true)]
async fn a_call_after_an_ejection_waits_for_the_next_endpoint() {
    let world = World::new();
    let [a] = world.servers(["a"]);
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(PickFirst::default())
        .ejection(at_the_first_failure())
        .build()
        .unwrap();
    connected(&balance, 1).await;
    a.set_answer(Answer::Fail);
    let error = answer(&balance).await.expect_err("it fails its calls");
    assert!(error.is_endpoint(), "{error}");
    assert_eq!(
        answer(&balance).await.unwrap(),
        "b",
        "one that is idle is on its way as soon as the ejection is heard of"
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_back_does_not_wait_for_endpoints_that_nobody_dials() {
    let world = World::new();
    let [a] = world.servers(["a"]);
    let balance = first(&world, ["a", "b"]).await;
    a.set_answer(Answer::HandBack);
    let start = tokio::time::Instant::now();
    let error = answer(&balance).await.expect_err("no other is connected");
    assert!(error.is_unavailable(), "{error}");
    assert!(start.elapsed().is_zero(), "at once, and never a hang");
}

#[tokio::test(start_paused = true)]
async fn a_shuffled_list_spreads_the_clients() {
    let world = World::new();
    let mut reached = [0; 4];
    for seed in 0..200 {
        let balance = builder!(world)
            .endpoints(["a", "b", "c", "d"])
            .policy(PickFirst::default().with_shuffle(true))
            .seed(seed)
            .build()
            .unwrap();
        let name = answer(&balance).await.unwrap();
        reached[usize::from(name.as_bytes()[0] - b'a')] += 1;
    }
    // 50 each expected, standard deviation sqrt(200 * 1/4 * 3/4) = 6.1; five of them.
    assert!(
        reached.iter().all(|n| (19..=81).contains(n)),
        "200 clients on 4 endpoints: {reached:?}"
    );
}
