//! What a generated client gets when something goes wrong.

use std::error::Error as _;

use evenkeel::discovery::Handle;
use evenkeel::grpc::Channel;
use tonic::{Code, Request, Status};

use crate::mirror::{FAIL, FAIL_DETAILS, FAIL_MESSAGE, Mirror};
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, Method, RefusedPort, TestServer, eventually, within};
use crate::{channel, failing, only, ready};

async fn echo(channel: &Channel) -> Result<(), Status> {
    let mut client = DemoClient::new(channel.clone());
    within("a call", client.echo(EchoRequest::default()))
        .await
        .map(drop)
}

/// The status itself and its causes, as text.
fn chain(status: &Status) -> String {
    let mut text = status.to_string();
    let mut cause = status.source();
    while let Some(error) = cause {
        text.push_str(" <- ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[tokio::test]
async fn no_usable_endpoint_is_unavailable_and_says_why() {
    let dead = [RefusedPort::reserve(), RefusedPort::reserve()];
    let channel = Channel::builder()
        .endpoints(dead.each_ref().map(RefusedPort::uri))
        .build()
        .unwrap();
    // The first call waits until both dials have failed; the second need not wait.
    for _ in 0..2 {
        let status = echo(&channel).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let message = status.message();
        assert!(
            message.contains("no usable endpoint of 2")
                && message.contains("0 connecting, 0 ejected, 2 failing"),
            "the message counts the endpoints: {message}"
        );
        assert!(
            message.contains("last connect error") && message.contains("refused"),
            "the message quotes the last connect error: {message}"
        );
        let port = |dead: &RefusedPort| message.contains(&dead.addr().to_string());
        assert!(dead.iter().any(port), "and the address: {message}");
    }
    for endpoint in channel.report().endpoints {
        assert_eq!(endpoint.calls, 0, "nothing was sent: {endpoint}");
        let error = endpoint.last_error.unwrap_or_default();
        assert!(
            error.contains("refused"),
            "each has its own reason: {error}"
        );
    }
}

#[tokio::test]
async fn an_empty_set_is_unavailable_at_once() {
    let (handle, updates) = Handle::new([""; 0]).unwrap();
    let channel = Channel::builder().discovery(updates).build().unwrap();
    let status = echo(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        status.message().contains("there are no endpoints"),
        "{status:?}"
    );
    let server = TestServer::start("late", Behaviour::prompt());
    handle.insert(server.uri()).unwrap();
    ready(&channel).await;
    echo(&channel)
        .await
        .expect("an endpoint that came later is used");
}

#[tokio::test]
async fn a_source_that_fails_is_unavailable_and_named() {
    let failing = futures::stream::iter([Err::<evenkeel::discovery::Update, _>(
        "the registry is away".into(),
    )]);
    let channel = Channel::builder().discovery(failing).build().unwrap();
    let status = echo(&channel).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        status.message().contains("the registry is away"),
        "the source's own words are in the message: {status:?}"
    );
}

#[tokio::test]
async fn a_server_killed_in_the_middle_of_a_call_is_unavailable() {
    let server = TestServer::start("mortal", Behaviour::silent());
    let channel = channel(server.uri());
    let mut client = DemoClient::new(channel.clone());
    let call = tokio::spawn(async move { client.echo(EchoRequest::default()).await });
    eventually("the call reaches the server", || {
        server.calls(Method::Echo).started == 1
    })
    .await;
    server.kill().await;
    let status = within("the call ends", call).await.unwrap().unwrap_err();
    assert_eq!(
        status.code(),
        Code::Unavailable,
        "neither CANCELLED nor UNKNOWN: {}",
        chain(&status)
    );
    assert!(
        status.message().contains("the connection was lost"),
        "the message says what happened: {status:?}"
    );
    assert!(status.source().is_some(), "and the cause is kept");
    let report = only(&channel);
    assert_eq!((report.failures, report.in_flight), (1, 0), "{report}");

    failing(&channel).await;
    server.set(Behaviour::prompt());
    server.restart().await;
    ready(&channel).await;
    echo(&channel).await.expect("the server is back");
}

#[tokio::test]
async fn a_stream_cut_in_the_middle_is_unavailable() {
    let server = TestServer::start("mortal", Behaviour::prompt());
    let channel = channel(server.uri());
    let mut client = DemoClient::new(channel.clone());
    let (sender, requests) = futures::channel::mpsc::unbounded();
    sender.unbounded_send(EchoRequest::default()).unwrap();
    let replies = within("a call", client.bidi_stream(requests)).await;
    let mut replies = replies.unwrap().into_inner();
    let first = within("a reply", replies.message()).await.unwrap();
    assert!(first.is_some(), "the stream works");
    server.kill().await;
    let status = within("the stream ends", replies.message()).await;
    let status = status.unwrap_err();
    assert_eq!(
        status.code(),
        Code::Unavailable,
        "neither CANCELLED nor UNKNOWN nor a clean end: {}",
        chain(&status)
    );
    let report = only(&channel);
    assert_eq!((report.failures, report.in_flight), (1, 0), "{report}");
    assert!(
        report.ejected.is_none(),
        "that is the connection's failure: {report}"
    );
}

#[tokio::test]
async fn every_status_of_a_handler_passes_through_as_it_is() {
    let server = Mirror::start().await;
    // No ejection, since some of these say that the endpoint is at fault.
    let channel = Channel::builder()
        .endpoints([server.uri()])
        .ejection(evenkeel::health::Ejection::off())
        .build()
        .unwrap();
    let mut client = DemoClient::new(channel.clone());
    for code in 1..=16 {
        let request = || {
            let mut request = Request::new(EchoRequest {
                replies: 2,
                ..EchoRequest::default()
            });
            let metadata = request.metadata_mut();
            metadata.insert(FAIL, code.to_string().parse().unwrap());
            metadata.insert("x-why", "because".parse().unwrap());
            request
        };
        let unary = within("a call", client.echo(request())).await.unwrap_err();
        // After two replies, so in trailers of their own.
        let replies = within("a call", client.server_stream(request())).await;
        let mut replies = replies.unwrap().into_inner();
        for _ in 0..2 {
            let reply = within("a reply", replies.message()).await;
            assert!(reply.unwrap().is_some(), "replies come before the status");
        }
        let stream = within("the end", replies.message()).await.unwrap_err();
        for status in [unary, stream] {
            assert_eq!(
                (status.code(), status.message(), status.details()),
                (Code::from_i32(code), FAIL_MESSAGE, FAIL_DETAILS),
                "code, message and details are the handler's"
            );
            assert_eq!(
                status.metadata().get("x-why").unwrap(),
                "because",
                "so is the metadata"
            );
        }
    }
    assert_eq!(only(&channel).in_flight, 0, "a failed call is over");
}
