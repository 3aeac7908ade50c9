use std::time::Duration;

use crate::load::ReportRules;

/// What a policy wants measured of each call; by default nothing, and then no clock is read.
///
/// A [`Policy`](crate::policy::Policy) says it once, when the balancer is built.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct Measures {
    /// Latency, into each endpoint's [`PeakEwma`](crate::load::PeakEwma).
    pub latency: Option<LatencyRules>,
    /// What the servers report of their load, into each endpoint's [`Reports`](crate::load::Reports).
    pub reports: Option<ReportRules>,
    /// How servers are asked for their load, by a policy that names whom to ask; see
    /// [`PickContext::probe`](crate::policy::PickContext::probe).
    pub probes: Option<ProbeRules>,
}

impl Measures {
    /// Nothing.
    pub const NOTHING: Self = Self {
        latency: None,
        reports: None,
        probes: None,
    };

    /// Latency by these rules.
    #[must_use]
    pub fn with_latency(mut self, rules: LatencyRules) -> Self {
        self.latency = Some(rules);
        self
    }

    /// The servers' reports by these rules.
    #[must_use]
    pub fn with_reports(mut self, rules: ReportRules) -> Self {
        self.reports = Some(rules);
        self
    }

    /// Probes by these rules.
    #[must_use]
    pub fn with_probes(mut self, rules: ProbeRules) -> Self {
        self.probes = Some(rules);
        self
    }

    /// Whether the time of each call must be known.
    #[inline]
    pub fn need_clock(&self) -> bool {
        self.latency.is_some() || self.read_responses()
    }

    /// Whether reports are read off the responses of calls: they are wanted, and not out of band.
    #[inline]
    pub fn read_responses(&self) -> bool {
        self.reports
            .is_some_and(|rules| rules.out_of_band.is_none())
    }

    /// How often servers are to report beside the calls, if they are.
    pub fn out_of_band(&self) -> Option<Duration> {
        self.reports?.out_of_band
    }
}

/// How the latency of a call is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct LatencyRules {
    /// How fast old answers are forgotten; 10 s by default, as in Finagle.
    pub decay: Duration,
    /// What a failed or refused call counts as, if it took less: an endpoint that fails fast must not
    /// look fast. 5 s by default. A longer pause that the endpoint asked for counts in its place.
    pub error_penalty: Duration,
    /// Where the clock stops.
    pub until: Until,
}

impl Default for LatencyRules {
    fn default() -> Self {
        Self {
            decay: Duration::from_secs(10),
            error_penalty: Duration::from_secs(5),
            until: Until::FirstData,
        }
    }
}

/// How a server is asked for its load; by what, and how many at once, is in [`probe`](crate::probe).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProbeRules {
    /// How long its answer counts. 3 ms by default, as in Prequal (NSDI '24): what comes later tells of
    /// a server that is slow even to say so, and of a load that has changed.
    pub timeout: Duration,
    /// When no probe was sent for as long, one is sent to an endpoint at random, so that the first call
    /// after a pause finds something to go by. None by default: an idle channel is silent.
    pub idle: Option<Duration>,
    /// Whether the policy is worth nothing without: then a balancer that has no
    /// [probe](crate::balance::Builder::probe) is not built. Default `false`.
    pub required: bool,
}

impl Default for ProbeRules {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(3),
            idle: None,
            required: false,
        }
    }
}

/// Where a call's latency ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Until {
    /// At the first data of the response, or at its trailers if they come first: so unary calls and
    /// streams look alike.
    #[default]
    FirstData,
    /// At the end of the response.
    End,
}
