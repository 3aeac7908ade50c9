use std::collections::BTreeMap;
use std::time::Duration;

/// What a server says of its load, in the terms of ORCA (gRFC A51).
///
/// A report comes from another machine, so nothing in it is taken on trust: a number that cannot be
/// (NaN, infinite, negative, a share over 1) counts as not reported. That is 0 for the numbers that
/// every report has, as it is in ORCA, and none for those that have a name.
///
/// ```
/// use evenkeel::outcome::LoadReport;
///
/// let report = LoadReport::new()
///     .with_cpu_utilization(0.5)
///     .with_qps(f64::NAN)
///     .with_named_metric("queue", 3.0);
/// assert_eq!(report.cpu_utilization(), 0.5);
/// assert_eq!(report.qps(), 0.0, "not reported");
/// assert_eq!(report.metric("named_metrics.queue"), Some(3.0));
/// ```
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LoadReport {
    cpu_utilization: f64,
    memory_utilization: f64,
    application_utilization: f64,
    qps: f64,
    eps: f64,
    pub(super) request_costs: BTreeMap<String, f64>,
    pub(super) utilizations: BTreeMap<String, f64>,
    pub(super) named_metrics: BTreeMap<String, f64>,
    in_flight: Option<u32>,
    latency: Option<Duration>,
}

impl LoadReport {
    /// Nothing reported.
    pub fn new() -> Self {
        Self::default()
    }

    /// The share of the processors it may use that is in use. Over 1 beyond a soft limit.
    #[must_use]
    pub fn with_cpu_utilization(mut self, share: f64) -> Self {
        self.cpu_utilization = amount(share);
        self
    }

    /// The share of the memory it may use that is in use, 0 to 1.
    #[must_use]
    pub fn with_memory_utilization(mut self, share: f64) -> Self {
        self.memory_utilization = part(share);
        self
    }

    /// How busy the application is by its own reckoning: 1 is as much as it should be.
    #[must_use]
    pub fn with_application_utilization(mut self, share: f64) -> Self {
        self.application_utilization = amount(share);
        self
    }

    /// Requests a second that it serves.
    #[must_use]
    pub fn with_qps(mut self, per_second: f64) -> Self {
        self.qps = amount(per_second);
        self
    }

    /// Errors a second that it answers with.
    #[must_use]
    pub fn with_eps(mut self, per_second: f64) -> Self {
        self.eps = amount(per_second);
        self
    }

    /// What the request cost, of something that the application names. May be negative.
    #[must_use]
    pub fn with_request_cost(mut self, name: impl Into<String>, cost: f64) -> Self {
        put(&mut self.request_costs, name, cost, cost.is_finite());
        self
    }

    /// The share in use, 0 to 1, of something that the application names.
    #[must_use]
    pub fn with_utilization(mut self, name: impl Into<String>, share: f64) -> Self {
        put(&mut self.utilizations, name, share, is_part(share));
        self
    }

    /// Any number that the application names. May be negative.
    #[must_use]
    pub fn with_named_metric(mut self, name: impl Into<String>, value: f64) -> Self {
        put(&mut self.named_metrics, name, value, value.is_finite());
        self
    }

    /// Requests that it has under way.
    #[must_use]
    pub fn with_in_flight(mut self, requests: u32) -> Self {
        self.in_flight = Some(requests);
        self
    }

