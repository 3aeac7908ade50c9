//! The orderly end of a channel over real servers.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evenkeel::discovery::Handle;
use evenkeel::grpc::Channel;
use evenkeel::policy::RoundRobin;
use evenkeel::retry::RetryPolicy;
use evenkeel::{ConnectivityState, Error};
use futures::channel::mpsc::UnboundedSender;
use tokio::runtime::Handle as Runtime;
use tonic::{Code, Status, Streaming};

use crate::support::proto::{EchoReply, EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, Method, TestServer, all_ready, eventually, within};
use crate::{channel, ready};

/// Long, and not reached by any test.
const LONG: Duration = Duration::from_secs(600);

/// On a runtime of its own, so that all tasks here are the channel's.
fn server(name: &str) -> TestServer {
    TestServer::builder(name, Behaviour::prompt())
        .own_thread()
        .start()
}

fn tasks() -> usize {
    Runtime::current().metrics().num_alive_tasks()
}

/// Two servers, and a channel that is connected to both and calls them by turns.
async fn two() -> ([TestServer; 2], Channel) {
    let servers = ["a", "b"].map(server);
    let channel = Channel::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .policy(RoundRobin::default())
        .build()
        .unwrap();
    all_ready(&channel).await;
    (servers, channel)
}

type Both = (UnboundedSender<EchoRequest>, Streaming<EchoReply>);

/// A stream that goes on until its requests end.
async fn stream(channel: Channel) -> Both {
    let (requests, stream) = futures::channel::mpsc::unbounded();
    let mut client = DemoClient::new(channel);
    let replies = within("a stream opens", client.bidi_stream(stream)).await;
    (requests, replies.expect("it is answered").into_inner())
}

/// A server, how many tasks there were before its channel, that channel, and a stream under way on it.
async fn one_with_stream() -> (TestServer, usize, Channel, Both) {
    let server = server("one");
    let before = tasks();
    let channel = channel(server.uri());
    ready(&channel).await;
    let both = stream(channel.clone()).await;
    (server, before, channel, both)
}

async fn unary(channel: Channel) -> Result<EchoReply, Status> {
    let mut client = DemoClient::new(channel);
    let reply = within("a call ends", client.echo(EchoRequest::default())).await;
    reply.map(tonic::Response::into_inner)
}

async fn call_begun(server: &TestServer) {
    // One of a moment may be over when this looks.
    eventually("the call has begun", || {
        server.calls(Method::Echo).started == 1
    })
    .await;
}

fn source(status: &Status) -> &Error {
    let source = std::error::Error::source(status).expect("the status has a cause");
    source.downcast_ref().expect("it is the balancer's error")
}

#[tokio::test]
async fn calls_and_streams_under_way_finish_and_no_other_begins() {
    let (server, before, channel, (requests, mut replies)) = one_with_stream().await;
    server.set(Behaviour::after(Duration::from_millis(300)));
    let slow = tokio::spawn(unary(channel.clone()));
    call_begun(&server).await;

    let ended = channel.shutdown(LONG);
    assert_eq!(
        channel.state(),
        ConnectivityState::Shutdown,
        "a shutdown begins when it is asked for, and not when it is awaited"
    );
    let refused = unary(channel.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "no new call: {refused}");
    assert!(
        source(&refused).is_shut_down(),
        "and it says why: {refused}"
    );
    assert!(
        slow.await.unwrap().is_ok(),
        "a call that is under way finishes"
    );
    requests.unbounded_send(EchoRequest::default()).unwrap();
    let reply = within("a reply", replies.message()).await;
    assert!(
        matches!(reply, Ok(Some(_))),
        "a stream goes on after the shutdown began: {reply:?}"
    );
    drop(requests);
    let end = within("the end", replies.message()).await;
    assert!(matches!(end, Ok(None)), "it ends by itself: {end:?}");

    let outcome = within("the last call ended, and with it all", ended).await;
    assert!(outcome.is_clean(), "no call was cut: {outcome:?}");
    eventually("the server has no connection left", || server.open() == 0).await;
    eventually("no task is left", || tasks() == before).await;
    let again = within("there is nothing to wait for", channel.shutdown(LONG)).await;
    assert_eq!(again, outcome, "a second shutdown tells of the first");
}

