//! What a run says.

use std::time::Duration;

use crate::load::{End, Ended};
use crate::options::Options;

/// Where the calls were at one moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    /// At those that the fault hits, and at all.
    pub(crate) arrived: Option<(u64, u64)>,
    /// Whether the balancer holds the one behind the network for usable.
    pub(crate) victim_is_ready: Option<bool>,
}

/// A server gets calls, or none to speak of: by this part of its share over this time.
const WINDOW: Duration = Duration::from_secs(1);
const ISOLATED_BELOW: f64 = 0.1;
const RESTORED_ABOVE: f64 = 0.5;

/// What a run says.
#[derive(Debug, Clone)]
pub(crate) struct Verdict {
    pub(crate) calls: usize,
    pub(crate) failed: usize,
    pub(crate) hung: usize,
    /// Failed, of those due while the fault lasted and after.
    pub(crate) failed_share: f64,
    /// When the last call was due that failed, since the begin of the fault.
    pub(crate) last_failure: Option<Duration>,
    /// Since the begin of the fault, until those that it hits get no calls to speak of; `None` if never.
    pub(crate) isolated: Option<Duration>,
    /// Since the fault was mended, until they get theirs again.
    pub(crate) restored: Option<Duration>,
    pub(crate) healthy: Quantiles,
    pub(crate) faulty: Quantiles,
    /// Attempts that reached a server, for each call.
    pub(crate) attempts: Option<f64>,
    /// Since the fault was mended, until all calls are answered.
    pub(crate) recovered: Option<Duration>,
}

/// Of latencies, in milliseconds; a call that failed counts with the time it took.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
}

impl Quantiles {
    fn of(calls: impl Iterator<Item = Ended>) -> Self {
        let mut took: Vec<Duration> = calls.map(|call| call.took).collect();
        took.sort_unstable();
        let at = |quantile: f64| {
            let index = ((took.len() as f64 * quantile) as usize).min(took.len().saturating_sub(1));
            took.get(index).map_or(0.0, |took| took.as_secs_f64() * 1e3)
        };
        Self {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
        }
    }
}

impl Verdict {
    /// `share`: what those that the fault hits get when all is well, of all calls.
    pub(crate) fn of(calls: &[Ended], samples: &[Sample], share: f64, options: &Options) -> Self {
        let (begins, ends) = (options.begins(), options.ends());
        let bad = |call: &&Ended| call.end != End::Answered;
        let after = || calls.iter().filter(|call| call.due >= begins);
        let failed_after = after().filter(bad).count();
        let last_failure = after().filter(bad).map(|call| call.due).max();
        let during = |call: &&Ended| (begins..ends).contains(&call.due);
        // The first second is for connections and caches.
        let before = |call: &&Ended| (Duration::from_secs(1)..begins).contains(&call.due);
        let attempts = samples.last().and_then(|sample| sample.arrived);
        Self {
            calls: calls.len(),
            failed: calls.iter().filter(bad).count(),
            hung: calls.iter().filter(|call| call.end == End::Hung).count(),
            failed_share: failed_after as f64 / after().count().max(1) as f64,
            last_failure: last_failure.map(|due| due - begins),
            isolated: first(samples, begins, ends, share, |got| got < ISOLATED_BELOW),
            restored: first(samples, ends, options.length(), share, |got| {
                got > RESTORED_ABOVE
            }),
            healthy: Quantiles::of(calls.iter().filter(before).copied()),
            faulty: Quantiles::of(calls.iter().filter(during).copied()),
            attempts: attempts.map(|(_, all)| all as f64 / calls.len().max(1) as f64),
            recovered: Some(
                calls
                    .iter()
                    .filter(|call| call.due >= ends)
                    .filter(bad)
                    .map(|call| call.due - ends)
                    .max()
                    .unwrap_or_default(),
            ),
        }
    }
}

/// How long from `from` until what those that the fault hits get, by their `share`, `is` so for a while.
fn first(
    samples: &[Sample],
    from: Duration,
    to: Duration,
    share: f64,
    is: impl Fn(f64) -> bool,
) -> Option<Duration> {
    let inside = || samples.iter().filter(|s| (from..to).contains(&s.at));
    for sample in inside() {
        if let Some(ready) = sample.victim_is_ready {
            if is(f64::from(u8::from(ready))) {
                return Some(sample.at - from);
            }
            continue;
        }
        let later = samples.iter().find(|later| later.at >= sample.at + WINDOW);
        let ((victims, all), (later_victims, later_all)) = sample.arrived.zip(later?.arrived)?;
        let got = (later_victims - victims) as f64 / (later_all - all).max(1) as f64;
        if share > 0.0 && is(got / share) {
            return Some(sample.at - from);
        }
    }
    None
}
