//! Who fails more than the others: gRFC A50's outlier detection.
//!
//! Failures in a row find a server that is broken, and never one that fails three calls of ten. What
//! tells that one is the others: all serve the same calls, so at the end of each interval an endpoint is
//! an outlier if its part of calls that went well is far below theirs. How far is measured in standard
//! deviations, so that a fleet which is uneven by nature loses nobody, nor one of which all fail alike.

use std::time::Duration;

use crate::error::Error;
use crate::math::Rng;
use crate::math::atomic::{AtomicU32, Ordering};

/// What is looked at after each interval. An ejection by it lasts as one by
/// [failures in a row](crate::health::Ejection), counts towards the same greatest share of endpoints, and
/// ends by a probing call too.
///
/// | setting | default | source |
/// |---|---|---|
/// | interval | 10 s | gRFC A50 `interval` |
/// | [`SuccessRate`] | on | gRFC A50 `success_rate_ejection`; Envoy |
/// | [`FailurePercentage`] | off | gRFC A50 `failure_percentage_ejection`; Envoy |
///
/// ```
/// use evenkeel::health::{Ejection, FailurePercentage, OutlierDetection};
///
/// let outliers = OutlierDetection::default().with_failure_percentage(FailurePercentage::default());
/// let ejection = Ejection::default().with_outlier_detection(outliers);
/// # let _ = ejection;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    interval: Duration,
    success_rate: Option<SuccessRate>,
    failure_percentage: Option<FailurePercentage>,
}

/// Outlier is whose success rate is under the mean of all less so many standard deviations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuccessRate {
    /// Standard deviations, in thousandths; default 1,900. More ejects fewer.
    pub stdev_factor: u32,
    /// How many of a hundred outliers are ejected; default 100, at most 100.
    pub enforcement_percentage: u32,
    /// With fewer endpoints of enough calls nobody is judged; default 5.
    pub minimum_hosts: u32,
    /// Calls that ended in the interval, with less of which an endpoint is neither judged nor in the mean;
    /// default 100.
    pub request_volume: u32,
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self {
            stdev_factor: 1_900,
            enforcement_percentage: 100,
            minimum_hosts: 5,
            request_volume: 100,
        }
    }
}

/// Outlier is who fails more than so many of a hundred calls, whatever the others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailurePercentage {
    /// Failures of a hundred calls; default 85, at most 100, which nobody exceeds.
    pub threshold: u32,
    /// How many of a hundred outliers are ejected; default 100, at most 100.
    pub enforcement_percentage: u32,
    /// With fewer endpoints of enough calls nobody is judged; default 5.
    pub minimum_hosts: u32,
    /// Calls that ended in the interval, with less of which an endpoint is not judged; default 50.
    pub request_volume: u32,
}

impl Default for FailurePercentage {
    fn default() -> Self {
        Self {
            threshold: 85,
            enforcement_percentage: 100,
            minimum_hosts: 5,
            request_volume: 50,
        }
    }
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            success_rate: Some(SuccessRate::default()),
            failure_percentage: None,
        }
    }
}

impl OutlierDetection {
    /// How long calls are counted until the endpoints are compared; default 10 s. Less finds outliers
    /// sooner, and needs as many more calls a second.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Compares success rates, or does not.
    #[must_use]
    pub fn with_success_rate(mut self, rule: impl Into<Option<SuccessRate>>) -> Self {
        self.success_rate = rule.into();
        self
    }

    /// Looks at failures of a hundred, or does not.
    #[must_use]
    pub fn with_failure_percentage(mut self, rule: impl Into<Option<FailurePercentage>>) -> Self {
        self.failure_percentage = rule.into();
        self
    }

    /// How long calls are counted.
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// Refuses percentages over 100 and an interval of nothing.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.interval.is_zero() {
            return Err(Error::config("outlier_detection", "interval is zero"));
        }
        let mut percentages = Vec::new();
        if let Some(rule) = self.success_rate {
            percentages.push(("enforcement_percentage", rule.enforcement_percentage));
        }
        if let Some(rule) = self.failure_percentage {
            percentages.push(("enforcement_percentage", rule.enforcement_percentage));
            percentages.push(("threshold", rule.threshold));
        }
        match percentages.into_iter().find(|(_, percent)| *percent > 100) {
            None => Ok(()),
            Some((name, percent)) => {
                let mistake = format!("{name} is {percent}, over 100");
                Err(Error::config("outlier_detection", mistake))
            }
        }
    }

    /// Hands out each endpoint to be ejected by what was counted of it, `counts` in the order of endpoints:
    /// its place there, and by which rule. One may come by both rules.
    pub fn judge(&self, counts: &[Counts], rng: &mut Rng, mut eject: impl FnMut(usize, Cause)) {
        if let Some(rule) = self.success_rate {
            rule.judge(counts, rng, &mut eject);
        }
        if let Some(rule) = self.failure_percentage {
            rule.judge(counts, rng, &mut eject);
        }
    }
}

