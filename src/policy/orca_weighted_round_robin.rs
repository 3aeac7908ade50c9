use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::load::{Measures, ReportRules};
use crate::math::weights::fill;
use crate::outcome::LoadReport;
use crate::policy::in_turn::InTurn;
use crate::policy::weighted::slowly_started;
use crate::policy::{Candidates, Picker, Policy};

/// The least time between two looks at the weights, as in gRFC A58.
const LEAST_UPDATE_PERIOD: Duration = Duration::from_millis(100);

/// One endpoint after the other, each as often as its servers' reports say: gRPC's
/// `weighted_round_robin` (gRFC A58).
///
/// A server reports how busy it is and how many requests a second it serves, in the trailers of each
/// call or [beside the calls](Self::with_out_of_band_reports) ([`LoadReport`]; gRFC A51). Its weight is what it would serve if it were wholly busy:
///
/// ```text
/// weight = qps / (utilization + eps / qps * error_penalty)
/// ```
///
/// The utilisation is the application's own word; else the greatest of the
/// [chosen metrics](Self::with_utilization_metrics) (gRFC A114); else that of the processors. An
/// endpoint without a weight gets the mean of the others; while fewer than two have one, it is plain round
/// robin. The weights of [`Endpoint`](crate::Endpoint) are not looked at.
///
/// | setting | default (gRFC A58) |
/// |---|---|
/// | [blackout period](Self::with_blackout_period) | 10 s |
/// | [weight expiration](Self::with_weight_expiration) | 180 s |
/// | [update period](Self::with_update_period) | 1 s, at least 100 ms |
/// | [error penalty](Self::with_error_penalty) | 1 |
/// | [reports out of band](Self::with_out_of_band_reports) | no |
/// | [their period](Self::with_out_of_band_period) | 10 s |
///
/// The order is that of [`WeightedRoundRobin`](crate::policy::WeightedRoundRobin), and goes on where it
/// was when the weights change.
///
/// | | |
/// |---|---|
/// | pick | O(1): as `WeightedRoundRobin` |
/// | end of a call | its trailers are read: about a microsecond, and an allocation or two for each named metric; not with reports out of band, which cost a stream for each endpoint |
/// | build, and each update period | O(n) |
/// | memory | 8 bytes per endpoint, at most 13; none without weights |
///
/// **Wins** where servers differ in speed, or share their machines with others, and say so: the calls follow
/// within seconds, from many clients that each see little of a server.
/// **Loses** where a server's trouble does not show in its utilisation, or shows for less than seconds:
/// [`PeakEwma`](crate::policy::PeakEwma) sees it in the next call. And where utilisation does not follow
/// load at all (a constant): then the weights run away, since who gets more calls reports more of them.
///
/// Reports are read off HTTP responses by [`Classify::load_report`](crate::outcome::Classify::load_report),
/// so by `grpc::Channel`; other services have none, and get round robin. Out of band they come by
/// `grpc::LoadReports`, which `grpc::Channel` brings along; a [`Balance`](crate::Balance) over other services
/// is [given something like it](crate::balance::Builder::load_reports), and is not built without.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::math::{Moment, Rng};
/// use evenkeel::outcome::LoadReport;
/// use evenkeel::policy::{Candidates, OrcaWeightedRoundRobin, Pick, PickContext, Policy};
///
/// let policy = OrcaWeightedRoundRobin::default().with_blackout_period(Duration::ZERO);
/// let candidates = Candidates::connected_for(["a:1", "b:1"], policy.measures());
/// for (candidate, busy) in candidates.all().iter().zip([0.1, 0.9]) {
///     let claim = candidate.claim(false).unwrap();
///     let report = LoadReport::new().with_application_utilization(busy).with_qps(100.0);
///     claim.reported(&report, Moment::default());
/// }
/// let picker = policy.build(&candidates, None);
/// let mut rng = Rng::new(7);
/// let mut calls = [0_u32; 2];
/// for _ in 0..1_000 {
///     if let Pick::Endpoint(slot) = picker.pick(&mut PickContext::new(&mut rng)) {
///         calls[slot] += 1;
///     }
/// }
/// assert!(calls[0].abs_diff(900) <= 1, "9 : 1");
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OrcaWeightedRoundRobin {
    rules: ReportRules,
    blackout: Duration,
    update_period: Duration,
    out_of_band: bool,
    out_of_band_period: Duration,
}

