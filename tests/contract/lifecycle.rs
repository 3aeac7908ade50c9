//! The orderly end of a balancer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use evenkeel::connection::{ConnectionEvents, Connector};
use evenkeel::discovery::{Discovery, Handle};
use evenkeel::{Balance, BoxError, ConnectivityState, Endpoint, Error};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

use crate::builder;
use crate::world::*;

const LONG: Duration = Duration::from_secs(60);

/// The servers of a world, over connections that can be cut.
#[derive(Clone)]
pub(crate) struct Cuttable(pub(crate) World);

#[derive(Clone)]
pub(crate) struct CuttableStub {
    stub: Stub,
    line: Arc<Line>,
}

/// A connection: open while a service or a call has it.
struct Line {
    cut: CancellationToken,
    _events: ConnectionEvents,
}

impl Connector for Cuttable {
    type Service = CuttableStub;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<CuttableStub, BoxError>> + Send>>;

    fn connect(&self, endpoint: &Endpoint, events: ConnectionEvents) -> Self::Future {
        let stub = self.0.connect(endpoint, ConnectionEvents::detached());
        Box::pin(async move {
            let stub = stub.await?;
            let cut = CancellationToken::new();
            let told = cut.clone();
            events.on_cut(move || told.cancel());
            let line = Line {
                cut,
                _events: events,
            };
            Ok(CuttableStub {
                stub,
                line: Arc::new(line),
            })
        })
    }
}

impl Service<Ask> for CuttableStub {
    type Response = String;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<String, Refusal>> + Send>>;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> Poll<Result<(), Refusal>> {
        self.stub.poll_ready(cx)
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        let call = self.stub.call(ask);
        let line = self.line.clone();
        Box::pin(async move {
            let answer = line.cut.run_until_cancelled(call).await;
            answer.unwrap_or(Err(Refusal::Failed))
        })
    }
}

/// A call under way at `server`, which does not answer. It is the only one that the balancer is connected to.
async fn call_under_way<S>(
    balance: &Balanced<S>,
    server: &Server,
) -> JoinHandle<Result<String, Error>>
where
    Balanced<S>:
        Service<Ask, Response = String, Error = Error, Future: Send> + Clone + Send + 'static,
{
    connected(balance, 1).await;
    server.set_answer(Answer::Hang);
    let call = tokio::spawn(balance.clone().oneshot(ask("x")));
    until("it is under way", || server.under_way() == 1).await;
    call
}

pub(crate) type Busy = (
    Arc<Server>,
    Balanced<CuttableStub>,
    JoinHandle<Result<String, Error>>,
);

/// One endpoint, a balancer over it by a connection that can be cut, and a call under way there.
pub(crate) async fn busy() -> Busy {
    let world = World::new();
    let a = world.server("a");
    let balance = builder!(Cuttable(world)).endpoints(["a"]).build().unwrap();
    let call = call_under_way(&balance, &a).await;
    (a, balance, call)
}

