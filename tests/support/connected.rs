//! A channel of evenkeel's that is connected before it is measured.

use std::time::Duration;

use evenkeel::grpc::Channel;
use evenkeel::{BoxError, ConnectivityState};
use tokio::time::{sleep, timeout};

/// How long connections to the servers may take.
pub const CONNECTED_WITHIN: Duration = Duration::from_secs(20);

/// Waits until the channel knows its endpoints and is connected to all of them.
///
/// # Errors
/// Not within [`CONNECTED_WITHIN`].
pub async fn connected(channel: &Channel) -> Result<(), BoxError> {
    let ready = async {
        let is_ready = |report: evenkeel::observe::Report| {
            let mut states = report.endpoints.iter().map(|endpoint| endpoint.state);
            report.resolved && states.all(|state| state == ConnectivityState::Ready)
        };
        while !is_ready(channel.report()) {
            sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(CONNECTED_WITHIN, ready)
        .await
        .map_err(|_| "evenkeel's channel is not connected in time".into())
}
