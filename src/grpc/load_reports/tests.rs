use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use tower::service_fn;

use super::*;
use crate::outcome::interval_of;
use crate::probe::WatchError;
use crate::proto::orca_service::OrcaLoadReportRequest;

const EVERY: Duration = Duration::from_secs(3);

fn trailers(code: &str) -> Frame<Bytes> {
    let code = code.parse().expect("a header's value");
    Frame::trailers(HeaderMap::from_iter([(
        "grpc-status".parse().unwrap(),
        code,
    )]))
}

/// A message as gRPC sends it.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a short one");
    [&[0][..], &length.to_be_bytes(), message].concat()
}

fn report(utilization: f64) -> LoadReport {
    LoadReport::new().with_application_utilization(utilization)
}

fn message(utilization: f64) -> Frame<Bytes> {
    let message = report(utilization).to_orca().encode_to_vec();
    Frame::data(framed(&message).into())
}

/// What is heard of a server that answers with this head and these frames.
async fn heard(
    status: u16,
    headers: &[(&'static str, &'static str)],
    frames: Vec<Frame<Bytes>>,
) -> Vec<String> {
    let frames = Arc::new(Mutex::new(Some(frames)));
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect();
    let service = service_fn(move |_: Request<Body>| {
        let frames = frames.lock().unwrap().take().expect("it is asked once");
        let body = StreamBody::new(stream::iter(frames.into_iter().map(Ok::<_, Infallible>)));
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        *response.headers_mut() = headers.clone();
        async move { Ok::<_, Infallible>(response) }
    });
    let mut words = LoadReports::new().watch(Target::new("a", service), &EVERY);
    let mut heard = Vec::new();
    // Nothing is read after an error.
    while let Some(word) = words.next().await {
        match word {
            Ok(report) => heard.push(report.application_utilization().to_string()),
            Err(error) => {
                let unsupported = matches!(error, WatchError::Unsupported);
                heard.push(if unsupported { "unsupported" } else { "ended" }.to_owned());
                break;
            }
        }
    }
    heard
}

#[tokio::test]
async fn each_message_is_a_report() {
    let frames = vec![message(0.1), message(0.2), trailers("0")];
    assert_eq!(heard(200, &[], frames).await, ["0.1", "0.2"]);
    let mut bytes = framed(&report(0.5).to_orca().encode_to_vec());
    bytes.extend(framed(&[]));
    let frames = bytes.into_iter().map(|byte| Frame::data(vec![byte].into()));
    let frames = frames.chain([trailers("0")]).collect();
    assert_eq!(
        heard(200, &[], frames).await,
        ["0.5", "0"],
        "byte by byte; and an empty message is a report of nothing"
    );
}

#[tokio::test]
async fn who_does_not_know_the_method_is_told_apart_from_who_failed() {
    let status = |code: &'static str| vec![("grpc-status", code)];
    assert_eq!(heard(200, &status("12"), vec![]).await, ["unsupported"]);
    assert_eq!(heard(404, &[], vec![]).await, ["unsupported"]);
    let late = heard(200, &[], vec![message(0.1), trailers("12")]).await;
    assert_eq!(late, ["0.1", "unsupported"]);
    for code in ["1", "2", "7", "8", "13", "14", "16", "rubbish"] {
        assert_eq!(heard(200, &status(code), vec![]).await, ["ended"], "{code}");
        let late = heard(200, &[], vec![message(0.1), trailers(code)]).await;
        assert_eq!(late, ["0.1", "ended"], "{code}");
    }
    for status in [401, 403, 429, 500, 502, 503] {
        assert_eq!(heard(status, &[], vec![]).await, ["ended"], "{status}");
    }
}

#[tokio::test]
async fn rubbish_ends_the_stream() {
    let rubbish = |bytes: Vec<u8>| async {
        heard(200, &[], vec![Frame::data(bytes.into()), message(0.1)]).await
    };
    assert_eq!(
        rubbish(vec![9, 0, 0, 0, 0]).await,
        ["ended"],
        "no such flag"
    );
    assert_eq!(rubbish(vec![1, 0, 0, 0, 0]).await, ["ended"], "compressed");
    assert_eq!(rubbish(framed(&[0xff])).await, ["ended"], "no message");
    assert_eq!(
        rubbish(vec![0, 255, 255, 255, 255]).await,
        ["ended"],
        "4 GiB"
    );
    let most = u32::try_from(MOST_MESSAGE_BYTES).unwrap() + 1;
    let prefix = [&[0][..], &most.to_be_bytes()].concat();
    assert_eq!(rubbish(prefix).await, ["ended"], "before any of it is read");
}

#[tokio::test]
async fn a_service_that_fails_ends_the_stream() {
    let service = service_fn(|_: Request<Body>| async {
        Err::<Response<Body>, _>(std::io::Error::other("on purpose"))
    });
    let mut words = LoadReports::new().watch(Target::new("a", service), &EVERY);
    let first = words.next().await;
    assert!(
        matches!(first, Some(Err(WatchError::Ended(_)))),
        "{first:?}"
    );
}

#[tokio::test]
async fn the_request_is_a_call_of_grpc() {
    let asked = Arc::new(Mutex::new(None));
    let seen = asked.clone();
    let service = service_fn(move |request: Request<Body>| {
        *seen.lock().unwrap() = Some(request);
        async { Err::<Response<Body>, _>(std::io::Error::other("on purpose")) }
    });
    LoadReports::new()
        .watch(Target::new("a", service), &EVERY)
        .next()
        .await;
    let request = asked.lock().unwrap().take().expect("it was asked");
    assert_eq!(request.method(), "POST");
    let path = request.uri().path();
    assert_eq!(
        path,
        "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics"
    );
    let header = |name| request.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("te"), "trailers");
    assert_eq!(header("content-type"), "application/grpc");
    assert!(header("user-agent").starts_with("evenkeel/"));
    assert!(
        !request.headers().contains_key("grpc-timeout"),
        "no deadline"
    );
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let message = OrcaLoadReportRequest::decode(&body[5..]).expect("after its prefix");
    assert_eq!(interval_of(&message), Some(EVERY));
}

#[tokio::test]
async fn a_service_that_breaks_is_told_of() {
    struct Broken;
    impl Service<Request<Body>> for Broken {
        type Response = Response<Body>;
        type Error = BoxError;
        type Future = std::future::Pending<Result<Self::Response, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err("gone".into()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::pending()
        }
    }
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = told.clone();
    let hear = move |error: BoxError| log.lock().unwrap().push(error.to_string());
    let target = Target::new("a", Broken).broken_to(hear);
    let mut words = LoadReports::new().watch(target, &EVERY);
    let ended = words.next().await.expect("it says why");
    assert!(matches!(ended, Err(WatchError::Ended(_))), "{ended:?}");
    assert_eq!(
        *told.lock().unwrap(),
        ["gone"],
        "its endpoint may get no call"
    );
}
