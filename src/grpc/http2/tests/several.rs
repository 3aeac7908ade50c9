//! What a call gets where a server allows few streams: a turn, or a further connection.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http_body::Body as _;
use http_body_util::BodyExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::yield_now;
use tower_service::Service;

use super::peer::{
    DATA, END_HEADERS, END_STREAM, Ends, GOAWAY, HEADERS, Open, Peer, REFUSED_STREAM, RST_STREAM,
    SETTINGS, STATUS_200, connect, connector, open_with, request, soon,
};
use crate::call::Reclaim;
use crate::grpc::http2::{Http2, Http2Body, Http2Connector, Http2Future, Http2Settings};

/// RFC 9113 section 6.5.2.
const MAX_CONCURRENT_STREAMS: u16 = 3;

/// Each connection carries one stream.
const ONE: &[(u16, u32)] = &[(MAX_CONCURRENT_STREAMS, 1)];

fn is_ready(service: &mut Http2) -> bool {
    let polled = service.poll_ready(&mut Context::from_waker(Waker::noop()));
    assert!(!matches!(polled, Poll::Ready(Err(_))), "it takes calls");
    polled.is_ready()
}

async fn ready(service: &mut Http2) {
    let ready = std::future::poll_fn(|cx| service.poll_ready(cx));
    soon("a turn", ready).await.expect("it takes calls");
}

fn call(service: &Http2) -> Http2Future {
    let mut service = service.clone();
    assert!(is_ready(&mut service), "there is room");
    service.call(request("abc"))
}

/// The call of one that has its turn.
fn send(mut service: Http2) -> Http2Future {
    service.call(request("abc"))
}

async fn answer(peer: &mut Peer, stream: u32) {
    peer.send(HEADERS, END_HEADERS, stream, STATUS_200).await;
    peer.send(DATA, END_STREAM, stream, b"").await;
}

async fn answered(call: Http2Future) -> Http2Body {
    let response = soon("a response", call).await;
    response.expect("a response").into_body()
}

/// A service with room for `most` connections, and the peers that it dials, of which the first has sent `settings`.
struct Several {
    service: Http2,
    peer: Peer,
    ends: Ends,
    accept: UnboundedReceiver<Peer>,
    connector: Http2Connector,
}

async fn several(most: u32, settings: &[(u16, u32)]) -> Several {
    let http2 = Http2Settings {
        max_connections: Some(most),
        ..Http2Settings::default()
    };
    let (connector, mut accept) = connector(http2, 1 << 20);
    let (events, ends) = Ends::new();
    let (service, peer) =
        tokio::join!(connect(&connector, events), accepted(&mut accept, settings));
    Several {
        service: service.expect("it connects"),
        peer,
        ends,
        accept,
        connector,
    }
}

async fn accepted(accept: &mut UnboundedReceiver<Peer>, settings: &[(u16, u32)]) -> Peer {
    let mut peer = soon("a dial", accept.recv()).await.expect("a dial");
    peer.read_preface().await;
    peer.settings(settings).await;
    peer
}

