//! Which requests come back: only those that the server certainly did not process.

use bytes::Bytes;
use http::Request;
use http_body::Frame as BodyFrame;
use http_body_util::{BodyExt, StreamBody};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tower_service::Service;

use super::peer::{
    DATA, END_HEADERS, END_STREAM, HEADERS, INTERNAL_ERROR, Open, REFUSED_STREAM, STATUS_200, open,
    open_with, request, soon,
};
use crate::call::Reclaim;
use crate::grpc::http2::{AttemptError, Http2, Http2Settings};

type Called = tokio::task::JoinHandle<Result<(), AttemptError>>;

/// Calls in a task of its own, so that the peer can be driven meanwhile.
fn call(service: &Http2, request: Request<Body>) -> Called {
    let mut service = service.clone();
    tokio::spawn(async move { service.call(request).await.map(drop) })
}

async fn failed(called: Called) -> AttemptError {
    let result = soon("the call to end", called).await;
    result.expect("no panic").expect_err("the call fails")
}

async fn comes_back(error: AttemptError, body: &str) {
    let request = match error.reclaim() {
        Ok(request) => request,
        Err(error) => panic!("not processed, so it comes back: {error:?}"),
    };
    assert_eq!(request.uri(), "/p.S/M", "with its own URI");
    assert_eq!(request.headers()["x-test"], "1", "with its headers");
    assert_eq!(request.extensions().get(), Some(&7_u8), "with extensions");
    let collected = soon("the body", request.into_body().collect()).await;
    let bytes = collected.expect("a body").to_bytes();
    assert_eq!(bytes, body.as_bytes(), "with its whole body");
}

fn stays_away(error: AttemptError) {
    assert!(
        error.reclaim().is_err(),
        "it may have been processed, so it must not come back"
    );
}

#[tokio::test]
async fn a_goaway_below_the_stream_gives_the_request_back() {
    let Open {
        service, mut peer, ..
    } = open().await;
    let called = call(&service, request("abc"));
    assert_eq!(
        peer.request().await,
        (1, b"abc".to_vec()),
        "the server has it"
    );
    peer.goaway(0).await;
    let error = failed(called).await;
    assert!(
        error.is_connection_lost(),
        "the call died with its connection: {error:?}"
    );
    comes_back(error, "abc").await;
}

#[tokio::test]
async fn a_goaway_that_names_the_stream_and_an_end_do_not() {
    let Open {
        service, mut peer, ..
    } = open().await;
    let called = call(&service, request("abc"));
    peer.request().await;
    peer.goaway(1).await;
    drop(peer);
    let error = failed(called).await;
    assert!(
        error.is_connection_lost(),
        "the call died with its connection: {error:?}"
    );
    stays_away(error);
}

#[tokio::test]
async fn of_two_streams_a_goaway_gives_back_the_later_only() {
    let Open {
        service, mut peer, ..
    } = open().await;
    let first = call(&service, request("abc"));
    assert_eq!(peer.request().await.0, 1, "the first stream");
    let second = call(&service, request("def"));
    assert_eq!(peer.request().await.0, 3, "the second stream");
    // The two steps of a graceful end: first all may come, then the line is drawn.
    peer.goaway(0x7fff_ffff).await;
    peer.goaway(1).await;
    comes_back(failed(second).await, "def").await;
    drop(peer);
    stays_away(failed(first).await);
}

#[tokio::test]
async fn a_refused_stream_gives_the_request_back() {
    let Open {
        mut service,
        mut peer,
        ..
    } = open().await;
    let called = call(&service, request("abc"));
    peer.request().await;
    peer.reset(1, REFUSED_STREAM).await;
    let error = failed(called).await;
    assert!(!error.is_connection_lost(), "the connection goes on");
    comes_back(error, "abc").await;
    let ready = std::future::poll_fn(|cx| service.poll_ready(cx));
    ready.await.expect("the connection takes calls");
}

#[tokio::test]
async fn any_other_reset_does_not() {
    let Open {
        service, mut peer, ..
    } = open().await;
    for code in (0..14).filter(|&code| code != REFUSED_STREAM) {
        let called = call(&service, request("abc"));
        let (stream, _) = peer.request().await;
        peer.reset(stream, code).await;
        let error = failed(called).await;
        assert!(!error.is_connection_lost(), "code {code}: {error:?}");
        stays_away(error);
    }
}

#[tokio::test]
async fn a_reset_from_this_side_does_not() {
    let Open {
        service, mut peer, ..
    } = open().await;
    let called = call(&service, request("abc"));
    peer.request().await;
    // A field that belongs to HTTP/1 is malformed: h2 resets the stream by itself.
    let malformed = [STATUS_200, b"\x00\x0aconnection\x01x"].concat();
    peer.send(HEADERS, END_HEADERS | END_STREAM, 1, &malformed)
        .await;
    let error = failed(called).await;
    assert!(!error.is_connection_lost(), "{error:?}");
    stays_away(error);
}

#[tokio::test]
async fn an_end_without_goaway_does_not() {
    let Open {
        service,
        mut peer,
        mut ends,
        ..
    } = open().await;
    let called = call(&service, request("abc"));
    peer.request().await;
    drop(peer);
    let error = failed(called).await;
    assert!(
        error.is_connection_lost(),
        "the call died with its connection: {error:?}"
    );
    assert!(ends.were_told(), "the balancer knows");
    stays_away(error);
}

