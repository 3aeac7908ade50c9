use std::time::Duration;

use crate::math::Moment;

/// Buckets of one second: Envoy and gRPC servers average over spans like it, and it is as long as a
/// client waits before it believes a new server (gRFC A58's blackout).
const BUCKETS: usize = 10;
const BUCKET: Duration = Duration::from_secs(1);

/// How often something happens, over the last ten seconds.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::load::Rate;
/// use evenkeel::math::Moment;
///
/// let mut rate = Rate::new();
/// for ms in (0..5_000).step_by(10) {
///     rate.count(Moment::from_origin(Duration::from_millis(ms)));
/// }
/// let now = Moment::from_origin(Duration::from_secs(5));
/// assert_eq!(rate.per_second(now), 100.0);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Rate {
    counts: [u32; BUCKETS],
    /// The second that the last event was in.
    latest: u64,
    first: Option<Moment>,
}

impl Rate {
    /// Nothing has happened.
    pub fn new() -> Self {
        Self::default()
    }

    /// It happened at `now`.
    pub fn count(&mut self, now: Moment) {
        let second = second(now);
        if self.first.is_none() {
            self.first = Some(now);
            self.latest = second;
        }
        if second > self.latest {
            let passed = (second - self.latest).min(BUCKETS as u64);
            for step in 1..=passed {
                self.counts[index(self.latest + step)] = 0;
            }
            self.latest = second;
        }
        // What comes late, by less than the window, counts as now.
        let count = &mut self.counts[index(self.latest)];
        *count = count.saturating_add(1);
    }

    /// How often a second, over the last ten seconds or since the first time, but at least over one
    /// second.
    pub fn per_second(&self, now: Moment) -> f64 {
        let Some(first) = self.first else {
            return 0.0;
        };
        let second = second(now).max(self.latest);
        let oldest = (second + 1).saturating_sub(BUCKETS as u64);
        let counted = (oldest..=self.latest).map(|at| u64::from(self.counts[index(at)]));
        let start = Moment::from_nanos(oldest.saturating_mul(BUCKET.as_nanos() as u64));
        let window = now.since(start.max(first));
        counted.sum::<u64>() as f64 / window.max(BUCKET).as_secs_f64()
    }
}

fn second(now: Moment) -> u64 {
    now.as_nanos() / BUCKET.as_nanos() as u64
}

fn index(second: u64) -> usize {
    (second % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(ms))
    }

    fn counted(times: impl IntoIterator<Item = u64>) -> Rate {
        let mut rate = Rate::new();
        for time in times {
            rate.count(at(time));
        }
        rate
    }

    #[test]
    fn a_steady_rate_is_seen_whatever_the_moment() {
        let rate = counted((0..60_000).step_by(20));
        for ms in [60_000, 60_400, 60_999] {
            let mut rate = rate.clone();
            for late in (60_000..ms).step_by(20) {
                rate.count(at(late));
            }
            let seen = rate.per_second(at(ms));
            // One event more or less over nine seconds or more.
            assert!((seen - 50.0).abs() < 0.2, "{seen} at {ms} ms");
        }
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let rate = counted((0..10_000).step_by(10));
        let seen = rate.per_second(at(15_000));
        // The oldest bucket of 6,000 ms on has 400 events of its last four seconds left.
        assert!((seen - 400.0 / 9.0).abs() < 0.1, "{seen}");
        assert_eq!(rate.per_second(at(20_000)), 0.0);
        assert_eq!(rate.per_second(at(u64::MAX / 1_000_000)), 0.0);
    }

    #[test]
    fn the_first_second_is_not_divided_by_less() {
        assert_eq!(counted([5]).per_second(at(5)), 1.0, "one is one a second");
        assert_eq!(Rate::new().per_second(at(5)), 0.0);
    }

    #[test]
    fn a_long_pause_and_a_step_back_in_time_do_no_harm() {
        let mut rate = counted([0, 1, 2]);
        rate.count(at(3_600_000));
        assert!((rate.per_second(at(3_600_000)) - 1.0 / 9.0).abs() < 0.01);
        rate.count(at(0));
        assert!(rate.per_second(at(3_600_000)) < 0.3, "it counts as now");
        assert!(rate.per_second(at(0)).is_finite());
    }
}
