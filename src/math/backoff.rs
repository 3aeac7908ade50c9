//! Delays between attempts to connect, as gRPC's connection-backoff document has them.
//!
//! The delay grows geometrically up to a cap, so that a dead endpoint costs little; jitter is laid
//! on after the cap, so that many clients of a server that comes back do not all dial at once.

use std::time::Duration;

use crate::math::Rng;

/// How long to wait before the next attempt to connect.
///
/// Defaults from gRPC's connection-backoff document: 1 s, × 1.6, at most 120 s, ± 20 %.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::math::{Backoff, Rng};
///
/// let backoff = Backoff::default().with_jitter(0.0);
/// let mut rng = Rng::new(1);
/// assert_eq!(backoff.delay(0, &mut rng), Duration::from_secs(1));
/// assert_eq!(backoff.delay(1, &mut rng), Duration::from_millis(1600));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    base: Duration,
    multiplier: f64,
    max: Duration,
    jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            multiplier: 1.6,
            max: Duration::from_secs(120),
            jitter: 0.2,
        }
    }
}

impl Backoff {
    /// The first delay; default 1 s.
    #[must_use]
    pub fn with_base(mut self, base: Duration) -> Self {
        self.base = base;
        self
    }

    /// The factor from one delay to the next, at least 1; for retries anything above 0. Default 1.6.
    #[must_use]
    pub fn with_multiplier(mut self, multiplier: f64) -> Self {
        self.multiplier = multiplier;
        self
    }

    /// The largest delay before jitter, at least the first one but for retries; default 120 s.
    #[must_use]
    pub fn with_max(mut self, max: Duration) -> Self {
        self.max = max;
        self
    }

    /// The share by which a delay is made shorter or longer at random, in `0.0..=1.0`; default 0.2.
    #[must_use]
    pub fn with_jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// The first delay.
    pub fn base(&self) -> Duration {
        self.base
    }

    /// The delay after `failures` failures before the one just seen: 0 gives the base.
    pub fn delay(&self, failures: u32, rng: &mut Rng) -> Duration {
        let exponent = i32::try_from(failures).unwrap_or(i32::MAX);
        let grown = self.base.as_secs_f64() * self.multiplier.powi(exponent);
        // `min` also catches the infinity that a long outage grows to.
        let capped = grown.min(self.max.as_secs_f64());
        let jitter = 1.0 + self.jitter * (2.0 * rng.unit() - 1.0);
        Duration::try_from_secs_f64(capped * jitter).unwrap_or(self.max)
    }

    /// What would dial without pause or not at all, if anything.
    pub(crate) fn mistake(&self) -> Option<&'static str> {
        if self.max < self.base {
            Some("the maximum is less than the base delay")
        } else if self.multiplier < 1.0 {
            Some("the multiplier is not at least 1")
        } else {
            self.mistake_of_few()
        }
    }

    /// What cannot be used where attempts are few: gRFC A6 has delays that grow less or never reach the base.
    pub(crate) fn mistake_of_few(&self) -> Option<&'static str> {
        if self.base.is_zero() {
            Some("the base delay is zero")
        } else if self.max.is_zero() {
            Some("the maximum is zero")
        } else if !(self.multiplier > 0.0 && self.multiplier.is_finite()) {
            Some("the multiplier is not a finite number above 0")
        } else if !(0.0..=1.0).contains(&self.jitter) {
            Some("the jitter is not between 0 and 1")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_as_grpc_says() {
        let backoff = Backoff::default().with_jitter(0.0);
        let mut rng = Rng::new(0);
        let want = [
            1.0, 1.6, 2.56, 4.096, 6.5536, 10.48576, 16.777216, 26.843546, 42.949673, 68.719477,
            109.951163, 120.0, 120.0,
        ];
        for (failures, want) in want.into_iter().enumerate() {
            let got = backoff.delay(failures as u32, &mut rng).as_secs_f64();
            assert!(
                (got - want).abs() < 1e-6,
                "after {failures} failures: {got}, not {want}"
            );
        }
        assert_eq!(backoff.delay(u32::MAX, &mut rng), Duration::from_secs(120));
    }

    #[test]
    fn jitter_is_laid_on_after_the_cap() {
        let backoff = Backoff::default();
        let mut rng = Rng::new(5);
        let delays: Vec<f64> = (0..1000)
            .map(|_| backoff.delay(50, &mut rng).as_secs_f64())
            .collect();
        let (min, max) = delays
            .iter()
            .fold((f64::MAX, 0.0_f64), |(lo, hi), &d| (lo.min(d), hi.max(d)));
        assert!(
            (96.0..100.0).contains(&min) && (140.0..=144.0).contains(&max),
            "{min}..{max}"
        );
    }

    #[test]
    fn nonsense_is_a_mistake() {
        let good = Backoff::default();
        assert_eq!(good.mistake(), None);
        for bad in [
            good.with_base(Duration::ZERO),
            good.with_max(Duration::from_millis(1)),
            good.with_multiplier(0.5),
            good.with_multiplier(f64::NAN),
            good.with_jitter(1.5),
        ] {
            assert!(bad.mistake().is_some(), "{bad:?} cannot be used");
        }
    }
    #[test]
    fn few_attempts_may_have_delays_that_do_not_grow() {
        let good = Backoff::default().with_jitter(0.0);
        let shrinking = good.with_multiplier(0.5);
        let cut = good.with_max(Duration::from_millis(300));
        for backoff in [shrinking, cut] {
            assert_eq!(backoff.mistake_of_few(), None, "{backoff:?}");
            assert!(backoff.mistake().is_some(), "not for dials: {backoff:?}");
        }
        let mut rng = Rng::new(1);
        let millis = |backoff: Backoff, rng: &mut Rng| backoff.delay(1, rng).as_millis();
        assert_eq!(millis(shrinking, &mut rng), 500, "half of the first");
        assert_eq!(millis(cut, &mut rng), 300, "the maximum holds for all");
        for bad in [
            good.with_base(Duration::ZERO),
            good.with_max(Duration::ZERO),
            good.with_multiplier(0.0),
            good.with_multiplier(f64::NAN),
            good.with_multiplier(f64::INFINITY),
            good.with_jitter(1.1),
        ] {
            assert!(bad.mistake_of_few().is_some(), "{bad:?}");
        }
        for multiplier in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let mistake = good.with_multiplier(multiplier).mistake_of_few();
            let told = Some("the multiplier is not a finite number above 0");
            assert_eq!(mistake, told, "{multiplier}");
        }
    }
}
