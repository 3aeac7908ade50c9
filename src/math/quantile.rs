//! A quantile of what was measured lately, kept by many threads without a lock.
//!
//! A histogram of atomics: each power of two is cut into equal buckets, so that the error is in
//! proportion to the value. Counts are halved from time to time, so that what is long ago fades. The
//! quantile itself is worked out by one of the threads that record, a few times a second, and all others
//! read the result.

use std::fmt;
use std::time::Duration;

use crate::math::Moment;
use crate::math::atomic::{AtomicU64, Ordering};

/// What one sample counts, so that halving leaves something of it ten times.
const UNIT: u64 = 1 << 10;

/// How old the quantile may be while samples come.
const REFRESH: Duration = Duration::from_millis(100);

/// A quantile of the durations that were recorded, the later ones above all.
///
/// # Accuracy
/// The value is never below the quantile of the samples, by nearest rank, and above it by at most one part
/// in 32 and a microsecond. Durations over 71 minutes count as those. It is worked out anew every 100 ms while
/// samples come.
///
/// # Memory
/// Every half-life, 10 s by default, each sample counts half of what it did; but never so that fewer than
/// the least number of samples are left, so that a caller who calls seldom keeps its estimate.
///
/// # Cost
/// A sample costs one atomic addition and a look at the time of the next refresh; every 100 ms one of them
/// costs a walk over 896 buckets. No lock, and no allocation after the first: 7 KiB.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::math::{Moment, RunningQuantile};
///
/// let p95 = RunningQuantile::new(0.95);
/// let mut now = Moment::from_nanos(0);
/// for millis in (1..=100).cycle().take(1_000) {
///     now = now + Duration::from_millis(1);
///     p95.record(Duration::from_millis(millis), now);
/// }
/// let millis = p95.value().unwrap().as_secs_f64() * 1e3;
/// assert!((95.0..98.1).contains(&millis));
/// ```
pub struct RunningQuantile {
    /// Of samples, in `UNIT`s, halved as time goes by.
    counts: Box<[AtomicU64]>,
    precision_bits: u32,
    quantile: f64,
    min_samples: u64,
    half_life: Duration,
    /// In microseconds; 0 while it is not known.
    value: AtomicU64,
    /// Nanoseconds of the moments when the next ones are due; 0 before the first.
    refresh_at: AtomicU64,
    decay_at: AtomicU64,
}

impl RunningQuantile {
    /// Of this quantile, 0 to 1; what is none counts as the nearest that is, and NaN as 1. Known from 100
    /// samples on.
    pub fn new(quantile: f64) -> Self {
        let this = Self {
            counts: Box::default(),
            precision_bits: 0,
            quantile: match quantile.is_nan() {
                true => 1.0,
                false => quantile.clamp(0.0, 1.0),
            },
            min_samples: 100,
            half_life: Duration::from_secs(10),
            value: AtomicU64::new(0),
            refresh_at: AtomicU64::new(0),
            decay_at: AtomicU64::new(0),
        };
        this.with_resolution(5, 32)
    }

    /// From how many samples on there is a value, and how many are kept at least; at least 1, default 100.
    #[must_use]
    pub fn with_min_samples(mut self, samples: u32) -> Self {
        self.min_samples = samples.max(1).into();
        self
    }

    /// After what time a sample counts half; at least 1 ms, default 10 s: with this the samples of the last
    /// 30 s, which Finagle's backup requests go by, are seven eighths of all that counts.
    #[must_use]
    pub fn with_half_life(mut self, half_life: Duration) -> Self {
        self.half_life = half_life.max(Duration::from_millis(1));
        self
    }

    /// Cuts each power of two into 2^`precision_bits` buckets (0 to 10 bits, default 5), up to
    /// 2^`octaves` microseconds (at most 40, default 32). Forgets what was recorded.
    #[must_use]
    pub fn with_resolution(mut self, precision_bits: u32, octaves: u32) -> Self {
        self.precision_bits = precision_bits.min(10);
        let octaves = octaves.clamp(self.precision_bits + 1, 40);
        let buckets = (octaves - self.precision_bits + 1) << self.precision_bits;
        self.counts = (0..buckets).map(|_| AtomicU64::new(0)).collect();
        self.value = AtomicU64::new(0);
        self
    }

