//! What is simulated: a scenario as its TOML file says it.
//!
//! `examples/simulate/scenarios/` has the ones that come with the simulator; [`catalog`] embeds them.
//! [`Scenario::parse`] reads one and refuses what it does not know or could not run.

pub mod catalog;
mod validate;

use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

/// One scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What `--scenario` and the rows call it.
    pub name: String,
    /// One or two sentences for whoever reads the results.
    pub about: String,
    /// Clients, each with a policy of its own that knows only its own calls.
    pub clients: usize,
    /// CPU that the calls would use if each server had the same number of them, over the cores that
    /// the servers are allotted. A list is that many phases, one after the other.
    #[serde(deserialize_with = "one_or_more")]
    pub load: Vec<f64>,
    /// How long each phase is measured.
    pub seconds: f64,
    /// How long it runs at the first load before that; not measured.
    #[serde(default = "defaults::warmup_seconds")]
    pub warmup_seconds: f64,
    /// The network, one way.
    #[serde(default = "defaults::network_ms")]
    pub network_ms: f64,
    /// When a client gives up an attempt, which also ends it at the server. 0 is never.
    #[serde(default = "defaults::timeout_ms")]
    pub timeout_ms: f64,
    /// How often a failed call is sent again, at once and to a server not yet tried.
    #[serde(default)]
    pub retries: u32,
    /// Whether servers are ejected by the crate's default rules.
    #[serde(default = "defaults::ejection")]
    pub ejection: bool,
    /// Whether servers tell of their load: in their answers, and when they are probed. If not, a probe
    /// gets no answer. Polls, which `yarp` goes by, are another matter.
    #[serde(default = "defaults::reports")]
    pub reports: bool,
    /// What a report costs its server for each call, if the policy goes by reports: microseconds of one
    /// core at speed 1.
    #[serde(default)]
    pub report_cost_us: f64,
    /// What the answer to a probe costs its server, in the same.
    #[serde(default)]
    pub probe_cost_us: f64,
    /// The work of a call.
    pub work: Work,
    /// The servers.
    pub servers: Vec<ServerGroup>,
    /// Who else is on the servers' machines.
    pub antagonists: Option<Antagonists>,
    /// What happens meanwhile.
    #[serde(default)]
    pub events: Vec<Event>,
}

/// How the work of calls is distributed: milliseconds of one core at speed 1.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Work {
    /// Always the same.
    Constant {
        /// It.
        ms: f64,
    },
    /// Exponential.
    Exponential {
        /// Its mean.
        mean_ms: f64,
    },
    /// Normal, drawn again while it is not over 0; its mean is then over `mu_ms`.
    Normal {
        /// Where it peaks.
        mu_ms: f64,
        /// Its standard deviation before the cut.
        sigma_ms: f64,
    },
    /// Lognormal.
    Lognormal {
        /// Its mean.
        mean_ms: f64,
        /// The standard deviation of its logarithm.
        sigma: f64,
    },
    /// One of two.
    Bimodal {
        /// The one.
        short_ms: f64,
        /// The other.
        long_ms: f64,
        /// How many are of the other kind, of 1.
        long_share: f64,
    },
}

/// Servers that are alike.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerGroup {
    /// How many.
    pub count: usize,
    /// Their allotment: cores that they surely have. A call uses one at most.
    pub cores: f64,
    /// Work done in a second by one core.
    #[serde(default = "defaults::speed")]
    pub speed: f64,
}

/// What else runs on each server's machine, drawn anew for each server after a time that is exponential.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Antagonists {
    /// How often a server has its allotment only, of 1.
    pub contended_share: f64,
    /// Its speed then.
    pub contended_speed: f64,
    /// Cores of a machine.
    pub machine_cores: f64,
    /// What others use of them otherwise: uniform between 0 and this. The rest is the server's, never
    /// less than its allotment.
    pub other_cores: f64,
    /// The mean time between two draws.
    pub hold_seconds: f64,
}

/// Something that happens to some of the servers. Times count from the end of the warm-up.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// How many servers.
    pub servers: usize,
    /// The first of them, counted from 0; the others follow it.
    #[serde(default)]
    pub first: usize,
    /// When it begins.
    #[serde(default)]
    pub at_seconds: f64,
    /// How long it lasts; to the end, if left out. Of a restart: how long the new server is slow.
    pub for_seconds: Option<f64>,
    /// Of `fail`: how many of its calls, of 1.
    pub rate: Option<f64>,
    /// Of `fail`: how long the error takes.
    pub after_ms: Option<f64>,
    /// Of `slow`, `fewer_cores` and `restart`: what remains of speed or cores, of 1.
    pub factor: Option<f64>,
    /// Of `restart`: how long until the next servers are restarted.
    pub every_seconds: Option<f64>,
}

/// What happens to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// It answers calls with an error, without working.
    Fail,
    /// It takes calls and never answers.
    Silent,
    /// It is gone with all calls on it, and cannot be connected to.
    Down,
    /// It works slower.
    Slow,
    /// It has fewer cores.
    FewerCores,
    /// It leaves, ends its calls, and another one takes its place, slow at first; then the next ones do.
    Restart,
}

impl Scenario {
    /// Reads a scenario. `source` is what errors call it.
    ///
    /// # Errors
    /// Says which field is unknown, missing or not to be used.
    pub fn parse(source: &str, text: &str) -> Result<Self, String> {
        let scenario: Self = toml::from_str(text)
            .map_err(|error| format!("{source}: {}", error.to_string().trim_end()))?;
        validate::validate(&scenario).map_err(|mistake| format!("{source}: {mistake}"))?;
        Ok(scenario)
    }

    /// The same with all times of its course multiplied: shorter, and less exact.
    #[must_use]
    pub fn scaled(mut self, factor: f64) -> Self {
        self.seconds *= factor;
        self.warmup_seconds *= factor;
        for event in &mut self.events {
            event.at_seconds *= factor;
            for time in [&mut event.for_seconds, &mut event.every_seconds] {
                *time = time.map(|seconds| seconds * factor);
            }
        }
        self
    }

    /// How many servers there are at a time.
    pub fn server_count(&self) -> usize {
        self.servers.iter().map(|group| group.count).sum()
    }

    /// Calls per second at this load.
    pub fn rate(&self, load: f64) -> f64 {
        let sum = |of: fn(&ServerGroup) -> f64| {
            let groups = self.servers.iter();
            groups.map(|g| g.count as f64 * of(g)).sum::<f64>()
        };
        let slowness = sum(|group| 1.0 / group.speed) / self.server_count() as f64;
        load * sum(|group| group.cores) / (self.work.mean() * slowness)
    }
}

/// A number, or several of them.
fn one_or_more<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    struct OneOrMore;

    impl<'de> Visitor<'de> for OneOrMore {
        type Value = Vec<f64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number or a list of numbers")
        }

        fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
            Ok(vec![number])
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
            Ok(vec![number as f64])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut numbers = Vec::new();
            while let Some(number) = seq.next_element()? {
                numbers.push(number);
            }
            Ok(numbers)
        }
    }

    deserializer.deserialize_any(OneOrMore)
}

mod defaults {
    pub(super) fn warmup_seconds() -> f64 {
        10.0
    }
    pub(super) fn network_ms() -> f64 {
        0.25
    }
    pub(super) fn timeout_ms() -> f64 {
        5_000.0
    }
    pub(super) fn ejection() -> bool {
        true
    }
    pub(super) fn reports() -> bool {
        true
    }
    pub(super) fn speed() -> f64 {
        1.0
    }
}
