//! All servers are down: every call gets UNAVAILABLE at once, and all recover by themselves.

use std::time::Duration;

use evenkeel::ConnectivityState;
use evenkeel::grpc::Channel;
use futures::FutureExt;
use tonic::Code;

use crate::load::{
    CALLERS, Load, assert_none_failed, in_turn, is_ready, list, make_calls, ready, three, turn,
};
use crate::support::proto::EchoRequest;
use crate::support::proto::demo_client::DemoClient;
use crate::support::{Behaviour, eventually, within};

const CALLS: usize = 2_000;

async fn assert_calls_fail_at_once(channel: &Channel) {
    let log = make_calls(channel, CALLS).await;
    assert_eq!(log.ok(), 0, "nobody is there to answer");
    let failures = log.take_failures();
    assert_eq!(failures.len(), CALLS, "every call ends");
    for failure in &failures {
        let message = failure.status.message();
        assert_eq!(failure.status.code(), Code::Unavailable, "{message}");
        assert!(
            message.contains("no usable endpoint of 3") && message.contains("last connect error"),
            "the message says how many there are, and why they are not usable: {message}"
        );
    }
    let mut client = DemoClient::new(channel.clone());
    for call in 0..CALLS {
        let result = client.echo(EchoRequest::default()).now_or_never();
        assert!(
            matches!(result, Some(Err(_))),
            "a call waits for nothing when all are known to be down; call {call} gave {result:?}"
        );
        // The channel goes on dialling meanwhile.
        tokio::task::yield_now().await;
    }
}

async fn down(channel: &Channel) {
    let mut state = channel.watch_state();
    let down = state.wait_for(ConnectivityState::TransientFailure);
    assert!(
        within("the channel sees that all are down", down).await,
        "it is not shut down"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_fail_at_once_and_all_servers_come_back_by_themselves() {
    let _turn = turn().await;
    let servers = three(Behaviour::prompt());
    let channel = in_turn(&servers);
    ready(&channel, &servers).await;
    for round in 0..3 {
        for server in &servers {
            server.kill().await;
        }
        down(&channel).await;
        assert_calls_fail_at_once(&channel).await;
        for server in &servers {
            server.restart().await;
        }
        // No call is made meanwhile.
        for server in &servers {
            eventually("the endpoint comes back by itself", || {
                is_ready(&channel, server)
            })
            .await;
        }
        let log = make_calls(&channel, 300).await;
        assert_none_failed("no call fails after recovery", &log.take_failures());
        let shares: Vec<u64> = log.by_server().into_values().collect();
        assert_eq!(
            shares, [100; 3],
            "round {round}: all have their share again"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_under_load_fail_unavailable_and_go_on_when_a_server_is_there() {
    let _turn = turn().await;
    let servers = three(Behaviour::after(Duration::from_millis(1)));
    let channel = in_turn(&servers);
    ready(&channel, &servers).await;
    let load = Load::start(&channel);
    load.runs(300).await;
    for server in &servers {
        server.kill().await;
    }
    down(&channel).await;
    servers[1].restart().await;
    eventually("one is back", || is_ready(&channel, &servers[1])).await;
    // What began before that has ended.
    load.runs(2 * CALLERS as u64).await;
    let failures = load.log.take_failures();
    for failure in &failures {
        assert_eq!(
            failure.status.code(),
            Code::Unavailable,
            "of all that fails with its servers:{}",
            list(&failures)
        );
    }
    load.runs(300).await;
    let failures = load.log.take_failures();
    assert_none_failed("no call fails while one of three is there", &failures);
    load.stop().await;
}
