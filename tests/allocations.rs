//! A call allocates nothing that the endpoint's own service does not.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use allocation_counter::measure;
use bytes::Bytes;
use evenkeel::balance::Http;
use evenkeel::call::RequestInfo;
use evenkeel::connection::Discovered;
use evenkeel::load::ReportSource;
use evenkeel::math::{Moment, Rng, RunningQuantile};
use evenkeel::outcome::{ByStatusCode, LoadReport};
use evenkeel::policy::{
    Adaptive, BoundedLoad, C3, Candidates, Connects, HashSource, IpHash, LeastRequest, Maglev,
    OrcaWeightedRoundRobin, PeakEwma, Pick, PickContext, PickFirst, Policy, PolicyConfig, Prequal,
    ProbeRequests, Random, Rendezvous, RingHash, RoundRobin, Tried, WeightedRandom,
    WeightedRoundRobin,
};
use evenkeel::probe::{Answer, probe_fn};
use evenkeel::retry::{HedgeLayer, HedgePolicy, RetryLayer, RetryPolicy};
use evenkeel::{Balance, Endpoint};
use http_body_util::{BodyExt, Full};
use tower::util::ServiceFn;
use tower::{Layer, Service, service_fn};

const CALLS: u64 = 1_000;
const ENDPOINTS: usize = 10;

/// Polls a future that needs no waiting to its end.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("over services that are ready and answer at once nothing waits"),
    }
}

async fn all_ready<S, T>(balance: &Balance<S, T>) {
    ready_at(balance, ENDPOINTS).await;
}

async fn ready_at<S, T>(balance: &Balance<S, T>, count: usize) {
    let ready = || {
        let endpoints = balance.report().endpoints;
        let ready = endpoints.iter().filter(|e| e.state.as_str() == "READY");
        ready.count()
    };
    let up = async {
        while ready() != count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), up)
        .await
        .expect("services that are there connect at once");
}

/// Allocations of `CALLS` calls, after one that may set up what lives as long as the thread.
fn allocations(mut call: impl FnMut(u64)) -> u64 {
    call(0);
    measure(|| (0..CALLS).for_each(&mut call)).count_total
}

async fn plain(policy: impl Policy) {
    over(policy, |_| 1).await;
}

/// As `plain`, with endpoints of different weights.
async fn by_weight(policy: impl Policy) {
    over(policy, |i| 1 + i as u32 % 4).await;
}

/// The connector for endpoints that bring services of this type.
fn connector_of<S: Clone + Send + Sync + 'static>(_: &S) -> Discovered<S> {
    Discovered::new()
}

async fn over(policy: impl Policy, weight: fn(usize) -> u32) {
    let name = policy.name();
    let connected = match policy.connects() {
        Connects::All => ENDPOINTS,
        _ => 1,
    };
    let service =
        |i| service_fn(move |n: u64| -> Ready<Result<u64, Infallible>> { ready(Ok(n + i)) });
    let endpoint = |i| {
        let endpoint = Endpoint::new(format!("e{i}")).with_weight(weight(i));
        endpoint.with(service(i as u64))
    };
    let mut balance = Balance::builder()
        .endpoints((0..ENDPOINTS).map(endpoint))
        .connector(connector_of(&service(0)))
        .policy(policy)
        .seed(1)
        .build()
        .unwrap();
    ready_at(&balance, connected).await;

    let count = allocations(|n| {
        assert!(now(balance.call(n)).unwrap() >= n);
    });
    assert_eq!(count, 0, "{name}: {CALLS} calls allocate nothing");
}

#[tokio::test]
async fn round_robin_allocates_nothing() {
    plain(RoundRobin::default()).await;
    plain(OrcaWeightedRoundRobin::default()).await;
}

#[tokio::test]
async fn pick_first_allocates_nothing() {
    plain(PickFirst::default()).await;
}

#[tokio::test]
async fn random_allocates_nothing() {
    plain(Random::default()).await;
}

#[tokio::test]
async fn least_request_allocates_nothing() {
    plain(LeastRequest::default()).await;
    plain(LeastRequest::default().with_choices(3).unwrap()).await;
    plain(LeastRequest::full_scan()).await;
    plain(PeakEwma::default()).await;
    plain(Adaptive::default()).await;
    plain(C3::default().with_probes(0).unwrap()).await;
}

#[tokio::test]
async fn leaving_word_for_probes_allocates_no_more_than_their_queue() {
    let service = |n: u64| -> Ready<Result<u64, Infallible>> { ready(Ok(n)) };
    let services = (0..ENDPOINTS).map(|i| (format!("e{i}"), service_fn(service)));
    let mut balance = Balance::builder()
        .services(services)
        .policy(Prequal::default())
        .probe(probe_fn(|_| ready(Answer::Silent)))
        .seed(1)
        .build()
        .unwrap();
    all_ready(&balance).await;
    let mut calls = || allocations(|n| assert_eq!(now(balance.call(n)).unwrap(), n));
    // The queue grows by blocks of 32, to the 64 that may wait.
    assert!(calls() <= 4, "a block for each 32 requests that wait");
    assert_eq!(
        calls(),
        0,
        "{CALLS} calls that find it full allocate nothing"
    );
}

