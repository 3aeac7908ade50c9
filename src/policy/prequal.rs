use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::load::{
    Measures, PoolRules, PoolSize, ProbePool, ProbeRules, ReportRules, ReportSource, ServerQueue,
};
use crate::policy::draw::draw;
use crate::policy::pooled::Pooled;
use crate::policy::{Candidates, Pick, PickContext, Picker, Policy, Subchannel};

/// How large a pool may be.
const SIZES: std::ops::RangeInclusive<usize> = 2..=64;

/// How many probes a call may send.
const MOST_PROBES: f64 = 8.0;

/// Prequal, as published: servers are probed beside the calls, and each call goes by the answers that are
/// there already.
///
/// With each call [three servers](Self::with_probe_rate), drawn at random, are asked how many requests they
/// have under way and what latency they expect. The answers go into a [pool](Self::with_pool_size), which
/// a call chooses from by the *hot-cold lexicographic* rule: a server is hot if it has more under way than
/// [84 %](Self::with_hot_quantile) of the last answers; the fastest of those that are not hot; if all are,
/// the one with the least under way. With fewer than two answers, any endpoint at random. Answers are used
/// up: each is dropped after a second, after so many uses that they come in a little faster than they go,
/// and with each call the oldest or the worst one in turn.
///
/// A server that fails calls looks idle and fast. Its answers are believed 1 time in 8 after one failure,
/// in 64 after two and so on, until a call succeeds. [Weights](crate::Endpoint::weight) are not looked at: a larger
/// server shows by its answers.
///
/// # What servers must do
/// Answer probes. Over gRPC a tonic server does behind `server::LoadReportLayer`, put around all its
/// services, and a server in another language by implementing `evenkeel.load.v1.LoadProbe`, whose proto is
/// in the repository; `grpc::Channel` asks by itself. A balancer over other services needs a
/// [probe](crate::balance::Builder::probe), and is not built without. An endpoint that does not answer is
/// not in the pool, and while others answer it gets next to no calls: switch the servers over first. If
/// none answers this is [`Random`](crate::policy::Random).
///
/// | | |
/// |---|---|
/// | pick | O(size of the pool): two reads of 16 rows, a lookup in O(log n), a few shared writes |
/// | call | three probes, each a small call of its own |
/// | build | O(n log n) |
/// | memory | 16 bytes an endpoint, 1 KiB |
///
/// **Wins** on large fleets that others use too, at high load: it sees what each server's queue is, not
/// only this client's part of it. **Loses** on small fleets: where the pool holds every server, all clients
/// see the same best one and take it at once. [`Adaptive`](crate::policy::Adaptive) has the form that is
/// safe there, and needs fewer probes.
///
/// Wydrowski et al., *Load is not what you should balance: Introducing Prequal*, NSDI '24; the defaults are
/// the paper's. Each balancer needs a policy of its own, since the pool is in it.
///
/// ```
/// use evenkeel::policy::{Policy, Prequal};
///
/// let policy = Prequal::default().with_probe_rate(2.0)?.with_pool_size(12)?;
/// assert!(policy.measures().probes.is_some());
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Debug)]
pub struct Prequal {
    rules: PoolRules,
    probes: ProbeRules,
    pool: Arc<ProbePool>,
}

impl Default for Prequal {
    fn default() -> Self {
        Self::new(
            PoolRules {
                size: PoolSize::Fixed(16),
                max_age: Duration::from_secs(1),
                // 2^-0.25
                hot_quantile: 0.840_896_415_253_714_6,
                probe_rate: 3.0,
                report_rate: 0.0,
                remove_rate: 1.0,
                delta: 1.0,
                max_uses: 16,
                latency_grows: false,
                one_per_endpoint: false,
            },
            ProbeRules {
                required: true,
                ..ProbeRules::default()
            },
        )
    }
}

impl Prequal {
    fn new(rules: PoolRules, probes: ProbeRules) -> Self {
        Self {
            rules,
            probes,
            pool: Arc::new(ProbePool::new(rules)),
        }
    }

