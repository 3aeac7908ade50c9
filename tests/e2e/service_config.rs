//! What gRPC's service config sets, seen at real servers.

use std::sync::Arc;
use std::time::Duration;

use evenkeel::ConnectivityState;
use evenkeel::call::WaitForReady;
use evenkeel::grpc::{Builder, Channel, HealthCheck};
use evenkeel::health::Ejection;
use evenkeel::policy::RoundRobin;
use evenkeel::retry::RetryPolicy;
use evenkeel::topology::RandomSubset;
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::{Code, Request, Status};
use tonic_health::ServingStatus;

use crate::support::proto::{EchoRequest, demo_client::DemoClient};
use crate::support::{Behaviour, Method, RefusedPort, TestServer, pipes_to, within};
use crate::{failing, ready};

const DEMO: &str = "evenkeel.demo.v1.Demo";

fn builder(servers: &[TestServer], config: &Value) -> Builder {
    Channel::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .service_config(config.to_string())
}

fn channel(servers: &[TestServer], config: &Value) -> Channel {
    builder(servers, config)
        .build()
        .unwrap_or_else(|error| panic!("{config}: {error}"))
}

/// A channel whose calls find all servers, however many calls those fail.
fn without_ejection(servers: &[TestServer], config: &Value) -> Channel {
    builder(servers, config)
        .ejection(Ejection::off())
        .build()
        .unwrap()
}

fn servers<const N: usize>(names: [&str; N]) -> [TestServer; N] {
    names.map(|name| TestServer::start(name, Behaviour::prompt()))
}

fn started(servers: &[TestServer]) -> Vec<u64> {
    servers
        .iter()
        .map(|server| server.total().started)
        .collect()
}

async fn echo(channel: &Channel) -> Result<String, Status> {
    let mut client = DemoClient::new(channel.clone());
    let reply = within("a call", client.echo(EchoRequest::default())).await?;
    Ok(reply.into_inner().server)
}

/// A call of another method. One that fails does so with its head.
async fn stream(channel: &Channel) -> Result<(), Status> {
    let mut client = DemoClient::new(channel.clone());
    let mut replies = within("a call", client.server_stream(EchoRequest::default()))
        .await?
        .into_inner();
    while let Some(reply) = within("a reply", replies.next()).await {
        reply?;
    }
    Ok(())
}

/// This policy for one method.
fn retried(method: &str, codes: &[&str]) -> Value {
    json!({
        "name": [{"service": DEMO, "method": method}],
        "retryPolicy": {
            "maxAttempts": 5, "initialBackoff": "0.001s", "maxBackoff": "0.001s", "backoffMultiplier": 1,
            "retryableStatusCodes": codes
        }
    })
}

#[tokio::test]
async fn the_policy_is_the_first_of_the_list_that_is_known() {
    let servers = servers(["a", "b", "c"]);
    let config = json!({"loadBalancingConfig": [
        {"priority_experimental": {}}, {"round_robin": {}}, {"pick_first": {}}
    ]});
    let channel = channel(&servers, &config);
    ready(&channel).await;
    for _ in 0..30 {
        echo(&channel).await.expect("all are well");
    }
    assert_eq!(started(&servers), [10, 10, 10], "each in turn");
}

#[tokio::test]
async fn what_the_application_sets_holds_before_it_whatever_comes_first() {
    let config = json!({
        "loadBalancingConfig": [{"outlier_detection_experimental": {
            "childPolicy": [{"random_subsetting_experimental": {
                "subsetSize": 1, "childPolicy": [{"pick_first": {}}]
            }}]
        }}],
        "methodConfig": [retried("Echo", &["UNAVAILABLE"])],
        "healthCheckConfig": {"serviceName": "shop.NoSuch"}
    });
    let by_hand = |builder: Builder| {
        builder
            .policy(RoundRobin::default())
            .subset(RandomSubset::new(2).unwrap())
            .ejection(Ejection::off())
            .health_check(HealthCheck::new())
            .retry(RetryPolicy::default().with_codes([Code::Aborted]))
    };
    let config = &config.to_string();
    for first in [true, false] {
        let servers = servers(["a", "b"]);
        let mut builder = Channel::builder().endpoints(servers.each_ref().map(TestServer::uri));
        builder = match first {
            true => by_hand(builder.service_config(config)),
            false => by_hand(builder).service_config(config),
        };
        let channel = builder.build().unwrap();
        ready(&channel).await;
        for _ in 0..10 {
            echo(&channel).await.expect("all are well");
        }
        assert_eq!(started(&servers), [5, 5], "two of two, each in turn");
        servers[0].set(Behaviour::failing(Code::Unavailable));
        servers[1].set(Behaviour::failing(Code::Unavailable));
        for _ in 0..20 {
            let status = echo(&channel).await.expect_err("all fail");
            assert_eq!(status.code(), Code::Unavailable);
        }
        assert_eq!(
            started(&servers),
            [15, 15],
            "UNAVAILABLE is not tried again, and nobody is ejected"
        );
    }
}

