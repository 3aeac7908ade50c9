//! One connection at a time, and one endpoint at several addresses.

use std::time::Duration;

use evenkeel::grpc::Channel;
use evenkeel::policy::PickFirst;
use evenkeel::{ConnectivityState, Endpoint};

use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, RefusedPort, TestServer, eventually, within};

async fn who(channel: &Channel) -> Result<String, tonic::Status> {
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call", client.echo(EchoRequest::default())).await?;
    Ok(reply.into_inner().server)
}

#[tokio::test]
async fn one_server_of_three_has_a_connection_and_the_next_takes_over() {
    let servers = ["a", "b", "c"].map(|name| TestServer::start(name, Behaviour::prompt()));
    let [a, b, c] = &servers;
    let channel = Channel::builder()
        .endpoints(servers.each_ref().map(TestServer::uri))
        .policy(PickFirst::default())
        .build()
        .unwrap();
    for _ in 0..50 {
        assert_eq!(who(&channel).await.unwrap(), "a", "the first of the list");
    }
    let accepted = || servers.each_ref().map(TestServer::accepted);
    assert_eq!(accepted(), [1, 0, 0], "one connection is enough");

    a.kill().await;
    // A call that is sent before the client has read of the end dies with its connection.
    eventually("the end is seen", || {
        channel.report().endpoints[0].state != ConnectivityState::Ready
    })
    .await;
    for _ in 0..50 {
        assert_eq!(who(&channel).await.unwrap(), "b", "calls go on to the next");
    }
    assert_eq!(accepted(), [1, 1, 0]);

    a.restart().await;
    for _ in 0..50 {
        assert_eq!(who(&channel).await.unwrap(), "b", "a does not take over");
    }
    b.drain().await;
    eventually("the first is asked first", || a.accepted() == 2).await;
    for _ in 0..50 {
        assert_eq!(
            who(&channel).await.unwrap(),
            "a",
            "from the front of the list"
        );
    }
    assert_eq!((b.accepted(), c.accepted()), (1, 0));
    drop(channel);
    eventually("all connections close", || {
        servers.iter().all(|server| server.open() == 0)
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_is_reached_at_any_of_its_addresses() {
    let (dead, server) = (
        RefusedPort::reserve(),
        TestServer::start("a", Behaviour::prompt()),
    );
    let endpoint = Endpoint::new(dead.uri()).with_addresses([server.uri()]);
    let channel = Channel::builder()
        .endpoints([endpoint])
        .backoff(evenkeel::math::Backoff::default().with_base(Duration::from_millis(5)))
        .build()
        .unwrap();
    assert_eq!(who(&channel).await.unwrap(), "a");
    assert_eq!(server.accepted(), 1, "one endpoint, one connection");
    server.kill().await;
    crate::failing(&channel).await;
    let error = who(&channel).await.expect_err("it is dead at both");
    for address in [dead.addr(), server.addr()] {
        let named = format!("{address}: tcp connect error");
        assert!(error.message().contains(&named), "{address}: {error}");
    }
    server.restart().await;
    crate::ready(&channel).await;
    assert_eq!(who(&channel).await.unwrap(), "a", "it is found again");
}
