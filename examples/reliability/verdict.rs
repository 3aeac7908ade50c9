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
    /// Of those due while the fault lasted and after.
    pub(crate) failed: usize,
    pub(crate) hung: usize,
    /// The part that they are.
    pub(crate) failed_share: f64,
    /// When the last call was due that failed, since the begin of the fault.
    pub(crate) last_failure: Option<Duration>,
    /// Since the begin of the fault, until those that it hits get no calls to speak of; `None` if never.
    pub(crate) isolated: Option<Duration>,
    /// Since the fault was mended, until they get theirs again.
    pub(crate) restored: Option<Duration>,
    pub(crate) healthy: Quantiles,
    pub(crate) faulty: Quantiles,
    /// Attempts that reached a server while the fault lasted, for each call that was due then.
    pub(crate) attempts: Option<f64>,
    /// Since the fault was mended, until all calls are answered; `None` if never.
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
        let bad_since_the_end = calls.iter().filter(|call| call.due >= ends).filter(bad);
        let recovered = bad_since_the_end.map(|call| call.due).max();
        let recovered = recovered.map_or(Some(Duration::ZERO), |due| {
            // One that fails at the very end may not be the last.
            (due + WINDOW < options.length()).then(|| due - ends)
        });
        Self {
            calls: calls.len(),
            failed: failed_after,
            hung: calls.iter().filter(|call| call.end == End::Hung).count(),
            failed_share: failed_after as f64 / after().count().max(1) as f64,
            last_failure: last_failure.map(|due| due - begins),
            isolated: first(samples, begins, ends, share, |got| got < ISOLATED_BELOW),
            restored: first(samples, ends, options.length(), share, |got| {
                got > RESTORED_ABOVE
            }),
            healthy: Quantiles::of(calls.iter().filter(before).copied()),
            faulty: Quantiles::of(calls.iter().filter(during).copied()),
            attempts: arrived(samples, begins, ends)
                .map(|all| all as f64 / calls.iter().filter(during).count().max(1) as f64),
            recovered,
        }
    }
}

/// Attempts that reached a server between two times.
fn arrived(samples: &[Sample], from: Duration, to: Duration) -> Option<u64> {
    let at = |time| samples.iter().find(|sample| sample.at >= time);
    let ((_, before), (_, after)) = at(from)?.arrived.zip(at(to)?.arrived)?;
    Some(after - before)
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

#[cfg(test)]
mod tests {
    use super::*;

    const fn seconds(seconds: f64) -> Duration {
        Duration::from_millis((seconds * 1e3) as u64)
    }

    /// A look each 50 ms at servers that get 1,000 attempts a second; one of ten is hit, and gets `victims(at)` of its
    /// share.
    fn looks(victims: impl Fn(f64) -> f64) -> Vec<Sample> {
        let (mut hit, mut all) = (0.0, 0.0);
        let look = |step: u32| {
            let at = f64::from(step) * 0.05;
            hit += 5.0 * victims(at);
            all += 50.0;
            Sample {
                at: seconds(at),
                arrived: Some((hit as u64, all as u64)),
                victim_is_ready: None,
            }
        };
        (0..=1_200).map(look).collect()
    }

    #[test]
    fn isolated_is_who_gets_no_more_than_a_tenth_of_its_share_for_a_second() {
        let samples = looks(|at| {
            if (12.0..40.0).contains(&at) {
                0.05
            } else {
                1.0
            }
        });
        let isolated = first(&samples, seconds(10.0), seconds(40.0), 0.1, |got| {
            got < ISOLATED_BELOW
        });
        let isolated = isolated.expect("it gets next to nothing").as_secs_f64();
        assert!((1.9..2.1).contains(&isolated), "{isolated} s, of 2");
        let restored = first(&samples, seconds(40.0), seconds(60.0), 0.1, |got| {
            got > RESTORED_ABOVE
        });
        let restored = restored.expect("it gets its share").as_secs_f64();
        assert!(restored < 0.1, "{restored} s: at once");
    }

    #[test]
    fn who_always_gets_its_share_was_never_isolated() {
        let samples = looks(|_| 1.0);
        let isolated = first(&samples, seconds(10.0), seconds(40.0), 0.1, |got| {
            got < ISOLATED_BELOW
        });
        assert_eq!(isolated, None);
    }

    #[test]
    fn attempts_are_those_of_the_time_that_was_asked_for() {
        let samples = looks(|_| 1.0);
        let all = arrived(&samples, seconds(10.0), seconds(40.0));
        assert_eq!(all, Some(30_000), "1,000 a second for 30 s");
        let beyond = arrived(&samples, seconds(10.0), seconds(90.0));
        assert_eq!(beyond, None, "nobody looked then");
    }

    #[test]
    fn quantiles_are_of_all_calls() {
        let calls = (0..1_000).map(|call| Ended {
            due: Duration::ZERO,
            took: Duration::from_millis(call),
            end: crate::load::End::Answered,
        });
        let of = Quantiles::of(calls);
        assert_eq!((of.p50, of.p99, of.p999), (500.0, 990.0, 999.0));
    }
}
