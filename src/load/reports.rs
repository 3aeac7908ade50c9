use std::time::Duration;

use crate::load::ReportRules;
use crate::math::Moment;
use crate::math::atomic::{AtomicU64, Ordering};
use crate::outcome::LoadReport;

/// What one endpoint's servers reported of their load: its weight by gRFC A58, and the last word on
/// requests under way and latency.
///
/// Written at the end of calls and read by policies, from any thread, without a lock: a few words, each
/// of which is right by itself. Two reports at the same moment may leave the weight of one and the
/// time of the other, which is the same time.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::load::{ReportRules, Reports};
/// use evenkeel::math::Moment;
/// use evenkeel::outcome::LoadReport;
///
/// let (rules, blackout) = (ReportRules::default(), Duration::from_secs(10));
/// let reports = Reports::new();
/// let report = LoadReport::new().with_cpu_utilization(0.5).with_qps(20.0);
/// let start = Moment::from_nanos(0);
/// reports.report(&report, start, &rules);
/// assert_eq!(reports.weight(start, blackout, &rules), None, "not believed yet");
/// assert_eq!(reports.weight(start + blackout, blackout, &rules), Some(40.0));
/// ```
#[derive(Debug, Default)]
pub struct Reports {
    /// An `f64`.
    weight: AtomicU64,
    /// When the weights began to come in without a gap; 0 is never.
    since: AtomicU64,
    /// When the last weight came; 0 is never.
    updated: AtomicU64,
    /// Requests under way in the high half, the latency at this many in the low one: seconds as an
    /// `f32`.
    probe: AtomicU64,
    /// When that came; 0 is never.
    probed: AtomicU64,
}

/// What a server said of its queue.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServerQueue {
    /// Requests it had under way.
    pub in_flight: u32,
    /// The latency that it expected of one more; zero if it has answered nothing lately, and so does not
    /// know: such a server is worth a try.
    pub latency: Duration,
    /// When it was heard.
    pub at: Moment,
}

/// How a report came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReportSource {
    /// With the response of a call.
    Response,
    /// As the answer to a [probe](crate::load::ProbeRules).
    Probe,
    /// Beside the calls, by the server's own [clock](crate::load::ReportRules::out_of_band).
    OutOfBand,
}

impl Reports {
    /// Nothing reported.
    pub fn new() -> Self {
        Self::default()
    }

    /// A report came at `at`. One without a weight changes no weight (gRFC A58), one without requests
    /// under way leaves those of an earlier one, and its latency. Returns what it says of the queue.
    pub fn report(
        &self,
        report: &LoadReport,
        at: Moment,
        rules: &ReportRules,
    ) -> Option<ServerQueue> {
        let now = stamp(at);
        if let Some(weight) = rules.weight(report) {
            let updated = self.updated.load(Ordering::Relaxed);
            let expired = is_expired(updated, now, rules);
            self.weight.store(weight.to_bits(), Ordering::Relaxed);
            if self.since.load(Ordering::Relaxed) == 0 || expired {
                self.since.store(now, Ordering::Relaxed);
            }
            // A report that came late must not turn the time back. Release: who sees the time sees the
            // weight, and since when.
            self.updated.fetch_max(now, Ordering::Release);
        }
        let in_flight = report.in_flight()?;
        let latency = report.latency().unwrap_or_default();
        let word = u64::from(in_flight) << 32 | u64::from(latency.as_secs_f32().to_bits());
        self.probe.store(word, Ordering::Relaxed);
        self.probed.fetch_max(now, Ordering::Release);
        Some(ServerQueue {
            in_flight,
            latency,
            at,
        })
    }

    /// The weight, once they have come in for the time of the `blackout`, until the last one expires.
    pub fn weight(&self, now: Moment, blackout: Duration, rules: &ReportRules) -> Option<f64> {
        let now = stamp(now);
        let updated = self.updated.load(Ordering::Acquire);
        let since = self.since.load(Ordering::Relaxed);
        if since == 0 || updated == 0 || is_expired(updated, now, rules) {
            return None;
        }
        if Duration::from_nanos(now.saturating_sub(since)) < blackout {
            return None;
        }
        Some(f64::from_bits(self.weight.load(Ordering::Relaxed)))
    }

    /// The last word on requests under way and latency, however old, of the server that is connected.
    #[inline]
    pub fn queue(&self) -> Option<ServerQueue> {
        let probed = self.probed.load(Ordering::Acquire);
        if probed == 0 {
            return None;
        }
        let word = self.probe.load(Ordering::Relaxed);
        let latency = f32::from_bits(word as u32);
        Some(ServerQueue {
            in_flight: (word >> 32) as u32,
            latency: Duration::try_from_secs_f32(latency).unwrap_or(Duration::MAX),
            at: Moment::from_nanos(probed - 1),
        })
    }