#[tokio::test]
async fn a_request_in_hypers_queue_comes_back() {
    let Open {
        service,
        mut peer,
        mut ends,
        ..
    } = open().await;
    peer.goaway(0).await;
    ends.told("the GOAWAY").await;
    // The balancer looked before the GOAWAY came and calls after it.
    let error = failed(call(&service, request("abc"))).await;
    assert!(
        error.is_connection_lost(),
        "the call died with its connection: {error:?}"
    );
    comes_back(error, "abc").await;

    peer.closed().await;
    let error = failed(call(&service, request("def"))).await;
    assert!(
        error.is_connection_lost(),
        "the call died with its connection: {error:?}"
    );
    comes_back(error, "def").await;
}

#[tokio::test]
async fn requests_that_wait_for_a_free_stream_come_back() {
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    for goaway in [true, false] {
        let Open {
            service, mut peer, ..
        } = open_with(Http2Settings::default(), &[(MAX_CONCURRENT_STREAMS, 1)]).await;
        let first = call(&service, request("one"));
        assert_eq!(peer.request().await.0, 1, "the first stream");
        let waiting = [
            call(&service, request("two")),
            call(&service, request("three")),
        ];
        tokio::task::yield_now().await;
        if goaway {
            peer.goaway(1).await;
        } else {
            drop(peer);
        }
        for (waiting, body) in waiting.into_iter().zip(["two", "three"]) {
            let error = failed(waiting).await;
            assert!(error.is_connection_lost(), "goaway {goaway}: {error:?}");
            comes_back(error, body).await;
        }
        if !goaway {
            stays_away(failed(first).await);
        }
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_does_not_come_back() {
    let settings = Http2Settings {
        replay_limit_bytes: 2,
        ..Http2Settings::default()
    };
    let Open {
        service, mut peer, ..
    } = open_with(settings, &[]).await;
    let called = call(&service, request("abc"));
    peer.request().await;
    peer.reset(1, REFUSED_STREAM).await;
    stays_away(failed(called).await);
}

#[tokio::test]
async fn a_stream_refused_in_the_middle_goes_on_elsewhere() {
    let (frames, body) = tokio::sync::mpsc::unbounded_channel();
    let send = |text: &'static [u8]| {
        let frame = BodyFrame::data(Bytes::from_static(text));
        frames
            .send(Ok::<_, tonic::Status>(frame))
            .expect("a reader");
    };
    let body = StreamBody::new(UnboundedReceiverStream::new(body));
    let (parts, ()) = request("").map(drop).into_parts();
    let streaming = Request::from_parts(parts, Body::new(body));

    let Open {
        service, mut peer, ..
    } = open().await;
    send(b"one ");
    let called = call(&service, streaming);
    assert_eq!(
        peer.next(DATA).await.payload,
        b"one ",
        "the first part is sent"
    );
    peer.goaway(0).await;
    let Ok(request) = failed(called).await.reclaim() else {
        panic!("a refused stream comes back while it is being sent")
    };

    let Open {
        service, mut peer, ..
    } = open().await;
    send(b"two ");
    let called = call(&service, request);
    assert_eq!(
        peer.next(DATA).await.payload,
        b"one ",
        "again, from the copy"
    );
    assert_eq!(peer.next(DATA).await.payload, b"two ", "then what is new");
    send(b"three");
    drop(frames);
    let (mut rest, mut ended) = (Vec::new(), false);
    while !ended {
        let frame = peer.next(DATA).await;
        ended = frame.flags & END_STREAM != 0;
        rest.extend(frame.payload);
    }
    assert_eq!(rest, b"three", "what was sent after it");
    peer.send(HEADERS, END_HEADERS | END_STREAM, 1, STATUS_200)
        .await;
    soon("the response", called)
        .await
        .expect("no panic")
        .expect("the second server answers");
}

#[tokio::test]
async fn body_errors_tell_a_lost_connection_from_a_reset() {
    for reset in [true, false] {
        let Open {
            mut service,
            mut peer,
            ..
        } = open().await;
        let response = service.call(request("abc"));
        let answer = async {
            peer.request().await;
            peer.send(HEADERS, END_HEADERS, 1, STATUS_200).await;
            peer
        };
        let (response, mut peer) = tokio::join!(response, answer);
        let mut body = response.expect("a head").into_body();
        if reset {
            peer.reset(1, INTERNAL_ERROR).await;
        } else {
            drop(peer);
        }
        let frame = soon("the body's end", body.frame()).await;
        let error = frame.expect("not a regular end").expect_err("an error");
        assert_eq!(
            crate::grpc::http2::is_connection_lost(&error),
            !reset,
            "{error:?}"
        );
        let status = tonic::Status::from_error(Box::new(error));
        assert_eq!(
            crate::grpc::http2::is_connection_lost(&status),
            !reset,
            "also inside a status: {status:?}"
        );
    }
}

#[tokio::test]
async fn a_goaway_that_comes_after_a_failed_write_still_counts() {
    let Open {
        service,
        mut peer,
        mut ends,
        connector,
    } = open().await;
    let first = call(&service, request("abc"));
    assert_eq!(peer.request().await.0, 1, "the first stream");
    peer.break_writes();
    let second = call(&service, request("def"));
    ends.told("the failed write").await;
    peer.goaway(1).await;
    let error = failed(second).await;
    comes_back(error, "def").await;
    peer.send(HEADERS, END_HEADERS | END_STREAM, 1, STATUS_200)
        .await;
    soon("the answer", first)
        .await
        .expect("no panic")
        .expect("what the server still answers is read");
    peer.hang_up().await;
    assert_eq!(connector.gauge().open(), 0, "nothing is counted any more");
}
