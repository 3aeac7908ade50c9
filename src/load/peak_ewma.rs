use std::time::Duration;

use crate::math::Moment;
use crate::math::atomic::{AtomicU64, Ordering};

/// A moving average of latencies that follows a rise at once and a fall slowly.
///
/// A latency above the average becomes the average; one below it moves the average towards itself by
/// `1 - e^(-t / decay)`, where `t` is the time since the last one. So a server that turns slow shows in
/// one answer, and has to be fast for a while before it is believed again. Between answers the average
/// decays towards 0 by the same rule, so that an endpoint that nobody calls is tried again.
///
/// The idea is Finagle's *peak EWMA*; the [`Decay`] is an argument of each call (10 s there and here by
/// default), since what is kept per endpoint has to stay small: latency and time share one word, so that
/// reading is one load and observing one compare-exchange, and neither takes a lock. Latencies are kept
/// to 7 digits and times to 66 µs; of an endpoint that was idle for 78 hours or more, the decay is
/// forgotten once, and the first pick sees its latency as younger than it is. A time up to 69 s before
/// the last one counts as the same.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::load::{Decay, PeakEwma};
/// use evenkeel::math::Moment;
///
/// let ten_seconds = Duration::from_secs(10);
/// let decay = Decay::from(ten_seconds);
/// let start = Moment::from_nanos(0);
/// let ewma = PeakEwma::new();
/// assert_eq!(ewma.seconds(start, decay), None, "nothing is known yet");
///
/// ewma.observe(Duration::from_secs(1), start, decay);
/// let later = start + ten_seconds;
/// ewma.observe(Duration::ZERO, later, decay);
/// let e = std::f32::consts::E;
/// assert!((ewma.seconds(later, decay).unwrap() - 1.0 / e).abs() < 1e-4);
/// ```
#[derive(Debug, Default)]
pub struct PeakEwma {
    /// Seconds as an `f32` in the high half, the time of the last observation in the low one. 0 is
    /// nothing observed.
    word: AtomicU64,
}

/// The unit of time, in bits of a nanosecond count: 65.5 µs.
const STAMP_SHIFT: u32 = 16;

/// How far a time may lie before the last one and still be told from one long after it: 69 s. It comes
/// from a thread that looked at the clock and was then held up.
const MAX_STEPS_BACK: u32 = 1 << 20;

/// The part of a decay under which three terms of the exponential are as good as an `f32` is.
const SHORT: f32 = 1.0 / 128.0;

/// What stands for a latency of 0, so that it is told from nothing observed.
const LEAST: f32 = 1e-9;

impl PeakEwma {
    /// Nothing observed.
    pub fn new() -> Self {
        Self::default()
    }

    /// An answer took `latency`; it came at `now`.
    pub fn observe(&self, latency: Duration, now: Moment, decay: Decay) {
        let latency = latency.as_secs_f32().max(LEAST);
        let stamp = stamp(now);
        let mut old = self.word.load(Ordering::Relaxed);
        loop {
            let new = match unpack(old) {
                Some((average, at)) => {
                    let kept = kept(stamp, at, decay);
                    // An observation that came late must not turn the time back.
                    let at = if kept < 1.0 { stamp } else { at };
                    let fallen = latency + (average - latency) * kept;
                    pack(latency.max(fallen), at)
                }
                None => pack(latency, stamp),
            };
            match self
                .word
                .compare_exchange_weak(old, new, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(changed) => old = changed,
            }
        }
    }

    /// As if nothing had been observed: what is there now may be another server, or a server that works
    /// again, and a penalty of seconds would keep calls from it for minutes.
    pub(crate) fn forget(&self) {
        // A plain load keeps the line shared where nothing is measured.
        if self.word.load(Ordering::Relaxed) != 0 {
            self.word.store(0, Ordering::Relaxed);
        }
    }

    /// The average in seconds as it was at the last observation, or `None` if nothing was ever observed.
    pub(crate) fn last_seconds(&self) -> Option<f32> {
        let (average, _) = unpack(self.word.load(Ordering::Relaxed))?;
        Some(average)
    }

    /// The average in seconds as of `now`, or `None` if nothing was ever observed. Changes nothing.
    #[inline]
    pub fn seconds(&self, now: Moment, decay: Decay) -> Option<f32> {
        let (average, at) = unpack(self.word.load(Ordering::Relaxed))?;
        Some(average * kept(stamp(now), at, decay))
    }
}

/// How fast a [`PeakEwma`] forgets, made ready for use: from the time after which 37 % of an old latency
/// is left. A time of 0 forgets at once.
///
/// ```
/// # use std::time::Duration;
/// # use evenkeel::load::Decay;
/// let decay = Decay::from(Duration::from_secs(10));
/// # let _ = decay;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Decay {
    /// One over the decay's length in steps of a stamp.
    per_step: f32,
}

impl From<Duration> for Decay {
    fn from(time: Duration) -> Self {
        let step = (1_u32 << STAMP_SHIFT) as f32 * 1e-9;
        Self {
            per_step: step / time.as_secs_f32().max(LEAST),
        }
    }
}

impl Decay {
    /// How much is left after so many steps.
    #[inline]
    fn kept(self, steps: u32) -> f32 {
        let part = steps as f32 * self.per_step;
        if part < SHORT {
            // The first terms of the exponential: nearly all reads are this close to the last answer,
            // and the whole of it costs as much as the rest of a pick.
            1.0 - part + 0.5 * part * part
        } else {
            (-part).exp()
        }
    }
}

