//! One endpoint never listens, from the start: no call fails.

use std::time::Duration;

use evenkeel::grpc::Channel;
use evenkeel::policy::{Random, RoundRobin};
use evenkeel::{ConnectivityState, Endpoint};

use crate::load::{assert_none_failed, endpoint, make_calls, turn};
use crate::support::{Behaviour, RefusedPort, SilentListener, TestServer};

const CALLS: usize = 10_000;

/// Calls begin before any connection is there. `first`: the dead endpoint is the first of the list.
async fn with_dead(dead: String, first: bool, policy: impl evenkeel::policy::Policy) {
    let servers = ["a", "b"].map(|name| TestServer::start(name, Behaviour::prompt()));
    let mut endpoints: Vec<Endpoint> = servers.iter().map(|s| s.uri().into()).collect();
    endpoints.insert(if first { 0 } else { 2 }, dead.clone().into());
    let channel = Channel::builder()
        .endpoints(endpoints)
        .policy(policy)
        // Longer than the test: what is waited for is waited for throughout.
        .connect_timeout(Duration::from_secs(3600))
        .build()
        .unwrap();
    let log = make_calls(&channel, CALLS).await;
    assert_none_failed(
        "of 10,000 calls none fails for an endpoint that never listens",
        &log.take_failures(),
    );
    assert_eq!(log.ok(), CALLS as u64, "each call was made");
    let dead = endpoint(&channel, &dead).unwrap();
    assert_ne!(dead.state, ConnectivityState::Ready, "{dead}");
    assert_eq!(dead.calls, 0, "no call was ever sent to it: {dead}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_for_an_endpoint_that_refuses() {
    let _turn = turn().await;
    let dead = RefusedPort::reserve();
    with_dead(dead.uri(), true, RoundRobin::default()).await;
    with_dead(dead.uri(), false, Random::default()).await;
}

/// The handshake of such an endpoint never ends, but does not fail either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_or_waits_for_an_endpoint_that_accepts_and_says_nothing() {
    let _turn = turn().await;
    let dead = SilentListener::start();
    with_dead(dead.uri(), true, RoundRobin::default()).await;
    assert_eq!(
        dead.accepted(),
        1,
        "it was dialled once, and that dial goes on"
    );
}
