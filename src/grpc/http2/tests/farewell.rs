//! The last words between this side and a server that shuts down gracefully.

use std::time::Duration;

use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};
use tower_service::Service;

use super::peer::{
    DATA, END_HEADERS, END_STREAM, HEADERS, Open, PING, Peer, SETTINGS, STATUS_200, WINDOW_UPDATE,
    open, request, soon,
};
use crate::grpc::http2::{Http2, Http2Body};

const ACK: u8 = 1;

/// What a server says first: a GOAWAY that refuses no stream, and a PING.
async fn say_farewell(peer: &mut Peer) {
    peer.goaway(0x7fff_ffff).await;
    peer.send(PING, 0, 0, &[7; 8]).await;
}

#[tokio::test(start_paused = true)]
async fn a_farewell_is_answered_at_once_when_nothing_is_queued() {
    for call_under_way in [false, true] {
        let Open {
            mut service,
            mut peer,
            ..
        } = open().await;
        let _call = call_under_way.then(|| tokio::spawn(service.call(request("abc"))));
        if call_under_way {
            peer.request().await;
        }
        let began = Instant::now();
        say_farewell(&mut peer).await;
        assert_eq!(peer.next(PING).await.flags, ACK, "the PING is answered");
        assert_eq!(
            began.elapsed(),
            Duration::ZERO,
            "the server waits for it, and the calls under way wait with it: {call_under_way}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_farewell_is_answered_behind_what_is_queued() {
    let Open {
        mut service,
        mut peer,
        ..
    } = open().await;
    // Both are there when the connection's task runs next.
    let calls = [service.call(request("abc")), service.call(request("def"))];
    say_farewell(&mut peer).await;
    let calls = calls.map(tokio::spawn);
    let mut requests = 0;
    loop {
        let frame = peer.frame().await.expect("the client is still there");
        match frame.kind {
            DATA if frame.flags & END_STREAM != 0 => requests += 1,
            PING => break,
            _ => {}
        }
    }
    assert_eq!(
        requests, 2,
        "what comes behind the answer may come to a closed socket"
    );
    for (call, stream) in calls.into_iter().zip([1, 3]) {
        peer.send(HEADERS, END_HEADERS | END_STREAM, stream, STATUS_200)
            .await;
        soon("the response", call)
            .await
            .expect("no panic")
            .expect("the server took it");
    }
}

/// A call whose response has begun, and which the server ends by and by if it `parts`.
async fn download(parts: bool) -> (Http2Body, Peer, Http2) {
    let Open {
        mut service,
        mut peer,
        ..
    } = open().await;
    peer.send(SETTINGS, ACK, 0, &[]).await;
    let call = tokio::spawn(service.call(request("abc")));
    peer.request().await;
    if parts {
        say_farewell(&mut peer).await;
        peer.next(PING).await;
        peer.goaway(1).await;
    }
    peer.send(HEADERS, END_HEADERS, 1, STATUS_200).await;
    let response = soon("the response", call).await.expect("no panic");
    (response.expect("a head").into_body(), peer, service)
}

const FRAME_LEN: usize = 16 * 1024;

/// The window that hyper opens for a stream, which it renews when a third of it is used.
const WINDOW: usize = 2 << 20;

/// Past a gap in a response, short of a server that waits.
const MOMENT: Duration = Duration::from_millis(90);

/// By when a server that waits for it gets its window.
const SILENCE: Duration = Duration::from_millis(100);

#[tokio::test(start_paused = true)]
async fn a_server_that_may_have_said_all_gets_no_window_update() {
    for parts in [false, true] {
        let (mut body, mut peer, _service) = download(parts).await;
        for _ in 0..WINDOW / FRAME_LEN - 1 {
            peer.send(DATA, 0, 1, &[1; FRAME_LEN]).await;
            let frame = soon("a frame", body.frame()).await.expect("no end yet");
            assert!(frame.expect("whole").is_data(), "what was sent arrives");
        }
        let update = timeout(MOMENT, peer.next(WINDOW_UPDATE)).await;
        assert_eq!(
            update.is_err(),
            parts,
            "after a GOAWAY the socket may be closed, and what comes to it would reset it"
        );
        if parts {
            let update = timeout(SILENCE, peer.next(WINDOW_UPDATE)).await;
            assert!(update.is_ok(), "a server that falls silent may wait for it");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_download_goes_on_while_the_server_parts() {
    const WINDOWS: usize = 6;
    let (mut body, mut peer, _service) = download(true).await;
    let began = Instant::now();
    let mut read = 0;
    let reader = tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            read += frame
                .expect("whole")
                .data_ref()
                .map_or(0, |data| data.len());
        }
        read
    });
    // As a server does: no more than the windows allow.
    let (mut stream, mut connection, mut left) = (WINDOW, 5 << 20, WINDOWS * WINDOW);
    while left > 0 {
        let piece = left.min(FRAME_LEN).min(stream).min(connection);
        (stream, connection, left) = (stream - piece, connection - piece, left - piece);
        if piece > 0 {
            let flags = if left == 0 { END_STREAM } else { 0 };
            peer.send(DATA, flags, 1, &vec![1; piece]).await;
            continue;
        }
        let update = peer.next(WINDOW_UPDATE).await;
        let increment = u32::from_be_bytes(update.payload.try_into().expect("4 bytes"));
        match update.stream {
            0 => connection += increment as usize,
            _ => stream += increment as usize,
        }
    }
    assert_eq!(
        soon("the body", reader).await.expect("no panic"),
        WINDOWS * WINDOW,
        "nothing is missing"
    );
    assert!(
        began.elapsed() <= SILENCE * WINDOWS as u32,
        "a window costs a moment at most: {:?}",
        began.elapsed()
    );
}
