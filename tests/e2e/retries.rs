//! Retries by a channel, over real servers.

use std::sync::Arc;
use std::time::Duration;

use evenkeel::call::{NoRetry, WaitForReady};
use evenkeel::grpc::{Builder, Channel};
use evenkeel::health::Ejection;
use evenkeel::math::Backoff;
use evenkeel::retry::{BudgetSettings, RetryPolicy, ThrottleSettings};
use http::{HeaderValue, Response};
use tokio::time::Instant;
use tonic::service::Routes;
use tonic::{Code, Request};
use tower::util::MapResponseLayer;

use crate::attempts::{Calls, Streaming, answered_by_good, ends_at_its_deadline, in_turn};
use crate::mirror::{FAIL, Mirror};
use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, Method, TestServer, eventually, pipes_to, within};
use crate::{only, ready};

/// Attempts follow each other closely, and nothing but their number holds them back.
fn policy(attempts: u32) -> RetryPolicy {
    RetryPolicy::default()
        .with_max_attempts(attempts)
        .with_backoff(Backoff::default().with_base(Duration::from_millis(1)))
        .with_budget(None)
}

fn builder(servers: &[TestServer], retry: RetryPolicy) -> Builder {
    in_turn(servers).retry(retry)
}

/// Two of five fail every call at once.
fn five() -> [TestServer; 5] {
    ["bad 1", "a", "bad 2", "b", "c"].map(|name| {
        let behaviour = match name.starts_with("bad") {
            true => Behaviour::failing(Code::Unavailable),
            false => Behaviour::prompt(),
        };
        TestServer::start(name, behaviour)
    })
}

fn started(servers: &[TestServer]) -> u64 {
    servers.iter().map(|server| server.total().started).sum()
}

#[tokio::test]
async fn two_of_five_servers_fail_and_no_call_does() {
    let servers = five();
    let channel = builder(&servers, policy(3)).build().unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    for _ in 0..200 {
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        reply.expect("two bad servers, three attempts at different ones");
    }
    let bad = servers[0].total().started + servers[2].total().started;
    assert!(bad > 50, "the bad ones had their turn: {bad}");
    assert_eq!(started(&servers), 200 + bad, "one more attempt for each");

    // By default the failing ones are out soon, and the budget lasts for what they fail.
    let servers = five();
    let channel = Channel::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .retry(RetryPolicy::default())
        .build()
        .unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    for _ in 0..200 {
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        reply.expect("by default, too");
    }
}

#[tokio::test]
async fn a_streaming_request_is_sent_again_from_its_beginning() {
    let servers = [
        TestServer::start("bad", Behaviour::failing(Code::Unavailable)),
        TestServer::start("good", Behaviour::prompt()),
    ];
    let channel = builder(&servers, policy(2)).build().unwrap();
    ready(&channel).await;
    for _ in 0..10 {
        let call = Streaming::begin(&channel);
        eventually(
            "the good one has the call, by the first or second attempt",
            || servers[1].calls(Method::ClientStream).in_flight() == 1,
        )
        .await;
        call.end("what was sent before the failure and what came after it")
            .await;
        eventually("it has ended", || {
            servers[1].calls(Method::ClientStream).in_flight() == 0
        })
        .await;
    }
    let failed = servers[0].calls(Method::ClientStream).started;
    assert!(failed > 0, "some calls went to the bad one first");
}

