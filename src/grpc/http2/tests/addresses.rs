//! Endpoints with several addresses, and names with several.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

use super::calls::{echo, text};
use super::peer::{Peer, request, soon};
use crate::connection::{ConnectionEvents, Connector};
use crate::endpoint::Endpoint;
use crate::grpc::http2::{ConnectError, Http2, Http2Connector, Http2Settings};

/// An endpoint at these addresses.
fn at(addresses: &[String]) -> Endpoint {
    let (first, further) = addresses.split_first().expect("at least one");
    Endpoint::new(first.clone()).with_addresses(further.iter().cloned())
}

async fn connect(settings: Http2Settings, endpoint: &Endpoint) -> Result<Http2, ConnectError> {
    let connector = Http2Connector::new(settings).expect("good settings");
    let dialled = connector.connect(endpoint, ConnectionEvents::detached());
    soon("the race", dialled).await
}

/// A port that nobody listens on, for as long as the socket lives.
fn refusing() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let uri = format!("http://{}", socket.local_addr().unwrap());
    (socket, uri)
}

#[tokio::test]
async fn a_dead_first_address_is_passed_over() {
    let (_socket, dead) = refusing();
    let live = format!("http://{}", echo().await);
    // Without a delay nothing but the failure can begin the second dial.
    let settings = Http2Settings {
        connection_attempt_delay: None,
        ..Http2Settings::default()
    };
    let mut service = connect(settings, &at(&[dead, live.clone()])).await.unwrap();
    assert_eq!(
        text(&mut service, request("abc")).await,
        format!("{live}/p.S/M abc"),
        "requests carry the address that won"
    );
}

#[tokio::test]
async fn each_address_that_failed_is_named_with_its_cause() {
    let ((_a, a), (_b, b)) = (refusing(), refusing());
    let endpoint = at(&[a.clone(), b.clone()]);
    let error = connect(Http2Settings::default(), &endpoint).await;
    let error = error.expect_err("both are dead").to_string();
    for address in [&a, &b] {
        let cause = format!("{}: tcp connect error: ", &address["http://".len()..]);
        assert!(error.contains(&cause), "{address}: {error}");
    }
    assert_eq!(error.matches("refused").count(), 2, "{error}");
    assert!(
        error.starts_with(&format!("dialling {a}/ and 1 more failed")),
        "{error}"
    );
}

/// A server that is there and answers no SYN: its queue of connections to accept is full.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_first_address_that_does_not_answer_costs_the_delay() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(Duration::from_secs(1), TcpStream::connect(address)).await
    {
        queued.push(stream.expect("it is listened on"));
        assert!(queued.len() < 64, "a queue of one is full at some time");
    }
    let live = format!("http://{}", echo().await);
    let start = Instant::now();
    let endpoint = at(&[format!("http://{address}"), live]);
    let settings = Http2Settings {
        connection_attempt_delay: Some(Duration::from_millis(100)),
        ..Http2Settings::default()
    };
    let mut service = connect(settings, &endpoint).await.unwrap();
    assert!(
        start.elapsed() >= Duration::from_millis(100),
        "the first has the delay for itself"
    );
    assert!(
        text(&mut service, request("abc")).await.ends_with(" abc"),
        "the second has answered"
    );
}

/// Of whatever addresses it has here, the server listens on one.
#[tokio::test]
async fn a_name_is_looked_up_and_all_its_addresses_are_tried() {
    let address = echo().await;
    let endpoint = Endpoint::new(format!("http://localhost:{}", address.port()));
    let mut service = connect(Http2Settings::default(), &endpoint).await.unwrap();
    assert_eq!(
        text(&mut service, request("abc")).await,
        format!("http://localhost:{}/p.S/M abc", address.port()),
        "requests carry the name"
    );
    let (_socket, dead) = refusing();
    let port = dead.rsplit(':').next().unwrap();
    let endpoint = Endpoint::new(format!("http://localhost:{port}"));
    let error = connect(Http2Settings::default(), &endpoint)
        .await
        .unwrap_err();
    let named = format!("127.0.0.1:{port}: tcp connect error");
    assert!(
        error.to_string().contains(&named),
        "by its address: {error}"
    );
}

#[tokio::test]
async fn a_name_that_is_not_known_takes_nothing_from_the_other_addresses() {
    // A label of 64 bytes is no name (RFC 1035), so that nobody is asked for it.
    let unknown = format!("http://{}.invalid:1", "x".repeat(64));
    let live = format!("http://{}", echo().await);
    let endpoint = at(&[unknown.clone(), live]);
    assert!(connect(Http2Settings::default(), &endpoint).await.is_ok());
    let ((_socket, dead), endpoint) = (refusing(), at(&[unknown]));
    let error = connect(Http2Settings::default(), &endpoint)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("xx.invalid"), "{error}");
    let endpoint = endpoint.with_addresses([dead.clone()]);
    let error = connect(Http2Settings::default(), &endpoint)
        .await
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("xx.invalid:1: ") && error.contains(&dead[7..]),
        "{error}"
    );
}

#[tokio::test]
async fn one_address_that_is_none_is_a_mistake_whatever_the_others_are() {
    let live = format!("http://{}", echo().await);
    let endpoint = at(&[live, "nonsense".to_owned()]);
    let error = connect(Http2Settings::default(), &endpoint)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("\"nonsense\""), "{error}");
}

/// In memory, so in paused time.
#[tokio::test(start_paused = true)]
async fn another_transport_is_asked_for_one_address_after_the_other() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (peers, mut accept) = tokio::sync::mpsc::unbounded_channel();
    let start = Instant::now();
    let seen = asked.clone();
    let transport = tower::service_fn(move |uri: Uri| {
        let host = uri.host().unwrap().to_owned();
        seen.lock()
            .unwrap()
            .push((host.clone(), start.elapsed().as_millis()));
        let peers = peers.clone();
        async move {
            if host == "[::1]" {
                let (near, peer) = Peer::piped(1 << 16);
                peers.send(peer).map_err(|_| "nobody accepts")?;
                return Ok::<_, &str>(TokioIo::new(near));
            }
            pending().await
        }
    });
    let connector = Http2Connector::with_connector(Http2Settings::default(), transport).unwrap();
    let addresses = ["http://1.1.1.1", "http://2.2.2.2", "http://[::1]"].map(str::to_owned);
    let dialled = connector.connect(&at(&addresses), ConnectionEvents::detached());
    let peer = async {
        let mut peer: Peer = soon("a dial", accept.recv()).await.unwrap();
        peer.read_preface().await;
        peer.settings(&[]).await;
        peer
    };
    let (service, _peer) = tokio::join!(soon("the race", dialled), peer);
    assert!(service.is_ok(), "the second family has answered");
    let wanted = [("1.1.1.1".to_owned(), 0), ("[::1]".to_owned(), 250)];
    assert_eq!(
        *asked.lock().unwrap(),
        wanted,
        "families in turn, 250 ms apart"
    );
}