/// Waits until what the peers sent has been read: a round trip of nothing would do, but tells no time.
async fn settled(mut seen: impl FnMut() -> bool) {
    soon("the client to see it", async {
        while !seen() {
            yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn with_one_connection_a_call_beyond_the_limit_is_not_taken_before_another_has_ended() {
    let Open {
        service, mut peer, ..
    } = open_with(Http2Settings::default(), ONE).await;
    let first = call(&service);
    let mut second = service.clone();
    assert!(!is_ready(&mut second), "the server allows one stream");
    let (stream, _) = peer.request().await;
    answer(&mut peer, stream).await;
    let mut body = answered(first).await;
    assert!(!is_ready(&mut second), "the response has not ended");
    while soon("the rest", body.frame()).await.is_some() {}
    assert!(
        is_ready(&mut second),
        "it has ended, though its body is still held"
    );
    assert!(!is_ready(&mut service.clone()), "the turn is taken");
    let second = send(second);
    let (stream, _) = peer.request().await;
    answer(&mut peer, stream).await;
    drop(answered(second).await);
    assert!(is_ready(&mut service.clone()), "nothing is under way");
}

#[tokio::test]
async fn a_stream_counts_until_its_request_has_ended_too() {
    let Open {
        service, mut peer, ..
    } = open_with(Http2Settings::default(), ONE).await;
    let (frames, body) = tokio::sync::mpsc::unbounded_channel();
    let body = tokio_stream::wrappers::UnboundedReceiverStream::new(body);
    let body = tonic::body::Body::new(http_body_util::StreamBody::new(body));
    let request = http::Request::post("/p.S/M").body(body).expect("a request");
    let mut caller = service.clone();
    assert!(is_ready(&mut caller));
    let called = caller.call(request);
    let stream = peer.next(HEADERS).await.stream;
    answer(&mut peer, stream).await;
    let mut body = answered(called).await;
    while soon("the rest", body.frame()).await.is_some() {}
    let mut next = service.clone();
    assert!(!is_ready(&mut next), "the request still streams");
    drop::<tokio::sync::mpsc::UnboundedSender<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>>(
        frames,
    );
    ready(&mut next).await;
}

#[tokio::test]
async fn calls_that_wait_get_their_turns_in_order_and_one_that_is_dropped_gives_its_own_up() {
    let Open {
        service, mut peer, ..
    } = open_with(Http2Settings::default(), ONE).await;
    let under_way = call(&service);
    let mut waiting = [(); 4].map(|()| service.clone());
    for service in &mut waiting {
        assert!(!is_ready(service), "it waits");
    }
    let [gone, mut first, granted, mut last] = waiting;
    drop(gone);
    peer.request().await;
    drop(under_way);
    let reset = peer.next(RST_STREAM).await;
    assert_eq!(reset.stream, 1, "a call that is dropped is cancelled");
    assert!(is_ready(&mut first), "who came first is first");
    assert!(!is_ready(&mut last), "and nobody else");
    assert!(!is_ready(&mut service.clone()), "nor who comes now");
    drop(send(first));
    // `granted` has its turn, and does not know it yet.
    drop(granted);
    ready(&mut last).await;
}

#[tokio::test]
async fn the_limit_holds_as_it_stands_now() {
    let Open {
        service, mut peer, ..
    } = open_with(Http2Settings::default(), &[(MAX_CONCURRENT_STREAMS, 2)]).await;
    let [first, second] = [call(&service), call(&service)];
    let mut waiting = [service.clone(), service.clone(), service.clone()];
    assert!(!waiting.iter_mut().any(is_ready), "two are open");
    peer.settings(&[(1, 4096), (MAX_CONCURRENT_STREAMS, 3)])
        .await;
    ready(&mut waiting[0]).await;
    assert!(!is_ready(&mut waiting[1]), "three, and no more");
    let third = waiting[0].call(request("abc"));
    peer.settings(ONE).await;
    // All of its SETTINGS are read.
    let mut acknowledged = 0;
    while acknowledged < 3 {
        acknowledged += usize::from(peer.next(SETTINGS).await.flags == 1);
    }
    drop((first, second));
    let mut resets = 0;
    while resets < 2 {
        peer.next(RST_STREAM).await;
        resets += 1;
    }
    assert!(!is_ready(&mut waiting[1]), "one is open, and it is one now");
    drop(third);
    ready(&mut waiting[1]).await;
    peer.settings(&[(4, 1 << 20)]).await;
    assert!(!is_ready(&mut waiting[2]), "other settings change nothing");
}

#[tokio::test]
async fn a_further_connection_is_made_when_all_are_full_and_only_up_to_the_limit() {
    let Several {
        service,
        mut peer,
        mut accept,
        connector,
        ..
    } = several(2, ONE).await;
    let first = call(&service);
    assert!(accept.try_recv().is_err(), "one is enough for one call");
    let mut waiting = [(); 2].map(|()| service.clone());
    assert!(!waiting.iter_mut().any(is_ready), "the first one is full");
    let mut other = accepted(&mut accept, ONE).await;
    let [second, third] = &mut waiting;
    ready(second).await;
    assert!(!is_ready(third), "the second one is full too");
    assert_eq!(connector.gauge().open(), 2, "both are counted");
    let called = second.call(request("def"));
    let (stream, body) = other.request().await;
    assert_eq!(body, b"def", "it went there");
    answer(&mut other, stream).await;
    drop(answered(called).await);
    ready(third).await;
    assert!(accept.try_recv().is_err(), "two are all that there may be");
    // The oldest that has room.
    peer.request().await;
    drop(first);
    settled(|| is_ready(&mut service.clone())).await;
    let _fourth = call(&service);
    peer.request().await;
}

#[tokio::test]
async fn the_balancer_hears_of_the_end_of_the_last_connection_only() {
    let Several {
        service,
        peer,
        mut ends,
        mut accept,
        connector,
    } = several(2, ONE).await;
    let first = call(&service);
    let mut second = service.clone();
    assert!(!is_ready(&mut second));
    let other = accepted(&mut accept, ONE).await;
    ready(&mut second).await;
    let second = send(second);
    peer.hang_up().await;
    let lost = soon("the call's end", first).await.expect_err("it is lost");
    assert!(lost.is_connection_lost(), "{lost:?}");
    assert!(!ends.were_told(), "there is another one");
    let mut third = service.clone();
    assert!(!is_ready(&mut third), "which is full");
    let replaced = accepted(&mut accept, ONE).await;
    ready(&mut third).await;
    assert!(!ends.were_told(), "nor is it said of one that comes");
    drop(third);
    other.hang_up().await;
    let lost = soon("the call's end", second).await;
    assert!(lost.expect_err("it is lost").is_connection_lost());
    replaced.hang_up().await;
    ends.told("the end of the last").await;
    let mut late = service.clone();
    let refused = std::future::poll_fn(|cx| late.poll_ready(cx));
    assert!(
        soon("an answer", refused).await.is_err(),
        "there is nothing to wait for"
    );
    settled(|| connector.gauge().open() == 0).await;
}

#[tokio::test]
async fn a_call_that_a_leaving_connection_did_not_process_goes_to_another_one_of_the_endpoint() {
    let Several {
        service,
        mut peer,
        mut ends,
        mut accept,
        ..
    } = several(2, &[(MAX_CONCURRENT_STREAMS, 2)]).await;
    let mut first = tokio::spawn(call(&service));
    assert_eq!(peer.request().await.0, 1, "the first one's");
    let second = tokio::spawn(call(&service));
    assert_eq!(peer.request().await.0, 3, "the second one's");
    let mut third = service.clone();
    assert!(!is_ready(&mut third));
    let mut other = accepted(&mut accept, ONE).await;
    ready(&mut third).await;
    let third = third.call(request("def"));
    assert_eq!(other.request().await.1, b"def");
    // Nothing after the first stream was processed.
    peer.goaway(1).await;
    let mut replacement = accepted(&mut accept, ONE).await;
    let (stream, body) = replacement.request().await;
    assert_eq!(body, b"abc", "the same call, by a connection that has room");
    answer(&mut replacement, stream).await;
    let second = soon("the second call", second).await.expect("no panic");
    assert!(second.is_ok(), "nobody saw that it moved");
    let pending =
        std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut first).poll(cx).is_pending()));
    assert!(pending.await, "the first goes on where it is");
    answer(&mut peer, 1).await;
    let first = soon("the first call", first).await.expect("no panic");
    assert!(first.is_ok(), "and finishes there");
    assert!(!ends.were_told(), "the endpoint is still there");
    drop(third);
}

#[tokio::test]
async fn a_stream_that_is_refused_by_a_good_connection_is_the_balancers_to_send_elsewhere() {
    let Several {
        service, mut peer, ..
    } = several(2, ONE).await;
    let called = call(&service);
    let (stream, _) = peer.request().await;
    peer.reset(stream, REFUSED_STREAM).await;
    let refused = soon("the call's end", called).await;
    let refused = refused.expect_err("it was refused");
    assert!(refused.reclaim().is_ok(), "it comes back");
}

#[tokio::test(start_paused = true)]
async fn attempts_that_fail_are_made_again_with_the_backoff_while_calls_wait() {
    let Several {
        service,
        mut ends,
        mut accept,
        peer,
        ..
    } = several(2, ONE).await;
    let first = call(&service);
    let mut second = service.clone();
    assert!(!is_ready(&mut second));
    let mut pauses = Vec::new();
    let mut before = tokio::time::Instant::now();
    for _ in 0..3 {
        let failed = soon("a dial", accept.recv()).await.expect("a dial");
        pauses.push(before.elapsed());
        before = tokio::time::Instant::now();
        drop(failed);
        ends.told_beside("the error, for the report").await;
    }
    let second_s = Duration::from_secs(1);
    assert!(pauses[0] < second_s / 2, "the first at once: {pauses:?}");
    let near = |pause: Duration, s: f64| (0.79 * s..1.21 * s).contains(&pause.as_secs_f64());
    assert!(near(pauses[1], 1.0), "1 s and a fifth: {pauses:?}");
    assert!(near(pauses[2], 1.6), "then 1.6 times that: {pauses:?}");
    // The one that is there is not touched by it, and serves as it gets room.
    drop(first);
    ready(&mut second).await;
    drop(second);
    let minute = tokio::time::timeout(Duration::from_secs(60), accept.recv());
    assert!(minute.await.is_err(), "nobody waits, so nobody dials");
    assert!(is_ready(&mut service.clone()), "the endpoint is ready");
    drop(peer);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_wants_calm_is_not_dialled_for_a_while() {
    let Several {
        service,
        mut peer,
        mut accept,
        mut ends,
        ..
    } = several(2, ONE).await;
    let first = call(&service);
    let mut second = service.clone();
    assert!(!is_ready(&mut second));
    let _other = accepted(&mut accept, ONE).await;
    ready(&mut second).await;
    let mut third = service.clone();
    assert!(!is_ready(&mut third));
    let enhance_your_calm = [[0, 0, 0, 1], [0, 0, 0, 0xb]].concat();
    peer.send(GOAWAY, 0, 0, &enhance_your_calm).await;
    let began = tokio::time::Instant::now();
    soon("a dial", accept.recv()).await.expect("a dial");
    let pause = began.elapsed().as_secs_f64();
    assert!((0.79..1.21).contains(&pause), "the backoff: {pause} s");
    assert!(!ends.were_told(), "the endpoint goes on");
    drop((first, second, third));
}

#[tokio::test]
async fn the_last_handle_closes_all_connections_and_gives_up_a_dial() {
    let Several {
        service,
        peer,
        mut accept,
        connector,
        ..
    } = several(3, ONE).await;
    let first = call(&service);
    let mut second = service.clone();
    assert!(!is_ready(&mut second));
    let other = accepted(&mut accept, ONE).await;
    ready(&mut second).await;
    let second = send(second);
    let mut third = service.clone();
    assert!(!is_ready(&mut third));
    let silent = soon("a dial", accept.recv()).await.expect("a dial");
    drop((third, service));
    silent.closed().await;
    assert_eq!(connector.gauge().open(), 2, "calls under way go on");
    drop((first, second));
    peer.closed().await;
    other.closed().await;
    settled(|| connector.gauge().open() == 0).await;
}

#[tokio::test]
async fn a_response_body_says_its_end_as_before() {
    let Open {
        service, mut peer, ..
    } = open_with(Http2Settings::default(), ONE).await;
    let called = call(&service);
    let (stream, _) = peer.request().await;
    peer.send(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200)
        .await;
    let body = answered(called).await;
    assert!(body.is_end_stream(), "a head may be all");
    drop(body);
    assert!(is_ready(&mut service.clone()), "its stream is over");
}