impl Default for OrcaWeightedRoundRobin {
    fn default() -> Self {
        Self {
            rules: ReportRules::default(),
            blackout: Duration::from_secs(10),
            update_period: Duration::from_secs(1),
            out_of_band: false,
            out_of_band_period: Duration::from_secs(10),
        }
    }
}

impl OrcaWeightedRoundRobin {
    /// How long an endpoint's reports have to come in before its weight counts: those of a server that
    /// has just started say little. Zero believes the first one. Default 10 s.
    #[must_use]
    pub fn with_blackout_period(mut self, period: Duration) -> Self {
        self.blackout = period;
        self
    }

    /// How long a weight counts after its report. Default 180 s.
    ///
    /// # Errors
    /// Zero: no weight would ever count.
    pub fn with_weight_expiration(mut self, period: Duration) -> Result<Self, Error> {
        if period.is_zero() {
            return Err(Error::config("weight_expiration_period", "is zero"));
        }
        self.rules.expiration = period;
        Ok(self)
    }

    /// How often the order follows the weights. Less than 100 ms counts as that. Default 1 s.
    #[must_use]
    pub fn with_update_period(mut self, period: Duration) -> Self {
        self.update_period = period.max(LEAST_UPDATE_PERIOD);
        self
    }

    /// How much an error adds to the utilisation: errors over requests, times this. 0 does not look at
    /// errors. Default 1.
    ///
    /// # Errors
    /// A number that is negative or not finite.
    pub fn with_error_penalty(mut self, penalty: f64) -> Result<Self, Error> {
        if !penalty.is_finite() || penalty < 0.0 {
            return Err(Error::config(
                "error_utilization_penalty",
                format!("{penalty} is not a finite number from 0 on"),
            ));
        }
        self.rules.error_penalty = penalty;
        Ok(self)
    }

    /// Has the servers report beside the calls, by a stream over each endpoint's connection that carries a
    /// report in each [period](Self::with_out_of_band_period), and does not look at the trailers of calls.
    /// For calls that are rare, or last long. A server that does not know the method
    /// (`xds.service.orca.v3.OpenRcaService/StreamCoreMetrics`) has no weight of its own. Default `false`.
    #[must_use]
    pub fn with_out_of_band_reports(mut self, enable: bool) -> Self {
        self.out_of_band = enable;
        self
    }

    /// How often servers are to report [beside the calls](Self::with_out_of_band_reports), if they are to; a
    /// server may not do it so often, as those of gRPC in C++ and Java, and of
    /// `server::LoadReportLayer`, which do it each 30 s unless they are told otherwise. Default 10 s.
    ///
    /// # Errors
    /// Zero.
    pub fn with_out_of_band_period(mut self, period: Duration) -> Result<Self, Error> {
        if period.is_zero() {
            return Err(Error::config("oob_reporting_period", "is zero"));
        }
        self.out_of_band_period = period;
        Ok(self)
    }

    /// The metrics that tell how busy a server is, if its application does not say: the greatest of
    /// them counts. Named as [`LoadReport::metric`] takes them, such as `named_metrics.queue`. Default
    /// none.
    ///
    /// # Errors
    /// A name that no metric can have.
    pub fn with_utilization_metrics(
        mut self,
        metrics: &'static [&'static str],
    ) -> Result<Self, Error> {
        if let Some(name) = metrics.iter().find(|name| !LoadReport::is_metric(name)) {
            return Err(Error::config(
                "metric_names_for_computing_utilization",
                format!("{name:?} is not the name of a metric"),
            ));
        }
        self.rules.metrics = metrics;
        Ok(self)
    }
}

impl Policy for OrcaWeightedRoundRobin {
    fn name(&self) -> &'static str {
        "weighted_round_robin"
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let usable = candidates.usable();
        let reported = usable.iter().map(|candidate| {
            let reports = candidate.subchannel().reports();
            let weight = reports.weight(candidates.now(), self.blackout, &self.rules);
            weight.unwrap_or_default()
        });
        let weights = fill(&reported.collect::<Vec<_>>());
        InTurn::build(candidates, slowly_started(usable, weights), previous)
    }

    fn measures(&self) -> Measures {
        let out_of_band = self.out_of_band.then_some(self.out_of_band_period);
        Measures::NOTHING.with_reports(ReportRules {
            out_of_band,
            ..self.rules
        })
    }

    fn refresh(&self) -> Option<Duration> {
        Some(self.update_period)
    }
}

#[cfg(test)]
mod tests;