    /// The latency that it expects of one more request with so many [under way](Self::in_flight).
    #[must_use]
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = Some(latency);
        self
    }

    /// What this report says, and where it says nothing, what `other` says.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        for (mine, theirs) in [
            (&mut self.cpu_utilization, other.cpu_utilization),
            (&mut self.memory_utilization, other.memory_utilization),
            (
                &mut self.application_utilization,
                other.application_utilization,
            ),
            (&mut self.qps, other.qps),
            (&mut self.eps, other.eps),
        ] {
            if *mine == 0.0 {
                *mine = theirs;
            }
        }
        for (mine, theirs) in [
            (&mut self.request_costs, &other.request_costs),
            (&mut self.utilizations, &other.utilizations),
            (&mut self.named_metrics, &other.named_metrics),
        ] {
            for (name, value) in theirs {
                if !mine.contains_key(name) {
                    mine.insert(name.clone(), *value);
                }
            }
        }
        self.in_flight = self.in_flight.or(other.in_flight);
        self.latency = self.latency.or(other.latency);
        self
    }

    /// The share of the processors in use; 0 if not reported.
    pub fn cpu_utilization(&self) -> f64 {
        self.cpu_utilization
    }

    /// The share of the memory in use; 0 if not reported.
    pub fn memory_utilization(&self) -> f64 {
        self.memory_utilization
    }

    /// How busy the application is by its own reckoning; 0 if not reported.
    pub fn application_utilization(&self) -> f64 {
        self.application_utilization
    }

    /// Requests a second; 0 if not reported.
    pub fn qps(&self) -> f64 {
        self.qps
    }

    /// Errors a second; 0 if not reported.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// Requests under way at the server.
    pub fn in_flight(&self) -> Option<u32> {
        self.in_flight
    }

    /// The latency that the server expects of one more request.
    pub fn latency(&self) -> Option<Duration> {
        self.latency
    }

    /// A number by its name in ORCA: `cpu_utilization`, `mem_utilization`, `application_utilization`,
    /// `rps_fractional`, `eps`, or `request_cost.NAME`, `utilization.NAME`, `named_metrics.NAME`. None if
    /// it was not reported, or there is no such name.
    pub fn metric(&self, path: &str) -> Option<f64> {
        let reported = |number: f64| (number > 0.0).then_some(number);
        match path {
            "cpu_utilization" => reported(self.cpu_utilization),
            "mem_utilization" => reported(self.memory_utilization),
            "application_utilization" => reported(self.application_utilization),
            "rps_fractional" => reported(self.qps),
            "eps" => reported(self.eps),
            _ => {
                let (map, name) = path.split_once('.')?;
                let map = match map {
                    "request_cost" => &self.request_costs,
                    "utilization" => &self.utilizations,
                    "named_metrics" => &self.named_metrics,
                    _ => return None,
                };
                map.get(name).copied()
            }
        }
    }

    /// Whether [`metric`](Self::metric) could ever find something by this name.
    pub fn is_metric(path: &str) -> bool {
        match path.split_once('.') {
            Some((map, name)) => {
                matches!(map, "request_cost" | "utilization" | "named_metrics") && !name.is_empty()
            }
            None => matches!(
                path,
                "cpu_utilization"
                    | "mem_utilization"
                    | "application_utilization"
                    | "rps_fractional"
                    | "eps"
            ),
        }
    }

    /// How busy the server is (gRFC A114): the application's own word; else the greatest of `metrics`,
    /// named as [`metric`](Self::metric) takes them, that is over 0; else the processors'. 0 if none of
    /// them was reported.
    pub fn utilization(&self, metrics: &[&str]) -> f64 {
        if self.application_utilization > 0.0 {
            return self.application_utilization;
        }
        let named = metrics.iter().filter_map(|path| self.metric(path));
        let greatest = named.fold(0.0, f64::max);
        if greatest > 0.0 {
            greatest
        } else {
            self.cpu_utilization
        }
    }
}

/// A number that may be anything from 0 on, or 0.
fn amount(number: f64) -> f64 {
    if number.is_finite() && number > 0.0 {
        number
    } else {
        0.0
    }
}

/// A share that cannot be over 1, or 0.
fn part(share: f64) -> f64 {
    if is_part(share) { amount(share) } else { 0.0 }
}

fn is_part(share: f64) -> bool {
    (0.0..=1.0).contains(&share)
}

