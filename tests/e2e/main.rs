//! Real tonic servers on loopback behind one `Channel`, called by a generated client.
#![cfg(feature = "grpc")]

#[path = "../support/mod.rs"]
pub mod support;

pub mod attempts;
#[cfg(feature = "etcd")]
pub mod etcd_server;
#[cfg(feature = "dns")]
#[path = "../support/knot.rs"]
pub mod knot;
pub mod mirror;
pub mod proxy;
pub mod streams;

mod calls;
mod cancellation;
mod config;
mod connection_age;
mod deadlines;
mod discovery;
#[cfg(feature = "dns")]
mod dns;
mod errors;
#[cfg(feature = "etcd")]
mod etcd;
mod health_checks;
mod hedging;
mod keep_alive;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
mod metadata;
mod pick_first;
mod retries;
mod runtime;
#[cfg(feature = "service-config")]
mod service_config;
mod several_connections;
mod shutdown;
mod targets;
#[cfg(feature = "tls")]
mod tls;
mod transports;

use evenkeel::ConnectivityState;
use evenkeel::grpc::Channel;
use evenkeel::observe::EndpointReport;
use support::{TestServer, eventually, within};

/// A channel to one address.
pub fn channel(uri: String) -> Channel {
    Channel::builder().endpoints([uri]).build().unwrap()
}

/// Waits until every endpoint is connected.
pub async fn ready(channel: &Channel) {
    eventually("all endpoints are ready", || {
        let endpoints = channel.report().endpoints;
        !endpoints.is_empty() && endpoints.iter().all(is_ready)
    })
    .await;
}

/// Waits until the channel knows that no endpoint can be reached.
pub async fn failing(channel: &Channel) {
    let mut state = channel.watch_state();
    let failing = state.wait_for(ConnectivityState::TransientFailure);
    assert!(
        within("no endpoint can be reached", failing).await,
        "the channel is not shut down"
    );
}

/// Whether the channel is connected to it.
pub fn is_ready(endpoint: &EndpointReport) -> bool {
    endpoint.state == ConnectivityState::Ready
}

/// The only endpoint of a channel.
pub fn only(channel: &Channel) -> EndpointReport {
    let mut endpoints = channel.report().endpoints;
    assert_eq!(endpoints.len(), 1, "the channel has one endpoint");
    endpoints.remove(0)
}

/// Waits until a call that the caller gave up has ended, at the server and in the channel's count.
pub async fn cancelled(channel: &Channel, server: &TestServer, calls: u64) {
    eventually("the server sees that the call was cancelled", || {
        server.total().cancelled == calls
    })
    .await;
    eventually("no call is under way", || only(channel).in_flight == 0).await;
}
