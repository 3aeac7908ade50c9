use std::collections::BTreeMap;

use evenkeel::grpc::Channel;
use evenkeel::policy::RoundRobin;

use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, TestServer, within};

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
    let mut state = channel.watch_state();
    within("ready", state.wait_for(evenkeel::ConnectivityState::Ready)).await;
    crate::support::eventually("three ready", || {
        channel
            .report()
            .endpoints
            .iter()
            .all(|e| e.state == evenkeel::ConnectivityState::Ready)
    })
    .await;
    let mut shares = BTreeMap::new();
    for _ in 0..300 {
        let reply = within("a call", client.echo(EchoRequest::default()))
            .await
            .unwrap();
        *shares.entry(reply.into_inner().server).or_insert(0) += 1;
    }
    let want: BTreeMap<String, i32> = ["a", "b", "c"].map(|n| (n.to_owned(), 100)).into();
    assert_eq!(
        shares, want,
        "300 calls over 3 stable endpoints give 100 each"
    );
}
