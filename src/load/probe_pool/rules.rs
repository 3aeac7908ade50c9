//! How a pool is kept.

use std::time::Duration;

/// How a pool is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PoolRules {
    /// How many answers there are at most.
    pub(crate) size: PoolSize,
    /// How long one counts.
    pub(crate) max_age: Duration,
    /// An endpoint is hot if it has more requests under way than this part of the last answers.
    pub(crate) hot_quantile: f64,
    /// Probes a call.
    pub(crate) probe_rate: f64,
    /// Answers that come with a call in other ways.
    pub(crate) report_rate: f64,
    /// Answers that are dropped with each call.
    pub(crate) remove_rate: f64,
    /// How much faster answers come in than they are used up: the δ of the reuse formula.
    pub(crate) delta: f64,
    /// How often an answer is used at most.
    pub(crate) max_uses: u32,
    /// A call that goes by an answer makes its latency longer in the measure in which it makes its queue
    /// longer, until the server speaks again.
    pub(crate) latency_grows: bool,
    /// Only the newest answer of an endpoint is kept.
    pub(crate) one_per_endpoint: bool,
}

/// How many answers a pool holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PoolSize {
    /// So many, whatever the number of endpoints.
    Fixed(usize),
    /// One for three endpoints, but 2 to 16.
    Third,
}

impl PoolSize {
    const MOST_OF_THIRD: usize = 16;

    pub(super) fn of(self, endpoints: usize) -> usize {
        match self {
            Self::Fixed(size) => size,
            Self::Third => endpoints.div_ceil(3).clamp(2, Self::MOST_OF_THIRD),
        }
    }

    pub(super) fn most(self) -> usize {
        match self {
            Self::Fixed(size) => size,
            Self::Third => Self::MOST_OF_THIRD,
        }
    }
}

impl PoolRules {
    /// How often an answer is to be used: as often as it takes that they come in a little faster than they
    /// go. Too few of them: as often as they may be.
    pub(super) fn uses(&self, size: usize, endpoints: usize) -> f64 {
        let most = f64::from(self.max_uses);
        let not_in_pool = 1.0 - size as f64 / endpoints.max(1) as f64;
        let spare = not_in_pool * (self.probe_rate + self.report_rate) - self.remove_rate;
        if spare > 0.0 {
            ((1.0 + self.delta) / spare).clamp(1.0, most)
        } else {
            most
        }
    }
}