#[tokio::test]
async fn another_way_to_connect_keeps_it() {
    let servers = servers(["a", "b"]);
    let endpoints = servers
        .each_ref()
        .map(|server| tonic::transport::Endpoint::from_shared(server.uri()).expect("it is a URI"));
    let channel = Channel::builder()
        .service_config(r#"{"loadBalancingConfig": [{"round_robin": {}}]}"#)
        .tonic_endpoints(endpoints)
        .build()
        .unwrap();
    crate::support::all_ready(&channel).await;
    for _ in 0..10 {
        let mut client = DemoClient::new(channel.clone());
        let call = client.echo(EchoRequest::default());
        within("a call", call).await.expect("all are well");
    }
    assert_eq!(started(&servers), [5, 5], "each in turn");
}

#[tokio::test]
async fn failed_calls_of_one_method_are_tried_again() {
    let servers = servers(["bad", "good"]);
    servers[0].set(Behaviour::failing(Code::Unavailable));
    let config = json!({
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [retried("Echo", &["UNAVAILABLE"]), {"name": [{}]}]
    });
    let channel = builder(&servers, &config)
        .ejection(Ejection::off())
        .build()
        .unwrap();
    ready(&channel).await;
    for _ in 0..20 {
        let server = echo(&channel).await.expect("it is tried again");
        assert_eq!(server, "good");
    }
    let mut streams_failed = 0;
    for _ in 0..20 {
        streams_failed += u64::from(stream(&channel).await.is_err());
    }
    assert!(streams_failed > 0, "nobody tries these again");
    assert_eq!(
        servers[0].calls(Method::ServerStream).started,
        streams_failed,
        "each that came to the bad one"
    );
    assert!(
        servers[0].calls(Method::Echo).started > 0,
        "it had its turn"
    );
}

#[tokio::test]
async fn calls_of_one_method_are_hedged_and_those_of_others_are_not() {
    let servers = [
        TestServer::start("silent", Behaviour::silent()),
        TestServer::start("prompt", Behaviour::prompt()),
    ];
    let hedging = json!({"maxAttempts": 2, "hedgingDelay": "0.02s"});
    let config = json!({
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {"name": [{"service": DEMO, "method": "Echo"}], "hedgingPolicy": hedging},
        ],
    });
    let channel = without_ejection(&servers, &config);
    ready(&channel).await;
    for _ in 0..10 {
        within("the other one answers", echo(&channel))
            .await
            .unwrap();
    }
    let started = servers[0].total().started;
    assert!(started >= 3, "the silent one had its turn: {started}");
    let unhedged = async {
        for _ in 0..4 {
            let _ = stream(&channel).await;
        }
    };
    let hangs = tokio::time::timeout(Duration::from_millis(300), unhedged).await;
    hangs.expect_err("another method is called once, and one of four turns is the silent one's");
}

#[tokio::test]
async fn each_method_has_its_own_codes_and_a_service_those_of_its_others() {
    let servers = servers(["a"]);
    let [server] = &servers;
    let mut others = retried("", &["RESOURCE_EXHAUSTED"]);
    others["retryPolicy"]["maxAttempts"] = json!(2);
    let config = json!({"methodConfig": [others, retried("Echo", &["aborted"])]});
    let channel = without_ejection(&servers, &config);
    for (code, echoes, streams) in [
        (Code::Aborted, 5, 1),
        (Code::ResourceExhausted, 1, 2),
        (Code::Unavailable, 1, 1),
    ] {
        server.set(Behaviour::failing(code));
        let before = [Method::Echo, Method::ServerStream].map(|m| server.calls(m).started);
        let status = echo(&channel).await.expect_err("it fails");
        assert_eq!(status.code(), code, "the last attempt's");
        stream(&channel).await.expect_err("it fails");
        let after = [Method::Echo, Method::ServerStream].map(|m| server.calls(m).started);
        let attempts = [after[0] - before[0], after[1] - before[1]];
        assert_eq!(attempts, [echoes, streams], "attempts at {code:?}");
    }
}

