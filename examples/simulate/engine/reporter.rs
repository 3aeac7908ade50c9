//! What a server knows of its own load, measured as the crate's `LoadReportLayer` does.

use std::time::Duration;

use evenkeel::load::{LatencyEstimate, Rate};
use evenkeel::math::Moment;
use evenkeel::outcome::LoadReport;

use crate::engine::queue::{Nanos, seconds};

/// The least time between two looks at the processors, as in the layer: half a second.
const LOOK: Nanos = 500_000_000;

/// What a server has seen.
#[derive(Default)]
pub struct Reporter {
    estimate: LatencyEstimate,
    answers: Rate,
    errors: Rate,
    /// When the processors were looked at last, and what was used by then.
    looked: Option<(Nanos, f64)>,
    utilization: f64,
}

impl Reporter {
    /// A call that had found `met` others was answered well at `now`, `latency` after it had come.
    pub fn answered(&mut self, latency: Duration, met: u32, now: Nanos) {
        let now = Moment::from_nanos(now);
        self.estimate.answered(latency, met, now);
        self.answers.count(now);
    }

    /// A call was answered with an error.
    pub fn failed(&mut self, now: Nanos) {
        let now = Moment::from_nanos(now);
        self.answers.count(now);
        self.errors.count(now);
    }

    /// What there is to say when `in_flight` calls are under way. `used` is the processor time that was
    /// used up to now, in seconds of the whole allotment.
    pub fn report(&mut self, now: Nanos, in_flight: u32, used: f64) -> LoadReport {
        let (looked, before) = *self.looked.get_or_insert((now, used));
        if now - looked >= LOOK {
            self.utilization = (used - before) / seconds(now - looked);
            self.looked = Some((now, used));
        }
        let now = Moment::from_nanos(now);
        let report = LoadReport::new()
            .with_cpu_utilization(self.utilization)
            .with_qps(self.answers.per_second(now))
            .with_eps(self.errors.per_second(now))
            .with_in_flight(in_flight);
        match self.estimate.latency(in_flight, now) {
            Some(latency) => report.with_latency(latency),
            None => report,
        }
    }
}
