//! Tonic's own endpoints and channels behind a `Channel`.
#![cfg(feature = "grpc")]

pub mod support;

use std::time::Duration;

use evenkeel::ConnectivityState::{Ready, TransientFailure};
use evenkeel::grpc::Channel;
use evenkeel::math::Backoff;
use evenkeel::policy::RoundRobin;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use support::proto::{EchoRequest, demo_client::DemoClient};
use support::{Behaviour, RefusedPort, TestCa, TestServer, eventually, within};

fn prompt_backoff() -> Backoff {
    Backoff::default().with_base(Duration::from_millis(50))
}

fn endpoint(server: &TestServer) -> Endpoint {
    Endpoint::from_shared(server.uri()).unwrap()
}

#[tokio::test]
async fn an_endpoint_whose_connection_ends_leaves_the_picks_and_comes_back() {
    let servers = ["a", "b", "c"].map(|name| TestServer::start(name, Behaviour::prompt()));
    let channel = Channel::builder()
        .policy(RoundRobin::default())
        .backoff(prompt_backoff())
        .tonic_endpoints(servers.iter().map(endpoint))
        .build()
        .unwrap();
    let ready = |n| {
        let channel = channel.clone();
        move || {
            channel
                .report()
                .endpoints
                .iter()
                .filter(|e| e.state == Ready)
                .count()
                == n
        }
    };
    eventually("three connections", ready(3)).await;
    servers[0].kill().await;
    eventually("the dead one is noticed without a call", ready(2)).await;

    let mut client = DemoClient::new(channel.clone());
    for call in 0..100 {
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        assert!(
            reply.is_ok(),
            "call {call} went to an endpoint whose end was seen: {reply:?}"
        );
    }
    let accepted = servers[0].accepted();
    servers[0].restart().await;
    eventually("three connections again", ready(3)).await;
    let mut names = Vec::new();
    for _ in 0..30 {
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        names.push(reply.unwrap().into_inner().server);
    }
    assert_eq!(
        names.iter().filter(|n| *n == "a").count(),
        10,
        "its share is a third again"
    );
    assert_eq!(
        servers[0].accepted(),
        accepted + 1,
        "only the balancer dials anew, not tonic too"
    );
}

#[tokio::test]
async fn a_goaway_is_seen_and_no_call_is_lost() {
    let servers = ["a", "b"].map(|name| TestServer::start(name, Behaviour::prompt()));
    let channel = Channel::builder()
        .backoff(prompt_backoff())
        .tonic_endpoints(servers.iter().map(endpoint))
        .build()
        .unwrap();
    let count = |state| {
        channel
            .report()
            .endpoints
            .iter()
            .filter(|e| e.state == state)
            .count()
    };
    eventually("both connected", || count(Ready) == 2).await;
    servers[0].drain().await;
    eventually("the draining one is out", || count(Ready) == 1).await;
    let mut client = DemoClient::new(channel.clone());
    for _ in 0..20 {
        let reply = within("a call", client.echo(EchoRequest::default()))
            .await
            .unwrap();
        assert_eq!(
            reply.into_inner().server,
            "b",
            "a draining server gets no new call"
        );
    }
}

#[tokio::test]
async fn the_endpoints_configuration_is_kept() {
    let ca = TestCa::new();
    let server = TestServer::builder("secure", Behaviour::prompt())
        .tls(ca.server_tls())
        .start();
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca.pem()));
    let endpoint = endpoint(&server).tls_config(tls).unwrap();
    let channel = Channel::builder()
        .tonic_endpoints([endpoint])
        .build()
        .unwrap();
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call over TLS", client.echo(EchoRequest::default()))
        .await
        .unwrap();
    assert_eq!(
        reply.into_inner().server,
        "secure",
        "its certificate is trusted"
    );
    server.kill().await;
    eventually("its end is seen under TLS too", || channel.state() != Ready).await;
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_reported_with_its_error() {
    let refused = RefusedPort::reserve();
    let endpoint = Endpoint::from_shared(refused.uri()).unwrap();
    let channel = Channel::builder()
        .tonic_endpoints([endpoint])
        .build()
        .unwrap();
    let mut client = DemoClient::new(channel.clone());
    let status = within("a call", client.echo(EchoRequest::default()))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    assert!(
        status.message().contains("refused"),
        "the connect error is quoted: {status:?}"
    );
    assert_eq!(
        channel.state(),
        TransientFailure,
        "none of its endpoints can be reached"
    );
}

#[tokio::test]
async fn a_dead_channel_is_ejected_after_its_failures() {
    let server = TestServer::start("alive", Behaviour::prompt());
    let refused = RefusedPort::reserve();
    let dead = Endpoint::from_shared(refused.uri()).unwrap().connect_lazy();
    let channel = Channel::builder()
        .policy(RoundRobin::default())
        .tonic_channels([("alive", endpoint(&server).connect_lazy()), ("dead", dead)])
        .build()
        .unwrap();
    let mut client = DemoClient::new(channel.clone());
    let mut failed = Vec::new();
    for _ in 0..100 {
        if let Err(status) = within("a call", client.echo(EchoRequest::default())).await {
            failed.push(status);
        }
    }
    assert_eq!(failed.len(), 5, "five failures in a row eject: {failed:?}");
    assert!(
        failed.iter().all(|s| s.code() == tonic::Code::Unavailable),
        "{failed:?}"
    );
    let report = channel.report();
    assert!(
        report.endpoints[1].ejected.is_some(),
        "the report says so: {report:?}"
    );
}
