//! Endpoints come and go while calls are made.

use std::collections::BTreeSet;

use evenkeel::Endpoint;
use evenkeel::discovery::Handle;
use evenkeel::grpc::Channel;
use evenkeel::policy::RoundRobin;

use crate::ready;
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, TestServer, eventually, within};

fn channel(endpoints: Vec<Endpoint>) -> (Handle, Channel) {
    let (handle, updates) = Handle::new(endpoints).unwrap();
    let builder = Channel::builder().discovery(updates);
    (
        handle,
        builder.policy(RoundRobin::default()).build().unwrap(),
    )
}

/// Who answers nine calls in a row; none may fail.
async fn answering(channel: &Channel) -> BTreeSet<String> {
    let mut client = DemoClient::new(channel.clone());
    let mut names = BTreeSet::new();
    for _ in 0..9 {
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        let reply = reply.expect("no call fails for a change of the set");
        names.insert(reply.into_inner().server);
    }
    names
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[tokio::test]
async fn endpoints_come_and_go_while_calls_are_made() {
    let [a, b, c] = ["a", "b", "c"].map(|name| TestServer::start(name, Behaviour::prompt()));
    let (handle, channel) = channel(vec![a.uri().into()]);
    let mut client = DemoClient::new(channel.clone());
    let caller = tokio::spawn(async move {
        loop {
            let reply = within("a call", client.echo(EchoRequest::default())).await;
            reply.expect("no call fails for a change of the set");
        }
    });
    for _ in 0..20 {
        handle.insert(b.uri()).unwrap();
        handle.insert(c.uri()).unwrap();
        eventually("three endpoints", || channel.report().endpoints.len() == 3).await;
        ready(&channel).await;
        assert_eq!(
            answering(&channel).await,
            names(["a", "b", "c"]),
            "those that came are called"
        );
        assert!(
            handle.remove(&b.uri()) && handle.remove(&c.uri()),
            "both were there"
        );
        eventually("one endpoint", || channel.report().endpoints.len() == 1).await;
        assert_eq!(
            answering(&channel).await,
            names(["a"]),
            "those that left are not"
        );
        eventually("the connections of those that left close", || {
            b.open() + c.open() == 0
        })
        .await;
    }
    assert_eq!(a.accepted(), 1, "the one that stayed kept its connection");
    caller.abort();
    let ended = caller.await.expect_err("a caller never ends by itself");
    assert!(ended.is_cancelled(), "no call failed: {ended}");
}

#[tokio::test]
async fn an_update_keeps_what_it_names_again() {
    let [a, b] = ["a", "b"].map(|name| TestServer::start(name, Behaviour::prompt()));
    let at = |server: &TestServer| Endpoint::new(server.uri()).with_id("the one");
    let (handle, channel) = channel(vec![at(&a)]);
    ready(&channel).await;
    assert_eq!(
        answering(&channel).await,
        names(["a"]),
        "the only one answers"
    );

    handle.insert(at(&a).with_weight(7)).unwrap();
    eventually("the new weight is seen", || {
        channel.report().endpoints[0].weight == 7
    })
    .await;
    let report = &channel.report().endpoints[0];
    assert_eq!(
        (a.accepted(), report.calls),
        (1, 9),
        "another weight keeps connection and counts: {report}"
    );

    handle.insert(at(&b)).unwrap();
    eventually("the new address is seen", || {
        channel.report().endpoints[0].address == b.uri()
    })
    .await;
    assert_eq!(
        answering(&channel).await,
        names(["b"]),
        "another address is another server"
    );
    eventually("the old one's connection closes", || a.open() == 0).await;
}

#[tokio::test]
async fn the_set_stays_when_its_handle_goes() {
    let server = TestServer::start("a", Behaviour::prompt());
    let (handle, channel) = channel(vec![server.uri().into()]);
    ready(&channel).await;
    drop(handle);
    assert_eq!(
        answering(&channel).await,
        names(["a"]),
        "the last set holds"
    );
}