#[inline]
fn stamp(now: Moment) -> u32 {
    // Cut to 32 bits on purpose: differences wrap.
    (now.as_nanos() >> STAMP_SHIFT) as u32
}

/// How much of an average is left: 1 if `now` is not later than `at`.
#[inline]
fn kept(now: u32, at: u32, decay: Decay) -> f32 {
    let steps = now.wrapping_sub(at);
    if steps == 0 || steps > u32::MAX - MAX_STEPS_BACK {
        return 1.0;
    }
    decay.kept(steps)
}

#[inline]
fn pack(average: f32, at: u32) -> u64 {
    u64::from(average.max(LEAST).to_bits()) << 32 | u64::from(at)
}

#[inline]
fn unpack(word: u64) -> Option<(f32, u32)> {
    let average = f32::from_bits((word >> 32) as u32);
    (word != 0).then_some((average, word as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN_SECONDS: Duration = Duration::from_secs(10);

    fn at(seconds: f64) -> Moment {
        Moment::from_origin(Duration::from_secs_f64(seconds))
    }

    fn seconds(ewma: &PeakEwma, now: Moment) -> f32 {
        ewma.seconds(now, TEN_SECONDS.into())
            .expect("something was observed")
    }

    #[test]
    fn a_rise_counts_at_once_and_a_fall_by_its_age() {
        let ewma = PeakEwma::new();
        ewma.observe(Duration::from_millis(10), at(1.0), TEN_SECONDS.into());
        ewma.observe(Duration::from_millis(500), at(1.0), TEN_SECONDS.into());
        assert!((seconds(&ewma, at(1.0)) - 0.5).abs() < 1e-6, "the peak");
        ewma.observe(Duration::from_millis(10), at(11.0), TEN_SECONDS.into());
        let expected = 0.01 + 0.49 * (-1.0_f32).exp();
        assert!((seconds(&ewma, at(11.0)) - expected).abs() < 1e-5);
    }

    #[test]
    fn reading_decays_and_changes_nothing() {
        let ewma = PeakEwma::new();
        ewma.observe(Duration::from_secs(1), at(0.0), TEN_SECONDS.into());
        for _ in 0..3 {
            let read = seconds(&ewma, at(10.0));
            assert!((read - (-1.0_f32).exp()).abs() < 1e-5, "{read}");
        }
        assert!(
            (seconds(&ewma, at(0.0)) - 1.0).abs() < 1e-6,
            "it is as it was"
        );
    }

    #[test]
    fn a_moment_before_the_last_one_is_taken_as_the_same() {
        let ewma = PeakEwma::new();
        ewma.observe(Duration::from_secs(1), at(5.0), TEN_SECONDS.into());
        ewma.observe(Duration::from_millis(1), at(1.0), TEN_SECONDS.into());
        assert!((seconds(&ewma, at(5.0)) - 1.0).abs() < 1e-6);
        assert!((seconds(&ewma, at(4.0)) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn an_endpoint_that_was_idle_for_days_has_its_past_forgotten() {
        for hours in [1.0, 38.0, 40.0, 60.0, 77.0] {
            let ewma = PeakEwma::new();
            ewma.observe(Duration::from_secs(5), at(0.0), TEN_SECONDS.into());
            let now = hours * 3_600.0;
            let read = seconds(&ewma, at(now));
            assert!(read < 1e-6, "read after {hours} h: {read}");
            ewma.observe(Duration::from_millis(10), at(now), TEN_SECONDS.into());
            let read = seconds(&ewma, at(now + 1.0));
            assert!(read < 0.011, "the first answer after {hours} h: {read}");
        }
    }

    #[test]
    fn zero_and_huge_are_values_like_others() {
        let ewma = PeakEwma::new();
        ewma.observe(Duration::ZERO, at(0.0), Duration::ZERO.into());
        assert!(seconds(&ewma, at(0.0)) < 1e-8, "observed, and nothing");
        ewma.observe(Duration::MAX, at(1.0), Duration::MAX.into());
        assert!(seconds(&ewma, at(2.0)).is_finite());
    }

    #[test]
    fn the_short_way_and_the_long_way_agree() {
        let decay = Decay::from(TEN_SECONDS);
        for steps in (0..200_000).step_by(37) {
            let exact = (-f64::from(steps as f32) * f64::from(decay.per_step)).exp();
            let kept = f64::from(decay.kept(steps));
            assert!(
                (kept - exact).abs() < 2e-7,
                "{steps} steps: {kept}, not {exact}"
            );
        }
    }

    #[test]
    fn many_small_steps_come_to_the_same_as_few() {
        // 1 kHz of answers at 10 ms after a peak of 1 s: after 10 s, e^-1 of the rise is left.
        let ewma = PeakEwma::new();
        ewma.observe(Duration::from_secs(1), at(0.0), TEN_SECONDS.into());
        for ms in 1..=10_000 {
            ewma.observe(
                Duration::from_millis(10),
                at(f64::from(ms) / 1e3),
                TEN_SECONDS.into(),
            );
        }
        let expected = 0.01 + 0.99 * (-1.0_f32).exp();
        assert!((seconds(&ewma, at(10.0)) - expected).abs() < 2e-3);
    }
}