#[tokio::test]
async fn all_methods_share_the_throttle() {
    let servers = servers(["a"]);
    let [server] = &servers;
    server.set(Behaviour::failing(Code::Unavailable));
    let config = json!({
        "methodConfig": [retried("Echo", &["UNAVAILABLE"]), retried("ServerStream", &["UNAVAILABLE"])],
        "retryThrottling": {"maxTokens": 6, "tokenRatio": 1}
    });
    let channel = without_ejection(&servers, &config);
    echo(&channel).await.expect_err("it fails");
    let echoes = server.calls(Method::Echo).started;
    assert_eq!(
        echoes, 3,
        "5 and 4 of 6 tokens are more than half, 3 are not"
    );
    stream(&channel).await.expect_err("it fails");
    let streams = server.calls(Method::ServerStream).started;
    assert_eq!(streams, 1, "2 are left, whichever method took them");
    server.set(Behaviour::prompt());
    for _ in 0..6 {
        echo(&channel).await.expect("it is well again");
    }
    server.set(Behaviour::failing(Code::Unavailable));
    stream(&channel).await.expect_err("it fails");
    let streams = server.calls(Method::ServerStream).started;
    assert_eq!(streams, 1 + 3, "what one method earns another may spend");
}

#[tokio::test(start_paused = true)]
async fn a_methods_timeout_is_for_its_whole_calls_unless_the_callers_is_shorter() {
    let server = Arc::new(TestServer::start("piped", Behaviour::silent()));
    let config = json!({"methodConfig": [
        {"name": [{"service": DEMO, "method": "Echo"}], "timeout": "5s"},
        {"name": [{"service": DEMO}], "timeout": "60s"}
    ]});
    let channel = Channel::builder()
        .endpoints(["http://piped:1"])
        .connector(pipes_to(&server, 16 * 1024))
        .service_config(config.to_string())
        .build()
        .unwrap();
    ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    // Twice the longest of the limits.
    let bound = Duration::from_secs(120);
    for (callers, seconds) in [(None, 5), (Some(2), 2), (Some(9), 5)] {
        let mut request = Request::new(EchoRequest::default());
        if let Some(callers) = callers {
            request.set_timeout(Duration::from_secs(callers));
        }
        let began = Instant::now();
        let reply = tokio::time::timeout(bound, client.echo(request)).await;
        let reply = reply.expect("a call ends by its timeout");
        let status = reply.expect_err("it is silent");
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        let took = began.elapsed();
        let limit = Duration::from_secs(seconds);
        assert!(
            (limit..limit + Duration::from_secs(1)).contains(&took),
            "the caller's {callers:?} s and 5 s: {took:?}"
        );
    }
    // Replies come all the time, and yet it ends.
    server.set(Behaviour::after(Duration::from_secs(1)));
    let endless = EchoRequest {
        replies: u64::MAX,
        ..EchoRequest::default()
    };
    let began = Instant::now();
    let ended = tokio::time::timeout(bound, async {
        let mut replies = client.server_stream(endless).await.unwrap().into_inner();
        loop {
            match replies.next().await {
                Some(Ok(_)) => {}
                Some(Err(status)) => break status,
                None => panic!("it has no end"),
            }
        }
    });
    let status = ended.await.expect("a stream ends by its timeout");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let took = began.elapsed();
    let minute = Duration::from_secs(60)..Duration::from_secs(62);
    assert!(
        minute.contains(&took),
        "the service's other methods: {took:?}"
    );
}

#[tokio::test]
async fn calls_of_one_method_wait_for_a_server() {
    let [server] = servers(["late"]);
    server.kill().await;
    let config = json!({"methodConfig": [
        {"name": [{"service": DEMO, "method": "Echo"}], "waitForReady": true}
    ]});
    let channel = Channel::builder()
        .endpoints([server.uri()])
        .service_config(config.to_string())
        .backoff(evenkeel::math::Backoff::default().with_base(Duration::from_millis(20)))
        .build()
        .unwrap();
    failing(&channel).await;
    let status = stream(&channel).await.expect_err("nobody is there");
    assert_eq!(status.code(), Code::Unavailable, "by default: {status}");
    let mut impatient = Request::new(EchoRequest::default());
    impatient.extensions_mut().insert(WaitForReady(false));
    let mut client = DemoClient::new(channel.clone());
    let status = within("a call", client.echo(impatient)).await;
    let code = status.expect_err("nobody is there").code();
    assert_eq!(code, Code::Unavailable, "the call's own word holds");
    let waiting = tokio::spawn({
        let channel = channel.clone();
        async move { echo(&channel).await }
    });
    server.restart().await;
    let reply = within("a call that waits", waiting).await.unwrap();
    assert_eq!(reply.expect("it has waited"), "late");
}