    fn with(self, change: impl FnOnce(&mut PoolRules)) -> Self {
        let mut rules = self.rules;
        change(&mut rules);
        Self::new(rules, self.probes)
    }

    /// How many answers the pool holds: 2 to 64, 16 by default.
    ///
    /// # Errors
    /// Any other number.
    pub fn with_pool_size(self, size: usize) -> Result<Self, Error> {
        if !SIZES.contains(&size) {
            let mistake = format!("is {size}; it can be {} to {}", SIZES.start(), SIZES.end());
            return Err(Error::config("pool_size", mistake));
        }
        Ok(self.with(|rules| rules.size = PoolSize::Fixed(size)))
    }

    /// How long an answer counts. Default 1 s.
    ///
    /// # Errors
    /// Zero: no answer would count.
    pub fn with_max_age(self, age: Duration) -> Result<Self, Error> {
        if age.is_zero() {
            return Err(Error::config("max_age", "is zero"));
        }
        Ok(self.with(|rules| rules.max_age = age))
    }

    /// Which part of the last answers a server's requests under way must exceed so that it is hot: 0 to 1,
    /// `2^-0.25` (0.84) by default. Less looks more at requests under way, more at latency; at 1 none is
    /// hot.
    ///
    /// # Errors
    /// Any other number.
    pub fn with_hot_quantile(self, quantile: f64) -> Result<Self, Error> {
        if !(0.0..=1.0).contains(&quantile) {
            let mistake = format!("is {quantile}; it can be 0 to 1");
            return Err(Error::config("hot_quantile", mistake));
        }
        Ok(self.with(|rules| rules.hot_quantile = quantile))
    }

    /// Probes a call: 0 to 8, 3 by default. A fraction is spread evenly over the calls; below 1, some
    /// calls send none.
    ///
    /// # Errors
    /// Any other number.
    pub fn with_probe_rate(self, rate: f64) -> Result<Self, Error> {
        let rate = rate_of(rate, "probe_rate")?;
        Ok(self.with(|rules| rules.probe_rate = rate))
    }

    /// Answers that are dropped with each call, the oldest and the worst in turn: 0 to 8, 1 by default. A
    /// fraction is spread evenly over the calls.
    ///
    /// # Errors
    /// Any other number.
    pub fn with_remove_rate(self, rate: f64) -> Result<Self, Error> {
        let rate = rate_of(rate, "remove_rate")?;
        Ok(self.with(|rules| rules.remove_rate = rate))
    }

    /// How long the answer to a probe is waited for. Default 3 ms; the paper has 1 to 3 ms.
    #[must_use]
    pub fn with_probe_timeout(mut self, timeout: Duration) -> Self {
        self.probes.timeout = timeout;
        self
    }

    /// Sends a probe when there was none for this long. By default there are no probes without calls.
    #[must_use]
    pub fn with_idle_probes(mut self, every: Duration) -> Self {
        self.probes.idle = Some(every);
        self
    }
}

fn rate_of(rate: f64, field: &'static str) -> Result<f64, Error> {
    if (0.0..=MOST_PROBES).contains(&rate) {
        Ok(rate)
    } else {
        let mistake = format!("is {rate}; it can be 0 to {MOST_PROBES}");
        Err(Error::config(field, mistake))
    }
}

impl Policy for Prequal {
    fn name(&self) -> &'static str {
        "prequal"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        Arc::new(PrequalPicker(Pooled::new(candidates, &self.pool)))
    }

    fn measures(&self) -> Measures {
        Measures::NOTHING
            .with_reports(ReportRules::default())
            .with_probes(self.probes)
    }

    fn reported(&self, endpoint: &Subchannel, queue: ServerQueue, source: ReportSource) {
        // What comes with responses tells of those that are called, and they would be called the more.
        if source == ReportSource::Probe {
            self.pool.insert(endpoint.key(), &queue);
        }
    }
}

#[derive(Debug)]
struct PrequalPicker(Pooled);

impl Picker for PrequalPicker {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let number = self.0.pool().count_call();
        self.0.ask(context, number);
        self.0
            .take(context, number)
            .or_else(|| draw(self.0.usable(), context))
            .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

#[cfg(test)]
mod tests;
