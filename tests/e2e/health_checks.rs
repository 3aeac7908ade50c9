//! Health checks of a channel, over real servers with tonic's health service.

use evenkeel::ConnectivityState;
use evenkeel::grpc::{Channel, HealthCheck};
use evenkeel::policy::RoundRobin;
use tonic::Code;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, TestServer, eventually, within};

const SERVICE: &str = "shop.Cart";

/// A server that tells of its health.
async fn server(name: &str, status: ServingStatus) -> (TestServer, HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(SERVICE, status).await;
    let builder = TestServer::builder(name, Behaviour::prompt());
    (builder.add_service(health).start(), reporter)
}

fn unhealthy(channel: &Channel, server: &TestServer) -> Option<String> {
    let endpoints = channel.report().endpoints;
    let mut of = endpoints.into_iter().filter(|e| e.address == server.uri());
    of.next().and_then(|endpoint| endpoint.unhealthy)
}

async fn ready(channel: &Channel, count: usize) {
    eventually("so many serve", || {
        let endpoints = channel.report().endpoints;
        let ready = endpoints
            .iter()
            .filter(|e| e.state == ConnectivityState::Ready);
        ready.count() == count
    })
    .await;
}

async fn call(channel: &Channel) -> Result<(), tonic::Status> {
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call", client.echo(EchoRequest::default())).await;
    reply.map(drop)
}

#[tokio::test]
async fn calls_follow_what_tonics_health_service_says() {
    let (a, a_health) = server("a", ServingStatus::Serving).await;
    let (b, b_health) = server("b", ServingStatus::NotServing).await;
    let channel = Channel::builder()
        .endpoints([a.uri(), b.uri()])
        .policy(RoundRobin::default())
        .health_check(HealthCheck::of(SERVICE))
        .build()
        .unwrap();
    ready(&channel, 1).await;
    eventually("b has said so", || unhealthy(&channel, &b).is_some()).await;
    assert_eq!(unhealthy(&channel, &b).as_deref(), Some("NOT_SERVING"));
    for _ in 0..10 {
        call(&channel).await.expect("a serves");
    }
    assert_eq!((a.total().started, b.total().started), (10, 0));
    b_health
        .set_service_status(SERVICE, ServingStatus::Serving)
        .await;
    ready(&channel, 2).await;
    a_health
        .set_service_status(SERVICE, ServingStatus::NotServing)
        .await;
    ready(&channel, 1).await;
    for _ in 0..10 {
        call(&channel).await.expect("b serves");
    }
    assert_eq!((a.total().started, b.total().started), (10, 10));
    b_health
        .set_service_status(SERVICE, ServingStatus::Unknown)
        .await;
    eventually("b does not know", || unhealthy(&channel, &b).is_some()).await;
    let status = call(&channel).await.expect_err("nobody serves");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let message = status.message();
    assert!(
        message.contains("2 of them by their health check"),
        "{message}"
    );
    assert_eq!(
        (a.accepted(), b.accepted()),
        (1, 1),
        "by the connections of the calls"
    );
}

#[tokio::test]
async fn a_service_that_the_server_does_not_know_gets_no_calls_until_it_does() {
    let (a, health) = server("a", ServingStatus::Serving).await;
    let channel = Channel::builder()
        .endpoints([a.uri()])
        .health_check(HealthCheck::of("shop.Later"))
        .build()
        .unwrap();
    eventually("it has an answer", || unhealthy(&channel, &a).is_some()).await;
    let code = call(&channel).await.map_err(|status| status.code());
    assert_eq!(code, Err(Code::Unavailable));
    health
        .set_service_status("shop.Later", ServingStatus::Serving)
        .await;
    ready(&channel, 1).await;
    call(&channel).await.expect("it serves now");
}

#[tokio::test]
async fn a_server_without_a_health_service_counts_as_healthy() {
    let server = TestServer::start("old", Behaviour::prompt());
    let channel = Channel::builder()
        .endpoints([server.uri()])
        .health_check(HealthCheck::new())
        .build()
        .unwrap();
    call(&channel).await.expect("it is called");
    assert_eq!(unhealthy(&channel, &server), None);
}

#[tokio::test]
async fn a_server_that_restarts_is_asked_again() {
    let (a, _health) = server("a", ServingStatus::Serving).await;
    let channel = Channel::builder()
        .endpoints([a.uri()])
        .health_check(HealthCheck::of(SERVICE))
        .build()
        .unwrap();
    ready(&channel, 1).await;
    within("it restarts", a.restart()).await;
    eventually("and is connected anew", || a.accepted() >= 2).await;
    ready(&channel, 1).await;
    call(&channel).await.expect("it serves");
}

#[tokio::test]
async fn tonic_endpoints_are_checked_too() {
    let (a, _a) = server("a", ServingStatus::Serving).await;
    let (b, _b) = server("b", ServingStatus::NotServing).await;
    let endpoints = [&a, &b]
        .map(|server| tonic::transport::Endpoint::from_shared(server.uri()).expect("a URI"));
    let channel = Channel::builder()
        .tonic_endpoints(endpoints)
        .health_check(HealthCheck::of(SERVICE))
        .build()
        .unwrap();
    for _ in 0..10 {
        let mut client = DemoClient::new(channel.clone());
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        reply.expect("a serves");
    }
    assert_eq!((a.total().started, b.total().started), (10, 0));
}
