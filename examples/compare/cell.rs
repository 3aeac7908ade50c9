//! One turn of one arm.

use std::time::Duration;

use evenkeel::BoxError;
use evenkeel::math::Rng;
use hdrhistogram::Histogram;

use crate::arms::Arm;
use crate::load::{CLIENTS, Calls, End, TIMEOUT};
use crate::scenario::Scenario;
use crate::servers::Servers;

/// The part of a cell in which clients learn.
const LEARNING: f64 = 0.25;

/// What became of the calls of a cell, or of several.
#[derive(Debug, Clone)]
pub(crate) struct Cell {
    learning: Duration,
    /// While clients learned.
    pub(crate) first: Counts,
    /// After that.
    pub(crate) counts: Counts,
    /// In microseconds, of the calls after that: a failed one counts as the timeout.
    pub(crate) latency: Histogram<u64>,
    /// Of those that were answered.
    pub(crate) answered: Histogram<u64>,
    /// How late calls were sent, in microseconds.
    pub(crate) late: Histogram<u64>,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) calls: u64,
    /// Those that timed out included.
    pub(crate) failed: u64,
    pub(crate) timed_out: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.calls += other.calls;
        self.failed += other.failed;
        self.timed_out += other.timed_out;
    }

    /// From 0 to 1; none of no calls.
    pub(crate) fn failed_share(&self) -> Option<f64> {
        (self.calls > 0).then(|| self.failed as f64 / self.calls as f64)
    }
}

impl Cell {
    pub(crate) fn new(length: Duration) -> Self {
        Self {
            learning: length.mul_f64(LEARNING),
            first: Counts::default(),
            counts: Counts::default(),
            latency: histogram(),
            answered: histogram(),
            late: histogram(),
        }
    }

    pub(crate) fn sent(&mut self, late: Duration) {
        self.late.saturating_record(micros(late));
    }

    /// A call that was due so long after the begin ended.
    pub(crate) fn ended(&mut self, due: Duration, end: End, latency: Duration) {
        let learning = due < self.learning;
        let counts = if learning {
            &mut self.first
        } else {
            &mut self.counts
        };
        counts.calls += 1;
        counts.failed += u64::from(end != End::Answered);
        counts.timed_out += u64::from(end == End::TimedOut);
        if learning {
            return;
        }
        if end == End::Answered {
            self.answered.saturating_record(micros(latency));
            self.latency.saturating_record(micros(latency));
        } else {
            self.latency.saturating_record(micros(TIMEOUT));
        }
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<(), BoxError> {
        self.first.add(other.first);
        self.counts.add(other.counts);
        self.latency.add(&other.latency)?;
        self.answered.add(&other.answered)?;
        self.late.add(&other.late)?;
        Ok(())
    }

    /// New servers, new clients, and the calls of this round.
    pub(crate) async fn run(
        arm: Arm,
        scenario: Scenario,
        calls: &Calls,
        length: Duration,
        seed: u64,
    ) -> Result<Self, BoxError> {
        let servers = Servers::start(scenario, seed).await?;
        let mut clients = Vec::new();
        for client in 0..CLIENTS {
            let seed = Rng::stream(seed, client as u64).next_u64();
            clients.push(arm.client(&servers.uris, seed).await?);
        }
        let mut cell = Self::new(length);
        calls.send(&clients, &mut cell).await?;
        drop(clients);
        servers.stop().await?;
        if cell.counts.calls == 0 {
            return Err("no call was due".into());
        }
        Ok(cell)
    }
}

/// From 1 µs to 10 s, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 10_000_000, 3).expect("valid bounds")
}

fn micros(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX)
}
