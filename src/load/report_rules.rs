use std::time::Duration;

use crate::outcome::LoadReport;

/// How the load that servers report becomes a weight (gRFC A58).
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct ReportRules {
    /// How much an error adds to the utilisation: errors over requests, times this. Not negative. 1 by
    /// default, as in gRFC A58; 0 does not look at errors.
    pub error_penalty: f64,
    /// How long a weight counts. 180 s by default, as in gRFC A58.
    pub expiration: Duration,
    /// Which metrics tell how busy a server is, if its application does not (gRFC A114); see
    /// [`LoadReport::utilization`]. None by default.
    pub metrics: &'static [&'static str],
    /// How often servers are to report beside the calls, by a stream that is open while an endpoint is
    /// connected; the server may not do it so often. Then what comes with the responses of calls is not
    /// read. None by default, as in gRFC A58: reports come with responses.
    pub out_of_band: Option<Duration>,
}

impl Default for ReportRules {
    fn default() -> Self {
        Self {
            error_penalty: 1.0,
            expiration: Duration::from_secs(180),
            metrics: &[],
            out_of_band: None,
        }
    }
}

impl ReportRules {
    /// The weight: requests a second over utilisation and errors. None if either of the first two was
    /// not reported.
    ///
    /// ```
    /// use evenkeel::load::ReportRules;
    /// use evenkeel::outcome::LoadReport;
    ///
    /// let report = LoadReport::new()
    ///     .with_application_utilization(0.3)
    ///     .with_qps(100.0)
    ///     .with_eps(10.0);
    /// assert_eq!(ReportRules::default().weight(&report), Some(250.0));
    /// ```
    pub fn weight(&self, report: &LoadReport) -> Option<f64> {
        let utilization = report.utilization(self.metrics);
        let qps = report.qps();
        if utilization <= 0.0 || qps <= 0.0 {
            return None;
        }
        let errors = report.eps() / qps * self.error_penalty;
        let weight = qps / (utilization + errors);
        // Finite numbers may still be too large or too small to divide.
        (weight.is_finite() && weight > 0.0).then_some(weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_makes_a_weight_that_is_none() {
        let rules = ReportRules::default();
        let report = |utilization, qps, eps| {
            LoadReport::new()
                .with_cpu_utilization(utilization)
                .with_qps(qps)
                .with_eps(eps)
        };
        let (least, most) = (f64::MIN_POSITIVE, f64::MAX);
        for (utilization, qps, eps) in [
            (0.0, 10.0, 0.0),
            (0.5, 0.0, 0.0),
            (least, most, 0.0),
            (most, least, 0.0),
            (0.5, least, most),
        ] {
            let weight = rules.weight(&report(utilization, qps, eps));
            assert_eq!(weight, None, "{utilization} {qps} {eps}");
        }
        assert_eq!(rules.weight(&report(0.5, 10.0, 5.0)), Some(10.0));
        let lenient = ReportRules {
            error_penalty: 0.0,
            ..rules
        };
        assert_eq!(lenient.weight(&report(0.5, 10.0, 5.0)), Some(20.0));
    }
}
