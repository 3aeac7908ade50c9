//! The caller's deadline, and the channel's timeout.
//!
//! What a busy machine could make late is in paused time, over pipes in memory. Limits are asserted
//! from below only: that one is not kept shows as a call that does not end within the test's
//! patience.

use std::sync::Arc;
use std::time::Duration;

use evenkeel::grpc::{Builder, Channel};
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::mirror::{DELAY_MS, Mirror};
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, Method, SilentListener, TestServer, pipes_to, within};
use crate::{cancelled, channel, only, ready};

const LIMIT: Duration = Duration::from_millis(60);

const STREAM_LIMIT: Duration = Duration::from_secs(1);

/// A server, and a channel to it in memory.
fn piped(behaviour: Behaviour) -> (Arc<TestServer>, Builder) {
    let server = Arc::new(TestServer::start("piped", behaviour));
    let builder = Channel::builder()
        .endpoints(["http://piped:1"])
        .connector(pipes_to(&server, 16 * 1024));
    (server, builder)
}

fn limited() -> Request<EchoRequest> {
    let mut request = Request::new(EchoRequest::default());
    request.set_timeout(LIMIT);
    request
}

fn limited_stream() -> Request<EchoRequest> {
    let mut request = Request::new(EchoRequest {
        replies: u64::MAX,
        ..EchoRequest::default()
    });
    request.set_timeout(STREAM_LIMIT);
    request
}

#[tokio::test]
async fn a_deadline_holds_while_the_call_waits_for_an_endpoint() {
    let nobody = SilentListener::start();
    let mut client = DemoClient::new(channel(nobody.uri()));
    let began = Instant::now();
    let status = within("a call", client.echo(limited())).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(began.elapsed() >= LIMIT, "not before its time");
    assert!(
        status.message().contains("before the call was sent")
            && status.message().contains("1 connecting"),
        "the message says what the call waited for: {status:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_at_a_server_that_is_stuck() {
    let (server, builder) = piped(Behaviour::silent());
    let channel = builder.build().unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    let began = Instant::now();
    let status = within("a call", client.echo(limited())).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(began.elapsed() >= LIMIT, "not before its time");
    cancelled(&channel, &server, 1).await;
    assert_eq!(
        only(&channel).failures,
        1,
        "an endpoint that has the call and does not answer is at fault"
    );
}

#[tokio::test(start_paused = true)]
async fn a_deadline_holds_in_the_middle_of_a_stream() {
    let (server, builder) = piped(Behaviour::after(Duration::from_millis(1)));
    let channel = builder.build().unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    let control = server.control();
    let began = Instant::now();
    let replies = within("a call", client.server_stream(limited_stream())).await;
    let mut replies = replies.expect("the stream begins").into_inner();
    let first = within("a reply", replies.message()).await;
    assert!(matches!(first, Ok(Some(_))), "the stream works: {first:?}");
    control.set(Behaviour::silent());
    let status = loop {
        match within("the stream goes on or ends", replies.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream that was cut must not look whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(began.elapsed() >= STREAM_LIMIT, "not before its time");
    // What the body holds back of the connection goes with it.
    drop(replies);
    cancelled(&channel, &server, 1).await;
    assert_eq!(only(&channel).failures, 1, "a silent endpoint is at fault");
}

/// What has arrived and waits to be read does not keep a call alive.
#[tokio::test(start_paused = true)]
async fn a_deadline_holds_in_a_stream_that_is_read_slowly() {
    let (server, builder) = piped(Behaviour::prompt());
    let channel = builder.build().unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    let mut request = limited_stream();
    // Each message is more than a frame, and the window holds 64 of them.
    request.get_mut().payload = vec![1; 32 * 1024].into();
    let began = Instant::now();
    let replies = within("a call", client.server_stream(request)).await;
    let mut replies = replies.expect("the stream begins").into_inner();
    let first = within("a reply", replies.message()).await;
    assert!(matches!(first, Ok(Some(_))), "the stream works: {first:?}");
    tokio::time::sleep(STREAM_LIMIT.saturating_sub(began.elapsed())).await;
    tokio::time::sleep(LIMIT).await;
    let mut late = 0;
    let status = loop {
        match within("the stream goes on or ends", replies.message()).await {
            Ok(Some(_)) => late += 1,
            Ok(None) => panic!("a stream that was cut must not look whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(
        late <= 1,
        "{late} messages came after the deadline; one may, whose frames were taken before"
    );
    drop(replies);
    cancelled(&channel, &server, 1).await;
}

/// tonic's server keeps the deadline too and cancels at the same moment: whoever is first, the
/// caller sees DEADLINE_EXCEEDED.
#[tokio::test]
async fn a_server_that_keeps_the_deadline_too_changes_nothing() {
    let server = Mirror::start().await;
    let channel = channel(server.uri());
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    for _ in 0..20 {
        let mut request = Request::new(EchoRequest::default());
        let metadata = request.metadata_mut();
        metadata.insert(DELAY_MS, "1000".parse().unwrap());
        request.set_timeout(Duration::from_millis(10));
        let status = within("a call", client.echo(request)).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    }
}

#[tokio::test]
async fn a_channels_timeout_holds_while_a_call_waits_for_an_endpoint() {
    let nobody = SilentListener::start();
    let builder = Channel::builder().endpoints([nobody.uri()]);
    let mut client = DemoClient::new(builder.timeout(LIMIT).build().unwrap());
    let call = client.echo(EchoRequest::default());
    let status = within("a call", call).await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::DeadlineExceeded,
        "while it waits for an endpoint: {status:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_channels_timeout_holds_for_every_call_up_to_its_head() {
    let (server, builder) = piped(Behaviour::silent());
    let channel = builder.timeout(LIMIT).build().unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    let call = client.echo(EchoRequest::default());
    let status = within("a call", call).await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::DeadlineExceeded,
        "at a server that is stuck: {status:?}"
    );
    cancelled(&channel, &server, 1).await;

    // Each reply takes longer than a third of the timeout.
    server.set(Behaviour::after(LIMIT / 3 + Duration::from_millis(1)));
    let request = EchoRequest {
        replies: 6,
        ..EchoRequest::default()
    };
    let began = Instant::now();
    let replies = within("a call", client.server_stream(request)).await;
    let mut replies = replies.unwrap().into_inner();
    let mut count = 0;
    while let Some(reply) = within("a reply", replies.message()).await.unwrap() {
        count = reply.count;
    }
    assert_eq!(count, 6, "a stream under way is not cut");
    assert!(began.elapsed() > LIMIT, "though it takes longer");
}

#[tokio::test(start_paused = true)]
async fn the_shorter_of_the_two_holds() {
    let (_server, builder) = piped(Behaviour::silent());
    let channel = builder.timeout(Duration::from_secs(3600)).build().unwrap();
    let mut client = DemoClient::new(channel);
    let status = within("a call", client.echo(limited())).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");

    let (server, builder) = piped(Behaviour::silent());
    let channel = builder.timeout(LIMIT).build().unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    let mut request = Request::new(EchoRequest::default());
    request.set_timeout(Duration::from_secs(3600));
    let status = within("a call", client.echo(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    cancelled(&channel, &server, 1).await;
    assert_eq!(
        server.calls(Method::Echo).started,
        1,
        "the call is not sent again"
    );
}
