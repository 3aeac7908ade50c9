use std::sync::Arc;
use std::time::Duration;

use crate::load::{
    LatencyRules, Measures, PoolRules, PoolSize, ProbePool, ProbeRules, ReportRules, ReportSource,
    ServerQueue,
};
use crate::math::Moment;
use crate::policy::peak_ewma::ByLatency;
use crate::policy::pooled::Pooled;
use crate::policy::{Candidate, Candidates, Pick, PickContext, Picker, Policy, Subchannel};

/// The least endpoints that a pool helps with.
const SMALLEST_FLEET: usize = 6;

/// How long a report shows that a server reports.
const REPORT_COUNTS: Duration = Duration::from_secs(10);

/// The part of the endpoints that must report.
const MOST: f64 = 0.9;

/// Two choices by latency while servers say nothing of their load; what the servers say, once they do. The
/// default policy.
///
/// Without reports a call goes as by [`PeakEwma`](crate::policy::PeakEwma): of two endpoints at random, the
/// one where latency times calls under way is less. When nine of ten usable endpoints have reported their
/// requests under way within ten seconds, and there are at least six of them, it goes by a pool of the
/// servers' own answers, in a form of [`Prequal`](crate::policy::Prequal) that is safe on small fleets:
/// the pool holds a third of the endpoints, 2 to 16, and the newest answer of each; a server is hot if it
/// has more under way than half of the last answers; a call that goes by an answer makes its latency longer as
/// it makes the queue longer; answers come with every response, and one probe is
/// sent with each call. It goes back to two choices when reports stop, and for a call that finds too few answers.
///
/// # What servers must do
/// Nothing, for two choices. For the rest, report requests under way and latency in the trailers of their
/// responses, and answer probes: over gRPC tonic servers do both behind `server::LoadReportLayer`, put
/// around all their services. Reports alone are enough, so a balancer that is
/// [without a probe](crate::balance::Builder::probe) is built; servers that answer no probes are asked once a
/// connection.
///
/// # Weights
/// Where [weights](crate::Endpoint::weight) differ they are an order, as they are to
/// [`PeakEwma`](crate::policy::PeakEwma#weights): the choice stays between two endpoints drawn by weight, also
/// when servers report. So it is while some endpoint is in its [slow start](crate::health::SlowStart) and another is
/// not. Servers of different sizes need no weights: what they report says it.
///
/// # Failures
/// A failed call counts as [slow](LatencyRules::error_penalty) in the first form; in the second, an
/// endpoint that fails is believed 1 time in 8 after one failure, in 64 after two and so on, until a call
/// succeeds.
///
/// | | |
/// |---|---|
/// | pick | O(1): two endpoints' records read; with reports, two reads of up to 16 rows and a lookup in O(log n) |
/// | call | two looks at the clock; with reports, one probe: a small call of its own |
/// | build | O(n log n), after each change; while servers report, once a second too |
/// | memory | 24 bytes an endpoint, 1 KiB; 12 bytes an endpoint more where weights differ |
///
/// **Wins** where servers differ or share machines with others, in fleets of any size. **Loses** a little
/// to [`LeastRequest`](crate::policy::LeastRequest) in work per call, and to exact shares where all calls
/// cost the same.
///
/// Wydrowski et al., NSDI '24, and Finagle's peak EWMA. Each balancer needs a policy of its own, since the
/// pool is in it.
///
/// ```
/// use evenkeel::math::{Moment, Rng};
/// use evenkeel::policy::{Adaptive, Candidates, Pick, PickContext, Policy};
///
/// let policy = Adaptive::default();
/// let candidates = Candidates::connected_for(["a:1", "b:1"], policy.measures());
/// let picker = policy.build(&candidates, None);
/// let mut rng = Rng::new(1);
/// let mut context = PickContext::new(&mut rng).with_now(Moment::from_nanos(1));
/// assert!(matches!(picker.pick(&mut context), Pick::Endpoint(_)));
/// ```
#[derive(Debug)]
pub struct Adaptive {
    latency: LatencyRules,
    probes: Option<ProbeRules>,
    pool: Arc<ProbePool>,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            latency: LatencyRules::default(),
            probes: Some(ProbeRules::default()),
            pool: pool(1.0),
        }
    }
}

fn pool(probe_rate: f64) -> Arc<ProbePool> {
    Arc::new(ProbePool::new(PoolRules {
        size: PoolSize::Third,
        max_age: Duration::from_secs(1),
        hot_quantile: 0.5,
        probe_rate,
        // One with each response.
        report_rate: 1.0,
        remove_rate: 0.5,
        delta: 1.0,
        max_uses: 16,
        latency_grows: true,
        one_per_endpoint: true,
    }))
}

impl Adaptive {
    /// Sends no probes: goes by the reports that come with responses alone.
    #[must_use]
    pub fn without_probes(mut self) -> Self {
        self.probes = None;
        self.pool = pool(0.0);
        self
    }

    /// How long the answer to a probe is waited for. Default 3 ms. No effect
    /// [without probes](Self::without_probes).
    #[must_use]
    pub fn with_probe_timeout(mut self, timeout: Duration) -> Self {
        self.probes = self.probes.map(|probes| ProbeRules { timeout, ..probes });
        self
    }
}

impl Policy for Adaptive {
    fn name(&self) -> &'static str {
        "adaptive"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let usable = candidates.usable();
        Arc::new(AdaptivePicker {
            reports: reports(usable, candidates.now()),
            pooled: Pooled::new(candidates, &self.pool),
            by_latency: ByLatency::new(candidates, &self.latency),
        })
    }

    fn measures(&self) -> Measures {
        let measures = Measures::NOTHING
            .with_latency(self.latency)
            .with_reports(ReportRules::default());
        match self.probes {
            Some(probes) => measures.with_probes(probes),
            None => measures,
        }
    }

    fn refresh(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    fn rests(&self, now: Moment) -> bool {
        // No report counts any more, so two choices it is.
        !self.pool.heard_within(REPORT_COUNTS, now)
    }

    fn reported(&self, endpoint: &Subchannel, queue: ServerQueue, _: ReportSource) {
        self.pool.insert(endpoint.key(), &queue);
    }
}

/// Whether the servers say enough of their load to go by it. If few of many did, those few would get all
/// the calls.
fn reports(usable: &[Candidate], now: Moment) -> bool {
    let reports = |candidate: &&Candidate| {
        let queue = candidate.subchannel().reports().queue();
        queue.is_some_and(|queue| now.since(queue.at) <= REPORT_COUNTS)
    };
    let reporting = usable.iter().filter(reports).count();
    usable.len() >= SMALLEST_FLEET && reporting as f64 >= MOST * usable.len() as f64
}

#[derive(Debug)]
struct AdaptivePicker {
    pooled: Pooled,
    by_latency: ByLatency,
    /// Nearly all servers do.
    reports: bool,
}

impl Picker for AdaptivePicker {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        self.by_reports(context)
            .or_else(|| self.by_latency.choose(context))
            .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

impl AdaptivePicker {
    #[inline]
    fn by_reports(&self, context: &mut PickContext<'_>) -> Option<&Candidate> {
        // A fleet of which some server reports is asked, so that all of them may.
        let pool = self.pooled.pool();
        if self.pooled.usable().len() < SMALLEST_FLEET
            || self.by_latency.is_weighted()
            || !pool.heard_within(REPORT_COUNTS, context.now())
        {
            return None;
        }
        let number = pool.count_call();
        self.pooled.ask(context, number);
        if self.reports {
            self.pooled.take(context, number)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
