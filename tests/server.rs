//! What a server under `LoadReportLayer` tells its clients, and what becomes of it.
#![cfg(feature = "grpc")]

use std::convert::Infallible;
use std::future::pending;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use evenkeel::grpc::Channel;
use evenkeel::outcome::LoadReport;
use evenkeel::policy::{Candidates, OrcaWeightedRoundRobin};
use evenkeel::server::{CallReport, LoadReportLayer};
use futures::stream::{self, BoxStream};
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty, StreamBody};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tower::{Layer, Service, ServiceExt, service_fn};

use support::proto::demo_client::DemoClient;
use support::proto::{EchoReply, EchoRequest};
use support::unary::{Answers, unary};
use support::watched::Watched;
use support::within;

#[path = "support/mod.rs"]
pub mod support;

fn trailers(status: &'static str) -> HeaderMap {
    let status = HeaderValue::from_static(status);
    HeaderMap::from_iter([("grpc-status".parse().unwrap(), status)])
}

type Frames = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// A unary gRPC response that takes `time`, or as long as it takes where that is none.
async fn reply(time: Option<Duration>, status: &'static str) -> http::Response<Frames> {
    match time {
        Some(time) => sleep(time).await,
        None => pending().await,
    }
    let data = Frame::data(Bytes::from_static(b"data"));
    let frames = [data, Frame::trailers(trailers(status))].map(Ok);
    http::Response::new(StreamBody::new(Box::pin(stream::iter(frames))))
}

/// The report at the end of a response.
async fn report_of<S, B>(service: S) -> LoadReport
where
    S: Service<http::Request<String>, Response = http::Response<B>, Error = Infallible>,
    B: Body<Error = Infallible>,
{
    let response = service
        .oneshot(http::Request::new(String::new()))
        .await
        .unwrap();
    let head = response.headers().clone();
    let body = response.into_body().collect().await.unwrap();
    let headers = body.trailers().unwrap_or(&head);
    LoadReport::from_headers(headers).expect("each response of gRPC has a report")
}

#[tokio::test(start_paused = true)]
async fn requests_under_way_and_the_latency_at_this_many_are_told() {
    let layer = LoadReportLayer::new();
    let time = Duration::from_millis(30);
    let service = layer.layer(service_fn(move |_: http::Request<String>| async move {
        Ok(reply(Some(time), "0").await)
    }));
    let alone = report_of(service.clone()).await;
    assert_eq!(alone.in_flight(), Some(0), "it has ended");
    let latency = alone.latency().expect("it was answered just now");
    assert!(
        (time..time + Duration::from_millis(2)).contains(&latency),
        "{latency:?} is its own"
    );

    let stuck = service_fn(|_: http::Request<String>| async {
        Ok::<_, Infallible>(reply(None, "0").await)
    });
    let mut stuck: Vec<_> = (0..3)
        .map(|_| {
            Box::pin(
                layer
                    .layer(stuck)
                    .oneshot(http::Request::new(String::new())),
            )
        })
        .collect();
    for future in &mut stuck {
        let polled = future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending(), "it never ends");
    }
    let beside = report_of(service.clone()).await;
    assert_eq!(beside.in_flight(), Some(3), "the others are");
    // Of the two answers, one came to an idle server: four times its latency; one to three others.
    let latency = beside.latency().expect("both are fresh");
    let expected = (time * 4 + time) / 2;
    assert!(
        latency.abs_diff(expected) < Duration::from_millis(5),
        "{latency:?}"
    );

    drop(stuck);
    let after = layer.reporter().report();
    assert_eq!(
        after.in_flight(),
        Some(0),
        "those who gave up are under way no more"
    );
    sleep(Duration::from_secs(2)).await;
    assert_eq!(
        layer.reporter().report().latency(),
        None,
        "old answers tell nothing"
    );
}

#[tokio::test]
async fn a_request_is_under_way_to_the_end_of_its_response() {
    let layer = LoadReportLayer::new();
    let reporter = layer.reporter();
    let under_way = || reporter.report().in_flight();
    let mut service = layer.layer(service_fn(|_: http::Request<String>| async {
        Ok::<_, Infallible>(reply(Some(Duration::ZERO), "0").await)
    }));
    let mut call = async || {
        service
            .call(http::Request::new(String::new()))
            .await
            .unwrap()
    };

    let mut body = pin!(call().await.into_body());
    assert_eq!(under_way(), Some(1), "the head is not the end");
    assert!(
        body.frame().await.unwrap().unwrap().is_data(),
        "data comes first"
    );
    assert_eq!(under_way(), Some(1), "nor is data");
    assert!(
        body.frame().await.unwrap().unwrap().is_trailers(),
        "then the trailers"
    );
    assert_eq!(under_way(), Some(0), "the trailers are");

    let response = call().await;
    assert_eq!(under_way(), Some(1), "the next one is under way");
    drop(response);
    assert_eq!(
        under_way(),
        Some(0),
        "a body that nobody reads any more is over"
    );
    drop(service.call(http::Request::new(String::new())));
    assert_eq!(under_way(), Some(0), "so is a call that nobody polls");
}

