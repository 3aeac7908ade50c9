//! A caller that gives up cancels its call at the server, and says nothing against the endpoint.

use std::time::Duration;

use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, Method, SilentListener, TestServer, eventually, within};
use crate::{cancelled, channel, only, ready};

/// More than twice as many as the failures in a row that eject.
const CALLS: u64 = 12;

#[tokio::test]
async fn dropping_a_call_cancels_it_at_the_server() {
    let server = TestServer::start("stuck", Behaviour::silent());
    let channel = channel(server.uri());
    ready(&channel).await;
    for call in 1..=CALLS {
        let mut client = DemoClient::new(channel.clone());
        let task = tokio::spawn(async move { client.echo(EchoRequest::default()).await });
        eventually("the call reaches the server", || {
            server.calls(Method::Echo).started == call
        })
        .await;
        assert_eq!(only(&channel).in_flight, 1, "it is under way");
        task.abort();
        cancelled(&channel, &server, call).await;
    }
    let report = only(&channel);
    assert_eq!(
        report.failures, 0,
        "a caller's change of mind is no failure"
    );
    assert!(report.ejected.is_none(), "and never ejects: {report}");
    assert_eq!(server.accepted(), 1, "the connection is left alone");
    server.set(Behaviour::prompt());
    let mut client = DemoClient::new(channel);
    let reply = within("a call", client.echo(EchoRequest::default())).await;
    reply.expect("the endpoint goes on");
}

#[tokio::test]
async fn dropping_a_stream_cancels_it_at_the_server() {
    let server = TestServer::start("endless", Behaviour::after(Duration::from_millis(1)));
    let channel = channel(server.uri());
    for call in 1..=CALLS {
        let mut client = DemoClient::new(channel.clone());
        let request = EchoRequest {
            replies: u64::MAX,
            ..EchoRequest::default()
        };
        let replies = within("a call", client.server_stream(request)).await;
        let mut replies = replies.unwrap().into_inner();
        for _ in 0..3 {
            let reply = within("a reply", replies.message()).await;
            assert!(reply.unwrap().is_some(), "the stream works");
        }
        assert_eq!(only(&channel).in_flight, 1, "an open stream is under way");
        drop(replies);
        cancelled(&channel, &server, call).await;
    }
    let report = only(&channel);
    assert_eq!(
        report.failures, 0,
        "a caller's change of mind is no failure"
    );
    assert!(report.ejected.is_none(), "and never ejects: {report}");
    assert_eq!(server.accepted(), 1, "the connection is left alone");
}

#[tokio::test]
async fn dropping_a_call_that_waits_for_an_endpoint_sends_nothing() {
    let nobody = SilentListener::start();
    let channel = channel(nobody.uri());
    let mut client = DemoClient::new(channel.clone());
    let call = client.echo(EchoRequest::default());
    let waited = tokio::time::timeout(Duration::from_millis(20), call).await;
    assert!(waited.is_err(), "there is nobody to answer");
    let report = only(&channel);
    assert_eq!(
        (report.calls, report.in_flight, report.failures),
        (0, 0, 0),
        "it is as if the call had never been: {report}"
    );
}

/// Whoever still could send requests is not asked.
#[tokio::test]
async fn dropping_the_replies_cancels_a_stream_whose_requests_are_still_open() {
    let server = TestServer::start("patient", Behaviour::prompt());
    let channel = channel(server.uri());
    ready(&channel).await;
    for call in 1..=CALLS {
        let mut client = DemoClient::new(channel.clone());
        let (requests, stream) = futures::channel::mpsc::unbounded();
        requests.unbounded_send(EchoRequest::default()).unwrap();
        let replies = within("a call", client.bidi_stream(stream)).await;
        let mut replies = replies.unwrap().into_inner();
        let reply = within("a reply", replies.message()).await;
        assert!(reply.unwrap().is_some(), "the stream works");
        drop(replies);
        cancelled(&channel, &server, call).await;
        drop(requests);
    }
}
