//! Calls at their time, whether earlier ones have been answered or not.

use std::time::Duration;

use evenkeel::BoxError;
use evenkeel::math::Rng;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::arms::Client;
use crate::cell::Cell;
use crate::proto::EchoRequest;
use crate::scenario::{MEAN_WORK, Scenario};

/// Clients, each with a balancer of its own that knows only its own calls.
pub(crate) const CLIENTS: usize = 4;

/// What a call may take. One that failed counts as one that took this.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

/// How much longer than its timeout a call may take to be heard of, on a machine busy with other things.
const SLACK: Duration = Duration::from_secs(10);

/// The calls of one round, the same for each arm.
pub(crate) struct Calls(Vec<Call>);

struct Call {
    /// Since the begin of the cell.
    due: Duration,
    client: usize,
    work: Duration,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Answered,
    Failed,
    TimedOut,
}

impl Calls {
    /// The gaps between them and their work are exponential.
    pub(crate) fn draw(scenario: Scenario, length: Duration, seed: u64) -> Self {
        let mut rng = Rng::stream(seed, 1);
        let gap = Duration::from_secs_f64(1.0 / scenario.rate());
        let mut calls = Vec::new();
        let mut due = exponential(&mut rng, gap);
        while due < length {
            calls.push(Call {
                due,
                client: rng.below(CLIENTS),
                work: exponential(&mut rng, MEAN_WORK),
            });
            due += exponential(&mut rng, gap);
        }
        Self(calls)
    }

    /// Sends them all, and waits for what becomes of them.
    pub(crate) async fn send(&self, clients: &[Client], cell: &mut Cell) -> Result<(), BoxError> {
        let mut calls = JoinSet::new();
        let began = Instant::now();
        for call in &self.0 {
            let due = began + call.due;
            sleep_until(due).await;
            let sent = Instant::now();
            cell.sent(sent - due);
            let mut client = clients[call.client].clone();
            let request = EchoRequest {
                message: call.work.as_micros().to_string(),
                ..EchoRequest::default()
            };
            let since = call.due;
            calls.spawn(async move {
                let end = match timeout(TIMEOUT, client.echo(request)).await {
                    Ok(Ok(_)) => End::Answered,
                    Ok(Err(_)) => End::Failed,
                    Err(_) => End::TimedOut,
                };
                // From when it was due, so that a sender that is held up hides no wait.
                (since, end, due.elapsed())
            });
            while let Some(ended) = calls.try_join_next() {
                let (due, end, latency) = ended?;
                cell.ended(due, end, latency);
            }
        }
        let rest = async {
            while let Some(ended) = calls.join_next().await {
                let (due, end, latency) = ended?;
                cell.ended(due, end, latency);
            }
            Ok::<_, BoxError>(())
        };
        timeout(TIMEOUT + SLACK, rest)
            .await
            .map_err(|_| "calls outlived their timeout")?
    }
}

/// Exponential with this mean.
fn exponential(rng: &mut Rng, mean: Duration) -> Duration {
    mean.mul_f64(-(1.0 - rng.unit()).ln())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_come_and_cost_as_the_scenario_says() {
        let length = Duration::from_secs(100);
        let calls = Calls::draw(Scenario::Slow, length, 7).0;
        let expected = Scenario::Slow.rate() * 100.0;
        // About 64,000 calls, whose number has a deviation of 0.4 %, as has the mean of their work.
        let ratio = calls.len() as f64 / expected;
        assert!((ratio - 1.0).abs() < 0.02, "{ratio} times as many calls");
        let work: Duration = calls.iter().map(|call| call.work).sum();
        let mean = work.as_secs_f64() / calls.len() as f64;
        let ratio = mean / MEAN_WORK.as_secs_f64();
        assert!((ratio - 1.0).abs() < 0.02, "{ratio} times the mean work");
    }

    #[test]
    fn a_seed_draws_the_same_calls() {
        let draw = |seed| {
            let calls = Calls::draw(Scenario::Failing, Duration::from_secs(1), seed).0;
            let calls = calls.iter().map(|call| (call.due, call.client, call.work));
            calls.collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1), "each arm gets the same calls");
        assert_ne!(draw(1), draw(2), "each round gets its own");
    }
}
