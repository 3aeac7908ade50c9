//! Hedging by a channel, over real servers.

use std::sync::Arc;
use std::time::Duration;

use evenkeel::call::NoRetry;
use evenkeel::grpc::{Builder, Channel};
use evenkeel::health::Ejection;
use evenkeel::policy::RoundRobin;
use evenkeel::retry::{HedgePolicy, RetryPolicy};
use tokio::time::Instant;
use tonic::{Code, Request};

use crate::attempts::{Calls, Streaming, answered_by_good, ends_at_its_deadline, in_turn};
use crate::ready;
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, Method, TestServer, eventually, pipes_to, within};

const DELAY: Duration = Duration::from_millis(30);

/// A hedge after 30 ms, and nothing holds it back but the number of attempts.
fn policy(attempts: u32) -> HedgePolicy {
    HedgePolicy::default()
        .with_max_attempts(attempts)
        .with_delay(DELAY)
        .with_budget(None)
}

fn builder(servers: &[TestServer], hedge: HedgePolicy) -> Builder {
    in_turn(servers).hedge(hedge)
}

/// One of five never answers.
fn five() -> [TestServer; 5] {
    ["a", "b", "stuck", "c", "d"].map(|name| {
        let behaviour = match name {
            "stuck" => Behaviour::silent(),
            _ => Behaviour::prompt(),
        };
        TestServer::start(name, behaviour)
    })
}

fn in_flight(channel: &Channel) -> u64 {
    let endpoints = channel.report().endpoints;
    endpoints
        .iter()
        .map(|endpoint| endpoint.in_flight as u64)
        .sum()
}

#[tokio::test]
async fn one_of_five_servers_never_answers_and_no_call_fails_or_waits_for_it() {
    let servers = five();
    let channel = builder(&servers, policy(2)).build().unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    let mut slowest = Duration::ZERO;
    for _ in 0..100 {
        let began = Instant::now();
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        let reply = reply.expect("its hedge has an answer").into_inner();
        assert_ne!(reply.server, "stuck");
        slowest = slowest.max(began.elapsed());
    }
    let stuck = &servers[2];
    eventually("what was sent to the stuck one is cancelled there", || {
        let total = stuck.total();
        total.started == total.cancelled
    })
    .await;
    let started = stuck.total().started;
    assert!(started >= 10, "it had its turn: {started}");
    // A busy machine may hold up any call, but not by what a stuck server takes, which is for ever.
    assert!(
        slowest >= DELAY && slowest < Duration::from_secs(10),
        "the delay, and an answer: {slowest:?}"
    );
    eventually("nothing is under way", || in_flight(&channel) == 0).await;
    let report = channel.report();
    assert!(
        report
            .endpoints
            .iter()
            .all(|endpoint| endpoint.failures == 0),
        "a lost attempt is no failure: {report:?}"
    );

    // By default, too: the delay is 100 ms until it is known how long calls take.
    let servers = five();
    let channel = Channel::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .hedge(HedgePolicy::default())
        .build()
        .unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel);
    for _ in 0..50 {
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        reply.expect("by default, too");
    }
}

#[tokio::test]
async fn a_streaming_request_goes_to_two_servers_at_once() {
    let servers = [
        TestServer::start("a", Behaviour::prompt()),
        TestServer::start("b", Behaviour::prompt()),
    ];
    let channel = builder(&servers, policy(2)).build().unwrap();
    ready(&channel).await;
    let call = Streaming::begin(&channel);
    eventually("both servers have the call", || {
        let under_way = |server: &TestServer| server.calls(Method::ClientStream).in_flight();
        servers.iter().all(|server| under_way(server) == 1)
    })
    .await;
    call.end("what was sent before the hedge and what came after it")
        .await;
    eventually("nothing is under way", || in_flight(&channel) == 0).await;
    for server in &servers {
        eventually("each has ended, or was cancelled", || {
            server.calls(Method::ClientStream).in_flight() == 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_server_that_fails_is_no_reason_to_wait() {
    let servers = [
        TestServer::start("bad", Behaviour::failing(Code::Unavailable)),
        TestServer::start("good", Behaviour::prompt()),
    ];
    let patient = policy(2).with_delay(Duration::from_secs(3_600));
    let channel = builder(&servers, patient).build().unwrap();
    ready(&channel).await;
    answered_by_good(&channel, 10).await;
    assert!(servers[0].total().started > 0, "it had its turn");

    servers[0].set(Behaviour::failing(Code::InvalidArgument));
    let mut client = DemoClient::new(channel.clone());
    let mut failed = 0;
    for _ in 0..10 {
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        failed += usize::from(reply.is_err_and(|s| s.code() == Code::InvalidArgument));
    }
    assert_eq!(failed, 5, "a fatal code is the answer");
}

#[tokio::test]
async fn a_lost_connection_ends_no_call_that_has_another_attempt() {
    let servers = [
        TestServer::start("killed", Behaviour::silent()),
        TestServer::start("good", Behaviour::after(Duration::from_millis(300))),
    ];
    let channel = builder(&servers, policy(2)).build().unwrap();
    ready(&channel).await;
    let calls = Calls::begin(&channel, 4);
    eventually("the silent one has some of them", || {
        servers[0].total().started >= 2
    })
    .await;
    servers[0].kill().await;
    calls.answered_by_good().await;
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_holds_for_all_attempts_together() {
    let server = Arc::new(TestServer::builder("piped", Behaviour::silent()).start());
    let channel = Channel::builder()
        .endpoints(["http://piped:1", "http://piped:2"])
        .policy(RoundRobin::default())
        .connector(pipes_to(&server, 16 * 1024))
        .ejection(Ejection::off())
        .hedge(policy(2).with_delay(Duration::from_millis(450)))
        .build()
        .unwrap();
    ready(&channel).await;
    let limit = Duration::from_millis(500);
    ends_at_its_deadline(&channel, limit).await;
    eventually("both attempts are cancelled", || {
        server.total().cancelled == 2
    })
    .await;
    let failures: u64 = (channel.report().endpoints.iter())
        .map(|endpoint| endpoint.failures)
        .sum();
    assert_eq!(failures, 1, "the first had its time, the hedge had 50 ms");

    let mut client = DemoClient::new(channel.clone());
    let mut once = Request::new(EchoRequest::default());
    once.set_timeout(limit * 4);
    once.extensions_mut().insert(NoRetry);
    within("a call", client.echo(once)).await.unwrap_err();
    assert_eq!(server.total().started, 3, "where it is not wanted, none");
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_named() {
    let channel = || Channel::builder().endpoints(["http://127.0.0.1:1"]);
    let bad = HedgePolicy::default().with_quantile(95.0);
    let error = channel().hedge(bad).build().unwrap_err();
    assert_eq!(error.field(), Some("quantile"), "{error}");
    let both = channel()
        .retry(RetryPolicy::default())
        .hedge(HedgePolicy::default());
    let error = both.build().unwrap_err();
    assert_eq!(error.field(), Some("hedge"), "{error}");
    assert!(error.is_config(), "{error}");
}
