use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::policy::{
    BoundedLoad, HashSource, Policy, Random, RoundRobin, WeightedRandom, WeightedRoundRobin,
};

mod settings;

pub use settings::{
    AdaptiveConfig, C3Config, HashSourceConfig, IpHashConfig, LeastRequestConfig, MaglevConfig,
    NoSettings, OrcaWeightedRoundRobinConfig, PeakEwmaConfig, PickFirstConfig, PrequalConfig,
    RendezvousConfig, RingHashConfig,
};

/// A policy by its name, with its settings as plain data: what a flag or a configuration file says.
///
/// The names are gRPC's where gRPC has the policy: `weighted_round_robin` goes by the servers' reports, and
/// `static_weighted_round_robin` by the endpoints' own weights. A name alone is parsed from a string; a name with settings is read by serde, with the feature `serde`.
/// What is left out is as the policy's own default; a name or a setting that is not known is refused. What
/// only code can say (a function as a hash source, metrics of one's own) is not here.
///
/// ```
/// use evenkeel::policy::{LeastRequestConfig, PolicyConfig};
///
/// let policy = "least_request".parse::<PolicyConfig>()?.build()?;
/// let balance = evenkeel::Balance::builder().policy(policy);
///
/// let mut settings = LeastRequestConfig::default();
/// settings.choices = Some(3);
/// let three = PolicyConfig::LeastRequest(settings).build()?;
/// # let _ = (balance, three);
/// # Ok::<(), evenkeel::Error>(())
/// ```
///
/// The same as TOML, JSON or YAML: `policy` is the name, the settings stand beside it.
///
/// ```toml
/// policy = "ring_hash"
/// min_size = 2048
/// max_size = 4096
/// sources = [{ header = "x-user", terminal = true }, { source_ip_behind = 1 }]
/// bounded_load = 1.5
/// ```
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(tag = "policy", rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum PolicyConfig {
    /// `round_robin`: [`RoundRobin`].
    RoundRobin(NoSettings),
    /// `static_weighted_round_robin`: [`WeightedRoundRobin`].
    #[cfg_attr(feature = "serde", serde(rename = "static_weighted_round_robin"))]
    WeightedRoundRobin(NoSettings),
    /// `weighted_round_robin`: [`OrcaWeightedRoundRobin`](crate::policy::OrcaWeightedRoundRobin).
    #[cfg_attr(feature = "serde", serde(rename = "weighted_round_robin"))]
    OrcaWeightedRoundRobin(OrcaWeightedRoundRobinConfig),
    /// `random`: [`Random`].
    Random(NoSettings),
    /// `weighted_random`: [`WeightedRandom`].
    WeightedRandom(NoSettings),
    /// `least_request_experimental`, or `least_request`: [`LeastRequest`](crate::policy::LeastRequest).
    #[cfg_attr(
        feature = "serde",
        serde(rename = "least_request_experimental", alias = "least_request")
    )]
    LeastRequest(LeastRequestConfig),
    /// `peak_ewma`: [`PeakEwma`](crate::policy::PeakEwma).
    PeakEwma(PeakEwmaConfig),
    /// `ip_hash`: [`IpHash`](crate::policy::IpHash).
    IpHash(IpHashConfig),
    /// `ring_hash_experimental`, or `ring_hash`: [`RingHash`](crate::policy::RingHash).
    #[cfg_attr(
        feature = "serde",
        serde(rename = "ring_hash_experimental", alias = "ring_hash")
    )]
    RingHash(RingHashConfig),
    /// `maglev`: [`Maglev`](crate::policy::Maglev).
    Maglev(MaglevConfig),
    /// `rendezvous`: [`Rendezvous`](crate::policy::Rendezvous).
    Rendezvous(RendezvousConfig),
    /// `prequal`: [`Prequal`](crate::policy::Prequal).
    Prequal(PrequalConfig),
    /// `c3`: [`C3`](crate::policy::C3).
    C3(C3Config),
    /// `adaptive`: [`Adaptive`](crate::policy::Adaptive).
    Adaptive(AdaptiveConfig),
    /// `pick_first`: [`PickFirst`](crate::policy::PickFirst).
    PickFirst(PickFirstConfig),
}