    /// A new connection: it may be another server, whose weights are to settle first (gRFC A58), and whose queue
    /// is not known.
    pub(crate) fn restart(&self) {
        for told in [&self.since, &self.probed] {
            // A plain load keeps the line shared where nothing reports.
            if told.load(Ordering::Relaxed) != 0 {
                told.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// Nanoseconds, one more than there are, since 0 is never.
fn stamp(now: Moment) -> u64 {
    now.as_nanos().saturating_add(1)
}

fn is_expired(updated: u64, now: u64, rules: &ReportRules) -> bool {
    Duration::from_nanos(now.saturating_sub(updated)) >= rules.expiration
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLACKOUT: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Moment {
        Moment::from_origin(Duration::from_secs(seconds))
    }

    fn busy(utilization: f64) -> LoadReport {
        LoadReport::new()
            .with_application_utilization(utilization)
            .with_qps(1.0)
    }

    /// Reports of weight 2 at each of the seconds.
    fn reported(seconds: impl IntoIterator<Item = u64>) -> Reports {
        let reports = Reports::new();
        for second in seconds {
            reports.report(&busy(0.5), at(second), &ReportRules::default());
        }
        reports
    }

    fn weight(reports: &Reports, second: u64) -> Option<f64> {
        reports.weight(at(second), BLACKOUT, &ReportRules::default())
    }

    #[test]
    fn a_weight_counts_after_the_blackout_until_it_expires() {
        let reports = reported([5]);
        assert_eq!(weight(&reports, 5), None);
        assert_eq!(weight(&reports, 14), None, "the blackout is 10 s");
        assert_eq!(weight(&reports, 15), Some(2.0));
        assert_eq!(weight(&reports, 184), Some(2.0));
        assert_eq!(weight(&reports, 185), None, "it expires after 180 s");
        assert_eq!(weight(&Reports::new(), 15), None, "nothing reported");
    }

    #[test]
    fn a_gap_as_long_as_the_expiration_starts_a_new_blackout() {
        let reports = reported([5, 184]);
        assert_eq!(weight(&reports, 184), Some(2.0), "179 s are no gap");
        let reports = reported([5, 185]);
        assert_eq!(weight(&reports, 194), None);
        assert_eq!(weight(&reports, 195), Some(2.0));
    }

    #[test]
    fn a_new_connection_starts_a_new_blackout() {
        let reports = reported([5, 30]);
        reports.restart();
        assert_eq!(weight(&reports, 40), None, "no report of the new server");
        reports.report(&busy(0.25), at(41), &ReportRules::default());
        assert_eq!(weight(&reports, 50), None);
        assert_eq!(weight(&reports, 51), Some(4.0));
    }

    #[test]
    fn a_report_without_a_weight_changes_nothing() {
        let reports = reported([5]);
        reports.report(&LoadReport::new(), at(100), &ReportRules::default());
        assert_eq!(weight(&reports, 100), Some(2.0));
        assert_eq!(weight(&reports, 185), None, "it prolongs nothing either");
    }

    #[test]
    fn times_may_come_out_of_order_and_from_the_origin() {
        let reports = reported([0]);
        assert_eq!(weight(&reports, 10), Some(2.0), "the origin is a time");
        let reports = reported([50, 20]);
        assert_eq!(weight(&reports, 229), Some(2.0), "the last one was at 50 s");
        assert_eq!(weight(&reports, 20), None, "a look at the past");
    }

    #[test]
    fn requests_under_way_and_latency_come_together() {
        let reports = Reports::new();
        let rules = ReportRules::default();
        assert_eq!(reports.queue(), None);
        let latency = LoadReport::new().with_latency(Duration::from_millis(250));
        assert_eq!(reports.report(&latency, at(1), &rules), None);
        assert_eq!(reports.queue(), None, "a latency at who knows what load");
        reports.report(&LoadReport::new().with_in_flight(3), at(1), &rules);
        let idle = reports
            .queue()
            .map(|queue| (queue.in_flight, queue.latency));
        assert_eq!(idle, Some((3, Duration::ZERO)), "nothing answered lately");
        let full = LoadReport::new()
            .with_in_flight(3)
            .with_latency(Duration::from_millis(250));
        reports.report(&full, at(2), &rules);
        let expected = ServerQueue {
            in_flight: 3,
            latency: Duration::from_millis(250),
            at: at(2),
        };
        assert_eq!(reports.queue(), Some(expected));
        assert_eq!(weight(&reports, 100), None, "no weight in it");
        reports.restart();
        assert_eq!(reports.queue(), None, "that was another server");
    }
}
