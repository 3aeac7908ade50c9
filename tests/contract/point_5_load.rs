//! Load is claimed at the pick and given back when the response ends, in whatever way.

use std::convert::Infallible;
use std::fmt;
use std::future::ready;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use evenkeel::Balance;
use futures::channel::mpsc;
use futures::{StreamExt, poll};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tower::{Service, ServiceExt, service_fn};

use crate::builder;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn point_5_dropped_while_nothing_is_chosen() {
    let world = World::new();
    let server = world.server("a");
    server.set_dial(Dial::Hang);
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    let mut never_polled = balance.clone();
    drop(never_polled.call(ask("x")));
    let mut call = Box::pin(balance.clone().oneshot(ask("x")));
    assert!(poll!(&mut call).is_pending());
    drop(call);
    let report = balance.report();
    assert!(
        report
            .endpoints
            .iter()
            .all(|e| e.in_flight == 0 && e.calls == 0)
    );
}

#[tokio::test(start_paused = true)]
async fn point_5_dropped_while_it_waits_for_a_service() {
    let world = World::new();
    for server in world.servers(["a", "b"]) {
        server.set_readiness(Readiness::Queue);
    }
    let balance = builder!(world).endpoints(["a", "b"]).build().unwrap();
    connected(&balance, 2).await;
    let alive = world.servers(["a", "b"]).map(|s| s.clones_alive());
    let mut call = Box::pin(balance.clone().oneshot(ask("x")));
    assert!(poll!(&mut call).is_pending());
    for name in ["a", "b"] {
        assert_eq!(
            endpoint(&balance, name).in_flight,
            1,
            "load is claimed at the pick"
        );
    }
    drop(call);
    for name in ["a", "b"] {
        let report = endpoint(&balance, name);
        assert_eq!(
            (report.in_flight, report.calls),
            (0, 0),
            "neither was sent the call"
        );
    }
    assert_eq!(
        world.servers(["a", "b"]).map(|s| s.clones_alive()),
        alive,
        "the call's clones went with it"
    );
}

#[tokio::test(start_paused = true)]
async fn point_5_who_is_chosen_keeps_its_load_and_the_others_get_theirs_back() {
    let world = World::new();
    let [a, b] = world.servers(["a", "b"]);
    for server in [&a, &b] {
        server.set_readiness(Readiness::Queue);
        server.set_answer(Answer::Hang);
    }
    let balance = builder!(world).endpoints(["a", "b"]).build().unwrap();
    connected(&balance, 2).await;
    let mut call = Box::pin(balance.clone().oneshot(ask("x")));
    assert!(poll!(&mut call).is_pending());
    assert!(b.admit());
    assert!(poll!(&mut call).is_pending());
    assert_eq!(b.under_way(), 1, "b has the request");
    assert_eq!(endpoint(&balance, "a").in_flight, 0, "a does not have it");
    assert_eq!(endpoint(&balance, "b").in_flight, 1);
    drop(call);
    let report = endpoint(&balance, "b");
    assert_eq!(b.under_way(), 0, "the drop cancels the call");
    assert_eq!(
        (report.in_flight, report.calls, report.failures),
        (0, 1, 0),
        "a caller that gives up is no failure of the endpoint"
    );
}

#[tokio::test(start_paused = true)]
async fn point_5_given_back_at_the_response_and_at_the_error() {
    let world = World::new();
    let server = world.server("a");
    server.set_answer(Answer::Hang);
    let balance = builder!(world).endpoints(["a"]).build().unwrap();
    connected(&balance, 1).await;
    for (answer, failures) in [(Answer::Name, 0), (Answer::Fail, 1)] {
        server.set_answer(Answer::Hang);
        let call = tokio::spawn(balance.clone().oneshot(ask("x")));
        until("the call is under way", || {
            endpoint(&balance, "a").in_flight == 1
        })
        .await;
        server.set_answer(answer);
        let result = within("an answer", call).await.unwrap();
        assert_eq!(result.is_err(), failures == 1);
        if let Err(error) = result {
            assert!(error.is_endpoint(), "{error}");
            let source = error.into_source().unwrap();
            assert!(
                source.downcast::<Refusal>().is_ok(),
                "the service's own error is the source"
            );
        }
        let report = endpoint(&balance, "a");
        assert_eq!((report.in_flight, report.failures), (0, failures));
    }
}

#[tokio::test(start_paused = true)]
async fn point_5_given_back_when_the_service_panics() {
    let panics = service_fn(|_: u32| async { panic!("on purpose") as Result<u32, Infallible> });
    let balance = Balance::builder()
        .services([("a", panics)])
        .build()
        .unwrap();
    connected(&balance, 1).await;
    let result = tokio::spawn(balance.clone().oneshot(1)).await;
    assert!(result.unwrap_err().is_panic(), "the panic is the caller's");
    assert_eq!(
        endpoint(&balance, "a").in_flight,
        0,
        "unwinding gives the load back"
    );
}

#[derive(Debug, Clone)]
struct Torn;

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("torn")
    }
}

impl std::error::Error for Torn {}

