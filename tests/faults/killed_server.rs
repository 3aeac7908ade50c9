//! One server is killed hard in the middle of a load, and comes back.
//!
//! At most the calls in flight on its connection fail, and none that began after its end was seen.
//! After it listens again, the first dial brings its full share back within a second, with the
//! channel idle meanwhile too.

use std::time::{Duration, Instant};

use evenkeel::ConnectivityState;
use evenkeel::grpc::Channel;
use tonic::Code;

use crate::load::{
    CALLERS, Failure, Load, assert_none_failed, endpoint, in_turn, is_ready, list, make_calls,
    ready, three, turn,
};
use crate::support::{Behaviour, TestServer, eventually};

/// From the first dial that the server accepts to a channel that says READY. The median is held
/// against it; one slow turn of a busy machine is not a fault.
const BACK_WITHIN: Duration = Duration::from_secs(1);

/// What each failure of a killed connection must look like.
fn assert_lost_with_connection(failures: &[Failure]) {
    for failure in failures {
        assert_eq!(
            failure.status.code(),
            Code::Unavailable,
            "a call that dies with its connection is UNAVAILABLE:{}",
            list(failures)
        );
    }
    // A failed call shows that the end was seen. So what begins after the first failure must live.
    if let Some(seen) = failures.iter().map(|failure| failure.ended).min() {
        let late: Vec<_> = failures.iter().filter(|f| f.begun > seen).collect();
        assert!(
            late.is_empty(),
            "no call is dispatched to a connection whose end was seen, which it was at {seen}:{}",
            list(failures)
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_calls_in_flight_fail() {
    let _turn = turn().await;
    let servers = three(Behaviour::silent());
    let channel = in_turn(&servers);
    ready(&channel, &servers).await;
    let load = Load::start(&channel);
    let in_flight = |server: &TestServer| endpoint(&channel, &server.uri()).unwrap().in_flight;
    eventually("each caller has a call in flight", || {
        let arrived: u64 = servers.iter().map(|s| s.total().in_flight()).sum();
        arrived == CALLERS as u64
    })
    .await;
    let on_victim = in_flight(&servers[0]) as usize;
    // Those who fail go on to servers that answer.
    for server in &servers {
        server.set(Behaviour::prompt());
    }
    servers[0].kill().await;
    eventually("the end is seen", || !is_ready(&channel, &servers[0])).await;
    load.runs(1_000).await;
    let failures = load.log.take_failures();
    assert_eq!(
        failures.len(),
        on_victim,
        "those calls fail that were in flight on the connection, and no other:{}",
        list(&failures)
    );
    assert_lost_with_connection(&failures);
    let report = endpoint(&channel, &servers[0].uri()).unwrap();
    assert_eq!(report.in_flight, 0, "they are over: {report}");
    assert_eq!(
        report.failures, on_victim as u64,
        "they count as failed: {report}"
    );
    assert!(
        report.ejected.is_none(),
        "a lost connection is no reason to eject: {report}"
    );
    // The calls that the others caught never end; they go with their servers.
    drop(servers);
    load.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_costs_its_calls_in_flight_and_gets_its_share_back() {
    let _turn = turn().await;
    let servers = three(Behaviour::after(Duration::from_millis(1)));
    let channel = in_turn(&servers);
    ready(&channel, &servers).await;
    let load = Load::start(&channel);
    let mut back = Vec::new();
    for victim in servers.iter().cycle().take(9) {
        load.runs(300).await;
        let none_yet = load.log.take_failures();
        assert_none_failed("no call fails while all servers are there", &none_yet);
        let other: u64 = others(&channel, victim);
        victim.kill().await;
        eventually("the end is seen", || !is_ready(&channel, victim)).await;
        // Every caller has ended the call that it had when the end was seen.
        load.runs(2 * CALLERS as u64).await;
        let failures = load.log.take_failures();
        assert!(
            failures.len() <= CALLERS,
            "at most the calls in flight fail:{}",
            list(&failures)
        );
        assert_lost_with_connection(&failures);
        assert_eq!(
            others(&channel, victim),
            other,
            "nobody else's call fails:{}",
            list(&failures)
        );
        back.push(comes_back(&channel, victim).await);
    }
    let log = load.stop().await;
    assert_none_failed(
        "no call fails when a server comes back",
        &log.take_failures(),
    );
    assert_back_in_time(back);
    assert_equal_shares(&channel, &servers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_channel_takes_a_server_back() {
    let _turn = turn().await;
    let servers = three(Behaviour::prompt());
    let channel = in_turn(&servers);
    ready(&channel, &servers).await;
    let mut back = Vec::new();
    for victim in servers.iter().cycle().take(9) {
        victim.kill().await;
        eventually("an idle channel sees the end", || {
            !is_ready(&channel, victim)
        })
        .await;
        back.push(comes_back(&channel, victim).await);
    }
    let calls: u64 = servers.iter().map(|server| server.total().started).sum();
    assert_eq!(calls, 0, "the channel was idle");
    assert_back_in_time(back);
    assert_equal_shares(&channel, &servers).await;
}

/// The failures of all endpoints but one.
fn others(channel: &Channel, victim: &TestServer) -> u64 {
    let endpoints = channel.report().endpoints.into_iter();
    endpoints
        .filter(|endpoint| endpoint.id.as_str() != victim.uri())
        .map(|endpoint| endpoint.failures)
        .sum()
}

/// Restarts a server; the time from its first accepted dial to READY.
async fn comes_back(channel: &Channel, victim: &TestServer) -> Duration {
    let before = victim.accepted();
    victim.restart().await;
    eventually("the server is dialled", || victim.accepted() > before).await;
    let accepted = Instant::now();
    eventually("the endpoint is ready", || is_ready(channel, victim)).await;
    let took = accepted.elapsed();
    assert_eq!(
        victim.accepted(),
        before + 1,
        "the first dial after it listens is the one that counts"
    );
    took
}

fn assert_back_in_time(mut back: Vec<Duration>) {
    back.sort();
    let median = back[back.len() / 2];
    println!("from the first dial to READY: median {median:?}, all {back:?}");
    assert!(
        median < BACK_WITHIN,
        "an endpoint is back within {BACK_WITHIN:?} of the first dial: {back:?}"
    );
}

async fn assert_equal_shares(channel: &Channel, servers: &[TestServer]) {
    ready(channel, servers).await;
    let log = make_calls(channel, 900).await;
    assert_none_failed("no call fails on three live servers", &log.take_failures());
    let shares: Vec<u64> = log.by_server().into_values().collect();
    assert_eq!(
        shares, [300; 3],
        "each of three endpoints has a third again"
    );
    let ready = |e: &evenkeel::observe::EndpointReport| e.state == ConnectivityState::Ready;
    assert!(
        channel.report().endpoints.iter().all(ready),
        "all stay ready"
    );
}
