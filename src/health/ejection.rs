//! When an endpoint is ejected, for how long, and how many may be out at once.

use std::time::Duration;

use crate::error::Error;
use crate::health::OutlierDetection;
use crate::health::in_a_row::MOST_OVERLOADS;
use crate::math::atomic::{AtomicUsize, Ordering};

/// The rules of ejection: by failures in a row, and by comparison with the others if it is asked for.
///
/// | setting | default | source |
/// |---|---|---|
/// | failures in a row | 5 | Envoy `consecutive_5xx` |
/// | overload answers in a row | off | a server that sheds load is not broken |
/// | [outlier detection](OutlierDetection) | off | gRFC A50: by the service's configuration |
/// | base ejection time | 30 s | gRFC A50 `base_ejection_time` |
/// | maximum ejection time | 300 s | gRFC A50 `max_ejection_time` |
/// | maximum ejection percent | 50 % | room for one of two endpoints; gRFC A50 and Envoy: 10 % |
/// | panic threshold | 50 % | Envoy `healthy_panic_threshold` |
/// | failing in a panic | off | Envoy `fail_traffic_on_panic` |
///
/// Failures that are told apart by where they arise, as Envoy's `consecutive_local_origin_failure`, need no rule
/// here: a dial that fails or a connection that ends takes its endpoint out by its connectivity state.
///
/// A call that its caller gives up says nothing by itself. But with a policy that measures latency to the first
/// data (the default, peak EWMA), five in a row with nothing answered between, each older than the latency that the
/// policy expects of the endpoint, count as one failure. Expected is a second of one that has not answered yet by its
/// connection, and never less than a quarter of the last latency, or a second if that is less. Answered is what brings data, or ends as a success, a failure or an
/// overload; a head without either, or an outcome that is [`Ignored`](crate::outcome::Outcome::Ignored), is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ejection {
    consecutive_failures: u32,
    base_time: Duration,
    max_time: Duration,
    max_percent: u32,
    panic_threshold_percent: u32,
    fail_in_panic: bool,
    consecutive_overloads: Option<u32>,
    outlier_detection: Option<OutlierDetection>,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
            max_percent: 50,
            panic_threshold_percent: 50,
            fail_in_panic: false,
            consecutive_overloads: None,
            outlier_detection: None,
        }
    }
}

impl Ejection {
    /// No ejection at all.
    pub fn off() -> Self {
        Self::default().with_max_percent(0)
    }

    /// Failures in a row that eject, at least 1; default 5. Over 65,535 none ever do.
    #[must_use]
    pub fn with_consecutive_failures(mut self, failures: u32) -> Self {
        self.consecutive_failures = failures;
        self
    }

    /// Overload answers in a row that eject, 1 to 255; default none, since who sheds load is there and says so.
    /// Kept apart from failures: neither ends the other's row, a success ends both. With it, an overload answer to the
    /// probing call of an endpoint that is out sends it out again; without, the next call probes.
    #[must_use]
    pub fn with_consecutive_overloads(mut self, overloads: impl Into<Option<u32>>) -> Self {
        self.consecutive_overloads = overloads.into();
        self
    }

    /// Ejects also who fails more calls than the others; default off. Each call's end then costs one atomic
    /// addition more.
    #[must_use]
    pub fn with_outlier_detection(mut self, rules: impl Into<Option<OutlierDetection>>) -> Self {
        self.outlier_detection = rules.into();
        self
    }

    /// How long the first ejection lasts; the n-th in a row lasts n times as long. Default 30 s.
    #[must_use]
    pub fn with_base_time(mut self, time: Duration) -> Self {
        self.base_time = time;
        self
    }

    /// The longest ejection; default 300 s.
    #[must_use]
    pub fn with_max_time(mut self, time: Duration) -> Self {
        self.max_time = time;
        self
    }

    /// The largest share of the endpoints of a [priority](crate::Endpoint::with_priority) that may be out at once, in
    /// percent; default 50. One of each priority may always be ejected, but not the only endpoint of all. 0 turns
    /// ejection off.
    #[must_use]
    pub fn with_max_percent(mut self, percent: u32) -> Self {
        self.max_percent = percent;
        self
    }

    /// When the share of endpoints that are connected and not ejected falls under this many
    /// percent, ejections are ignored: better a doubtful endpoint than overload on the last good
    /// ones. Default 50; 0 turns panic off.
    #[must_use]
    pub fn with_panic_threshold_percent(mut self, percent: u32) -> Self {
        self.panic_threshold_percent = percent;
        self
    }