/// As [`busy`], with the endpoint `a` from a source.
pub(crate) async fn busy_by(source: impl Discovery) -> Busy {
    let world = World::new();
    let a = world.server("a");
    let balance = builder!(Cuttable(world)).discovery(source).build().unwrap();
    let call = call_under_way(&balance, &a).await;
    (a, balance, call)
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn calls_under_way_finish_and_every_new_one_fails_on_every_clone() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    let before = alive_tasks();
    let balance = builder!(Cuttable(world.clone()))
        .endpoints(["a", "b"])
        .build()
        .unwrap();
    connected(&balance, 2).await;
    for server in [&a, &b] {
        server.set_answer(Answer::Hang);
    }
    let calls: Vec<_> = (0..8)
        .map(|_| tokio::spawn(balance.clone().oneshot(ask("x"))))
        .collect();
    until("all are under way", || a.under_way() + b.under_way() == 8).await;

    let mut clone = balance.clone();
    let ended = balance.shutdown(LONG);
    for ask in [ask("x"), ask_and_wait("x")] {
        let error = within("no hang", clone.clone().oneshot(ask)).await;
        let error = error.unwrap_err();
        assert!(
            error.is_shut_down() && error.is_closed() && error.is_unavailable(),
            "a new call fails at once, also one that waits for ready: {error}"
        );
    }
    assert!(
        matches!(ready_now(&mut clone).await, Poll::Ready(Ok(()))),
        "poll_ready never errs"
    );
    assert_eq!(balance.state(), ConnectivityState::Shutdown);
    let report = balance.report();
    assert_eq!(report.state, ConnectivityState::Shutdown);
    assert_eq!(
        report.endpoints.iter().map(|e| e.in_flight).sum::<u32>(),
        8,
        "a report shows what is waited for"
    );
    assert!(
        (report.endpoints.iter()).all(|e| e.state == ConnectivityState::Shutdown),
        "no endpoint is connected for calls any more"
    );
    tokio::time::sleep(LONG / 2).await;
    assert_eq!(
        a.under_way() + b.under_way(),
        8,
        "they have until the deadline"
    );
    for server in [&a, &b] {
        server.set_answer(Answer::Name);
    }
    for call in calls {
        let answer = within("it finishes", call).await.unwrap();
        assert!(
            answer.is_ok(),
            "a call under way is not cut early: {answer:?}"
        );
    }
    let start = Instant::now();
    let outcome = within("the last call has ended", ended).await;
    assert!(outcome.is_clean(), "{outcome:?}");
    assert_eq!(start.elapsed(), Duration::ZERO, "no deadline is waited for");
    until("every task ends", || alive_tasks() == before).await;
    assert_eq!((a.clones_alive(), b.clones_alive()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_cuts_what_is_left() {
    for limit in [Duration::ZERO, Duration::from_secs(5)] {
        let (a, balance, call) = busy().await;
        let start = Instant::now();
        let outcome = within("the deadline holds", balance.shutdown(limit)).await;
        assert_eq!((outcome.cut, outcome.left), (1, 0), "after {limit:?}");
        let late = start.elapsed() - limit;
        assert!(
            late < Duration::from_millis(10),
            "{limit:?}, late by {late:?}"
        );
        let error = within("it is cut", call).await.unwrap().unwrap_err();
        assert!(error.is_endpoint(), "as its connection failed it: {error}");
        assert_eq!(a.clones_alive(), 0, "its connection is closed");
    }
}

#[tokio::test(start_paused = true)]
async fn no_limit_is_no_limit() {
    for limit in [Duration::MAX, Duration::from_secs(u64::MAX / 2)] {
        let (a, balance, call) = busy().await;
        let ended = tokio::spawn(balance.shutdown(limit));
        tokio::time::sleep(Duration::from_secs(100 * 24 * 60 * 60)).await;
        assert_eq!(a.under_way(), 1, "a deadline of {limit:?} is none");
        a.set_answer(Answer::Name);
        within("it finishes", call).await.unwrap().unwrap();
        let outcome = within("and so does the shutdown", ended).await;
        assert!(outcome.unwrap().is_clean(), "nothing was cut");
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_shutdowns_the_earlier_deadline_holds_for_both() {
    for limits in [[60, 5], [5, 60]] {
        let (_a, balance, call) = busy().await;
        let start = Instant::now();
        let ends = limits.map(|secs| balance.clone().shutdown(Duration::from_secs(secs)));
        let [first, second] = ends;
        let (first, second) = within("both end", async { tokio::join!(first, second) }).await;
        assert_eq!(first, second, "both tell the same");
        assert_eq!(first.cut, 1);
        assert_eq!(start.elapsed().as_secs(), 5, "of {limits:?} seconds");
        within("it is cut", call).await.unwrap().unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_nobody_can_cut_are_left_and_said_to_be() {
    let world = World::new();
    let a = world.server("a");
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    let call = call_under_way(&balance, &a).await;
    let outcome = within("the deadline holds", balance.shutdown(LONG)).await;
    assert_eq!(
        (outcome.cut, outcome.left),
        (0, 1),
        "nobody said how to cut it"
    );
    a.set_answer(Answer::Name);
    let answer = within("it goes on to its end", call).await.unwrap();
    assert_eq!(answer.unwrap(), "a");
}

#[tokio::test(start_paused = true)]
async fn calls_to_an_endpoint_that_left_are_waited_for_and_cut() {
    for finishes in [true, false] {
        let (handle, updates) = Handle::new(["a"]).unwrap();
        let (a, balance, call) = busy_by(updates).await;
        handle.replace([] as [&str; 0]).unwrap();
        until("a is out", || find(balance.report(), "a").is_none()).await;
        let ended = tokio::spawn(balance.shutdown(LONG));
        settle().await;
        assert!(!ended.is_finished(), "its call is waited for");
        if finishes {
            a.set_answer(Answer::Name);
        }
        let outcome = within("the shutdown ends", ended).await.unwrap();
        assert_eq!(outcome.cut, u64::from(!finishes), "finishes: {finishes}");
        let answer = within("and so does the call", call).await.unwrap();
        assert_eq!(answer.is_ok(), finishes);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_that_wait_fail_at_once_and_dials_are_given_up() {
    let world = World::new();
    world.server("hangs").set_dial(Dial::Hang);
    let queue = world.server("queue");
    queue.set_readiness(Readiness::Queue);
    let before = alive_tasks();
    for name in ["hangs", "queue"] {
        let balance = builder!(Cuttable(world.clone()))
            .endpoints([name])
            .build()
            .unwrap();
        let waits = [ask("x"), ask_and_wait("x")];
        let waiting = waits.map(|ask| tokio::spawn(balance.clone().oneshot(ask)));
        settle().await;
        let outcome = within("nothing is under way", balance.shutdown(LONG)).await;
        assert!(
            outcome.is_clean(),
            "a call that waits is not cut: {outcome:?}"
        );
        for call in waiting {
            let error = within("no hang", call).await.unwrap().unwrap_err();
            assert!(error.is_shut_down(), "it waits at {name}: {error}");
        }
        drop(balance);
        until("every task ends", || alive_tasks() == before).await;
    }
    assert_eq!(world.dialing(), 0, "the dial is given up");
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_goes_on_without_its_future_and_without_a_handle() {
    let before = alive_tasks();
    let (_a, balance, call) = busy().await;
    drop(balance.shutdown(LONG));
    drop(balance);
    let error = within("it is cut", call).await.unwrap().unwrap_err();
    assert!(error.is_endpoint(), "by the deadline: {error}");
    until("every task ends", || alive_tasks() == before).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_sees_the_shutdown_and_its_source_is_dropped() {
    let world = World::new();
    let (handle, updates) = Handle::new(["a"]).unwrap();
    let balance = builder!(world).discovery(updates).build().unwrap();
    connected(&balance, 1).await;
    let mut watch = balance.watch_state();
    let outcome = within("nothing is under way", balance.shutdown(LONG)).await;
    assert!(outcome.is_clean());
    let last = within("the watch hears of it", watch.changed()).await;
    assert_eq!(last, Some(ConnectivityState::Shutdown));
    assert_eq!(
        within("no hang", watch.changed()).await,
        None,
        "the last one"
    );
    handle.insert("b").unwrap();
    settle().await;
    assert_eq!(
        world.server("b").dials().len(),
        0,
        "nobody is dialled any more"
    );
    assert!(find(balance.report(), "b").is_none());
}

#[test]
fn a_shutdown_without_a_runtime_ends_at_once() {
    let world = World::new();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let balance: Balance<_, _> =
        runtime.block_on(async { builder!(world).endpoints(["a"]).build().unwrap() });
    drop(runtime);
    let next = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    next.block_on(async {
        let outcome = within("no hang", balance.shutdown(LONG)).await;
        assert!(outcome.is_clean(), "there is nothing to cut: {outcome:?}");
    });
}