    /// Adds a sample, taken at `now`.
    #[inline]
    pub fn record(&self, sample: Duration, now: Moment) {
        // Rounded up: what is told is never below what was recorded.
        let fraction = sample.subsec_nanos().div_ceil(1_000);
        let micros = sample.as_secs().saturating_mul(1_000_000);
        let micros = micros.saturating_add(fraction.into());
        self.counts[self.bucket(micros)].fetch_add(UNIT, Ordering::Relaxed);
        let due = self.refresh_at.load(Ordering::Relaxed);
        if now.as_nanos() >= due && take(&self.refresh_at, due, now + REFRESH) {
            self.refresh(now);
        }
    }

    /// The quantile; `None` while there are not samples enough.
    #[inline]
    pub fn value(&self) -> Option<Duration> {
        match self.value.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(Duration::from_micros(micros)),
        }
    }

    /// How many samples count, as much as they do. Walks over all buckets.
    pub fn samples(&self) -> f64 {
        self.total() as f64 / UNIT as f64
    }

    /// Works the quantile out anew, for those who cannot wait for the next 100 ms.
    #[cold]
    pub fn refresh(&self, now: Moment) {
        self.decay(now);
        let total = self.total();
        if total < self.min_samples * UNIT {
            return;
        }
        // By nearest rank. What others add meanwhile cannot take the sum below it.
        let rank = (self.quantile * total as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count.load(Ordering::Relaxed);
            if below >= rank {
                let micros = self.upper_end(bucket).max(1);
                self.value.store(micros, Ordering::Relaxed);
                return;
            }
        }
    }

    fn total(&self) -> u64 {
        self.counts.iter().map(|c| c.load(Ordering::Relaxed)).sum()
    }

    fn decay(&self, now: Moment) {
        let due = self.decay_at.load(Ordering::Relaxed);
        if due > now.as_nanos() || !take(&self.decay_at, due, now + self.half_life) || due == 0 {
            return;
        }
        let late = now.since(Moment::from_nanos(due)).as_nanos() / self.half_life.as_nanos();
        let kept = (self.total() / (self.min_samples * UNIT)).checked_ilog2();
        let halvings = u32::try_from(late + 1).unwrap_or(u32::MAX);
        let halvings = halvings.min(kept.unwrap_or(0));
        if halvings == 0 {
            return;
        }
        for count in &self.counts {
            if count.load(Ordering::Relaxed) > 0 {
                // Not a store: what others add at this moment stays.
                let relaxed = Ordering::Relaxed;
                let _ = count.fetch_update(relaxed, relaxed, |count| Some(count >> halvings));
            }
        }
    }

    /// The first two octaves that the precision can tell apart have a bucket for each microsecond; from
    /// there on an octave has as many as the one before, each twice as wide.
    fn bucket(&self, micros: u64) -> usize {
        let octave = micros.max(1).ilog2();
        let shift = octave.saturating_sub(self.precision_bits);
        let bucket = (u64::from(shift) << self.precision_bits) + (micros >> shift);
        usize::try_from(bucket).map_or(usize::MAX, |bucket| bucket.min(self.counts.len() - 1))
    }

    /// The longest that falls into this bucket.
    fn upper_end(&self, bucket: usize) -> u64 {
        let bucket = bucket as u64;
        let shift = (bucket >> self.precision_bits).saturating_sub(1);
        let mantissa = bucket - (shift << self.precision_bits);
        ((mantissa + 1) << shift) - 1
    }
}

/// Whether what is due now falls to this thread, and to no other.
fn take(at: &AtomicU64, due: u64, next: Moment) -> bool {
    // Never 0, which is before the first.
    let next = next.as_nanos().max(1);
    at.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
}

impl fmt::Debug for RunningQuantile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RunningQuantile")
            .field("quantile", &self.quantile)
            .field("value", &self.value())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