/// Why an endpoint is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// So many calls in a row failed.
    ConsecutiveFailures,
    /// So many times in a row it had no room.
    ConsecutiveOverloads,
    /// See [`SuccessRate`].
    SuccessRate,
    /// See [`FailurePercentage`].
    FailurePercentage,
}

impl Cause {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "consecutive failures",
            Self::ConsecutiveOverloads => "consecutive overload answers",
            Self::SuccessRate => "success rate",
            Self::FailurePercentage => "failure percentage",
        }
    }
}

impl SuccessRate {
    fn judge(&self, counts: &[Counts], rng: &mut Rng, eject: &mut impl FnMut(usize, Cause)) {
        let judged = enough(counts, self.request_volume, self.minimum_hosts);
        let rate = |index: &usize| counts[*index].success_rate();
        let Some(first) = judged.first().map(rate) else {
            return;
        };
        let n = judged.len() as f64;
        // From the first one on: of rates that are all the same a plain sum may be rounded to more than
        // they are, and then all would be under their mean.
        let mean = first + judged.iter().map(|i| rate(i) - first).sum::<f64>() / n;
        let variance = judged.iter().map(|i| (rate(i) - mean).powi(2)).sum::<f64>() / n;
        let least = mean - variance.sqrt() * f64::from(self.stdev_factor) / 1_000.0;
        for index in judged {
            if rate(&index) < least && enforced(self.enforcement_percentage, rng) {
                eject(index, Cause::SuccessRate);
            }
        }
    }
}

impl FailurePercentage {
    fn judge(&self, counts: &[Counts], rng: &mut Rng, eject: &mut impl FnMut(usize, Cause)) {
        for index in enough(counts, self.request_volume, self.minimum_hosts) {
            let Counts { failures, .. } = counts[index];
            let total = u64::from(counts[index].total());
            let exceeded = u64::from(failures) * 100 > u64::from(self.threshold) * total;
            if exceeded && enforced(self.enforcement_percentage, rng) {
                eject(index, Cause::FailurePercentage);
            }
        }
    }
}

/// Who has calls enough to be judged; nobody, if those are too few.
fn enough(counts: &[Counts], request_volume: u32, minimum_hosts: u32) -> Vec<usize> {
    let all = counts.iter().enumerate();
    let judged: Vec<usize> = all
        .filter(|(_, counts)| counts.total() >= request_volume.max(1))
        .map(|(index, _)| index)
        .collect();
    if judged.len() < minimum_hosts as usize {
        return Vec::new();
    }
    judged
}

fn enforced(percentage: u32, rng: &mut Rng) -> bool {
    rng.below(100) < percentage as usize
}

/// Calls of one endpoint that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Those that went well.
    pub successes: u32,
    /// Those that failed by its fault.
    pub failures: u32,
}

impl Counts {
    fn total(&self) -> u32 {
        self.successes.saturating_add(self.failures)
    }

    /// Of a hundred. Only where there are any.
    fn success_rate(&self) -> f64 {
        100.0 * f64::from(self.successes) / f64::from(self.total())
    }
}

/// Where calls are counted.
#[derive(Debug, Default)]
pub(super) struct Bucket {
    successes: AtomicU32,
    failures: AtomicU32,
}