impl PolicyConfig {
    /// Every policy, with its defaults.
    pub fn all() -> impl Iterator<Item = Self> {
        [
            Self::RoundRobin(NoSettings::default()),
            Self::WeightedRoundRobin(NoSettings::default()),
            Self::OrcaWeightedRoundRobin(OrcaWeightedRoundRobinConfig::default()),
            Self::Random(NoSettings::default()),
            Self::WeightedRandom(NoSettings::default()),
            Self::LeastRequest(LeastRequestConfig::default()),
            Self::PeakEwma(PeakEwmaConfig::default()),
            Self::IpHash(IpHashConfig::default()),
            Self::RingHash(RingHashConfig::default()),
            Self::Maglev(MaglevConfig::default()),
            Self::Rendezvous(RendezvousConfig::default()),
            Self::Prequal(PrequalConfig::default()),
            Self::C3(C3Config::default()),
            Self::Adaptive(AdaptiveConfig::default()),
            Self::PickFirst(PickFirstConfig::default()),
        ]
        .into_iter()
    }

    /// The name: [`Policy::name`], which is gRPC's where gRPC has the policy.
    pub fn name(&self) -> &'static str {
        match self {
            Self::RoundRobin(_) => "round_robin",
            Self::WeightedRoundRobin(_) => "static_weighted_round_robin",
            Self::OrcaWeightedRoundRobin(_) => "weighted_round_robin",
            Self::Random(_) => "random",
            Self::WeightedRandom(_) => "weighted_random",
            Self::LeastRequest(_) => "least_request_experimental",
            Self::PeakEwma(_) => "peak_ewma",
            Self::IpHash(_) => "ip_hash",
            Self::RingHash(_) => "ring_hash_experimental",
            Self::Maglev(_) => "maglev",
            Self::Rendezvous(_) => "rendezvous",
            Self::Prequal(_) => "prequal",
            Self::C3(_) => "c3",
            Self::Adaptive(_) => "adaptive",
            Self::PickFirst(_) => "pick_first",
        }
    }

    /// The policy, to give to one builder.
    ///
    /// # Errors
    /// Names the setting that the policy refuses, a time that is negative or no number, or two settings
    /// of which only one can hold.
    pub fn build(&self) -> Result<Arc<dyn Policy>, Error> {
        Ok(match self {
            Self::RoundRobin(_) => Arc::new(RoundRobin::default()),
            Self::WeightedRoundRobin(_) => Arc::new(WeightedRoundRobin::default()),
            Self::OrcaWeightedRoundRobin(settings) => Arc::new(settings.build()?),
            Self::Random(_) => Arc::new(Random::default()),
            Self::WeightedRandom(_) => Arc::new(WeightedRandom::default()),
            Self::LeastRequest(settings) => Arc::new(settings.build()?),
            Self::PeakEwma(settings) => Arc::new(settings.build()?),
            Self::IpHash(settings) => Arc::new(settings.build()?),
            Self::RingHash(settings) => Arc::new(settings.build()?),
            Self::Maglev(settings) => Arc::new(settings.build()?),
            Self::Rendezvous(settings) => Arc::new(settings.build()?),
            Self::Prequal(settings) => Arc::new(settings.build()?),
            Self::C3(settings) => Arc::new(settings.build()?),
            Self::Adaptive(settings) => Arc::new(settings.build()?),
            Self::PickFirst(settings) => Arc::new(settings.build()?),
        })
    }
}

impl FromStr for PolicyConfig {
    type Err = Error;

    /// The policy of this name, with its defaults.
    fn from_str(name: &str) -> Result<Self, Error> {
        let name = match name {
            "least_request" => "least_request_experimental",
            "ring_hash" => "ring_hash_experimental",
            name => name,
        };
        Self::all()
            .find(|config| config.name() == name)
            .ok_or_else(|| {
                let names: Vec<_> = Self::all().map(|config| config.name()).collect();
                let message = format!("{name:?} is none of {}", names.join(", "));
                Error::config("policy", message)
            })
    }
}

impl fmt::Display for PolicyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `policy` with this setting, if it is given.
fn set<P, V>(
    policy: P,
    value: Option<V>,
    with: impl FnOnce(P, V) -> Result<P, Error>,
) -> Result<P, Error> {
    match value {
        Some(value) => with(policy, value),
        None => Ok(policy),
    }
}

fn time(field: &'static str, seconds: Option<f64>) -> Result<Option<Duration>, Error> {
    let time = |seconds| {
        Duration::try_from_secs_f64(seconds)
            .map_err(|_| Error::config(field, format!("{seconds} s is no time")))
    };
    seconds.map(time).transpose()
}

fn bound(factor: Option<f64>) -> Result<Option<BoundedLoad>, Error> {
    factor.map(BoundedLoad::new).transpose()
}

/// None, if the policy's own are to stay.
fn sources(configs: &[HashSourceConfig]) -> Result<Option<Vec<HashSource>>, Error> {
    let sources = configs.iter().map(HashSourceConfig::build);
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    Ok(Some(sources).filter(|sources| !sources.is_empty()))
}

#[cfg(test)]
mod tests;