#[tokio::test]
async fn a_response_that_has_begun_is_not_tried_again() {
    let server = Mirror::start().await;
    let channel = Channel::builder()
        .endpoints([server.uri()])
        .retry(policy(5))
        .build()
        .unwrap();
    let mut client = DemoClient::new(channel.clone());
    let mut request = Request::new(EchoRequest {
        replies: 2,
        ..EchoRequest::default()
    });
    let code = Code::Unavailable as i32;
    request.metadata_mut().insert(FAIL, code.into());
    let replies = within("a call", client.server_stream(request)).await;
    let mut replies = replies.expect("the response begins").into_inner();
    for count in 1..=2 {
        let reply = within("a reply", replies.message()).await.unwrap();
        assert_eq!(reply.unwrap().count, count);
    }
    let end = within("the end", replies.message()).await;
    assert_eq!(end.unwrap_err().code(), Code::Unavailable);
    assert_eq!(only(&channel).calls, 1, "one attempt");

    let mut request = Request::new(EchoRequest::default());
    request.metadata_mut().insert(FAIL, code.into());
    let status = within("a call", client.echo(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "the last failure");
    assert_eq!(only(&channel).calls, 1 + 5, "one that has not is");

    let mut request = Request::new(EchoRequest::default());
    request.metadata_mut().insert(FAIL, code.into());
    request.extensions_mut().insert(NoRetry);
    within("a call", client.echo(request)).await.unwrap_err();
    assert_eq!(
        only(&channel).calls,
        6 + 1,
        "where it is not wanted, neither"
    );
}

const PUSHBACK: Duration = Duration::from_millis(700);

/// Failures ask for so long a delay.
fn pushing(routes: Routes) -> Routes {
    let push = |mut response: Response<_>| {
        if response.headers().contains_key("grpc-status") {
            let delay = HeaderValue::from(PUSHBACK.as_millis() as u64);
            (response.headers_mut()).insert("grpc-retry-pushback-ms", delay);
        }
        response
    };
    let router = routes.into_axum_router().layer(MapResponseLayer::new(push));
    Routes::from(router)
}

/// A server in memory, so that time can be paused.
fn piped(builder: crate::support::Builder, retry: RetryPolicy) -> (Arc<TestServer>, Channel) {
    let server = Arc::new(builder.start());
    let channel = Channel::builder()
        .endpoints(["http://piped:1"])
        .connector(pipes_to(&server, 16 * 1024))
        .ejection(Ejection::off())
        .retry(retry)
        .build()
        .unwrap();
    (server, channel)
}

#[tokio::test(start_paused = true)]
async fn the_servers_word_on_the_delay_holds() {
    let failing = TestServer::builder("piped", Behaviour::failing(Code::Unavailable));
    let (server, channel) = piped(failing.wrap(pushing), policy(2));
    ready(&channel).await;
    let began = Instant::now();
    let mut client = DemoClient::new(channel);
    let status = within("a call", client.echo(EchoRequest::default())).await;
    assert_eq!(status.unwrap_err().code(), Code::Unavailable);
    assert_eq!(server.total().started, 2);
    let took = began.elapsed();
    assert!(
        (PUSHBACK..PUSHBACK * 2).contains(&took),
        "one wait, as long as the server asked for: {took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_callers_deadline_holds_for_all_attempts_together() {
    let limit = Duration::from_millis(500);
    let (server, channel) = piped(
        TestServer::builder("piped", Behaviour::silent()),
        policy(5).with_attempt_timeout(Duration::from_millis(200)),
    );
    ready(&channel).await;
    ends_at_its_deadline(&channel, limit).await;
    assert_eq!(server.total().started, 3, "200, 200 and what was left");
    eventually("all are cancelled", || server.total().cancelled == 3).await;
    let report = only(&channel);
    assert_eq!(
        (report.failures, report.in_flight),
        (3, 0),
        "each was too late: {report}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_channels_timeout_holds_for_all_attempts_together() {
    let server = TestServer::builder("piped", Behaviour::silent());
    let server = Arc::new(server.start());
    let limit = Duration::from_millis(500);
    let channel = Channel::builder()
        .endpoints(["http://piped:1"])
        .connector(pipes_to(&server, 16 * 1024))
        .timeout(limit)
        .retry(policy(5).with_attempt_timeout(Duration::from_millis(200)))
        .build()
        .unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel);
    let began = Instant::now();
    let call = client.echo(EchoRequest::default());
    let status = within("a call", call).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let took = began.elapsed();
    assert!(took >= limit && took < limit * 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn no_wait_begins_that_would_end_after_a_channels_timeout() {
    let failing = TestServer::builder("piped", Behaviour::failing(Code::Unavailable));
    let server = Arc::new(failing.wrap(pushing).start());
    let channel = Channel::builder()
        .endpoints(["http://piped:1"])
        .connector(pipes_to(&server, 16 * 1024))
        .timeout(PUSHBACK / 2)
        .retry(policy(2))
        .build()
        .unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel);
    let call = client.echo(EchoRequest::default());
    let status = within("a call", call).await.unwrap_err();
    assert_eq!(
        status.code(),
        Code::Unavailable,
        "the failure, and no wait that can only end by the timeout: {status:?}"
    );
}

#[tokio::test]
async fn an_attempt_over_its_time_is_tried_elsewhere() {
    let servers = [
        TestServer::start("stuck", Behaviour::silent()),
        TestServer::start("good", Behaviour::prompt()),
    ];
    // Long enough for a good server on a busy machine.
    let limited = policy(5).with_attempt_timeout(Duration::from_millis(300));
    let channel = builder(&servers, limited).build().unwrap();
    ready(&channel).await;
    answered_by_good(&channel, 4).await;
    let stuck = servers[0].total();
    assert!(stuck.started > 0, "some calls went there first");
    eventually("they were cancelled there", || {
        servers[0].total().cancelled == stuck.started
    })
    .await;
    let uri = servers[0].uri();
    let report = channel.report();
    let report = report.endpoints.iter().find(|e| e.address == uri).unwrap();
    assert_eq!(report.failures, stuck.started, "and held against it");
}

#[tokio::test]
async fn a_lost_connection_is_tried_elsewhere() {
    let servers = [
        TestServer::start("killed", Behaviour::silent()),
        TestServer::start("good", Behaviour::prompt()),
    ];
    let channel = builder(&servers, policy(2)).build().unwrap();
    ready(&channel).await;
    let calls = Calls::begin(&channel, 10);
    eventually("half of the calls are stuck", || {
        servers[0].total().started == 5 && servers[1].total().finished == 5
    })
    .await;
    servers[0].kill().await;
    calls.answered_by_good().await;
}

#[tokio::test]
async fn budget_and_throttle_bound_what_a_dead_backend_gets() {
    let calls = 120;
    let storm = async |retry: RetryPolicy| {
        let servers = ["a", "b", "c"]
            .map(|name| TestServer::start(name, Behaviour::failing(Code::Unavailable)));
        let channel = builder(&servers, retry).build().unwrap();
        ready(&channel).await;
        let mut client = DemoClient::new(channel);
        for _ in 0..calls {
            let status = within("a call", client.echo(EchoRequest::default())).await;
            let status = status.unwrap_err();
            assert_eq!(
                status.code(),
                Code::Unavailable,
                "the server's own: {status}"
            );
            assert!(status.message().contains("told to fail"), "{status}");
        }
        started(&servers)
    };
    assert_eq!(storm(policy(5)).await, calls * 5, "without a bound");

    let budget = BudgetSettings::default().with_min_per_second(1);
    let began = Instant::now();
    let attempts = storm(policy(5).with_budget(budget)).await;
    let most = calls + calls / 5 + 10 + began.elapsed().as_secs() + 1;
    assert!(attempts <= most, "{attempts} attempts, at most {most}");

    let throttle = ThrottleSettings::new(10, 0.1);
    let attempts = storm(policy(5).with_throttle(throttle)).await;
    assert_eq!(
        attempts,
        calls + 4,
        "four retries until half of ten are gone"
    );
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_named() {
    let error = Channel::builder()
        .endpoints(["http://127.0.0.1:1"])
        .retry(RetryPolicy::default().with_codes([Code::Ok]))
        .build()
        .unwrap_err();
    assert_eq!(error.field(), Some("codes"), "{error}");
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_wait_for_another_server_does_not_say_that_none_had_the_call()
{
    let server = TestServer::start("killed", Behaviour::silent());
    let channel = Channel::builder()
        .endpoints([server.uri()])
        .retry(policy(2))
        .build()
        .unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel);
    let mut request = Request::new(EchoRequest::default());
    request.set_timeout(Duration::from_secs(2));
    request.extensions_mut().insert(WaitForReady(true));
    let call = tokio::spawn(async move { client.echo(request).await });
    eventually("the server has it", || server.total().started == 1).await;
    server.kill().await;
    let status = within("a call", call).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(
        status.message().contains("before the call was sent again"),
        "a server may have acted on it: {status:?}"
    );
}