impl Bucket {
    #[inline]
    pub(super) fn count_success(&self) {
        self.successes.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since the last time. A call that ends meanwhile is in this or in the next count.
    pub(super) fn take(&self) -> Counts {
        Counts {
            successes: self.successes.swap(0, Ordering::Relaxed),
            failures: self.failures.swap(0, Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: &[(u32, u32)]) -> Vec<Counts> {
        let counts = |&(successes, failures)| Counts {
            successes,
            failures,
        };
        all.iter().map(counts).collect()
    }

    /// Whom this rule ejects.
    fn outliers(rules: OutlierDetection, all: &[(u32, u32)]) -> Vec<usize> {
        let mut ejected = Vec::new();
        let eject = |index, _| ejected.push(index);
        rules.judge(&counts(all), &mut Rng::new(1), eject);
        ejected
    }

    fn by_success_rate(rule: SuccessRate) -> OutlierDetection {
        OutlierDetection::default().with_success_rate(rule)
    }

    fn by_failures(rule: FailurePercentage) -> OutlierDetection {
        let rules = OutlierDetection::default().with_success_rate(None);
        rules.with_failure_percentage(rule)
    }

    const SMALL: SuccessRate = SuccessRate {
        stdev_factor: 1_900,
        enforcement_percentage: 100,
        minimum_hosts: 3,
        request_volume: 10,
    };

    const FAILS_ALL: [(u32, u32); 5] = [(20, 0), (20, 0), (0, 20), (20, 0), (20, 0)];

    #[test]
    fn one_that_fails_all_is_the_only_outlier() {
        assert_eq!(outliers(by_success_rate(SMALL), &FAILS_ALL), [2]);
    }

    #[test]
    fn too_few_calls_are_not_judged() {
        let mut all = FAILS_ALL;
        all[2] = (0, 19);
        let volume = |request_volume, minimum_hosts| {
            by_success_rate(SuccessRate {
                request_volume,
                minimum_hosts,
                ..SMALL
            })
        };
        let none: [usize; 0] = [];
        assert_eq!(outliers(volume(20, 3), &all), none, "19 calls of 20");
        assert_eq!(outliers(volume(20, 5), &all), none, "4 endpoints of 5");
        assert_eq!(outliers(volume(19, 5), &all), [2], "just enough of both");
        let nobody = outliers(volume(0, 0), &[(0, 0), (0, 0)]);
        assert_eq!(nobody, none, "no calls say nothing, whatever the volume");
    }

    #[test]
    fn the_factor_is_in_thousandths_of_the_standard_deviation() {
        let two = [(20, 0), (20, 0), (0, 20), (0, 20), (20, 0)];
        let factor = |stdev_factor| {
            by_success_rate(SuccessRate {
                stdev_factor,
                ..SMALL
            })
        };
        assert_eq!(outliers(factor(1), &two), [2, 3]);
        // Mean 60, deviation 49: 0 is 1.22 of them below.
        assert_eq!(outliers(factor(1_220), &two), [2, 3]);
        assert_eq!(outliers(factor(1_230), &two), [0; 0]);
        // Mean 90, deviation 20: the limit is 52.
        let half = [(10, 10), (20, 0), (20, 0), (20, 0), (20, 0)];
        assert_eq!(outliers(factor(1_900), &half), [0]);
        assert_eq!(outliers(factor(2_000), &half), [0; 0], "50 is not under 50");
    }

    #[test]
    fn those_that_are_alike_have_no_outlier() {
        for each in [(100, 0), (0, 100), (70, 30)] {
            let rules = by_success_rate(SuccessRate::default());
            assert_eq!(outliers(rules, &[each; 20]), [0; 0], "{each:?}");
        }
        for stdev_factor in [0, 1, 500, 1_900] {
            for hosts in 5..40 {
                for failures in 0..=97 {
                    let rules = by_success_rate(SuccessRate {
                        stdev_factor,
                        ..SMALL
                    });
                    let all = vec![(97 - failures, failures); hosts];
                    assert_eq!(
                        outliers(rules, &all),
                        [0; 0],
                        "{hosts} that fail {failures} of 97, factor {stdev_factor}"
                    );
                }
            }
        }
    }

    #[test]
    fn failures_of_a_hundred_are_judged_one_by_one() {
        let rule = FailurePercentage::default();
        let all = [(15, 85), (14, 86), (50, 0), (1, 48), (0, 50), (100, 0)];
        assert_eq!(
            outliers(by_failures(rule), &all),
            [1, 4],
            "more than 85 of at least 50 calls"
        );
        let most = FailurePercentage {
            threshold: 100,
            ..rule
        };
        assert_eq!(outliers(by_failures(most), &all), [0; 0]);
        assert_eq!(outliers(by_failures(rule), &all[..4]), [0; 0], "too few");
    }

    #[test]
    fn enforcement_ejects_a_part() {
        let part = |enforcement_percentage| {
            let rules = by_success_rate(SuccessRate {
                enforcement_percentage,
                ..SMALL
            });
            let (mut rng, mut ejected) = (Rng::new(3), 0);
            for _ in 0..10_000 {
                rules.judge(&counts(&FAILS_ALL), &mut rng, |_, _| ejected += 1);
            }
            ejected
        };
        assert_eq!(part(0), 0);
        assert_eq!(part(100), 10_000);
        // Standard deviation 43; six of them.
        assert!((2_740..=3_260).contains(&part(30)), "{}", part(30));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let default = OutlierDetection::default();
        for (bad, word) in [
            (default.with_interval(Duration::ZERO), "interval"),
            (
                by_success_rate(SuccessRate {
                    enforcement_percentage: 101,
                    ..SMALL
                }),
                "enforcement_percentage",
            ),
            (
                by_failures(FailurePercentage {
                    threshold: 101,
                    ..FailurePercentage::default()
                }),
                "threshold",
            ),
        ] {
            let error = bad.validate().unwrap_err();
            assert_eq!(error.field(), Some("outlier_detection"), "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        assert!(default.validate().is_ok());
    }
}
