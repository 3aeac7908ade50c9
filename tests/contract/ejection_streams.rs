//! Streams as probing calls: what brings an ejected endpoint back, and what does not.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use evenkeel::connection::connector_fn;
use evenkeel::{Balance, Endpoint};
use futures::channel::mpsc;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::time::sleep;
use tower::{ServiceExt, service_fn};

use crate::world::*;

/// The default number of failures in a row that ejects.
const THRESHOLD: usize = 5;

type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, Infallible>>;
type Frames = mpsc::UnboundedReceiver<Result<Frame<Bytes>, Infallible>>;
type Answers = Arc<Mutex<VecDeque<Response<StreamBody<Frames>>>>>;

/// An answer with a body that the test feeds.
fn answer(status: StatusCode) -> (Feed, Response<StreamBody<Frames>>) {
    let (feed, frames) = mpsc::unbounded();
    let response = Response::builder()
        .status(status)
        .body(StreamBody::new(frames));
    (feed, response.unwrap())
}

/// Streams of `a`, out until its probing call; `b` is there and not used.
struct Streams {
    answers: Answers,
    call: Box<dyn Fn() -> StreamCall>,
    is_ejected: Box<dyn Fn() -> bool>,
}

type StreamBodyOut = http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>;
type StreamCall = futures::future::BoxFuture<'static, Response<StreamBodyOut>>;

async fn streams_at_the_probe() -> Streams {
    use evenkeel::policy::{Candidates, Pick, PickContext, Picker, Policy};
    #[derive(Debug)]
    struct First;
    #[derive(Debug)]
    struct FirstPicker(Candidates);
    impl Policy for First {
        fn name(&self) -> &'static str {
            "first"
        }
        fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
            Arc::new(FirstPicker(candidates.clone()))
        }
    }
    impl Picker for FirstPicker {
        fn pick(&self, context: &mut PickContext<'_>) -> Pick {
            let usable = self.0.usable().iter().find(|c| context.is_usable(c));
            usable.map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
        }
    }

    let answers = Answers::default();
    let script = answers.clone();
    let connector = connector_fn(move |endpoint: &Endpoint, _| {
        let script = script.clone();
        let scripted = endpoint.address() == "a";
        async move {
            Ok::<_, Infallible>(service_fn(move |_: Request<()>| {
                let next = scripted
                    .then(|| script.lock().unwrap().pop_front())
                    .flatten();
                let response = next.unwrap_or_else(|| answer(StatusCode::OK).1);
                async move { Ok::<_, Infallible>(response) }
            }))
        }
    });
    let balance = Balance::builder()
        .endpoints(["a", "b"])
        .connector(connector)
        .http()
        .policy(First)
        .build()
        .unwrap();
    connected(&balance, 2).await;
    for _ in 0..THRESHOLD {
        let (feed, response) = answer(StatusCode::INTERNAL_SERVER_ERROR);
        answers.lock().unwrap().push_back(response);
        drop(feed);
        let response = balance.clone().oneshot(Request::new(())).await.unwrap();
        response.into_body().collect().await.unwrap();
    }
    until("a is out", || endpoint(&balance, "a").ejected.is_some()).await;
    sleep(Duration::from_millis(30_001)).await;
    let call = {
        let balance = balance.clone();
        move || -> StreamCall {
            let call = balance.clone().oneshot(Request::new(()));
            Box::pin(async move { call.await.unwrap().map(|body| body.boxed_unsync()) })
        }
    };
    Streams {
        answers,
        call: Box::new(call),
        is_ejected: Box::new(move || endpoint(&balance, "a").ejected.is_some()),
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_probes_brings_its_endpoint_back_with_its_first_data() {
    let streams = streams_at_the_probe().await;
    let (feed, response) = answer(StatusCode::OK);
    streams.answers.lock().unwrap().push_back(response);
    let mut probe = (streams.call)().await;
    settle().await;
    assert!(
        (streams.is_ejected)(),
        "a head says little: gRPC fails in the trailers"
    );
    feed.unbounded_send(Ok(Frame::data(Bytes::from_static(b"1"))))
        .unwrap();
    probe.body_mut().frame().await.unwrap().unwrap();
    settle().await;
    assert!(
        !(streams.is_ejected)(),
        "a stream must not keep its endpoint out for as long as it lives"
    );
    drop(feed);
}

#[tokio::test(start_paused = true)]
async fn a_failure_with_a_body_is_no_proof_of_health() {
    let streams = streams_at_the_probe().await;
    let (feed, response) = answer(StatusCode::INTERNAL_SERVER_ERROR);
    streams.answers.lock().unwrap().push_back(response);
    let mut probe = (streams.call)().await;
    feed.unbounded_send(Ok(Frame::data(Bytes::from_static(b"sorry"))))
        .unwrap();
    probe.body_mut().frame().await.unwrap().unwrap();
    settle().await;
    assert!((streams.is_ejected)(), "the head said that the call failed");
    drop(feed);
    assert!(probe.body_mut().frame().await.is_none());
    settle().await;
    assert!((streams.is_ejected)(), "so the probing call failed");
    let (feed, response) = answer(StatusCode::OK);
    streams.answers.lock().unwrap().push_back(response);
    drop(feed);
    let next = (streams.call)().await;
    assert_eq!(
        streams.answers.lock().unwrap().len(),
        1,
        "and a is out again"
    );
    drop(next);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_probes_and_is_dropped_unread_says_nothing() {
    let streams = streams_at_the_probe().await;
    let (_feed, response) = answer(StatusCode::OK);
    streams.answers.lock().unwrap().push_back(response);
    drop((streams.call)().await);
    settle().await;
    assert!((streams.is_ejected)(), "nothing was proved");
    let (feed, response) = answer(StatusCode::OK);
    streams.answers.lock().unwrap().push_back(response);
    drop(feed);
    let probe = (streams.call)().await;
    assert!(
        streams.answers.lock().unwrap().is_empty(),
        "the next call probes"
    );
    probe.into_body().collect().await.unwrap();
    settle().await;
    assert!(!(streams.is_ejected)());
}
