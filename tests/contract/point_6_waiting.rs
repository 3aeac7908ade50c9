//! No usable endpoint: wait while one may come, fail at once when all are known to be bad.

use std::time::Duration;

use evenkeel::discovery::{Handle, Update};
use evenkeel::health::{Ejection, Limits};
use evenkeel::{BoxError, ConnectivityState};
use futures::channel::mpsc;
use futures::{StreamExt, poll, stream};
use tokio::time::Instant;
use tower::ServiceExt;

use crate::builder;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn point_6_a_call_queues_while_an_endpoint_connects() {
    let world = World::new();
    let server = world.server("a");
    server.set_dial(Dial::Hang);
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    assert_eq!(balance.state(), ConnectivityState::Connecting);
    let calls: Vec<_> = (0..5)
        .map(|_| tokio::spawn(balance.clone().oneshot(ask("x"))))
        .collect();
    settle().await;
    assert!(
        calls.iter().all(|call| !call.is_finished()),
        "it may connect yet"
    );
    server.set_dial(Dial::Connect);
    for call in calls {
        let answer = within("woken by the connection", call).await.unwrap();
        assert_eq!(answer.unwrap(), "a");
    }
}

#[tokio::test(start_paused = true)]
async fn point_6_a_queued_call_fails_when_the_last_hope_does() {
    let world = World::new();
    let server = world.server("a");
    server.set_dial(Dial::Hang);
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    settle().await;
    server.set_dial(Dial::Refuse);
    let error = within("the dial failed", call).await.unwrap().unwrap_err();
    assert!(error.is_unavailable() && !error.is_closed(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn point_6_a_dial_that_hangs_ends_by_its_time_limit() {
    let world = World::new();
    world.server("a").set_dial(Dial::Hang);
    let balance = builder!(world)
        .endpoints(["a"])
        .connect_timeout(Duration::from_secs(3))
        .build()
        .unwrap();
    let start = Instant::now();
    let error = within("the limit", balance.clone().oneshot(ask("x")))
        .await
        .unwrap_err();
    assert_eq!(start.elapsed().as_secs(), 3);
    assert!(
        error.to_string().contains("not connected within 3s"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn point_6_all_known_bad_fails_at_once_with_counts_and_the_last_error() {
    let world = World::new();
    for server in world.servers(["a", "b", "c"]) {
        server.set_dial(Dial::Refuse);
    }
    let balance = builder!(world).endpoints(["a", "b", "c"]).build().unwrap();
    until("all have failed", || {
        balance.state() == ConnectivityState::TransientFailure
    })
    .await;
    let start = Instant::now();
    let error = within("at once", balance.clone().oneshot(ask("x")))
        .await
        .unwrap_err();
    assert_eq!(
        start.elapsed(),
        Duration::ZERO,
        "known to be bad: no waiting"
    );
    assert!(error.is_unavailable(), "{error}");
    let message = error.to_string();
    assert!(
        message.contains("of 3: 0 connecting, 0 ejected, 3 failing"),
        "{message}"
    );
    assert!(
        message.contains("last connect error: ") && message.contains(" refused"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn point_6_one_that_may_yet_come_is_worth_waiting_for() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    a.set_dial(Dial::Refuse);
    b.set_dial(Dial::Hang);
    let balance = builder!(world).endpoints(["a", "b"]).build().unwrap();
    until("a has failed", || {
        find(balance.report(), "a").is_some_and(|a| a.state == ConnectivityState::TransientFailure)
    })
    .await;
    assert_eq!(
        balance.state(),
        ConnectivityState::Connecting,
        "{{CONNECTING, TRANSIENT_FAILURE}} aggregates to CONNECTING"
    );
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    settle().await;
    assert!(!call.is_finished(), "b may connect yet");
    b.set_dial(Dial::Connect);
    assert_eq!(within("b", call).await.unwrap().unwrap(), "b");
}

#[tokio::test(start_paused = true)]
async fn point_6_wait_for_ready_waits_where_others_fail() {
    let world = World::new();
    let server = world.server("a");
    server.set_dial(Dial::Refuse);
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    until("a has failed", || {
        balance.state() == ConnectivityState::TransientFailure
    })
    .await;
    let call = tokio::spawn(balance.clone().oneshot(ask_and_wait("x")));
    settle().await;
    assert!(!call.is_finished(), "the caller asked to wait");
    // Some dials fail meanwhile: 1 s, 2.6 s and 5.16 s after the first.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert!(!call.is_finished(), "for as long as it takes");
    server.set_dial(Dial::Connect);
    assert_eq!(within("a is back", call).await.unwrap().unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn point_6_wait_for_ready_as_an_http_extension() {
    use evenkeel::call::WaitForReady;
    use http::{Request, Response};
    let (handle, updates) = Handle::new([] as [&str; 0]).unwrap();
    let connector = evenkeel::connection::connector_fn(|_, _| async {
        Ok::<_, std::io::Error>(tower::service_fn(|_: Request<()>| async {
            Ok::<_, std::io::Error>(Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
        }))
    });
    let balance = evenkeel::Balance::builder()
        .discovery(updates)
        .connector(connector)
        .http()
        .build()
        .unwrap();
    until("the empty set is known", || balance.report().resolved).await;
    let mut request = Request::new(());
    request.extensions_mut().insert(WaitForReady(true));
    let call = tokio::spawn(balance.clone().oneshot(request));
    settle().await;
    assert!(!call.is_finished(), "the extension says to wait");
    assert!(
        within("at once", balance.clone().oneshot(Request::new(())))
            .await
            .unwrap_err()
            .is_unavailable(),
        "without it the empty set fails the call"
    );
    handle.insert("a").unwrap();
    within("an endpoint came", call).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn point_6_an_empty_set_fails_at_once() {
    let world = World::new();
    let (_handle, updates) = Handle::new([] as [&str; 0]).unwrap();
    let balance = builder!(world).discovery(updates).build().unwrap();
    let error = within(
        "an empty set is known to be bad",
        balance.clone().oneshot(ask("x")),
    )
    .await
    .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert_eq!(error.to_string(), "there are no endpoints");
    assert_eq!(balance.state(), ConnectivityState::TransientFailure);
}

#[tokio::test(start_paused = true)]
async fn point_6_a_set_that_becomes_empty_fails_who_waits() {
    let world = World::new();
    world.server("a").set_dial(Dial::Hang);
    let (handle, updates) = Handle::new(["a"]).unwrap();
    let balance = builder!(world).discovery(updates).build().unwrap();
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    settle().await;
    assert!(handle.remove("a"));
    let error = within("nothing is left to wait for", call).await.unwrap();
    assert_eq!(error.unwrap_err().to_string(), "there are no endpoints");
    until("the dial was given up", || world.dialing() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn point_6_before_the_first_word_of_the_source_calls_wait() {
    let world = World::new();
    let (source, updates) = mpsc::unbounded::<Result<Update, BoxError>>();
    let balance = builder!(world).discovery(updates).build().unwrap();
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    settle().await;
    assert!(!call.is_finished(), "nothing is known yet");
    source.unbounded_send(Ok(Update::new(["a"]))).unwrap();
    assert_eq!(within("a", call).await.unwrap().unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn point_6_a_source_whose_first_word_is_an_error_fails_calls_with_it() {
    let world = World::new();
    let (source, updates) = mpsc::unbounded::<Result<Update, BoxError>>();
    let balance = builder!(world).discovery(updates).build().unwrap();
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    settle().await;
    source.unbounded_send(Err("no such name".into())).unwrap();
    let error = within("known to be bad", call).await.unwrap().unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(
        error.to_string().contains("discovery: no such name"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn point_6_a_source_that_ends_without_a_word_hangs_nobody() {
    let world = World::new();
    let source = stream::empty::<Result<Update, BoxError>>();
    let balance = builder!(world).discovery(source).build().unwrap();
    let error = within("nothing will ever come", balance.clone().oneshot(ask("x")))
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");

    let source = stream::iter([Err::<Update, BoxError>("no such name".into())]);
    let balance = builder!(world).discovery(source).build().unwrap();
    let error = within("nothing will ever come", balance.clone().oneshot(ask("x")))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("no such name"),
        "its last word is still the reason: {error}"
    );
}

/// A broken source that always has something to say must not take the thread for itself.
#[tokio::test(start_paused = true)]
async fn point_6_a_source_that_never_pauses_starves_nobody() {
    let world = World::new();
    let source = stream::iter([Ok(Update::new(["a"]))]).chain(stream::repeat_with(|| {
        Err::<Update, BoxError>("again".into())
    }));
    let balance = builder!(world).discovery(source).build().unwrap();
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    assert_eq!(within("a", call).await.unwrap().unwrap(), "a");
    drop(balance);
    let metrics = tokio::runtime::Handle::current().metrics();
    until("the driver ends", || metrics.num_alive_tasks() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn point_6_all_ejected_without_panic_mode_fails_and_counts_them() {
    let world = World::new();
    let names = ["a", "b"];
    let [a, b] = world.servers(names);
    a.set_answer(Answer::Fail);
    b.set_answer(Answer::Fail);
    let balance = builder!(world)
        .endpoints(names)
        .ejection(at_the_first_failure())
        .build()
        .unwrap();
    connected(&balance, 2).await;
    for _ in 0..2 {
        let error = within("a call", balance.clone().oneshot(ask("x")))
            .await
            .unwrap_err();
        assert!(error.is_endpoint(), "{error}");
    }
    settle().await;
    let error = within("known to be bad", balance.clone().oneshot(ask("x")))
        .await
        .unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    assert!(
        error
            .to_string()
            .contains("of 2: 0 connecting, 2 ejected, 0 failing"),
        "{error}"
    );

    // Who waits for ready is served by the probing calls.
    a.set_answer(Answer::Name);
    b.set_answer(Answer::Name);
    let mut call = Box::pin(balance.clone().oneshot(ask_and_wait("x")));
    assert!(poll!(&mut call).is_pending());
    within("the ejections end", call).await.unwrap();
}

/// A picker of the user's own may name an endpoint that cannot be used, again and again.
#[tokio::test(start_paused = true)]
async fn point_6_a_picker_that_names_the_unusable_hangs_nobody() {
    use evenkeel::policy::{Candidates, Pick, PickContext, Picker, Policy};
    use std::sync::Arc;

    #[derive(Debug)]
    struct Stubborn(usize);
    impl Policy for Stubborn {
        fn name(&self) -> &'static str {
            "stubborn"
        }
        fn build(&self, _: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
            Arc::new(Stubborn(self.0))
        }
    }
    impl Picker for Stubborn {
        fn pick(&self, _: &mut PickContext<'_>) -> Pick {
            Pick::Endpoint(self.0)
        }
    }

    // A limit is no reason to take an endpoint that cannot be used for one that is full.
    let limited = Limits::default().with_max_in_flight_per_endpoint(3);
    for (slot, limits) in [
        (0, Limits::default()),
        (77, Limits::default()),
        (0, limited),
    ] {
        let world = World::new();
        world.server("a").set_dial(Dial::Refuse);
        let balance = builder!(world)
            .endpoints(["a", "b"])
            .policy(Stubborn(slot))
            .limits(limits)
            .ejection(Ejection::off().with_panic_threshold_percent(0))
            .connect_timeout(Duration::from_secs(1))
            .build()
            .unwrap();
        connected(&balance, 1).await;
        let start = Instant::now();
        let error = within("it is told", balance.clone().oneshot(ask("x")))
            .await
            .unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        let why = error.to_string();
        assert!(!why.contains("are under way"), "nothing is full: {why}");
        assert!(start.elapsed() < Duration::from_secs(1), "and at once");
    }
}
