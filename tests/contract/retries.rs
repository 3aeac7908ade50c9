//! Retries over a balancer: where later attempts go, and what each says about its endpoint.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use evenkeel::balance::{Http, Reclaiming};
use evenkeel::call::{PreviousEndpoints, Reclaim};
use evenkeel::health::Ejection;
use evenkeel::math::Backoff;
use evenkeel::outcome::ByStatusCode;
use evenkeel::policy::{
    Adaptive, LeastRequest, PeakEwma, PickFirst, Policy, Random, RingHash, RoundRobin,
};
use evenkeel::retry::{BudgetSettings, RetryBody, RetryLayer, RetryPolicy};
use evenkeel::{Balance, Error};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceExt};

use crate::world::{at_the_first_failure, connected, endpoint, serving, settle, until, within};

type Body = Full<Bytes>;

/// What a server does with an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Does {
    Answer,
    Refuse,
    /// Fails without a response.
    Break,
    Hang,
    HandBack,
}

#[derive(Debug)]
enum Refusal {
    Broken,
    HandedBack(Box<Request<RetryBody<Body>>>),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl std::error::Error for Refusal {}

impl Reclaim<Request<RetryBody<Body>>> for Refusal {
    fn reclaim(self) -> Result<Request<RetryBody<Body>>, Self> {
        match self {
            Self::HandedBack(request) => Ok(*request),
            broken => Err(broken),
        }
    }
}

/// What each server does, and the servers in the order in which attempts reached them.
#[derive(Clone, Default)]
struct Servers {
    does: Arc<Mutex<HashMap<String, Does>>>,
    reached: Arc<Mutex<Vec<String>>>,
}

impl Servers {
    fn all(names: &[&str], does: Does) -> Self {
        let servers = Self::default();
        for name in names {
            servers.set(name, does);
        }
        servers
    }

    fn set(&self, name: &str, does: Does) {
        self.does.lock().unwrap().insert(name.to_owned(), does);
    }

    fn take_reached(&self) -> Vec<String> {
        std::mem::take(&mut *self.reached.lock().unwrap())
    }

