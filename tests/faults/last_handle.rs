//! The last handle is dropped: no task and no connection is left.

use std::time::Duration;

use evenkeel::balance::{Balance, Http};
use evenkeel::discovery::Handle;
use evenkeel::grpc::http2::{Http2Connector, Http2Settings};
use evenkeel::grpc::{ByGrpcStatus, Channel};
use evenkeel::policy::Prequal;
use evenkeel::{ConnectivityState, Endpoint};
use tokio::runtime::Handle as Runtime;

use crate::load::{make_calls, prompt_backoff, ready, turn};
use crate::support::proto::EchoRequest;
use crate::support::proto::demo_client::DemoClient;
use crate::support::{
    Behaviour, Method, RefusedPort, SilentListener, TestServer, eventually, within,
};

/// Servers on runtimes of their own, so that all tasks here are the channel's.
fn servers() -> [TestServer; 3] {
    ["a", "b", "c"].map(|name| {
        TestServer::builder(name, Behaviour::prompt())
            .own_thread()
            .start()
    })
}

fn tasks() -> usize {
    Runtime::current().metrics().num_alive_tasks()
}

async fn nothing_is_left(servers: &[TestServer], tasks_before: usize) {
    for server in servers {
        eventually("its connections close", || server.open() == 0).await;
    }
    eventually("its tasks end", || tasks() == tasks_before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_task_and_no_connection_is_left() {
    let _turn = turn().await;
    let servers = servers();
    // One refuses, one never answers: backoff and a dial under way must end too.
    let refused = RefusedPort::reserve();
    let before = tasks();
    let silent = SilentListener::start();
    let with_listener = tasks();
    assert_eq!(with_listener, before + 1, "the listener is one task");
    for _ in 0..5 {
        let mut endpoints: Vec<Endpoint> = servers.iter().map(|s| s.uri().into()).collect();
        endpoints.push(refused.uri().into());
        endpoints.push(silent.uri().into());
        let (handle, updates) = Handle::new(endpoints).unwrap();
        let channel = Channel::builder()
            .discovery(updates)
            .backoff(prompt_backoff())
            // Whose probes end too, answered or not.
            .policy(Prequal::default().with_idle_probes(Duration::from_millis(10)))
            .build()
            .unwrap();
        let clone = channel.clone();
        ready(&channel, &servers).await;
        eventually("the silent one is dialled", || silent.open() == 1).await;
        assert_eq!(make_calls(&channel, 300).await.ok(), 300, "it works");
        assert!(tasks() > with_listener, "a channel has tasks of its own");
        drop(channel);
        // A clone is as good as the first.
        assert_eq!(
            make_calls(&clone, 10).await.ok(),
            10,
            "it works without the first"
        );
        let mut state = clone.watch_state();
        drop(clone);
        nothing_is_left(&servers, with_listener).await;
        eventually("the dial is given up", || silent.open() == 0).await;
        while within("the watch ends", state.changed()).await.is_some() {}
        assert_eq!(
            state.get(),
            ConnectivityState::Shutdown,
            "a watch does not keep a channel alive"
        );
        // A handle of the set does not, either.
        assert_eq!(handle.endpoints().len(), 5, "the set itself is still there");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_and_streams_under_way_finish_first() {
    let _turn = turn().await;
    let servers = servers();
    let before = tasks();
    let channel = Channel::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .build()
        .unwrap();
    ready(&channel, &servers).await;
    let mut client = DemoClient::new(channel);
    let (requests, stream) = futures::channel::mpsc::unbounded();
    let replies = within("a stream opens", client.bidi_stream(stream)).await;
    let mut replies = replies.unwrap().into_inner();
    for server in &servers {
        server.set(Behaviour::after(Duration::from_millis(100)));
    }
    let mut slow = client.clone();
    let slow = tokio::spawn(async move { slow.echo(EchoRequest::default()).await });
    let echoes = || {
        servers
            .iter()
            .map(|s| s.calls(Method::Echo).started)
            .sum::<u64>()
    };
    eventually("the slow call is under way", || echoes() == 1).await;
    drop(client);

    let reply = within("a slow call", slow).await.unwrap();
    assert!(reply.is_ok(), "a call under way finishes: {reply:?}");
    requests.unbounded_send(EchoRequest::default()).unwrap();
    let reply = within("a reply", replies.message()).await;
    assert!(
        matches!(reply, Ok(Some(_))),
        "a stream outlives the last handle: {reply:?}"
    );
    drop(requests);
    let end = within("the end", replies.message()).await;
    assert!(matches!(end, Ok(None)), "it ends by itself: {end:?}");
    drop(replies);
    nothing_is_left(&servers, before).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_call_keeps_the_channel_and_its_drop_ends_it() {
    let _turn = turn().await;
    let silent = SilentListener::start();
    let before = tasks();
    let channel = Channel::builder()
        .endpoints([silent.uri()])
        .build()
        .unwrap();
    let mut client = DemoClient::new(channel);
    let queued = tokio::spawn(async move { client.echo(EchoRequest::default()).await });
    eventually("it is dialled", || silent.open() == 1).await;
    tokio::task::yield_now().await;
    assert_eq!(silent.open(), 1, "the dial goes on for a queued call");
    queued.abort();
    eventually("the dial is given up", || silent.open() == 0).await;
    eventually("its tasks end", || tasks() == before).await;
}

/// The connector's own count, under a balancer that is not a channel.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gauge_goes_back_to_zero() {
    let _turn = turn().await;
    let servers = servers();
    let before = tasks();
    let connector = Http2Connector::new(Http2Settings::default()).unwrap();
    let gauge = connector.gauge();
    let balance = Balance::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .connector(connector)
        .track(Http::new(ByGrpcStatus))
        .build()
        .unwrap();
    eventually("all are connected", || gauge.open() == 3).await;
    let mut state = balance.watch_state();
    assert!(
        within("ready", state.wait_for(ConnectivityState::Ready)).await,
        "it is not shut down"
    );
    drop(balance);
    eventually("no connection is left", || gauge.open() == 0).await;
    nothing_is_left(&servers, before).await;
}