#[tokio::test]
async fn a_stream_without_end_is_cut_at_the_deadline() {
    let (server, before, channel, (_requests, mut replies)) = one_with_stream().await;
    server.set(Behaviour::silent());
    let stuck = tokio::spawn(unary(channel.clone()));
    call_begun(&server).await;

    let limit = Duration::from_millis(200);
    let began = Instant::now();
    let outcome = within("the deadline holds", channel.shutdown(limit)).await;
    let took = began.elapsed();
    assert!(took >= limit, "calls have until the deadline: {took:?}");
    let soon = Duration::from_secs(5);
    assert!(took < soon, "and no longer: {took:?}");
    assert_eq!((outcome.cut, outcome.left), (2, 0), "both calls were cut");
    for error in [
        within("the stream fails", replies.message())
            .await
            .unwrap_err(),
        stuck.await.unwrap().unwrap_err(),
    ] {
        assert_eq!(
            error.code(),
            Code::Unavailable,
            "a call that is cut is UNAVAILABLE: {error:?}"
        );
    }
    eventually("the sockets are closed", || server.open() == 0).await;
    eventually("the server sees both calls cancelled", || {
        server.total().cancelled == 2
    })
    .await;
    eventually("no task is left", || tasks() == before).await;
}

#[tokio::test]
async fn the_stream_of_an_endpoint_that_left_is_cut_too() {
    let [old, new] = ["old", "new"].map(server);
    let (handle, updates) = Handle::new([old.uri()]).unwrap();
    let channel = Channel::builder().discovery(updates).build().unwrap();
    all_ready(&channel).await;
    let (_requests, mut replies) = stream(channel.clone()).await;
    handle.replace([new.uri()]).unwrap();
    eventually("the new one is there", || new.open() == 1).await;
    all_ready(&channel).await;
    assert_eq!(old.open(), 1, "the stream holds the old connection open");

    let outcome = within("it ends at once", channel.shutdown(Duration::ZERO)).await;
    assert_eq!(outcome.cut, 1, "a call to an endpoint that left is cut too");
    let error = within("the stream fails", replies.message()).await;
    assert_eq!(error.unwrap_err().code(), Code::Unavailable);
    eventually("no connection is left", || old.open() + new.open() == 0).await;
}

#[tokio::test]
async fn a_shutdown_that_nobody_waits_for_goes_on_without_a_handle() {
    let (server, before, channel, (_requests, mut replies)) = one_with_stream().await;
    drop(channel.shutdown(Duration::from_millis(100)));
    drop(channel);
    let error = within("the deadline holds", replies.message()).await;
    assert_eq!(
        error.unwrap_err().code(),
        Code::Unavailable,
        "what has begun goes on, though its future and the last handle are gone"
    );
    eventually("the socket is closed", || server.open() == 0).await;
    eventually("no task is left", || tasks() == before).await;
}

#[tokio::test]
async fn a_call_that_is_cut_is_not_tried_again() {
    let server = server("one");
    server.set(Behaviour::silent());
    let channel = Channel::builder()
        .endpoints([server.uri()])
        .retry(RetryPolicy::default())
        .build()
        .unwrap();
    ready(&channel).await;
    let stuck = tokio::spawn(unary(channel.clone()));
    call_begun(&server).await;
    let outcome = within("it ends at once", channel.shutdown(Duration::ZERO)).await;
    assert_eq!(outcome.cut, 1, "the attempt is cut");
    let error = stuck.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "{error}");
    assert_eq!(
        server.calls(Method::Echo).started,
        1,
        "the next attempt would be a new call, and finds no endpoint"
    );
}