    /// Fails calls in a panic, where by default they go to all endpoints, the ejected ones too: for callers that
    /// would rather do without an answer than have the last good endpoints overloaded. A call still waits while an
    /// endpoint connects.
    #[must_use]
    pub fn with_failing_in_panic(mut self, fail: bool) -> Self {
        self.fail_in_panic = fail;
        self
    }

    /// Whether calls fail in a panic.
    pub fn fails_in_panic(&self) -> bool {
        self.fail_in_panic
    }

    /// How many failures in a row eject.
    #[inline]
    pub(crate) fn consecutive_failures(&self) -> u32 {
        self.consecutive_failures
    }

    /// How many overload answers in a row eject, if any do.
    pub(crate) fn consecutive_overloads(&self) -> Option<u32> {
        self.consecutive_overloads
    }

    /// The share of usable endpoints, in percent, under which ejections are ignored.
    pub fn panic_threshold_percent(&self) -> u32 {
        self.panic_threshold_percent
    }

    /// How endpoints are compared, if they are.
    pub fn outlier_detection(&self) -> Option<&OutlierDetection> {
        self.outlier_detection.as_ref()
    }

    /// How long the `times`-th ejection in a row lasts, counted from 1.
    pub fn duration(&self, times: u32) -> Duration {
        self.base_time
            .saturating_mul(times.max(1))
            .min(self.max_time.max(self.base_time))
    }

    /// How many of `endpoints` may be out at once.
    pub fn allowed(&self, endpoints: usize) -> usize {
        self.allowed_beside(endpoints, 0)
    }

    /// How many of `endpoints`, those of one priority, may be out at once where there are `others` of other priorities.
    /// The last one of all stays.
    pub(crate) fn allowed_beside(&self, endpoints: usize, others: usize) -> usize {
        if self.max_percent == 0 || endpoints == 0 || endpoints + others < 2 {
            return 0;
        }
        (endpoints * self.max_percent as usize / 100).max(1)
    }

    /// Refuses percentages over 100 and thresholds of nothing.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.consecutive_failures == 0 {
            return Err(Error::config(
                "ejection",
                "consecutive_failures is 0; the least is 1",
            ));
        }
        if let Some(overloads) = self.consecutive_overloads
            && !(1..=MOST_OVERLOADS).contains(&overloads)
        {
            let message =
                format!("consecutive_overloads is {overloads}, not in 1..={MOST_OVERLOADS}");
            return Err(Error::config("ejection", message));
        }
        if let Some(outliers) = &self.outlier_detection {
            outliers.validate()?;
        }
        if self.base_time.is_zero() {
            return Err(Error::config("ejection", "base_time is zero"));
        }
        if self.max_percent > 100 {
            return Err(Error::config(
                "ejection",
                format!("max_percent is {}, over 100", self.max_percent),
            ));
        }
        if self.panic_threshold_percent > 100 {
            return Err(Error::config(
                "ejection",
                format!(
                    "panic_threshold_percent is {}, over 100",
                    self.panic_threshold_percent
                ),
            ));
        }
        Ok(())
    }
}

/// The rules in force and how many endpoints are out, shared by all endpoints of one balancer.
#[derive(Debug)]
pub struct Ejections {
    rules: Ejection,
    ejected: AtomicUsize,
    allowed: AtomicUsize,
}

impl Ejections {
    /// Nobody is out, and nobody may be until [`set_endpoints`](Self::set_endpoints).
    pub fn new(rules: Ejection) -> Self {
        Self {
            rules,
            ejected: AtomicUsize::new(0),
            allowed: AtomicUsize::new(0),
        }
    }

    /// The rules.
    pub fn rules(&self) -> &Ejection {
        &self.rules
    }

    /// There are `endpoints` endpoints now. Those that are out stay out.
    pub fn set_endpoints(&self, endpoints: usize) {
        self.set_endpoints_beside(endpoints, 0);
    }

    /// There are `endpoints` endpoints that these rules are for, and `others` of other priorities.
    pub(crate) fn set_endpoints_beside(&self, endpoints: usize, others: usize) {
        let allowed = self.rules.allowed_beside(endpoints, others);
        self.allowed.store(allowed, Ordering::Relaxed);
    }

    /// How many are out.
    pub fn ejected(&self) -> usize {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Whether calls that end are to be counted.
    #[inline]
    pub(crate) fn counts_calls(&self) -> bool {
        self.rules.outlier_detection.is_some()
    }

    /// Takes one of the places for ejected endpoints, if one is left.
    pub(crate) fn reserve(&self) -> bool {
        self.ejected
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |ejected| {
                (ejected < self.allowed.load(Ordering::Relaxed)).then_some(ejected + 1)
            })
            .is_ok()
    }

    pub(crate) fn release(&self) {
        self.ejected.fetch_sub(1, Ordering::AcqRel);
    }
}
