//! Servers that allow few streams on a connection (`MAX_CONCURRENT_STREAMS`), and calls beyond that.

use std::time::Duration;

use evenkeel::ConnectivityState;
use evenkeel::grpc::{Builder, Channel};
use evenkeel::health::Limits;
use evenkeel::policy::RoundRobin;
use futures::channel::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tonic::{Code, Status, Streaming};

use crate::support::proto::{EchoReply, EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, Method, TestServer, all_ready, eventually, within};
use crate::{cancelled, only};

/// A server that allows so many streams on a connection.
pub fn server(streams: u32) -> TestServer {
    TestServer::builder("few", Behaviour::prompt())
        .max_concurrent_streams(streams)
        .own_thread()
        .start()
}

/// A channel to it with so many connections at most.
pub fn builder(server: &TestServer, connections: u32) -> Builder {
    Channel::builder()
        .endpoints([server.uri()])
        .http2_with(|http2| http2.max_connections = Some(connections))
}

/// The same, connected.
pub async fn channel(server: &TestServer, connections: u32) -> Channel {
    let channel = builder(server, connections).build().unwrap();
    all_ready(&channel).await;
    channel
}

/// Both sides of a call.
pub struct Both {
    requests: UnboundedSender<EchoRequest>,
    /// What the server says.
    pub replies: Streaming<EchoReply>,
}

impl Both {
    /// Sends something, and waits for its reply.
    pub async fn speaks(&mut self) {
        self.requests
            .unbounded_send(EchoRequest::default())
            .unwrap();
        let reply = within("a reply", self.replies.message()).await;
        assert!(matches!(reply, Ok(Some(_))), "it goes on: {reply:?}");
    }

    /// Ends the call, and waits for the server to.
    pub async fn ends(mut self) {
        drop(self.requests);
        let end = within("the end", self.replies.message()).await;
        assert!(matches!(end, Ok(None)), "it ends by itself: {end:?}");
    }
}

/// A call that goes on until its requests end; it is there when the server has answered it.
async fn open(channel: Channel) -> Result<Both, Status> {
    let (requests, stream) = futures::channel::mpsc::unbounded();
    let replies = DemoClient::new(channel).bidi_stream(stream).await?;
    let replies = replies.into_inner();
    Ok(Both { requests, replies })
}

/// A call that the server has answered.
pub async fn opened(channel: &Channel) -> Both {
    let opened = within("a stream opens", open(channel.clone())).await;
    opened.expect("it is answered")
}

/// A call that may have to wait.
pub fn opening(channel: &Channel) -> JoinHandle<Result<Both, Status>> {
    tokio::spawn(open(channel.clone()))
}

/// Waits until as many calls are under way, those that wait for a stream included.
pub async fn under_way(channel: &Channel, calls: u32) {
    eventually("the calls are under way", || {
        only(channel).in_flight == calls
    })
    .await;
}

/// A call that ends by itself.
pub async fn unary(channel: &Channel) -> Result<(), Status> {
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call ends", client.echo(EchoRequest::default())).await;
    reply.map(drop)
}

#[tokio::test]
async fn calls_beyond_the_limit_of_one_connection_go_by_a_second_one() {
    let server = server(2);
    let channel = channel(&server, 2).await;
    assert_eq!(server.accepted(), 1, "one connection to begin with");
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(opened(&channel).await);
    }
    for stream in &mut streams {
        stream.speaks().await;
    }
    assert_eq!(server.open(), 2, "two streams on each");
    for stream in streams {
        stream.ends().await;
    }
    assert!(unary(&channel).await.is_ok());
    assert_eq!(server.accepted(), 2, "both stay");
}

#[tokio::test]
async fn there_are_no_more_connections_than_allowed_and_what_is_beyond_waits_for_a_stream_to_end() {
    let server = server(2);
    let channel = channel(&server, 3).await;
    let mut calls: Vec<_> = (0..20).map(|_| opening(&channel)).collect();
    let method = || server.calls(Method::BidiStream);
    eventually("six of twenty are at the server", || {
        method().in_flight() == 6
    })
    .await;
    under_way(&channel, 20).await;
    // In the order in which they came or not: as each ends, another begins.
    while !calls.is_empty() {
        let (stream, _, rest) = within("the next one", futures::future::select_all(calls)).await;
        calls = rest;
        stream.expect("no panic").expect("a stream").ends().await;
        assert!(method().in_flight() <= 6, "{:?}", method());
    }
    assert_eq!(server.accepted(), 3, "three connections and no more");
    assert_eq!(method().started, 20, "each call was made once");
    under_way(&channel, 0).await;
}

