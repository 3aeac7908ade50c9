//! Calls of all four kinds.

use std::collections::BTreeMap;

use evenkeel::call::ChosenEndpoint;
use evenkeel::grpc::Channel;
use evenkeel::policy::RoundRobin;
use futures::channel::mpsc;
use futures::stream;

use crate::mirror::{MESSAGE_BYTES, Mirror};
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, Method, TestServer, eventually, within};
use crate::{channel, only, ready};

fn request(message: &str) -> EchoRequest {
    EchoRequest {
        message: message.into(),
        payload: vec![7; 3].into(),
        replies: 3,
    }
}

#[tokio::test]
async fn round_robin_gives_each_server_its_exact_share() {
    let servers = ["a", "b", "c"].map(|name| TestServer::start(name, Behaviour::prompt()));
    let channel = Channel::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .policy(RoundRobin::default())
        .build()
        .unwrap();
    let mut client = DemoClient::new(channel.clone());
    // All three must be there before shares are counted.
    ready(&channel).await;
    let mut shares = BTreeMap::new();
    for _ in 0..300 {
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        let server = reply.unwrap().into_inner().server;
        *shares.entry(server).or_insert(0) += 1;
    }
    let want: BTreeMap<String, i32> = ["a", "b", "c"].map(|n| (n.to_owned(), 100)).into();
    assert_eq!(
        shares, want,
        "300 calls over 3 stable endpoints give 100 each"
    );
}

#[tokio::test]
async fn the_four_kinds_of_calls() {
    let server = TestServer::start("one", Behaviour::prompt());
    let channel = channel(server.uri());
    let mut client = DemoClient::new(channel.clone());

    // Before there is a connection: the call waits for it.
    let reply = within("a call", client.echo(request("hello"))).await;
    let reply = reply.unwrap().into_inner();
    assert_eq!(
        (
            reply.server.as_str(),
            reply.message.as_str(),
            &*reply.payload
        ),
        ("one", "hello", &[7, 7, 7][..]),
        "a unary call has its reply"
    );

    let replies = within("a call", client.server_stream(request("s"))).await;
    let mut replies = replies.unwrap().into_inner();
    for count in 1..=3 {
        let reply = within("a reply", replies.message()).await.unwrap();
        assert_eq!(reply.unwrap().count, count, "replies come in order");
    }
    let end = within("the end", replies.message()).await.unwrap();
    assert_eq!(end, None, "a stream of replies ends");

    let requests = stream::iter(["a", "b", "c"].map(request));
    let reply = within("a call", client.client_stream(requests)).await;
    let reply = reply.unwrap().into_inner();
    assert_eq!(
        (reply.message.as_str(), reply.count),
        ("c", 3),
        "a stream of requests has one reply"
    );

    // Strictly in turns: each request is sent after the reply to the one before.
    let (sender, requests) = mpsc::unbounded();
    let echoes = within("a call", client.bidi_stream(requests)).await;
    let mut echoes = echoes.unwrap().into_inner();
    for message in ["a", "b", "c"] {
        sender.unbounded_send(request(message)).unwrap();
        let reply = within("a reply", echoes.message()).await.unwrap();
        assert_eq!(
            reply.unwrap().message,
            message,
            "a reply comes while the requests are still open"
        );
        assert_eq!(only(&channel).in_flight, 1, "an open stream is under way");
    }
    drop(sender);
    let end = within("the end", echoes.message()).await.unwrap();
    assert_eq!(end, None, "replies end when the requests have");

    let report = only(&channel);
    assert_eq!(
        (report.calls, report.failures, report.in_flight),
        (4, 0, 0),
        "four calls, none failed, none under way: {report}"
    );
    for method in Method::ALL {
        eventually("the call counts as finished", || {
            server.calls(method).finished == 1
        })
        .await;
    }
    assert_eq!(server.accepted(), 1, "all by one connection");
}

#[tokio::test]
async fn messages_of_8_mib_go_both_ways() {
    let server = Mirror::start().await;
    let channel = channel(server.uri());
    let mut client = DemoClient::new(channel.clone())
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let payload: Vec<u8> = (0..8_usize << 20)
        .map(|index| (index % 251) as u8)
        .collect();
    let request = EchoRequest {
        payload: payload.into(),
        ..EchoRequest::default()
    };
    let reply = within("a big call", client.echo(request.clone())).await;
    assert!(
        reply.unwrap().into_inner().payload == request.payload,
        "8 MiB come back as they went"
    );

    let requests = stream::iter([request.clone(), request.clone()]);
    let echoes = within("a call", client.bidi_stream(requests)).await;
    let mut echoes = echoes.unwrap().into_inner();
    for _ in 0..2 {
        let reply = within("a big reply", echoes.message()).await.unwrap();
        assert!(
            reply.unwrap().payload == request.payload,
            "also in a stream"
        );
    }
    let end = within("the end", echoes.message()).await.unwrap();
    assert_eq!(end, None, "and the stream ends");
    assert_eq!(only(&channel).failures, 0, "a big message is no failure");
}

#[tokio::test]
async fn the_endpoint_that_answered_is_named_where_asked_for() {
    let servers = ["a", "b"].map(|name| TestServer::start(name, Behaviour::prompt()));
    let named = |server: &TestServer| evenkeel::Endpoint::new(server.uri()).with_id(server.name());
    let builder = || Channel::builder().endpoints(servers.each_ref().map(named));
    let exposing = builder().expose_endpoint(true).build().unwrap();
    let mut client = DemoClient::new(exposing);
    for _ in 0..20 {
        let response = within("a call", client.echo(request("x"))).await.unwrap();
        let ChosenEndpoint(id) = response.extensions().get().expect("it is there");
        assert_eq!(
            id.as_str(),
            response.get_ref().server,
            "the extension names the endpoint that answered"
        );
    }
    let mut client = DemoClient::new(builder().build().unwrap());
    let response = within("a call", client.echo(request("x"))).await.unwrap();
    assert!(
        response.extensions().get::<ChosenEndpoint>().is_none(),
        "by default it is not there"
    );
}