#[tokio::test(start_paused = true)]
async fn requests_and_errors_a_second_are_told() {
    let layer = LoadReportLayer::new();
    for call in 0..100 {
        // NOT_FOUND is the caller's mistake, UNAVAILABLE the server's.
        let status = ["0", "5", "14", "0"][call % 4];
        let service = layer.layer(service_fn(move |_: http::Request<String>| async move {
            Ok(reply(Some(Duration::from_millis(50)), status).await)
        }));
        report_of(service).await;
    }
    let report = layer.reporter().report();
    // One every 51 ms at most, tokio's timers being what they are, since the first ended.
    assert!((report.qps() - 20.0).abs() < 0.7, "{}", report.qps());
    assert!((report.eps() - 5.0).abs() < 0.5, "{}", report.eps());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_fast_does_not_tell_that_it_is_fast() {
    let layer = LoadReportLayer::new();
    let service = layer.layer(service_fn(|_: http::Request<String>| async {
        let head = http::Response::new(Empty::<Bytes>::new());
        let (mut parts, body) = head.into_parts();
        parts.headers = trailers("14");
        Ok(http::Response::from_parts(parts, body))
    }));
    let report = report_of(service).await;
    assert_eq!(report.latency(), None, "nothing was answered well");
    assert_eq!(report.eps(), 1.0, "the failure counts");
}

#[tokio::test]
async fn what_the_application_says_goes_first() {
    let layer = LoadReportLayer::new();
    layer.reporter().set(
        LoadReport::new()
            .with_application_utilization(0.5)
            .with_qps(1_000.0)
            .with_named_metric("queue", 1.0),
    );
    let service = layer.layer(service_fn(|request: http::Request<String>| async move {
        let call = request
            .extensions()
            .get::<CallReport>()
            .expect("the layer's");
        call.add(LoadReport::new().with_request_cost("rows", 16.0));
        call.add(
            LoadReport::new()
                .with_request_cost("rows", 17.0)
                .with_named_metric("queue", 2.0),
        );
        Ok(reply(Some(Duration::ZERO), "0").await)
    }));
    let report = report_of(service).await;
    assert_eq!(report.application_utilization(), 0.5, "of all calls");
    assert_eq!(report.qps(), 1_000.0, "before what is measured");
    assert_eq!(
        report.metric("request_cost.rows"),
        Some(17.0),
        "the last word"
    );
    assert_eq!(
        report.metric("named_metrics.queue"),
        Some(2.0),
        "the call's own"
    );
    let next = layer.reporter().report();
    assert_eq!(
        next.metric("request_cost.rows"),
        None,
        "one call's is no other's"
    );
}

#[tokio::test]
async fn the_work_of_the_process_shows() {
    let layer = LoadReportLayer::new();
    let start = Instant::now();
    let mut value = 1_u64;
    while start.elapsed() < Duration::from_millis(600) {
        value = std::hint::black_box(value.wrapping_mul(3));
    }
    let busy = layer.reporter().report().cpu_utilization();
    // One thread of all that the process may use, and it may have had to share its processor.
    assert!(busy > 0.0, "a thread was busy for 600 ms: {busy}");
}

#[tokio::test]
async fn responses_that_are_not_grpcs_are_left_alone() {
    let layer = LoadReportLayer::new();
    let service = layer.layer(service_fn(|_: http::Request<String>| async {
        Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
    }));
    let response = service
        .oneshot(http::Request::new(String::new()))
        .await
        .unwrap();
    assert!(response.headers().is_empty(), "{:?}", response.headers());
    assert_eq!(layer.reporter().report().qps(), 1.0, "they count");
}

#[tokio::test]
async fn a_status_of_http_that_is_the_servers_fault_is_an_error_with_a_body_or_without() {
    for body in ["", "text"] {
        for (status, eps) in [(200, 0.0), (404, 0.0), (500, 1.0), (503, 1.0)] {
            let layer = LoadReportLayer::new();
            let service = layer.layer(service_fn(move |_: http::Request<String>| async move {
                let mut response = http::Response::new(body.to_owned());
                *response.status_mut() = status.try_into().expect("a status of HTTP");
                Ok::<_, Infallible>(response)
            }));
            let request = http::Request::new(String::new());
            let response = service.oneshot(request).await.unwrap();
            response.into_body().collect().await.unwrap();
            let report = layer.reporter().report();
            assert_eq!(report.qps(), 1.0, "{status} {body:?} counts");
            assert_eq!(report.eps(), eps, "{status} {body:?} by whose fault it is");
            let timed = report.latency().is_some();
            assert_eq!(
                timed,
                eps == 0.0,
                "{status} {body:?}: errors tell no latency"
            );
        }
    }
}

/// Answers at once, as its name; what is not unary is not there.
struct Named(&'static str);

#[tonic::async_trait]
impl Answers for Named {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        if request.get_ref().message == "fail" {
            return Err(Status::internal("told to fail"));
        }
        Ok(Response::new(EchoReply {
            server: self.0.to_owned(),
            ..EchoReply::default()
        }))
    }
}

/// A server that stops when dropped.
struct Running {
    uri: String,
    task: AbortHandle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start(name: &'static str, report: LoadReport) -> Running {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let layer = LoadReportLayer::new();
    layer.reporter().set(report);
    let server = tonic::transport::Server::builder()
        .layer(layer)
        .add_service(unary(Named(name)))
        .serve_with_incoming(TcpListenerStream::new(listener));
    Running {
        uri,
        task: tokio::spawn(server).abort_handle(),
    }
}

/// Whether the servers of both endpoints have said how long their queues are. Their weights come with it.
fn both_reported(candidates: &Candidates) -> bool {
    let usable = candidates.usable();
    let reported = usable.iter().map(|c| c.subchannel().reports().queue());
    reported.flatten().count() == 2
}

#[tokio::test]
async fn two_servers_at_a_tenth_and_nine_tenths_get_nine_calls_to_one() {
    // With as many requests a second each, however many calls they get, so that the weights stand still.
    let busy = |utilization| {
        LoadReport::new()
            .with_application_utilization(utilization)
            .with_qps(100.0)
    };
    let idle = start("idle", busy(0.1)).await;
    let full = start("full", busy(0.9)).await;
    let policy = OrcaWeightedRoundRobin::default()
        .with_blackout_period(Duration::ZERO)
        .with_update_period(Duration::from_millis(100));
    let policy = Watched::new(policy);
    let channel = Channel::builder()
        .endpoints([idle.uri.clone(), full.uri.clone()])
        .policy(policy.clone())
        .build()
        .unwrap();
    let mut client = DemoClient::new(channel);
    let reported = policy.until("both servers report", both_reported);
    let calls = async {
        loop {
            client.echo(EchoRequest::default()).await.unwrap();
        }
    };
    tokio::select! {
        () = reported => {}
        () = calls => {}
    }
    policy.rebuilt().await;

    let mut calls = [0_i32; 2];
    within("the calls", async {
        for _ in 0..1_000 {
            let reply = client.echo(EchoRequest::default()).await.unwrap();
            calls[usize::from(reply.into_inner().server == "full")] += 1;
        }
    })
    .await;
    // The order is a fixed one that goes on through each rebuild: each endpoint is picked its share of
    // the rounds, rounded, so a call more or less where the count begins and where it ends.
    assert!((calls[0] - 900).abs() <= 2, "9 : 1 is {calls:?}");
}

#[tokio::test]
async fn a_tonic_server_reports_in_trailers_and_with_a_status_alone() {
    let server = start("a", LoadReport::new().with_application_utilization(0.25)).await;
    let channel = Channel::builder()
        .endpoints([server.uri.clone()])
        .build()
        .unwrap();
    let mut client = DemoClient::new(channel);
    let utilization = |metadata: tonic::metadata::MetadataMap| {
        let report = LoadReport::from_headers(&metadata.into_headers());
        report.map(|report| report.application_utilization())
    };
    let call = client.echo(EchoRequest::default());
    let reply = timeout(support::PATIENCE, call).await.unwrap().unwrap();
    assert_eq!(
        utilization(reply.metadata().clone()),
        Some(0.25),
        "in the trailers"
    );
    let request = EchoRequest {
        message: "fail".to_owned(),
        ..EchoRequest::default()
    };
    let call = client.echo(request);
    let status = timeout(support::PATIENCE, call).await.unwrap().unwrap_err();
    assert_eq!(
        utilization(status.metadata().clone()),
        Some(0.25),
        "beside a status"
    );
}