#[tokio::test]
async fn policies_that_hash_allocate_nothing() {
    plain(IpHash::default()).await;
    plain(RingHash::default()).await;
    plain(Maglev::default()).await;
    plain(Rendezvous::default()).await;
    plain(Maglev::default().with_bounded_load(BoundedLoad::default())).await;
}

/// By the picker alone, so that also what a call seldom meets is counted: endpoints lost and tried, servers that
/// report and are asked.
#[test]
fn no_policy_allocates_at_a_pick() {
    for config in PolicyConfig::all() {
        for heaviest in [1, 4] {
            let policy = config.build().expect("its defaults are right");
            let endpoint = |i: u32| Endpoint::new(format!("e{i}")).with_weight(1 + i % heaviest);
            let set = Candidates::connected_for((0..40).map(endpoint), policy.measures());
            let later = Moment::default() + Duration::from_secs(11);
            for (slot, candidate) in set.all().iter().enumerate() {
                let report = LoadReport::new()
                    .with_in_flight(slot as u32)
                    .with_cpu_utilization(0.5)
                    .with_qps(1.0 + slot as f64);
                let endpoint = candidate.subchannel();
                for at in [Moment::default(), later] {
                    endpoint.reported(&report, ReportSource::Probe, at);
                }
                if let Some(queue) = endpoint.reports().queue() {
                    policy.reported(endpoint, queue, ReportSource::Probe);
                }
            }
            let picker = policy.build(&set.clone().with_now(later), None);
            for candidate in set.all().iter().step_by(2) {
                candidate.subchannel().disconnected(candidate.connection());
            }
            let mut tried = Tried::new();
            tried.insert(set.all()[1].connection());
            let mut rng = Rng::new(1);
            let mut asked = 0;
            let count = allocations(|_| {
                let mut probes = ProbeRequests::new();
                let mut context = PickContext::new(&mut rng)
                    .with_now(later)
                    .with_tried(&tried)
                    .with_probes(&mut probes);
                let Pick::Endpoint(slot) = picker.pick(&mut context) else {
                    panic!("{config}: most of the half are usable");
                };
                asked += probes.slots().count();
                let _claim = set.all()[slot].claim(false);
            });
            assert_eq!(count, 0, "{config}: {CALLS} picks allocate nothing");
            // Where weights differ, the default policy goes by no reports.
            let asks = policy.measures().probes.is_some()
                && !(policy.name() == "adaptive" && heaviest > 1);
            assert_eq!(asked > 0, asks, "{config}: it went by what servers report");
        }
    }
}

#[test]
fn reading_what_to_hash_allocates_nothing() {
    let request = http::Request::get("/echo.Echo/Say")
        .header("x-user", "mary")
        .header("x-user", "jane")
        .header("forwarded", "for=192.0.2.1, for=\"[2001:db8::1]:80\"")
        .body(())
        .unwrap();
    let sources = || {
        [
            HashSource::header("x-user").unwrap(),
            HashSource::source_ip_behind(1),
            HashSource::path(),
            HashSource::from_fn(|request| Some(request.headers()?.len() as u64)),
        ]
    };
    let bound = BoundedLoad::default();
    let policies: [&dyn Policy; 6] = [
        &RingHash::default().with_sources(sources()),
        &Maglev::default().with_sources(sources()),
        &Rendezvous::default().with_sources(sources()),
        &RingHash::default()
            .with_sources(sources())
            .with_bounded_load(bound),
        &Maglev::default()
            .with_sources(sources())
            .with_bounded_load(bound),
        &Rendezvous::default()
            .with_sources(sources())
            .with_bounded_load(bound),
    ];
    for policy in policies {
        // More than a bound adds up for each pick, half of them lost, and one busy.
        let set = Candidates::connected((0..200).map(|i| format!("10.0.0.{i}:1")));
        for candidate in set.all().iter().step_by(2) {
            candidate.subchannel().disconnected(candidate.connection());
        }
        let picker = policy.build(&set, None);
        let mut rng = Rng::new(1);
        let count = allocations(|n| {
            let mut context = PickContext::new(&mut rng);
            if n % 2 == 0 {
                context = context.with_request(RequestInfo::http(&request));
            }
            let Pick::Endpoint(slot) = picker.pick(&mut context) else {
                panic!("half of them are usable");
            };
            let _claim = set.all()[slot].claim(false);
        });
        assert_eq!(count, 0, "{policy:?}: {CALLS} picks allocate nothing");
    }
}

#[tokio::test]
async fn weights_allocate_nothing() {
    for policy in [
        LeastRequest::default(),
        LeastRequest::default().with_choices(3).unwrap(),
        LeastRequest::default().with_replacement(),
        LeastRequest::full_scan(),
    ] {
        by_weight(policy).await;
    }
    plain(WeightedRoundRobin::default()).await;
    by_weight(WeightedRoundRobin::default()).await;
    plain(WeightedRandom::default()).await;
    by_weight(WeightedRandom::default()).await;
    by_weight(PeakEwma::default()).await;
    by_weight(Adaptive::default()).await;
}

