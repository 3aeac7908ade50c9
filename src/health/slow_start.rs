//! Who is new, or back, gets its part of the calls little by little.
//!
//! A server that has just started is slow: its caches are empty, its code is not compiled yet, its own
//! connections are not there. With its full part of the calls at once it fails some, or is ejected again. So its
//! weight is multiplied by a factor that grows from a small one to 1.

use std::time::Duration;

use crate::error::Error;

/// The time that counts at least, as in Envoy: so that no factor is 0.
const LEAST_TIME: Duration = Duration::from_millis(1);

/// The factor of an endpoint changes this often in its window, unless that is more or less often than the next
/// two say.
const STEPS: u32 = 20;
const SHORTEST_STEP: Duration = Duration::from_millis(100);
const LONGEST_STEP: Duration = Duration::from_secs(1);

/// How the part of the calls grows that an endpoint gets that is new, or back: by Envoy's formula. Off unless a
/// builder is given one.
///
/// Its weight is multiplied by
///
/// ```text
/// max(min_weight_percent / 100, (max(t, 1 ms) / window) ^ (1 / aggression))
/// ```
///
/// for the time `t` since it began, and no more once `t` is the window.
///
/// | setting | default | source |
/// |---|---|---|
/// | [window](Self::new) | none: slow start is off | Envoy `slow_start_window` |
/// | [`aggression`](Self::with_aggression) | 1, a straight line | Envoy `aggression` |
/// | [`min_weight_percent`](Self::with_min_weight_percent) | 10 % | Envoy `min_weight_percent` |
///
/// # When it begins
/// When an endpoint can be used
/// - for the first time, by its first connection;
/// - by the first connection after one that could not be made, or whose service broke or asked to be left alone;
/// - by its health check, after that said that it is not serving;
/// - again after an ejection: when the probing call went well.
///
/// A connection that ends, or is replaced for its age, and is there again at the first dial begins nothing, and
/// what is under way goes on: a server that sends GOAWAY because the connection is old is as warm as before. One that
/// restarts refuses dials for a moment, and so begins anew.
///
/// Endpoints that begin within a twentieth of the window of each other count from the first of them: those that
/// are all new together have equal weights, and so it is as if there were no slow start.
///
/// # Whom it concerns
/// The policies that look at weights: [`WeightedRoundRobin`], [`WeightedRandom`], [`OrcaWeightedRoundRobin`],
/// [`LeastRequest`], [`PeakEwma`] and [`Adaptive`], also where all endpoints have equal weights. While some factor
/// differs, the last three choose as their pages say of weights that differ. Not [`RoundRobin`], [`Random`] and
/// [`PickFirst`], nor those that hash, where a key would move twice; nor [`Prequal`] and [`C3`], which know no
/// weights. A policy of one's own finds the factor at
/// [`Candidate::slow_start_factor`](crate::policy::Candidate::slow_start_factor).
///
/// # What it costs
/// While somebody is in its window, the set is published anew with new factors twenty times a window, but not
/// more often than each 100 ms nor less often than each second, whatever the policy. So a factor is up to one such
/// step old. Otherwise nothing: no call, and no pick, knows of it.
///
/// [`WeightedRoundRobin`]: crate::policy::WeightedRoundRobin
/// [`WeightedRandom`]: crate::policy::WeightedRandom
/// [`OrcaWeightedRoundRobin`]: crate::policy::OrcaWeightedRoundRobin
/// [`LeastRequest`]: crate::policy::LeastRequest
/// [`PeakEwma`]: crate::policy::PeakEwma
/// [`Adaptive`]: crate::policy::Adaptive
/// [`RoundRobin`]: crate::policy::RoundRobin
/// [`Random`]: crate::policy::Random
/// [`PickFirst`]: crate::policy::PickFirst
/// [`Prequal`]: crate::policy::Prequal
/// [`C3`]: crate::policy::C3
///
/// ```
/// use std::time::Duration;
/// use evenkeel::health::SlowStart;
///
/// let rules = SlowStart::new(Duration::from_secs(60));
/// assert_eq!(rules.factor(Duration::ZERO), 0.1, "it gets calls from the beginning");
/// assert_eq!(rules.factor(Duration::from_secs(12)), 0.2);
/// assert_eq!(rules.factor(Duration::from_secs(60)), 1.0);
///
/// let balance = evenkeel::Balance::builder().slow_start(rules.with_aggression(2.0));
/// # let _ = balance;
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    window: Duration,
    aggression: f64,
    min_weight_percent: f64,
}

impl SlowStart {
    /// Over this long a time; more than zero.
    pub fn new(window: Duration) -> Self {
        Self {
            window,
            aggression: 1.0,
            min_weight_percent: 10.0,
        }
    }

    /// How fast the factor grows at first: at 1 in a straight line; above, fast and then slowly; below, slowly and
    /// then fast. More than 0; default 1.
    #[must_use]
    pub fn with_aggression(mut self, aggression: f64) -> Self {
        self.aggression = aggression;
        self
    }

    /// The least that the weight is multiplied by, in percent: more than 0 (which Envoy allows), so that an endpoint
    /// is called at all, and at most 100. Less than one part in 65,535, which is 0.0015 %, counts as that: what
    /// policies multiply by is kept in such [parts](crate::policy::Candidate::with_slow_start_factor). Default 10.
    #[must_use]
    pub fn with_min_weight_percent(mut self, percent: f64) -> Self {
        self.min_weight_percent = percent;
        self
    }

