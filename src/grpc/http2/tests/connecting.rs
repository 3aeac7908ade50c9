//! From a dial to a connection that takes calls, and its end.

use std::task::{Context, Waker};
use std::time::Duration;

use http::Uri;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tower_service::Service;

use super::peer::{
    Ends, GOAWAY, Open, SETTINGS, connect, connector, open, open_with, request, soon,
};
use crate::connection::{ConnectionEvents, Connector};
use crate::endpoint::Endpoint;
use crate::grpc::http2::{Http2, Http2Connector, Http2Settings, is_connection_lost};

fn tcp() -> Http2Connector {
    Http2Connector::new(Http2Settings::default()).expect("good settings")
}

async fn ready(service: &mut Http2) -> bool {
    std::future::poll_fn(|cx| service.poll_ready(cx))
        .await
        .is_ok()
}

#[tokio::test]
async fn a_refused_dial_says_where_and_why() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let events = ConnectionEvents::detached();
    let dialled = tcp().connect(&Endpoint::new(address.clone()), events);
    let error = soon("the refusal", dialled).await.unwrap_err().to_string();
    assert!(error.contains(&address), "the address: {error}");
    assert!(error.contains("refused"), "the reason: {error}");
}

#[tokio::test]
async fn a_bad_address_is_an_error_of_the_attempt() {
    let events = ConnectionEvents::detached();
    let error = tcp()
        .connect(&Endpoint::new("nonsense"), events)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[cfg(not(feature = "tls"))]
#[tokio::test]
async fn https_without_the_feature_says_what_is_missing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("https://{}", listener.local_addr().unwrap());
    let events = ConnectionEvents::detached();
    let dialled = tcp().connect(&Endpoint::new(address), events);
    let error = soon("the error", dialled).await.unwrap_err();
    assert!(error.to_string().contains("feature tls"), "{error}");
}

#[tokio::test]
async fn a_silent_peer_never_becomes_ready_and_nothing_stays_of_it() {
    let (connector, mut accept) = connector(Http2Settings::default(), 1 << 16);
    let events = ConnectionEvents::detached();
    let mut attempt = tokio_test(connector.connect(&Endpoint::new("http://a:1"), events.clone()));
    assert!(attempt.poll(), "the dial has begun");
    let mut peer = soon("a dial", accept.recv()).await.unwrap();
    peer.read_preface().await;
    peer.next(SETTINGS).await;
    assert!(attempt.poll(), "our own SETTINGS are not the server's");
    assert_eq!(connector.gauge().open(), 1, "the connection is counted");
    attempt.drop();
    peer.closed().await;
    assert_eq!(connector.gauge().open(), 0, "nothing is counted any more");
}

/// A future that can be polled by hand and dropped.
fn tokio_test<F: Future>(future: F) -> Attempt<F> {
    Attempt(Some(Box::pin(future)))
}

struct Attempt<F>(Option<std::pin::Pin<Box<F>>>);

impl<F: Future> Attempt<F> {
    /// Whether it is still pending.
    fn poll(&mut self) -> bool {
        self.poll_by(&mut Context::from_waker(Waker::noop()))
    }

    fn poll_by(&mut self, cx: &mut Context<'_>) -> bool {
        self.0.as_mut().unwrap().as_mut().poll(cx).is_pending()
    }

    fn drop(&mut self) {
        self.0 = None;
    }
}

#[tokio::test]
async fn an_attempt_with_a_stuck_peer_can_be_dropped() {
    // With no room for the preface, and with no room for what follows it.
    for reads_preface in [false, true] {
        let (connector, mut accept) = connector(Http2Settings::default(), 1);
        let (events, mut ends) = Ends::new();
        let endpoint = Endpoint::new("http://a:1");
        let mut attempt = tokio_test(connector.connect(&endpoint, events));
        assert!(attempt.poll(), "the dial has begun");
        let mut stuck = soon("a dial", accept.recv()).await.unwrap();
        let reading = async {
            if reads_preface {
                stuck.read_preface().await;
            }
            stuck
        };
        let mut reading = std::pin::pin!(reading);
        let read = std::future::poll_fn(|cx| {
            assert!(attempt.poll_by(cx), "it waits for SETTINGS");
            reading.as_mut().poll(cx)
        });
        let stuck = soon("the preface", read).await;
        assert_eq!(connector.gauge().open(), 1, "it is counted while it waits");
        attempt.drop();
        stuck.let_go().await;
        assert_eq!(connector.gauge().open(), 0, "reads_preface {reads_preface}");
        ends.told("the attempt's end").await;
    }
}