#[tokio::test]
async fn a_dial_under_way_is_given_up() {
    let silent = crate::support::SilentListener::start();
    let before = tasks();
    let channel = channel(silent.uri());
    eventually("it is dialled", || silent.open() == 1).await;
    let waiting = tokio::spawn(unary(channel.clone()));
    tokio::task::yield_now().await;
    let outcome = within("nothing is under way", channel.shutdown(LONG)).await;
    assert!(outcome.is_clean(), "a call that waits is not under way");
    let error = waiting.await.unwrap().unwrap_err();
    assert_eq!(error.code(), Code::Unavailable, "it fails at once: {error}");
    assert!(source(&error).is_shut_down(), "{error}");
    eventually("the dial is given up", || silent.open() == 0).await;
    eventually("no task is left", || tasks() == before).await;
}

#[tokio::test]
async fn the_calls_of_tonic_endpoints_are_cut_too() {
    let server = server("one");
    let endpoint = tonic::transport::Endpoint::from_shared(server.uri()).unwrap();
    let channel = Channel::builder()
        .tonic_endpoints([endpoint])
        .build()
        .unwrap();
    all_ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    let (_requests, stream) = futures::channel::mpsc::unbounded();
    let replies = within("a stream opens", client.bidi_stream(stream)).await;
    let mut replies = replies.unwrap().into_inner();
    let outcome = within("it ends at once", channel.shutdown(Duration::ZERO)).await;
    assert_eq!((outcome.cut, outcome.left), (1, 0), "its stream is cut");
    let error = within("the stream fails", replies.message()).await;
    assert_eq!(error.unwrap_err().code(), Code::Unavailable);
    eventually("the socket is closed", || server.open() == 0).await;
}

#[tokio::test]
async fn a_drained_server_loses_its_calls_to_the_others_and_no_call_is_lost() {
    let (servers, channel) = two().await;
    for server in &servers {
        server.set(Behaviour::after(Duration::from_millis(5)));
    }
    let [drained, other] = &servers;
    let over = AtomicBool::new(false);
    let callers = (0..8).map(|_| async {
        let mut after = 0..5;
        while !over.load(Ordering::SeqCst) || after.next().is_some() {
            unary(channel.clone()).await.expect("no call is lost");
        }
    });
    let drain = async {
        eventually("both have calls", || {
            servers.iter().all(|server| server.total().started > 4)
        })
        .await;
        let outcome = channel.drain(drained.uri(), LONG);
        let outcome = within("its calls end", outcome).await.unwrap();
        assert!(outcome.is_clean(), "none was cut: {outcome:?}");
        over.store(true, Ordering::SeqCst);
        drained.total()
    };
    let (_, at_the_end) = tokio::join!(futures::future::join_all(callers), drain);
    assert_eq!(
        drained.total(),
        at_the_end,
        "it got no call after its drain"
    );
    eventually("its connection is closed", || drained.open() == 0).await;
    assert_eq!(other.open(), 1, "the other one's is not");

    within("it is put back", channel.undrain(drained.uri()))
        .await
        .unwrap();
    all_ready(&channel).await;
    for _ in 0..2 {
        unary(channel.clone()).await.expect("both work");
    }
    assert!(drained.total().started > at_the_end.started, "it is back");
}

#[tokio::test]
async fn a_stream_without_end_is_cut_at_the_deadline_of_a_drain() {
    let (servers, channel) = two().await;
    let mut streams = [stream(channel.clone()).await, stream(channel.clone()).await];
    let [a, b] = &servers;
    eventually("one at each", || {
        [a, b].iter().all(|server| server.total().in_flight() == 1)
    })
    .await;
    let drain = channel.drain(a.uri(), Duration::from_millis(100));
    let outcome = within("the deadline holds", drain).await.unwrap();
    assert_eq!((outcome.cut, outcome.left), (1, 0));
    eventually("the socket is closed", || a.open() == 0).await;
    let mut cut = 0;
    for (requests, replies) in &mut streams {
        // The one that was cut takes no more requests, perhaps.
        let _ = requests.unbounded_send(EchoRequest::default());
        match within("a word", replies.message()).await {
            Ok(reply) => assert!(reply.is_some(), "the other one goes on"),
            Err(status) => {
                assert_eq!(status.code(), Code::Unavailable, "{status}");
                cut += 1;
            }
        }
    }
    assert_eq!(cut, 1, "the one at the drained server");
    assert_eq!(b.open(), 1);
}