    async fn serve(
        self,
        name: String,
        request: Request<RetryBody<Body>>,
    ) -> Result<Response<Body>, Refusal> {
        self.reached.lock().unwrap().push(name.clone());
        let does = self.does.lock().unwrap()[&name];
        if does == Does::HandBack {
            return Err(Refusal::HandedBack(Box::new(request)));
        }
        let body = request.into_body().collect().await;
        let body = body.expect("each attempt has the whole request").to_bytes();
        assert_eq!(body, "ping", "each attempt has the whole request");
        match does {
            Does::Answer => Ok(Response::new(Full::new(name.into()))),
            Does::Refuse => Ok(Response::builder()
                .status(503)
                .body(Body::default())
                .unwrap()),
            Does::Hang => std::future::pending().await,
            _ => Err(Refusal::Broken),
        }
    }
}

/// Retries over a balancer over these servers, all connected.
macro_rules! retrying {
    ($servers:expr, $names:expr, $policy:expr, $ejection:expr, $retry:expr) => {{
        let servers: Servers = $servers.clone();
        let balance = Balance::builder()
            .endpoints($names)
            .connector(serving(move |name, request| {
                servers.clone().serve(name, request)
            }))
            .track(Reclaiming(Http::new(ByStatusCode)))
            .policy($policy)
            .ejection($ejection)
            .seed(7)
            .build()
            .unwrap();
        connected(&balance, $names.len()).await;
        let layer = RetryLayer::new($retry).unwrap();
        (balance.clone(), layer.layer(balance))
    }};
}

/// Nothing holds it back but the number of attempts.
fn policy(attempts: u32) -> RetryPolicy {
    RetryPolicy::default()
        .with_max_attempts(attempts)
        .with_backoff(Backoff::default().with_base(Duration::from_millis(1)))
        .with_budget(None)
}

fn request() -> Request<Body> {
    Request::new(Full::new(Bytes::from_static(b"ping")))
}

async fn call<S, R>(retry: &S) -> Result<Response<R>, Error>
where
    S: Service<Request<Body>, Response = Response<R>, Error = Error> + Clone,
{
    within("a call", retry.clone().oneshot(request())).await
}

async fn each_attempt_goes_elsewhere<P: Policy>(picks: fn() -> P) {
    let name = picks().name();
    let names = ["a", "b", "c", "d"];
    // With a response and without one.
    for does in [Does::Refuse, Does::Break] {
        let servers = Servers::all(&names, does);
        let (_balance, retry) = retrying!(servers, names, picks(), Ejection::off(), policy(4));
        for _ in 0..20 {
            let failed = call(&retry).await;
            assert_eq!(failed.is_ok(), does == Does::Refuse, "the last failure");
            let mut reached = servers.take_reached();
            reached.sort();
            assert_eq!(reached, names, "{name}: four attempts, four endpoints");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_goes_to_an_endpoint_not_yet_tried() {
    each_attempt_goes_elsewhere(RoundRobin::default).await;
    each_attempt_goes_elsewhere(Random::default).await;
    each_attempt_goes_elsewhere(LeastRequest::default).await;
    each_attempt_goes_elsewhere(PeakEwma::default).await;
    each_attempt_goes_elsewhere(Adaptive::default).await;
    each_attempt_goes_elsewhere(RingHash::default).await;
}

#[tokio::test(start_paused = true)]
async fn when_nothing_else_is_left_it_goes_to_one_that_was_tried() {
    let names = ["a", "b"];
    let servers = Servers::all(&names, Does::Refuse);
    let (_balance, retry) = retrying!(
        servers,
        names,
        RoundRobin::default(),
        Ejection::off(),
        policy(5)
    );
    let response = call(&retry).await.unwrap();
    assert_eq!(response.status(), 503, "as the last server said it");
    let reached = servers.take_reached();
    assert_eq!(reached.len(), 5, "five attempts: {reached:?}");
    assert_ne!(reached[0], reached[1], "first the one that was not tried");

    let servers = Servers::all(&["a"], Does::Break);
    let (_balance, retry) = retrying!(
        servers,
        ["a"],
        PickFirst::default(),
        Ejection::off(),
        policy(3)
    );
    assert!(call(&retry).await.unwrap_err().is_endpoint());
    assert_eq!(servers.take_reached(), ["a"; 3], "the only one there is");
}

#[tokio::test(start_paused = true)]
async fn a_loop_of_ones_own_can_note_endpoints_too() {
    let names = ["a", "b", "c"];
    let servers = Servers::all(&names, Does::Answer);
    let (_balance, retry) = retrying!(
        servers,
        names,
        Random::default(),
        Ejection::off(),
        policy(2)
    );
    for _ in 0..20 {
        let previous = PreviousEndpoints::new();
        for _ in 0..3 {
            let mut request = request();
            request.extensions_mut().insert(previous.clone());
            within("a call", retry.clone().oneshot(request))
                .await
                .unwrap();
        }
        let mut reached = servers.take_reached();
        reached.sort();
        assert_eq!(reached, names, "three calls with one record");
        assert_eq!(previous.iter().count(), 3, "and all are noted");
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_to_the_endpoint_that_it_prefers_if_that_can_be_used() {
    let names = ["a", "b", "c"];
    let servers = Servers::all(&names, Does::Answer);
    let (balance, retry) = retrying!(
        servers,
        names,
        RoundRobin::default(),
        at_the_first_failure(),
        policy(2)
    );
    let prefer = async |id: &'static str| {
        let mut request = request();
        let previous = PreviousEndpoints::new().preferring(id);
        request.extensions_mut().insert(previous);
        let response = within("a call", retry.clone().oneshot(request)).await;
        assert_eq!(response.unwrap().status(), 200, "prefers {id}");
    };
    for _ in 0..9 {
        prefer("b").await;
    }
    assert_eq!(servers.take_reached(), ["b"; 9], "not by turns");
    for _ in 0..9 {
        prefer("nobody").await;
    }
    let mut reached = servers.take_reached();
    reached.sort();
    assert_eq!(
        reached,
        ["a", "a", "a", "b", "b", "b", "c", "c", "c"],
        "one that is not known is passed over"
    );
    servers.set("b", Does::Refuse);
    prefer("b").await;
    let reached = servers.take_reached();
    assert_eq!(reached.len(), 2, "b failed, and the call was tried again");
    assert_eq!(reached[0], "b");
    assert_ne!(reached[1], "b", "elsewhere, whatever it prefers");
    until("b is out", || endpoint(&balance, "b").ejected.is_some()).await;
    for _ in 0..4 {
        prefer("b").await;
    }
    let reached = servers.take_reached();
    assert!(
        reached.len() == 4 && !reached.contains(&"b".to_owned()),
        "one that is ejected gets no call: {reached:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_count_for_their_endpoints_though_the_call_succeeds() {
    let names = ["a", "b", "c"];
    let servers = Servers::all(&names, Does::Answer);
    servers.set("a", Does::Refuse);
    let (balance, retry) = retrying!(
        servers,
        names,
        RoundRobin::default(),
        Ejection::default().with_consecutive_failures(3),
        policy(2)
    );
    for _ in 0..30 {
        assert_eq!(call(&retry).await.unwrap().status(), 200, "none fails");
    }
    let report = endpoint(&balance, "a");
    assert_eq!(report.failures, 3, "each attempt counts: {report}");
    assert!(report.ejected.is_some(), "and three eject");
    for name in ["b", "c"] {
        assert_eq!(endpoint(&balance, name).failures, 0, "no fault of {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_over_its_time_is_a_failure_and_a_call_that_was_given_up_is_not() {
    let names = ["a", "b"];
    let servers = Servers::all(&names, Does::Hang);
    let limit = Duration::from_secs(1);
    let (balance, retry) = retrying!(
        servers,
        names,
        RoundRobin::default(),
        at_the_first_failure(),
        policy(2).with_attempt_timeout(limit)
    );
    let given_up = retry.clone().oneshot(request());
    assert!(tokio::time::timeout(limit / 2, given_up).await.is_err());
    settle().await;
    for name in names {
        let report = endpoint(&balance, name);
        assert_eq!((report.failures, report.in_flight), (0, 0), "{report}");
    }
    servers.take_reached();
    let given_up = retry.clone().oneshot(request());
    assert!(tokio::time::timeout(limit * 3 / 2, given_up).await.is_err());
    settle().await;
    let reached = servers.take_reached();
    assert_eq!(reached.len(), 2, "the second attempt had begun");
    let first = endpoint(&balance, &reached[0]);
    assert_eq!((first.failures, first.in_flight), (1, 0), "{first}");
    assert!(first.ejected.is_some(), "it took too long");
    let second = endpoint(&balance, &reached[1]);
    assert_eq!((second.failures, second.in_flight), (0, 0), "{second}");

    let error = call(&retry).await.unwrap_err();
    assert!(
        error.is_unavailable(),
        "the other one took too long, too, and nobody is left: {error}"
    );
}

#[tokio::test(start_paused = true)]
async fn requests_that_were_not_processed_take_nothing_out_of_the_budget() {
    let names = ["a", "b", "c"];
    let servers = Servers::all(&names, Does::HandBack);
    servers.set("c", Does::Answer);
    let none = BudgetSettings::default()
        .with_percent(0)
        .with_min_per_second(0);
    let (_balance, retry) = retrying!(
        servers,
        names,
        RoundRobin::default(),
        Ejection::off(),
        policy(2).with_budget(none)
    );
    for _ in 0..10 {
        assert_eq!(call(&retry).await.unwrap().status(), 200, "c takes it");
    }
    servers.set("c", Does::Refuse);
    let response = call(&retry).await.unwrap();
    assert_eq!(response.status(), 503, "a retry there is none");
}

#[tokio::test(start_paused = true)]
async fn a_storm_is_bounded() {
    let names = ["a", "b", "c"];
    let servers = Servers::all(&names, Does::Refuse);
    let budget = BudgetSettings::default();
    let (_balance, retry) = retrying!(
        servers,
        names,
        RoundRobin::default(),
        Ejection::off(),
        policy(5).with_budget(budget)
    );
    let calls = 5_000;
    let began = tokio::time::Instant::now();
    let all = futures::future::join_all((0..calls).map(|_| call(&retry)));
    assert!(
        all.await
            .iter()
            .all(|r| r.as_ref().unwrap().status() == 503)
    );
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "all in one window"
    );
    let attempts = servers.take_reached().len();
    assert_eq!(
        attempts,
        calls + calls / 5 + 100,
        "a fifth more, and the ten a second of ten seconds: not five times the calls"
    );
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_that_waits_for_its_next_attempt_leaves_nothing_behind() {
    let names = ["a", "b"];
    let servers = Servers::all(&names, Does::Refuse);
    let slow = policy(5).with_backoff(Backoff::default());
    let (balance, retry) = retrying!(servers, names, RoundRobin::default(), Ejection::off(), slow);
    let waiting = tokio::spawn(retry.clone().oneshot(request()));
    let reached = servers.reached.clone();
    until("the first attempt has failed", || {
        reached.lock().unwrap().len() == 1
    })
    .await;
    settle().await;
    waiting.abort();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(servers.take_reached().len(), 1, "no further attempt");
    for name in names {
        assert_eq!(endpoint(&balance, name).in_flight, 0);
    }
}