#[tokio::test]
async fn an_attempt_dropped_after_settings_leaves_nothing() {
    let (connector, mut accept) = connector(Http2Settings::default(), 1 << 16);
    let mut attempt =
        tokio_test(connector.connect(&Endpoint::new("http://a:1"), ConnectionEvents::detached()));
    assert!(attempt.poll(), "the dial has begun");
    let mut peer = soon("a dial", accept.recv()).await.unwrap();
    peer.settings(&[]).await;
    peer.read_preface().await;
    peer.next(SETTINGS).await;
    attempt.drop();
    peer.closed().await;
    assert_eq!(connector.gauge().open(), 0, "nothing is counted any more");
}

#[tokio::test]
async fn a_peer_that_closes_or_speaks_http1_is_told_apart() {
    for (said, expected) in [
        (&b""[..], "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak HTTP/2"),
    ] {
        let (connector, mut accept) = connector(Http2Settings::default(), 1 << 16);
        let peer = async {
            let mut peer = soon("a dial", accept.recv()).await.unwrap();
            peer.read_preface().await;
            soon("room", peer.io.write_all(said)).await.unwrap();
            peer.hang_up().await;
            assert_eq!(connector.gauge().open(), 0, "nothing is counted any more");
        };
        let events = ConnectionEvents::detached();
        let (error, ()) = tokio::join!(connect(&connector, events.clone()), peer);
        let error = error.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(error.contains("http://peer.test"), "where: {error}");
        assert!(events.has_ended(), "the attempt is over");
    }
}

#[tokio::test]
async fn a_failed_transport_says_why() {
    let connector = Http2Connector::with_connector(
        Http2Settings::default(),
        tower::service_fn(|_: Uri| async {
            Err::<hyper_util::rt::TokioIo<tokio::io::DuplexStream>, _>("no road to there")
        }),
    )
    .unwrap();
    let error = connect(&connector, ConnectionEvents::detached())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("no road to there"), "{error}");
}

#[tokio::test]
async fn a_goaway_on_an_idle_connection_ends_it() {
    let Open {
        mut service,
        mut peer,
        mut ends,
        connector,
    } = open().await;
    assert!(ready(&mut service).await, "it takes calls");
    peer.goaway(0x7fff_ffff).await;
    ends.told("the GOAWAY").await;
    assert!(!ready(&mut service).await, "it takes no more calls");
    peer.closed().await;
    assert_eq!(connector.gauge().open(), 0, "nothing is counted any more");
}

#[tokio::test]
async fn an_end_of_an_idle_connection_is_told() {
    let Open {
        mut service,
        peer,
        mut ends,
        connector,
    } = open().await;
    let hung_up = peer.hang_up();
    ends.told("the end").await;
    assert!(!ready(&mut service).await, "it takes no more calls");
    hung_up.await;
    assert_eq!(connector.gauge().open(), 0, "nothing is counted any more");
}

#[tokio::test]
async fn the_connection_ends_with_its_last_service() {
    let Open {
        service,
        mut peer,
        connector,
        ..
    } = open().await;
    let clone = service.clone();
    drop(service);
    tokio::task::yield_now().await;
    assert_eq!(connector.gauge().open(), 1, "a clone keeps it");
    drop(clone);
    peer.next(GOAWAY).await;
    peer.closed().await;
    assert_eq!(connector.gauge().open(), 0, "nothing is counted any more");
}

#[tokio::test]
async fn a_call_under_way_outlives_the_services() {
    let Open {
        mut service,
        mut peer,
        connector,
        ..
    } = open().await;
    let call = service.call(request("abc"));
    let answer = async {
        peer.request().await;
        drop(service);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        assert_eq!(connector.gauge().open(), 1, "it is still counted");
        use super::peer::{END_HEADERS, END_STREAM, HEADERS, STATUS_200};
        peer.send(HEADERS, END_HEADERS | END_STREAM, 1, STATUS_200)
            .await;
    };
    let (response, ()) = soon("the answer", async { tokio::join!(call, answer) }).await;
    drop(response.expect("the call finishes"));
    peer.closed().await;
    assert_eq!(connector.gauge().open(), 0, "nothing is counted any more");
}

#[tokio::test(start_paused = true)]
async fn a_ping_without_an_answer_ends_the_connection() {
    let settings = Http2Settings {
        keep_alive_interval: Some(Duration::from_millis(20)),
        keep_alive_timeout: Duration::from_millis(20),
        ..Http2Settings::default()
    };
    let Open {
        mut service,
        mut peer,
        mut ends,
        ..
    } = open_with(settings, &[]).await;
    let call = service.call(request("abc"));
    let never_answers = async {
        peer.request().await;
        peer
    };
    let (result, _peer) = soon("the keep-alive", async {
        tokio::join!(call, never_answers)
    })
    .await;
    let error = result.unwrap_err();
    assert!(error.is_connection_lost(), "{error:?}");
    assert!(is_connection_lost(&error), "by the function as well");
    ends.told("the end").await;
}