#[tokio::test]
async fn a_call_that_fails_allocates_no_more_than_its_error() {
    let service = |_: u64| ready(Err::<u64, _>(std::fmt::Error));
    let services = (0..ENDPOINTS).map(|i| (format!("e{i}"), service_fn(service)));
    let mut balance = Balance::builder()
        .services(services)
        .seed(1)
        .build()
        .unwrap();
    all_ready(&balance).await;

    let theirs = measure(|| drop(black_box(evenkeel::BoxError::from(std::fmt::Error)))).count_total;
    let ours = measure(|| drop(now(balance.call(1)).unwrap_err())).count_total;
    assert!(
        ours <= theirs + 1,
        "one allocation for the opaque error around {theirs} of the service's: {ours}"
    );
}

/// Endpoints that all answer as `service` does.
async fn over_http<F, B>(service: F) -> Balance<ServiceFn<F>, Http<ByStatusCode>>
where
    F: Fn(http::Request<B>) -> Ready<Result<http::Response<Full<Bytes>>, Infallible>>
        + Copy
        + Send
        + Sync
        + 'static,
{
    let services = (0..ENDPOINTS).map(|i| (format!("e{i}"), service_fn(service)));
    let balance = Balance::builder()
        .services(services)
        .http()
        .seed(1)
        .build()
        .unwrap();
    all_ready(&balance).await;
    balance
}

#[tokio::test]
async fn following_an_http_body_to_its_end_allocates_nothing() {
    let service = |request: http::Request<Full<Bytes>>| {
        let response = http::Response::new(request.into_body());
        ready(Ok::<_, Infallible>(response))
    };
    let mut balance = over_http(service).await;

    let count = allocations(|_| {
        let request = http::Request::new(Full::new(Bytes::from_static(b"ping")));
        let mut body = now(balance.call(request)).unwrap().into_body();
        let frame = now(body.frame()).unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "ping");
        assert!(now(body.frame()).is_none());
    });
    assert_eq!(count, 0, "{CALLS} calls read to the end allocate nothing");
    let in_flight = |e: &evenkeel::observe::EndpointReport| e.in_flight == 0;
    assert!(
        balance.report().endpoints.iter().all(in_flight),
        "every call has ended with its body"
    );
}

#[tokio::test]
async fn a_call_that_needs_no_retry_allocates_no_more_than_what_is_kept_for_one() {
    let service = |request: http::Request<evenkeel::retry::RetryBody<Full<Bytes>>>| {
        let frame = now(request.into_body().frame()).unwrap().unwrap();
        let response = http::Response::new(Full::new(frame.into_data().unwrap()));
        ready(Ok::<_, Infallible>(response))
    };
    let layer = RetryLayer::new(RetryPolicy::default()).unwrap();
    let mut retry = layer.layer(over_http(service).await);

    let request = |extensions: &http::Extensions| {
        let mut request = http::Request::new(Full::new(Bytes::from_static(b"ping")));
        *request.extensions_mut() = extensions.clone();
        request
    };
    let mut count = |extensions: &http::Extensions| {
        let theirs = allocations(|_| drop(black_box(request(extensions))));
        let all = allocations(|_| {
            let mut body = now(retry.call(request(extensions))).unwrap().into_body();
            let frame = now(body.frame()).unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "ping");
        });
        all - theirs
    };
    // The record of the body and that of endpoints, and the extension that carries it, which takes three
    // where there is none yet.
    assert_eq!(count(&http::Extensions::new()), (2 + 3) * CALLS);
    // As tonic's requests have one: one more for ours, and a copy of theirs.
    let mut extensions = http::Extensions::new();
    extensions.insert(7_u8);
    assert_eq!(count(&extensions), (2 + 1 + 3) * CALLS);
}

#[test]
fn a_running_quantile_allocates_nothing() {
    let quantile = RunningQuantile::new(0.95);
    let count = allocations(|n| {
        quantile.record(Duration::from_micros(n), Moment::from_nanos(n * 1_000_000));
        black_box(quantile.value());
    });
    assert_eq!(count, 0, "neither samples nor the walks over them");
}

#[tokio::test]
async fn a_call_that_needs_no_hedge_allocates_no_more_than_what_is_kept_for_one() {
    let service = |request: http::Request<evenkeel::retry::RetryBody<Full<Bytes>>>| {
        let frame = now(request.into_body().frame()).unwrap().unwrap();
        let response = http::Response::new(Full::new(frame.into_data().unwrap()));
        ready(Ok::<_, Infallible>(response))
    };
    let layer = HedgeLayer::new(HedgePolicy::default()).unwrap();
    let mut hedged = layer.layer(over_http(service).await);
    let request = || http::Request::new(Full::new(Bytes::from_static(b"ping")));
    let count = allocations(|_| {
        let mut body = now(hedged.call(request())).unwrap().into_body();
        let frame = now(body.frame()).unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "ping");
    });
    assert_eq!(count, (2 + 3) * CALLS, "as many as with retries");
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(black_box(Box::new(1_u64)))).count_total, 1);
}
