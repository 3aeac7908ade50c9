//! Calls at a steady rate, whether earlier ones were answered or not.

use std::time::Duration;

use evenkeel::BoxError;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::Request;

use crate::arms::Client;
use crate::support::proto::EchoRequest;

/// What a call may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(1);

/// A call that is not back this long after its deadline hangs.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// What became of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// When it was due, since the begin of the run.
    pub(crate) due: Duration,
    /// From then to its end.
    pub(crate) took: Duration,
    pub(crate) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    Failed,
    Hung,
}

/// Sends calls for `length`, and waits for what becomes of them.
pub(crate) async fn send(
    client: &Client,
    began: Instant,
    length: Duration,
    rate: u32,
) -> Result<Vec<Ended>, BoxError> {
    let gap = Duration::from_secs(1) / rate;
    let mut calls = JoinSet::new();
    let mut ended = Vec::new();
    let mut due = Duration::ZERO;
    while due < length {
        sleep_until(began + due).await;
        let mut client = client.clone();
        calls.spawn(async move {
            let mut request = Request::new(EchoRequest::default());
            request.set_timeout(DEADLINE);
            let end = match timeout(DEADLINE + HANGS_AFTER, client.echo(request)).await {
                Ok(Ok(_)) => End::Answered,
                Ok(Err(_)) => End::Failed,
                Err(_) => End::Hung,
            };
            // From when it was due, so that a sender that is held up hides no wait.
            let took = began.elapsed().saturating_sub(due);
            Ended { due, took, end }
        });
        while let Some(call) = calls.try_join_next() {
            ended.push(call?);
        }
        due += gap;
    }
    while let Some(call) = calls.join_next().await {
        ended.push(call?);
    }
    Ok(ended)
}