#[tokio::test]
async fn health_checks_ask_for_the_service_that_is_named() {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter
        .set_service_status("shop.Cart", ServingStatus::NotServing)
        .await;
    let server = TestServer::builder("a", Behaviour::prompt())
        .add_service(health)
        .start();
    let servers = [server];
    let config = json!({"healthCheckConfig": {"serviceName": "shop.Cart"}});
    let checked = channel(&servers, &config);
    failing(&checked).await;
    let unhealthy = crate::only(&checked).unhealthy;
    assert_eq!(unhealthy.as_deref(), Some("NOT_SERVING"));
    let unchecked = channel(&servers, &json!({"healthCheckConfig": {}}));
    echo(&unchecked)
        .await
        .expect("without a name nobody is asked");
    let whole = channel(&servers, &json!({"healthCheckConfig": {"serviceName": ""}}));
    echo(&whole).await.expect("the server as a whole serves");
    reporter
        .set_service_status("shop.Cart", ServingStatus::Serving)
        .await;
    ready(&checked).await;
    echo(&checked).await.expect("now it serves");
}

#[tokio::test]
async fn outliers_are_ejected_from_the_child_policy() {
    let servers = servers(["a", "b", "c", "d", "flaky"]);
    let flaky = &servers[4];
    flaky.set(Behaviour::prompt().failing_share(0.4, Code::Unavailable));
    let config = json!({"loadBalancingConfig": [{"outlier_detection_experimental": {
        "interval": "0.1s",
        "maxEjectionPercent": 20,
        "failurePercentageEjection": {"threshold": 20, "minimumHosts": 2, "requestVolume": 1},
        "childPolicy": [{"round_robin": {}}]
    }}]});
    let channel = channel(&servers, &config);
    ready(&channel).await;
    let ejected = || {
        let endpoints = channel.report().endpoints.into_iter();
        let mut ejected = endpoints.filter(|e| e.ejected.is_some());
        ejected.next()
    };
    let out = within("the flaky one is found", async {
        loop {
            let _ = echo(&channel).await;
            if let Some(out) = ejected() {
                return out;
            }
        }
    })
    .await;
    assert_eq!(out.address, flaky.uri());
    let reason = out.ejected.map(|ejected| ejected.reason);
    assert_eq!(reason, Some("failure percentage"));
    let before = started(&servers);
    for _ in 0..40 {
        echo(&channel).await.expect("the others are well");
    }
    let after = started(&servers);
    let calls: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    assert_eq!(
        calls,
        [10, 10, 10, 10, 0],
        "the child goes on with the others"
    );
}

#[tokio::test]
async fn a_subset_is_all_that_is_connected() {
    let servers = servers(["a", "b", "c", "d", "e"]);
    let config = json!({"loadBalancingConfig": [{"random_subsetting_experimental": {
        "subsetSize": 2, "childPolicy": [{"round_robin": {}}]
    }}]});
    let channel = channel(&servers, &config);
    ready(&channel).await;
    assert_eq!(channel.report().endpoints.len(), 2, "two of five");
    for _ in 0..20 {
        echo(&channel).await.expect("all are well");
    }
    let mut calls = started(&servers);
    calls.sort_unstable();
    assert_eq!(calls, [0, 0, 0, 10, 10], "and the child takes them in turn");
    let accepted: u64 = servers.iter().map(TestServer::accepted).sum();
    assert_eq!(accepted, 2, "nobody else is dialled");
}

#[tokio::test]
async fn a_mistake_is_an_error_of_build_with_its_path() {
    let nobody = RefusedPort::reserve();
    let build = |config: Value| {
        let builder = Channel::builder().endpoints([nobody.uri()]);
        let built = builder.service_config(config.to_string()).build();
        built.expect_err("there is a mistake in it")
    };
    let hedging = json!({"maxAttempts": 1, "hedgingDelay": "0.5s", "nonFatalStatusCodes": [14]});
    for (config, part) in [
        (
            json!({"loadBalancingConfig": [{"round_robin": {"a": 1}}]}),
            "loadBalancingConfig[0].round_robin.a: ",
        ),
        (
            json!({"methodConfig": [{"name": [{}], "timeout": 1}]}),
            "methodConfig[0].timeout: ",
        ),
        (
            json!({"methodConfig": [{"name": [{}], "hedgingPolicy": hedging}]}),
            "methodConfig[0].hedgingPolicy.maxAttempts: ",
        ),
    ] {
        let error = build(config.clone());
        assert!(error.is_config(), "{config}: {error}");
        assert_eq!(error.field(), Some("service_config"), "{config}: {error}");
        let message = error.to_string();
        assert!(message.contains(part), "{config}: {message}");
    }
    // The last word counts, also after a mistake.
    let channel = Channel::builder()
        .endpoints([nobody.uri()])
        .service_config("{")
        .service_config("{}")
        .build()
        .unwrap();
    assert_ne!(channel.state(), ConnectivityState::Shutdown);
}