    /// How long it takes to the full weight.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// What the weight is multiplied by at this time since the beginning: more than 0, at most 1.
    pub fn factor(&self, time: Duration) -> f64 {
        if time >= self.window {
            return 1.0;
        }
        let part = time.max(LEAST_TIME).as_secs_f64() / self.window.as_secs_f64();
        let grown = part.powf(1.0 / self.aggression);
        grown.max(self.min_weight_percent / 100.0).min(1.0)
    }

    /// The time between two factors.
    pub(crate) fn step(&self) -> Duration {
        let step = (self.window / STEPS).clamp(SHORTEST_STEP, LONGEST_STEP);
        step.min(self.window)
    }

    /// Who begins within this time of another one counts from that one's beginning.
    pub(crate) fn together(&self) -> Duration {
        self.window / STEPS
    }

    /// # Errors
    /// A window of zero; an aggression that is not a finite number above 0; a least weight that is not above 0 and
    /// at most 100 %.
    pub fn validate(&self) -> Result<(), Error> {
        if self.window.is_zero() {
            return Err(Error::config("slow_start.window", "is zero"));
        }
        let aggression = self.aggression;
        if !(aggression.is_finite() && aggression > 0.0) {
            let mistake = format!("{aggression} is not a finite number above 0");
            return Err(Error::config("slow_start.aggression", mistake));
        }
        let percent = self.min_weight_percent;
        if !(percent > 0.0 && percent <= 100.0) {
            let mistake = format!("{percent} is not above 0 and at most 100");
            return Err(Error::config("slow_start.min_weight_percent", mistake));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::math::testing::seeded;

    const SECOND: Duration = Duration::from_secs(1);

    fn minute() -> SlowStart {
        SlowStart::new(60 * SECOND)
    }

    #[test]
    fn the_factor_is_envoys() {
        let near = |factor: f64, expected: f64| (factor - expected).abs() < 1e-12;
        assert!(near(minute().factor(12 * SECOND), 0.2), "12 s of 60 s");
        let root = minute().with_aggression(2.0);
        assert!(
            near(root.factor(6 * SECOND), 0.1_f64.sqrt()),
            "0.316: the square root of a tenth"
        );
        let square = minute().with_aggression(0.5);
        assert!(near(square.factor(30 * SECOND), 0.25), "half, squared");
        assert!(near(square.factor(SECOND), 0.1), "10 % at least");
        let small = minute().with_min_weight_percent(1e-9);
        assert!(
            near(small.factor(Duration::ZERO), 0.001 / 60.0),
            "a millisecond counts at least"
        );
        for past in [60 * SECOND, 61 * SECOND, Duration::MAX] {
            assert_eq!(square.factor(past), 1.0, "it is over");
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let rules = minute();
        for (rules, field) in [
            (SlowStart::new(Duration::ZERO), "window"),
            (rules.with_aggression(0.0), "aggression"),
            (rules.with_aggression(-1.0), "aggression"),
            (rules.with_aggression(f64::NAN), "aggression"),
            (rules.with_aggression(f64::INFINITY), "aggression"),
            (rules.with_min_weight_percent(0.0), "min_weight_percent"),
            (rules.with_min_weight_percent(-1.0), "min_weight_percent"),
            (rules.with_min_weight_percent(100.1), "min_weight_percent"),
            (
                rules.with_min_weight_percent(f64::NAN),
                "min_weight_percent",
            ),
        ] {
            let error = rules.validate().unwrap_err();
            let name = format!("slow_start.{field}");
            assert!(error.is_config(), "{error}");
            assert_eq!(error.field(), Some(&*name), "{error}");
        }
        assert!(rules.with_min_weight_percent(100.0).validate().is_ok());
        assert!(SlowStart::new(Duration::MAX).validate().is_ok());
    }

    #[test]
    fn steps_are_a_twentieth_of_the_window_within_bounds() {
        for (window_ms, step_ms) in [(60_000, 1_000), (10_000, 500), (1_000, 100), (30, 30)] {
            let rules = SlowStart::new(Duration::from_millis(window_ms));
            let step = Duration::from_millis(step_ms);
            assert_eq!(rules.step(), step, "of a window of {window_ms} ms");
        }
        assert_eq!(SlowStart::new(Duration::MAX).step(), SECOND);
    }

    proptest! {
        #![proptest_config(seeded(512, 83))]

        #[test]
        fn the_factor_grows_from_the_least_to_one(
            window in 1..u64::MAX,
            aggression in prop_oneof![1e-300..1e-2_f64, 1e-2..1e2_f64, 1e2..1e300_f64],
            percent in prop_oneof![f64::MIN_POSITIVE..1e-6_f64, 1e-6..100.0_f64],
            parts in (0.0..1.1_f64, 0.0..1.1_f64),
        ) {
            let window = Duration::from_nanos(window);
            let rules = SlowStart::new(window)
                .with_aggression(aggression)
                .with_min_weight_percent(percent);
            prop_assert!(rules.validate().is_ok());
            let at = |part: f64| rules.factor(window.mul_f64(part));
            let (earlier, later) = (parts.0.min(parts.1), parts.0.max(parts.1));
            let least = percent / 100.0;
            for part in [earlier, later] {
                let factor = at(part);
                prop_assert!(least <= factor && factor <= 1.0, "{rules:?}: {factor} at {part}");
            }
            prop_assert!(at(earlier) <= at(later), "{rules:?}: it never shrinks");
        }
    }
}