fn put(map: &mut BTreeMap<String, f64>, name: impl Into<String>, value: f64, valid: bool) {
    if valid {
        map.insert(name.into(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_counts_as_not_reported() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.1, -0.0] {
            let report = LoadReport::new()
                .with_cpu_utilization(bad)
                .with_memory_utilization(bad)
                .with_application_utilization(bad)
                .with_qps(bad)
                .with_eps(bad);
            assert_eq!(report, LoadReport::new(), "{bad}");
        }
        for bad in [f64::NAN, f64::INFINITY, -0.1, 1.1] {
            let report = LoadReport::new().with_utilization("disk", bad);
            assert_eq!(report, LoadReport::new(), "a share of {bad}");
        }
        for bad in [f64::NAN, f64::INFINITY] {
            let report = LoadReport::new()
                .with_named_metric("queue", bad)
                .with_request_cost("rows", bad);
            assert_eq!(report, LoadReport::new(), "{bad} of something");
        }
        assert_eq!(
            LoadReport::new()
                .with_memory_utilization(1.1)
                .memory_utilization(),
            0.0,
            "memory has no soft limit"
        );
        assert_eq!(
            LoadReport::new()
                .with_cpu_utilization(1.5)
                .cpu_utilization(),
            1.5,
            "processors have one"
        );
    }

    #[test]
    fn the_application_comes_first_then_the_named_metrics_then_the_processors() {
        let names = ["named_metrics.queue", "utilization.disk", "mem_utilization"];
        let report = LoadReport::new().with_cpu_utilization(0.2);
        assert_eq!(report.utilization(&names), 0.2, "none of them is reported");
        let report = report
            .with_named_metric("queue", -3.0)
            .with_utilization("disk", 0.0);
        assert_eq!(report.utilization(&names), 0.2, "none of them is over 0");
        let report = report
            .with_utilization("disk", 0.1)
            .with_memory_utilization(0.15);
        assert_eq!(report.utilization(&names), 0.15, "the greatest of them");
        assert_eq!(report.utilization(&[]), 0.2, "nobody asked for them");
        let report = report.with_application_utilization(0.05);
        assert_eq!(report.utilization(&names), 0.05, "the application's word");
    }

    #[test]
    fn one_report_fills_the_gaps_of_another() {
        let filled = LoadReport::new()
            .with_qps(1.0)
            .with_named_metric("a", 1.0)
            .with_latency(Duration::from_millis(1))
            .or(&LoadReport::new()
                .with_qps(2.0)
                .with_eps(2.0)
                .with_named_metric("a", 2.0)
                .with_named_metric("b", 2.0)
                .with_latency(Duration::from_millis(2))
                .with_in_flight(2));
        let expected = LoadReport::new()
            .with_qps(1.0)
            .with_eps(2.0)
            .with_named_metric("a", 1.0)
            .with_named_metric("b", 2.0)
            .with_latency(Duration::from_millis(1))
            .with_in_flight(2);
        assert_eq!(filled, expected);
    }

    #[test]
    fn a_metric_has_its_name_in_orca() {
        let report = LoadReport::new()
            .with_cpu_utilization(0.1)
            .with_memory_utilization(0.2)
            .with_application_utilization(0.3)
            .with_qps(4.0)
            .with_eps(5.0)
            .with_request_cost("a.b", 6.0)
            .with_utilization("disk", 0.7)
            .with_named_metric("queue", 8.0);
        for (path, value) in [
            ("cpu_utilization", 0.1),
            ("mem_utilization", 0.2),
            ("application_utilization", 0.3),
            ("rps_fractional", 4.0),
            ("eps", 5.0),
            ("request_cost.a.b", 6.0),
            ("utilization.disk", 0.7),
            ("named_metrics.queue", 8.0),
        ] {
            assert!(LoadReport::is_metric(path), "{path}");
            assert_eq!(report.metric(path), Some(value), "{path}");
        }
        for path in ["", ".", "queue", "named_metrics", "named_metrics.", "x.y"] {
            assert!(!LoadReport::is_metric(path), "{path:?}");
            assert_eq!(report.metric(path), None, "{path:?}");
        }
    }
}
