//! What came of a run.

use hdrhistogram::Histogram;

use crate::engine::queue::Nanos;

/// Latencies of calls: those that failed count as the timeout, if they took less.
#[derive(Clone)]
pub struct Latencies {
    histogram: Histogram<u64>,
    sum: f64,
    failed: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        // Three digits, from a microsecond to an hour.
        let bounds = Histogram::new_with_bounds(1_000, 3_600_000_000_000, 3);
        Self {
            histogram: bounds.expect("the bounds are in order"),
            sum: 0.0,
            failed: 0,
        }
    }
}

impl Latencies {
    /// One call.
    pub fn add(&mut self, latency: Nanos, failed: bool) {
        self.histogram.saturating_record(latency);
        self.sum += latency as f64;
        self.failed += u64::from(failed);
    }

    /// All calls of another one.
    pub fn merge(&mut self, other: &Self) {
        let merged = self.histogram.add(&other.histogram);
        merged.expect("all have the same bounds");
        self.sum += other.sum;
        self.failed += other.failed;
    }

    /// The figures of these.
    pub fn figures(&self) -> Figures {
        let calls = self.histogram.len();
        let quantile = |q| self.histogram.value_at_quantile(q) as f64 / 1e6;
        Figures {
            calls,
            failed: self.failed,
            mean_ms: self.sum / (calls.max(1)) as f64 / 1e6,
            p50_ms: quantile(0.5),
            p90_ms: quantile(0.9),
            p99_ms: quantile(0.99),
            p999_ms: quantile(0.999),
        }
    }
}

/// Quantiles and errors of a number of calls.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figures {
    /// How many.
    pub calls: u64,
    /// How many of them failed.
    pub failed: u64,
    /// The mean latency.
    pub mean_ms: f64,
    /// Half of them took no longer.
    pub p50_ms: f64,
    /// Nine of ten.
    pub p90_ms: f64,
    /// 99 of 100.
    pub p99_ms: f64,
    /// 999 of 1,000.
    pub p999_ms: f64,
}

impl Figures {
    /// How many failed, of 1.
    pub fn error_rate(&self) -> f64 {
        self.failed as f64 / self.calls.max(1) as f64
    }
}

/// The load of the servers at a time, of their allotments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoadSample {
    /// The mean over the servers.
    pub mean: f64,
    /// The most loaded one.
    pub max: f64,
}

/// All that one run says.
#[derive(Debug, Clone, PartialEq)]
pub struct Results {
    /// All measured calls.
    pub whole: Figures,
    /// Each phase with its load; one, if the load does not change.
    pub phases: Vec<(f64, Figures)>,
    /// CPU used over allotment, in the measured time.
    pub load: LoadSample,
    /// The same for each second, warm-up included.
    pub load_by_second: Vec<LoadSample>,
    /// Attempts for each call.
    pub attempts_per_call: f64,
    /// Questions to servers, for each call.
    pub probes_per_call: f64,
    /// Of the attempts made while a server was at fault, how many went to such a one.
    pub faulty_share: Option<f64>,
    /// How often a client ejected a server.
    pub ejections: u64,
    /// Picks of endpoints that could not be used: mistakes of the policy.
    pub misnamed: u64,
    /// What the servers' own part of an answered attempt took on average.
    pub server_mean_ms: f64,
}

/// Counts that add up over the measured time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Attempts sent.
    pub attempts: u64,
    /// Those sent while a server was at fault.
    pub attempts_in_trouble: u64,
    /// Those of them sent to one.
    pub attempts_to_faulty: u64,
    /// Questions to servers.
    pub probes: u64,
    /// Ejections.
    pub ejections: u64,
    /// Picks of endpoints that could not be used.
    pub misnamed: u64,
    /// Attempts answered by a server that did the work, and what that took.
    pub served: u64,
    /// The sum over them, in nanoseconds.
    pub served_nanos: u64,
}