#[cfg(feature = "service-config")]
#[tokio::test]
async fn a_service_config_says_how_many_where_nothing_else_does() {
    let json = r#"{"connectionScaling": {"maxConnectionsPerSubchannel": 11}}"#;
    for (set, connections) in [(None, 10), (Some(2), 2)] {
        let server = server(1);
        let channel = Channel::builder()
            .endpoints([server.uri()])
            .http2_with(|http2| http2.max_connections = set)
            .service_config(json)
            .build()
            .unwrap();
        all_ready(&channel).await;
        let calls: Vec<_> = (0..12).map(|_| opening(&channel)).collect();
        let method = || server.calls(Method::BidiStream);
        eventually("each connection has its one call", || {
            method().in_flight() == connections
        })
        .await;
        for call in calls {
            call.abort();
        }
        under_way(&channel, 0).await;
        assert_eq!(server.accepted(), connections, "set to {set:?}");
    }
}

#[tokio::test]
async fn by_default_a_call_beyond_the_limit_waits_in_its_turn_and_holds_to_its_deadline() {
    let server = server(1);
    let channel = crate::channel(server.uri());
    all_ready(&channel).await;
    let mut first = opened(&channel).await;
    let waiting = opening(&channel);
    under_way(&channel, 2).await;
    let mut late = tonic::Request::new(EchoRequest::default());
    late.set_timeout(Duration::from_millis(50));
    let mut client = DemoClient::new(channel.clone());
    let status = within("the deadline holds", client.echo(late)).await;
    let status = status.expect_err("there is no room for it");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    assert!(
        status.message().contains("no room"),
        "it says what the call waited for: {status}"
    );
    assert_eq!(server.calls(Method::Echo).started, 0, "it was never sent");
    first.speaks().await;
    assert_eq!(server.accepted(), 1, "no second connection");
    assert_eq!(
        only(&channel).state,
        ConnectivityState::Ready,
        "an endpoint that is full is connected"
    );
    first.ends().await;
    let second = within("its turn", waiting).await.expect("no panic");
    second.expect("a stream").ends().await;
}

#[tokio::test]
async fn a_call_goes_to_an_endpoint_that_has_room_rather_than_wait() {
    let [full, free] = [server(1), server(1)];
    let channel = Channel::builder()
        .endpoints([full.uri(), free.uri()])
        .policy(RoundRobin::default())
        .build()
        .unwrap();
    all_ready(&channel).await;
    let first = opened(&channel).await;
    // Round robin would have every other one wait behind the first.
    let mut calls = 0;
    while calls < 10 {
        assert!(unary(&channel).await.is_ok());
        calls += 1;
    }
    first.ends().await;
}

#[tokio::test]
async fn calls_that_wait_for_a_stream_are_limited_and_one_that_is_dropped_gives_all_back() {
    let server = server(1);
    let limits = Limits::default().with_max_pending_per_endpoint(1);
    let channel = builder(&server, 1).limits(limits).build().unwrap();
    all_ready(&channel).await;
    let first = opened(&channel).await;
    for _ in 0..3 {
        let waiting = opening(&channel);
        under_way(&channel, 2).await;
        let refused = unary(&channel).await.expect_err("one may wait");
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        waiting.abort();
        under_way(&channel, 1).await;
    }
    let waiting = opening(&channel);
    under_way(&channel, 2).await;
    first.ends().await;
    let second = within("its turn", waiting).await.expect("no panic");
    second.expect("a stream").ends().await;
    under_way(&channel, 0).await;
    assert!(unary(&channel).await.is_ok(), "no turn was lost");
}

#[tokio::test]
async fn a_response_that_is_dropped_makes_room() {
    let server = server(1);
    let channel = crate::channel(server.uri());
    all_ready(&channel).await;
    for round in 1..=5 {
        let stream = opened(&channel).await;
        drop(stream);
        cancelled(&channel, &server, round).await;
    }
    server.set(Behaviour::silent());
    let stuck = tokio::spawn({
        let channel = channel.clone();
        async move { unary(&channel).await }
    });
    eventually("it is at the server", || {
        server.calls(Method::Echo).in_flight() == 1
    })
    .await;
    stuck.abort();
    server.set(Behaviour::prompt());
    assert!(unary(&channel).await.is_ok(), "and so does one before it");
}
