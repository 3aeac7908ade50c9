//! Health checks beside the calls: an endpoint gets none before its first verdict, nor while it is not serving.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use evenkeel::discovery::Handle;
use evenkeel::health::{CheckRules, Verdict};
use evenkeel::outcome::LoadReport;
use evenkeel::policy::{OrcaWeightedRoundRobin, PickFirst, RoundRobin};
use evenkeel::probe::{Target, Watch, WatchError, check_fn};
use evenkeel::{Balance, ConnectivityState};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tower::{Service, ServiceExt};

use crate::builder;
use crate::world::*;

type Said<T> = Result<T, WatchError>;

/// Servers whose words a test makes: verdicts, or reports.
struct Words<T>(Arc<Mutex<HashMap<String, Streams<T>>>>);

type Streams<T> = Vec<mpsc::UnboundedSender<Said<T>>>;

impl<T> Clone for Words<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Words<T> {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn of<R>(&self, id: &str, read: impl FnOnce(&mut Streams<T>) -> R) -> R {
        let mut all = self.0.lock().expect("no test panics while it holds this");
        read(all.entry(id.to_owned()).or_default())
    }

    /// How many streams were begun.
    fn begun(&self, id: &str) -> usize {
        self.of(id, |streams| streams.len())
    }

    /// Whether the latest stream is still read.
    fn is_open(&self, id: &str) -> bool {
        self.of(id, |streams| streams.last().is_some_and(|s| !s.is_closed()))
    }

    fn say(&self, id: &str, said: Said<T>) {
        self.of(id, |streams| {
            let latest = streams.last().expect("it is asked");
            latest.send(said).expect("it is heard");
        });
    }

    fn begin(&self, id: &str) -> BoxStream<'static, Said<T>>
    where
        T: Send + 'static,
    {
        let (words, said) = mpsc::unbounded_channel();
        self.of(id, |streams| streams.push(words));
        stream::unfold(said, |mut said| async {
            said.recv().await.map(|word| (word, said))
        })
        .boxed()
    }
}

impl Watch<Stub> for Words<Verdict> {
    type Terms = ();
    type Word = Verdict;
    type Stream = BoxStream<'static, Said<Verdict>>;

    fn watch(&self, target: Target<Stub>, (): &()) -> Self::Stream {
        self.begin(target.endpoint().id().as_str())
    }
}

impl Watch<Stub> for Words<LoadReport> {
    type Terms = Duration;
    type Word = LoadReport;
    type Stream = BoxStream<'static, Said<LoadReport>>;

    fn watch(&self, target: Target<Stub>, _: &Duration) -> Self::Stream {
        self.begin(target.endpoint().id().as_str())
    }
}

fn ill() -> Said<Verdict> {
    Ok(Verdict::not_serving("NOT_SERVING"))
}

fn well() -> Said<Verdict> {
    Ok(Verdict::Serving)
}

/// A balancer over one server, `a`, which is connected and has said that it serves.
async fn one_that_serves() -> (World, Words<Verdict>, Balanced) {
    let (world, checks) = (World::new(), Words::new());
    let balance = builder!(world)
        .endpoints(["a"])
        .health_check(checks.clone())
        .build()
        .unwrap();
    settle().await;
    checks.say("a", well());
    connected(&balance, 1).await;
    (world, checks, balance)
}

