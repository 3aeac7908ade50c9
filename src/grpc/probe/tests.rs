use std::time::Duration;

use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};

use super::*;

fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect()
}

fn load(in_flight: u32) -> LoadReport {
    LoadReport::new().with_in_flight(in_flight)
}

/// The answer that a response of these frames is read as.
async fn answer(frames: Vec<Frame<Bytes>>) -> Answer {
    let frames = frames.into_iter().map(Ok::<_, std::convert::Infallible>);
    let body = StreamBody::new(futures::stream::iter(frames));
    read(Response::new(body)).await
}

async fn unary(message: Vec<u8>, trailers: &[(&'static str, &str)]) -> Answer {
    let data = Frame::data(message.into());
    answer(vec![data, Frame::trailers(headers(trailers))]).await
}

async fn head(status: u16, pairs: &[(&'static str, &str)]) -> Answer {
    let mut response = Response::new(Empty::<Bytes>::new());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    *response.headers_mut() = headers(pairs);
    read(response).await
}

#[tokio::test]
async fn a_message_goes_before_the_report_beside_it() {
    let message = || load(3).to_probe_reply();
    assert_eq!(
        unary(message(), &[("grpc-status", "0")]).await,
        Answer::Load(load(3))
    );
    let beside = load(9).with_latency(Duration::from_millis(2));
    let beside = beside.to_header_value();
    let beside = [
        ("grpc-status", "0"),
        ("endpoint-load-metrics-bin", beside.to_str().unwrap()),
    ];
    let Answer::Load(report) = unary(message(), &beside).await else {
        panic!("both are answers");
    };
    assert_eq!(report.in_flight(), Some(3), "the message's");
    assert_eq!(
        report.latency(),
        Some(Duration::from_millis(2)),
        "what the message does not say"
    );
    let Answer::Load(report) = unary(b"rubbish".to_vec(), &beside).await else {
        panic!("the report is an answer");
    };
    assert_eq!(report.in_flight(), Some(9));
}

#[tokio::test]
async fn a_message_may_come_in_parts() {
    let message = load(3).with_latency(Duration::from_millis(2));
    let bytes = message.to_probe_reply().into_iter();
    let mut frames: Vec<_> = bytes
        .map(|byte| Frame::data(Bytes::from(vec![byte])))
        .collect();
    frames.push(Frame::trailers(headers(&[("grpc-status", "0")])));
    assert_eq!(answer(frames).await, Answer::Load(message));
}

#[tokio::test]
async fn who_does_not_know_the_method_is_told_apart_from_who_failed() {
    let plain = ("x-prequal-rif", "4");
    assert_eq!(
        head(200, &[("grpc-status", "12")]).await,
        Answer::Unsupported
    );
    assert_eq!(head(404, &[]).await, Answer::Unsupported);
    assert_eq!(
        head(404, &[("grpc-status", "12")]).await,
        Answer::Unsupported
    );
    assert_eq!(
        unary(Vec::new(), &[("grpc-status", "12")]).await,
        Answer::Unsupported
    );
    for (status, grpc) in [(200, "12"), (404, "12")] {
        let answer = head(status, &[("grpc-status", grpc), plain]).await;
        assert_eq!(answer, Answer::Load(load(4)), "a report is an answer");
    }
    assert_eq!(head(404, &[plain]).await, Answer::Load(load(4)));
    for code in ["1", "2", "7", "8", "13", "14", "16", "rubbish"] {
        assert_eq!(
            head(200, &[("grpc-status", code)]).await,
            Answer::Silent,
            "{code}"
        );
        let failed = unary(load(0).to_probe_reply(), &[("grpc-status", code), plain]).await;
        assert_eq!(failed, Answer::Silent, "{code}: a failure tells no load");
    }
    for status in [301, 401, 403, 429, 500, 502, 503] {
        assert_eq!(head(status, &[]).await, Answer::Silent, "{status}");
    }
}

#[tokio::test]
async fn what_is_no_answer_says_nothing() {
    let ok = &[("grpc-status", "0")];
    assert_eq!(unary(Vec::new(), ok).await, Answer::Silent, "no message");
    assert_eq!(unary(vec![1, 0, 0, 0, 0], ok).await, Answer::Silent);
    assert_eq!(answer(vec![]).await, Answer::Silent, "no status");
    assert_eq!(
        answer(vec![Frame::data(load(1).to_probe_reply().into())]).await,
        Answer::Silent,
        "no status"
    );
}

#[tokio::test]
async fn no_more_is_read_than_an_answer_has() {
    let read_of = |sizes: &'static [usize]| async move {
        let mut taken = 0;
        let frames = sizes.iter().inspect(|_| taken += 1);
        let frames = frames.map(|&size| {
            Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![0; size])))
        });
        let body = StreamBody::new(futures::stream::iter(frames));
        let answer = read(Response::new(body)).await;
        (answer, taken)
    };
    let (answer, taken) = read_of(&[MOST_BYTES, 1, 1, 1]).await;
    assert_eq!((answer, taken), (Answer::Silent, 2), "then it is let go");
    let (answer, taken) = read_of(&[1 << 20, 1]).await;
    assert_eq!((answer, taken), (Answer::Silent, 1));
}

#[tokio::test]
async fn the_request_is_a_unary_call_of_grpc() {
    let request = LoadProbe::new().request();
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), "/evenkeel.load.v1.LoadProbe/Probe");
    let header = |name| request.headers().get(name).unwrap().to_str().unwrap();
    assert_eq!(header("te"), "trailers");
    assert_eq!(header("content-type"), "application/grpc");
    assert!(header("user-agent").starts_with("evenkeel/"));
    let body = request.into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), &[0; 5][..], "one empty message");
}

#[tokio::test]
async fn a_service_that_fails_is_silent() {
    #[derive(Clone)]
    struct Fails(bool);
    impl Service<Request<Body>> for Fails {
        type Response = Response<Full<Bytes>>;
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<Self::Response, Self::Error>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), Self::Error>> {
            std::task::Poll::Ready(if self.0 {
                Err(std::io::ErrorKind::BrokenPipe.into())
            } else {
                Ok(())
            })
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            assert!(!self.0, "it was not ready");
            std::future::ready(Err(std::io::ErrorKind::BrokenPipe.into()))
        }
    }
    for at_once in [true, false] {
        assert_eq!(
            LoadProbe::new().probe(Fails(at_once)).await,
            Answer::Silent,
            "{at_once}"
        );
    }
}