/// A body that the test feeds.
struct Fed {
    frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, Torn>>,
    at_end: Arc<AtomicBool>,
}

impl Body for Fed {
    type Data = Bytes;
    type Error = Torn;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        self.frames.poll_next_unpin(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.at_end.load(Ordering::SeqCst)
    }
}

type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, Torn>>;

fn data() -> Result<Frame<Bytes>, Torn> {
    Ok(Frame::data(Bytes::from_static(b"data")))
}

/// One endpoint whose one response has this status and the body that the test feeds.
async fn respond(
    status: StatusCode,
    at_end: bool,
) -> (
    Feed,
    Arc<AtomicBool>,
    Response<impl Body<Data = Bytes, Error = Torn>>,
    impl Fn() -> (u32, u64, u64),
) {
    let (feed, frames) = mpsc::unbounded();
    let at_end = Arc::new(AtomicBool::new(at_end));
    let body = Fed {
        frames,
        at_end: at_end.clone(),
    };
    let response = Arc::new(Mutex::new(Some(
        Response::builder().status(status).body(body).unwrap(),
    )));
    let service = service_fn(move |_: Request<()>| {
        ready(Ok::<_, Torn>(response.lock().unwrap().take().unwrap()))
    });
    let balance = Balance::builder()
        .services([("a", service)])
        .http()
        .build()
        .unwrap();
    connected(&balance, 1).await;
    let response = within("the head", balance.clone().oneshot(Request::new(())))
        .await
        .unwrap();
    let load = move || {
        let report = endpoint(&balance, "a");
        (report.in_flight, report.calls, report.failures)
    };
    (feed, at_end, response, load)
}

#[tokio::test(start_paused = true)]
async fn point_5_a_body_holds_the_load_to_its_trailers() {
    let (feed, _, response, load) = respond(StatusCode::OK, false).await;
    let mut body = Box::pin(response.into_body());
    assert_eq!(load(), (1, 1, 0), "the head is not the end");
    feed.unbounded_send(data()).unwrap();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert_eq!(load(), (1, 1, 0), "a frame is not the end");
    assert!(poll!(body.frame()).is_pending());
    assert_eq!(load(), (1, 1, 0), "a pause is not the end");
    feed.unbounded_send(Ok(Frame::trailers(HeaderMap::new())))
        .unwrap();
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert_eq!(load(), (0, 1, 0), "trailers are the end");
    drop(feed);
    assert!(body.frame().await.is_none());
    assert_eq!(load(), (0, 1, 0), "an end counts once");
}

#[tokio::test(start_paused = true)]
async fn point_5_a_body_holds_the_load_to_its_end_without_trailers() {
    let (feed, _, response, load) = respond(StatusCode::OK, false).await;
    let mut body = Box::pin(response.into_body());
    drop(feed);
    assert_eq!(load(), (1, 1, 0), "nobody has seen the end yet");
    assert!(body.frame().await.is_none());
    assert_eq!(load(), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn point_5_the_last_data_frame_is_the_end_if_the_body_says_so() {
    let (feed, at_end, response, load) = respond(StatusCode::OK, false).await;
    let mut body = Box::pin(response.into_body());
    feed.unbounded_send(data()).unwrap();
    at_end.store(true, Ordering::SeqCst);
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert_eq!(
        load(),
        (0, 1, 0),
        "nobody need poll a body that is at its end"
    );
}

#[tokio::test(start_paused = true)]
async fn point_5_an_empty_body_ends_with_its_head() {
    let (_feed, _, response, load) = respond(StatusCode::OK, true).await;
    assert_eq!(load(), (0, 1, 0), "nobody polls an empty body");
    drop(response);
    assert_eq!(load(), (0, 1, 0), "an end counts once");
}

#[tokio::test(start_paused = true)]
async fn point_5_an_error_in_the_body_is_the_end_and_a_failure() {
    let (feed, _, response, load) = respond(StatusCode::OK, false).await;
    let mut body = Box::pin(response.into_body());
    feed.unbounded_send(Err(Torn)).unwrap();
    assert!(body.frame().await.unwrap().is_err());
    assert_eq!(load(), (0, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn point_5_a_body_dropped_half_read_gives_the_load_back() {
    let (feed, _, response, load) = respond(StatusCode::OK, false).await;
    let mut body = Box::pin(response.into_body());
    feed.unbounded_send(data()).unwrap();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    drop(body);
    assert_eq!(load(), (0, 1, 0), "a caller that gives up is no failure");

    let (_feed, _, response, load) = respond(StatusCode::OK, false).await;
    drop(response);
    assert_eq!(load(), (0, 1, 0), "nor one that never read");
}

#[tokio::test(start_paused = true)]
async fn point_5_a_verdict_in_the_head_counts_though_the_body_is_dropped() {
    let (_feed, _, response, load) = respond(StatusCode::BAD_GATEWAY, false).await;
    assert_eq!(load(), (1, 1, 0));
    drop(response);
    assert_eq!(load(), (0, 1, 1), "the head said that it failed");
}