/// Waits until `a` is checked for the second time.
async fn begun_anew(checks: &Words<Verdict>, rule: &str) {
    within(rule, async {
        while checks.begun("a") < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_the_first_verdict_and_go_to_who_serves() {
    let world = World::new();
    let checks = Words::new();
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(RoundRobin::default())
        .health_check(checks.clone())
        .build()
        .unwrap();
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    settle().await;
    assert_eq!(world.server("a").dials().len(), 1, "connected");
    assert!(!call.is_finished(), "no verdict yet");
    assert_eq!(balance.state(), ConnectivityState::Connecting);
    checks.say("a", ill());
    settle().await;
    assert!(!call.is_finished(), "the other one may serve");
    checks.say("b", well());
    let answer = within("the call", call).await.unwrap().unwrap();
    assert_eq!(answer, "b");
    for _ in 0..10 {
        let answer = within("a call", balance.clone().oneshot(ask("x"))).await;
        assert_eq!(answer.unwrap(), "b", "a is not serving");
    }
    let report = endpoint(&balance, "a");
    assert_eq!(report.unhealthy.as_deref(), Some("NOT_SERVING"), "{report}");
    assert!(
        report.to_string().contains("health check: NOT_SERVING"),
        "{report}"
    );
    checks.say("b", ill());
    settle().await;
    let error = within("a call", balance.clone().oneshot(ask("x"))).await;
    let error = error.unwrap_err();
    assert!(error.is_unavailable(), "all are known bad: {error}");
    assert!(
        error
            .to_string()
            .contains("2 of them by their health check"),
        "{error}"
    );
    let waits = tokio::spawn(balance.clone().oneshot(ask_and_wait("x")));
    settle().await;
    assert!(!waits.is_finished(), "it was told to wait");
    checks.say("a", well());
    assert_eq!(within("the call", waits).await.unwrap().unwrap(), "a");
    assert_eq!(
        world.server("a").dials().len(),
        1,
        "by the connection it had"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_on_one_that_stops_serving_go_on() {
    let (world, checks, balance) = one_that_serves().await;
    let server = world.server("a");
    server.set_answer(Answer::Hang);
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    settle().await;
    assert_eq!(server.under_way(), 1);
    checks.say("a", ill());
    settle().await;
    assert_eq!(server.under_way(), 1, "it goes on");
    server.set_answer(Answer::Name);
    assert_eq!(within("the call", call).await.unwrap().unwrap(), "a");
    assert_eq!(endpoint(&balance, "a").in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_sees_one_again_that_was_ill_and_is_well() {
    let (world, checks, balance) = one_that_serves().await;
    let server = world.server("a");
    server.set_readiness(Readiness::Queue);
    let call = tokio::spawn(balance.clone().oneshot(ask_and_wait("x")));
    settle().await;
    assert_eq!(server.queued(), 1, "it waits for the service");
    checks.say("a", ill());
    settle().await;
    server.set_readiness(Readiness::Ready);
    checks.say("a", well());
    let answer = within("by the same connection", call).await.unwrap();
    assert_eq!(answer.unwrap(), "a");
    assert_eq!(server.dials().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_check_that_ends_is_not_serving_and_is_begun_anew() {
    let (_world, checks, balance) = one_that_serves().await;
    checks.say("a", Err(WatchError::Ended("reset".into())));
    settle().await;
    let report = endpoint(&balance, "a");
    assert_eq!(report.unhealthy.as_deref(), Some("reset"), "{report}");
    begun_anew(&checks, "it is begun anew").await;
    checks.say("a", well());
    connected(&balance, 1).await;
    checks.say("a", Err(WatchError::Unsupported));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(
        checks.begun("a"),
        2,
        "a server that knows no checks is not asked again"
    );
    assert_eq!(
        endpoint(&balance, "a").state,
        ConnectivityState::Ready,
        "and healthy"
    );
}

#[tokio::test(start_paused = true)]
async fn one_that_says_nothing_is_not_serving_after_the_connect_timeout() {
    let world = World::new();
    let checks = Words::new();
    let balance = builder!(world)
        .endpoints(["a"])
        .connect_timeout(Duration::from_secs(3))
        .health_check(checks.clone())
        .build()
        .unwrap();
    let error = within("no endless wait", balance.clone().oneshot(ask("x"))).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("it said nothing within 3s"), "{error}");
    checks.say("a", well());
    connected(&balance, 1).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        endpoint(&balance, "a").state,
        ConnectivityState::Ready,
        "said once, it stands"
    );
}

#[tokio::test(start_paused = true)]
async fn a_check_that_panics_takes_nothing_with_it() {
    struct Panics;
    impl Watch<Stub> for Panics {
        type Terms = ();
        type Word = Verdict;
        type Stream = BoxStream<'static, Said<Verdict>>;

        fn watch(&self, target: Target<Stub>, (): &()) -> Self::Stream {
            assert_ne!(target.endpoint().id().as_str(), "a", "on purpose");
            stream::once(async { well() })
                .chain(stream::pending())
                .boxed()
        }
    }
    let world = World::new();
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .health_check(Panics)
        .build()
        .unwrap();
    connected(&balance, 1).await;
    for _ in 0..10 {
        let answer = within("a call", balance.clone().oneshot(ask("x"))).await;
        assert_eq!(answer.unwrap(), "b");
    }
    let report = endpoint(&balance, "a");
    assert_eq!(report.unhealthy.as_deref(), Some("it panicked"), "{report}");
}

#[tokio::test(start_paused = true)]
async fn a_check_ends_with_its_connection_its_endpoint_and_the_last_handle() {
    let world = World::new();
    let checks = Words::new();
    let (handle, updates) = Handle::new(["a", "b"]).unwrap();
    let balance = builder!(world)
        .discovery(updates)
        .health_check(checks.clone())
        .build()
        .unwrap();
    settle().await;
    for id in ["a", "b"] {
        checks.say(id, well());
    }
    connected(&balance, 2).await;
    world.server("a").connection().draining();
    begun_anew(&checks, "its next connection is checked").await;
    assert_eq!(
        endpoint(&balance, "a").state,
        ConnectivityState::Connecting,
        "no verdict yet"
    );
    checks.say("a", well());
    connected(&balance, 2).await;
    handle.replace(["a"]).unwrap();
    settle().await;
    assert!(!checks.is_open("b"), "it left");
    assert!(checks.is_open("a"));
    drop(balance);
    settle().await;
    assert!(!checks.is_open("a"), "nobody is left");
}

#[tokio::test(start_paused = true)]
async fn load_reports_are_heard_of_who_serves() {
    let world = World::new();
    let (checks, reports) = (Words::new(), Words::<LoadReport>::new());
    let balance = builder!(world)
        .endpoints(["a"])
        .policy(OrcaWeightedRoundRobin::default().with_out_of_band_reports(true))
        .load_reports(reports.clone())
        .health_check(checks.clone())
        .build()
        .unwrap();
    settle().await;
    assert_eq!(reports.begun("a"), 0, "no verdict yet");
    checks.say("a", well());
    connected(&balance, 1).await;
    settle().await;
    assert!(reports.is_open("a"));
    checks.say("a", ill());
    settle().await;
    assert!(!reports.is_open("a"), "it gets no calls, so nobody asks");
    checks.say("a", well());
    settle().await;
    assert!(reports.is_open("a") && reports.begun("a") == 2);
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_one_connection_has_nobody_checked() {
    let world = World::new();
    let checks = Words::<Verdict>::new();
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(PickFirst::default())
        .health_check(checks.clone())
        .build()
        .unwrap();
    let answer = within("a call", balance.oneshot(ask("x"))).await;
    assert_eq!(answer.unwrap(), "a");
    assert_eq!(checks.begun("a"), 0, "as in gRPC");
}

#[tokio::test(start_paused = true)]
async fn a_function_is_a_check() {
    let world = World::new();
    let rules = CheckRules::default().with_unhealthy_threshold(2);
    let down = Arc::new(Mutex::new(""));
    let seen = down.clone();
    let check = check_fn(rules, move |target: Target<Stub>| {
        let down = *seen.lock().expect("no test panics while it holds this");
        let ok = target.service().name() != down;
        async move { if ok { Ok(()) } else { Err("down".into()) } }
    });
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .health_check(check.unwrap())
        .build()
        .unwrap();
    connected(&balance, 2).await;
    *down.lock().unwrap() = "a";
    let is_down = |balance: &Balance<Stub, _>| endpoint(balance, "a").unhealthy.is_some();
    within("two checks fail", async {
        while !is_down(&balance) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    *down.lock().unwrap() = "";
    let start = Instant::now();
    within("it is back", async {
        while is_down(&balance) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let took = start.elapsed();
    assert!(
        took < Duration::from_millis(1_300),
        "it is asked each second: {took:?}"
    );
}

/// Asks over the endpoint's own service, whose connection ends without a word.
fn by_the_service() -> impl Watch<Stub, Terms = (), Word = Verdict> {
    let check = check_fn(CheckRules::default(), |target: Target<Stub>| async move {
        let mut service = target.service();
        let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
        ready.map_err(|refusal| {
            let why = refusal.to_string();
            target.not_ready(refusal);
            why.into()
        })
    });
    check.expect("the rules are right")
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_a_check_finds_broken_is_dialled_anew_without_a_call() {
    let world = World::new();
    let balance = builder!(world)
        .endpoints(["a"])
        .health_check(by_the_service())
        .build()
        .unwrap();
    connected(&balance, 1).await;
    let server = world.server("a");
    server.set_readiness(Readiness::Broken);
    within("it is dialled anew", async {
        while server.dials().len() < 2 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    let report = endpoint(&balance, "a");
    assert_ne!(report.state, ConnectivityState::Ready, "broken: {report}");
    server.set_readiness(Readiness::Ready);
    within("it is back", async {
        while endpoint(&balance, "a").state != ConnectivityState::Ready {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    })
    .await;
    let answer = within("a call", balance.oneshot(ask("x"))).await;
    assert_eq!(answer.unwrap(), "a", "by its next connection");
}

#[tokio::test(start_paused = true)]
async fn one_that_is_broken_from_the_start_is_dialled_with_backoff() {
    let world = World::new();
    let server = world.server("a");
    server.set_readiness(Readiness::Broken);
    let balance = builder!(world)
        .endpoints(["a"])
        .health_check(by_the_service())
        .build()
        .unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let dials = server.dials();
    assert!(
        (4..=8).contains(&dials.len()),
        "1, 1.6, 2.56 s and so on from one to the next: {dials:?}"
    );
    let report = endpoint(&balance, "a");
    let error = report.last_error.as_deref();
    assert_eq!(error, Some("not ready any more"), "{report}");
}
