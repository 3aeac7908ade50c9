//! Connections that nobody can call any more, to peers that read little or nothing.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use tower_service::Service;

use super::peer::{GOAWAY, Peer, SETTINGS, connect, connector, request, soon};
use crate::connection::ConnectionEvents;
use crate::grpc::http2::{Http2, Http2Connector, Http2Settings};

/// More than the pipe to the peer has room for.
const BODY: &str = match std::str::from_utf8(&[b'x'; 4096]) {
    Ok(body) => body,
    Err(_) => panic!(),
};

/// A connection whose pipe to the peer is full: the peer reads no more, and a call has more to say.
async fn stuck() -> (Http2Connector, Http2, Peer) {
    let (connector, mut accept) = connector(Http2Settings::default(), 512);
    let peer = async {
        let mut peer = soon("a dial", accept.recv()).await.expect("a dial");
        peer.read_preface().await;
        peer.settings(&[]).await;
        peer.next(SETTINGS).await;
        peer
    };
    let (service, peer) = tokio::join!(connect(&connector, ConnectionEvents::detached()), peer);
    let mut service = service.expect("it connects");
    let call = tokio::spawn(service.call(request(BODY)));
    // Paused time passes only when all has come to rest.
    tokio::time::sleep(Duration::from_millis(1)).await;
    call.abort();
    call.await.expect_err("nobody has answered");
    (connector, service, peer)
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_nothing_does_not_keep_a_connection_that_nobody_can_call() {
    let (connector, service, peer) = stuck().await;
    let patience = Http2Settings::default().keep_alive_timeout;
    tokio::time::sleep(10 * patience).await;
    assert_eq!(
        connector.gauge().open(),
        1,
        "it may still be called, and without pings nobody knows that the peer is stuck"
    );
    let began = Instant::now();
    drop(service);
    peer.let_go().await;
    let took = began.elapsed();
    assert_eq!(connector.gauge().open(), 0, "it is not counted any more");
    assert!(
        took >= patience && took < 2 * patience,
        "the peer has its time, and no more: {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_reads_slowly_gets_all() {
    let (connector, service, mut peer) = stuck().await;
    drop(service);
    let patience = Http2Settings::default().keep_alive_timeout;
    let began = Instant::now();
    let mut bytes = [0; 512];
    for _ in 0..4 {
        tokio::time::sleep(patience / 2).await;
        let read = soon("some bytes", peer.io.read(&mut bytes[..100])).await;
        assert!(read.unwrap() > 0, "the connection waits for the peer");
    }
    assert!(
        began.elapsed() > patience,
        "it took longer than a peer may be silent"
    );
    let mut rest = Vec::new();
    soon("the rest", peer.io.read_to_end(&mut rest))
        .await
        .expect("a clean end");
    let goaway = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0];
    assert!(
        rest.windows(goaway.len()).any(|part| part == goaway),
        "down to the GOAWAY: {rest:?}"
    );
    peer.let_go().await;
    assert_eq!(connector.gauge().open(), 0, "it is not counted any more");
}
