//! One server answers UNAVAILABLE at once, always. It must not swallow the traffic: what reaches it
//! is the threshold, the calls already in flight to it, and one probe for each re-admission.

use std::time::Duration;

use evenkeel::grpc::Channel;
use evenkeel::health::Ejection;
use evenkeel::policy::{LeastRequest, Policy, RoundRobin};
use tonic::Code;

use crate::load::{CALLERS, Load, endpoint, list, make_calls, ready, turn};
use crate::support::proto::EchoRequest;
use crate::support::proto::demo_client::DemoClient;
use crate::support::{Behaviour, TestServer, eventually, within};

const THRESHOLD: u64 = 5;

fn servers() -> [TestServer; 3] {
    [
        TestServer::start("bad", Behaviour::failing(Code::Unavailable)),
        TestServer::start("b", Behaviour::prompt()),
        TestServer::start("c", Behaviour::prompt()),
    ]
}

fn channel(servers: &[TestServer], policy: impl Policy, base_time: Duration) -> Channel {
    Channel::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .policy(policy)
        .ejection(
            Ejection::default()
                .with_consecutive_failures(THRESHOLD as u32)
                .with_base_time(base_time),
        )
        .build()
        .unwrap()
}

/// One ejection for the threshold, and one more for each probe that failed.
fn ejections(channel: &Channel, server: &TestServer) -> u64 {
    let report = endpoint(channel, &server.uri()).unwrap();
    report.ejected.map_or(0, |ejected| ejected.times.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_caller_meets_a_failing_server_as_often_as_the_threshold_says() {
    let _turn = turn().await;
    let servers = servers();
    let channel = channel(&servers, RoundRobin::default(), Duration::from_secs(3600));
    ready(&channel, &servers).await;
    let mut client = DemoClient::new(channel.clone());
    let mut failed = 0;
    for _ in 0..1_000 {
        let result = within("a call ends", client.echo(EchoRequest::default())).await;
        failed += u64::from(result.is_err());
    }
    assert_eq!(
        (failed, servers[0].total().started),
        (THRESHOLD, THRESHOLD),
        "with nothing in flight, exactly the threshold reaches the server"
    );
}

async fn many_callers(policy: impl Policy) {
    let servers = servers();
    let bad = &servers[0];
    let channel = channel(&servers, policy, Duration::from_millis(100));
    ready(&channel, &servers).await;
    let load = Load::start(&channel);
    // The n-th ejection lasts n times 100 ms: 4 probes are due after 1 s.
    eventually("it was probed some times", || ejections(&channel, bad) > 4).await;
    load.runs(100).await;
    let log = load.stop().await;
    let failures = log.take_failures();
    // Nobody calls any more, so these stand still.
    let (reached, ejections) = (bad.total().started, ejections(&channel, bad));
    let probes = ejections - 1;
    println!(
        "of {} calls {reached} reached the failing server, {probes} of them probes",
        log.ok() + failures.len() as u64
    );
    // When the last of the threshold ends its call, each other caller may have one there.
    let most = THRESHOLD + (CALLERS as u64 - 1) + probes;
    assert!(
        reached <= most,
        "{reached} calls reached a server that always fails; at most {THRESHOLD}, {} in flight and \
         {probes} probes may",
        CALLERS - 1
    );
    assert_eq!(
        failures.len() as u64,
        reached,
        "the calls that fail are those that reached it:{}",
        list(&failures)
    );
    for failure in &failures {
        assert_eq!(
            (failure.status.code(), failure.status.message()),
            (Code::Unavailable, "bad was told to fail"),
            "the server's own status reaches the caller"
        );
    }
    assert!(!channel.report().panic, "one of three out is no panic");

    bad.set(Behaviour::prompt());
    let load = Load::start(&channel);
    eventually("it is back", || {
        let report = endpoint(&channel, &bad.uri()).unwrap();
        report.ejected.is_none()
    })
    .await;
    let log = load.stop().await;
    assert!(
        log.take_failures().is_empty(),
        "a server that works again is let in again, and costs nothing"
    );
    let log = make_calls(&channel, 900).await;
    assert!(
        log.by_server()["bad"] > 100,
        "it has a share again: {:?}",
        log.by_server()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_cost_no_more_than_what_is_in_flight() {
    let _turn = turn().await;
    many_callers(RoundRobin::default()).await;
}

/// By load alone, a server that fails at once is the least loaded one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_server_does_not_look_fast() {
    let _turn = turn().await;
    many_callers(LeastRequest::default()).await;
}
