//! The settings of each policy, as plain data.

use crate::error::Error;
use crate::load::Until;
use crate::policy::config::{bound, set, sources, time};
use crate::policy::{
    Adaptive, C3, HashSource, IpHash, LeastRequest, Maglev, OrcaWeightedRoundRobin, PeakEwma,
    PickFirst, Prequal, Rendezvous, RingHash,
};

/// One type of settings: all of them optional, an unknown one refused.
macro_rules! settings {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq)]
        #[cfg_attr(
            feature = "serde",
            derive(serde::Serialize, serde::Deserialize),
            serde(default, deny_unknown_fields)
        )]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }
    };
}

/// Sets what all policies that hash by sources have.
macro_rules! hashing {
    ($settings:expr, $policy:expr) => {{
        let policy = set($policy, sources(&$settings.sources)?, |policy, sources| {
            Ok(policy.with_sources(sources))
        })?;
        set(policy, bound($settings.bounded_load)?, |policy, bound| {
            Ok(policy.with_bounded_load(bound))
        })
    }};
}

settings! {
    /// Of a policy that has none.
    NoSettings {}
}

settings! {
    /// Settings of [`OrcaWeightedRoundRobin`]; the names are those of gRFC A58, with the unit.
    OrcaWeightedRoundRobinConfig {
        /// [`with_blackout_period`](OrcaWeightedRoundRobin::with_blackout_period).
        blackout_period_seconds: Option<f64>,
        /// [`with_weight_expiration`](OrcaWeightedRoundRobin::with_weight_expiration).
        weight_expiration_period_seconds: Option<f64>,
        /// [`with_update_period`](OrcaWeightedRoundRobin::with_update_period).
        weight_update_period_seconds: Option<f64>,
        /// [`with_error_penalty`](OrcaWeightedRoundRobin::with_error_penalty).
        error_utilization_penalty: Option<f64>,
        /// [`with_out_of_band_reports`](OrcaWeightedRoundRobin::with_out_of_band_reports).
        enable_oob_load_report: bool,
        /// [`with_out_of_band_period`](OrcaWeightedRoundRobin::with_out_of_band_period).
        oob_reporting_period_seconds: Option<f64>,
    }
}

settings! {
    /// Settings of [`LeastRequest`].
    LeastRequestConfig {
        /// [`with_choices`](LeastRequest::with_choices).
        choices: Option<u32>,
        /// [`full_scan`](LeastRequest::full_scan); then there is nothing to choose.
        full_scan: bool,
        /// [`with_replacement`](LeastRequest::with_replacement).
        with_replacement: bool,
    }
}

settings! {
    /// Settings of [`PeakEwma`].
    PeakEwmaConfig {
        /// [`with_decay`](PeakEwma::with_decay).
        decay_seconds: Option<f64>,
        /// [`with_error_penalty`](PeakEwma::with_error_penalty).
        error_penalty_seconds: Option<f64>,
        /// The latency of the [whole call](Until::End), not up to its first data.
        whole_call: bool,
    }
}

settings! {
    /// Settings of [`IpHash`].
    IpHashConfig {
        /// [`with_trusted_hops`](IpHash::with_trusted_hops).
        trusted_hops: u32,
        /// The factor of a [`BoundedLoad`](crate::policy::BoundedLoad).
        bounded_load: Option<f64>,
    }
}

settings! {
    /// Settings of [`RingHash`].
    RingHashConfig {
        /// The least places on the ring: [`with_ring_size`](RingHash::with_ring_size). It and the most go
        /// together.
        min_size: Option<u32>,
        /// The most places on the ring.
        max_size: Option<u32>,
        /// What is hashed, in this order; without any, as the policy's own default.
        sources: Vec<HashSourceConfig>,
        /// The factor of a [`BoundedLoad`](crate::policy::BoundedLoad).
        bounded_load: Option<f64>,
    }
}

settings! {
    /// Settings of [`Maglev`].
    MaglevConfig {
        /// [`with_table_size`](Maglev::with_table_size).
        table_size: Option<u32>,
        /// What is hashed, in this order; without any, as the policy's own default.
        sources: Vec<HashSourceConfig>,
        /// The factor of a [`BoundedLoad`](crate::policy::BoundedLoad).
        bounded_load: Option<f64>,
    }
}

settings! {
    /// Settings of [`Rendezvous`].
    RendezvousConfig {
        /// What is hashed, in this order; without any, as the policy's own default.
        sources: Vec<HashSourceConfig>,
        /// The factor of a [`BoundedLoad`](crate::policy::BoundedLoad).
        bounded_load: Option<f64>,
    }
}

settings! {
    /// Settings of [`Prequal`].
    PrequalConfig {
        /// [`with_pool_size`](Prequal::with_pool_size).
        pool_size: Option<usize>,
        /// [`with_max_age`](Prequal::with_max_age).
        max_age_seconds: Option<f64>,
        /// [`with_hot_quantile`](Prequal::with_hot_quantile).
        hot_quantile: Option<f64>,
        /// [`with_probe_rate`](Prequal::with_probe_rate).
        probe_rate: Option<f64>,
        /// [`with_remove_rate`](Prequal::with_remove_rate).
        remove_rate: Option<f64>,
        /// [`with_probe_timeout`](Prequal::with_probe_timeout).
        probe_timeout_seconds: Option<f64>,
        /// [`with_idle_probes`](Prequal::with_idle_probes).
        idle_probes_seconds: Option<f64>,
    }
}

settings! {
    /// Settings of [`C3`].
    C3Config {
        /// [`with_clients`](C3::with_clients).
        clients: Option<u32>,
        /// [`with_choices`](C3::with_choices).
        choices: Option<u32>,
        /// [`with_probes`](C3::with_probes).
        probes: Option<u32>,
    }
}

settings! {
    /// Settings of [`Adaptive`].
    AdaptiveConfig {
        /// [`without_probes`](Adaptive::without_probes).
        without_probes: bool,
        /// [`with_probe_timeout`](Adaptive::with_probe_timeout).
        probe_timeout_seconds: Option<f64>,
    }
}

settings! {
    /// Settings of [`PickFirst`].
    PickFirstConfig {
        /// [`with_shuffle`](PickFirst::with_shuffle). In a file also `shuffleAddressList`, as gRPC's
        /// service config has it.
        #[cfg_attr(feature = "serde", serde(alias = "shuffleAddressList"))]
        shuffle_address_list: bool,
        /// [`with_connection_attempt_delay`](PickFirst::with_connection_attempt_delay).
        connection_attempt_delay_seconds: Option<f64>,
    }
}

settings! {
    /// A [`HashSource`]. Exactly one of the sources is to be named.
    HashSourceConfig {
        /// [`HashSource::header`].
        header: Option<String>,
        /// [`HashSource::source_ip_behind`] this many trusted proxies.
        source_ip_behind: Option<u32>,
        /// [`HashSource::path`].
        path: bool,
        /// [`HashSource::terminal`].
        terminal: bool,
    }
}

impl OrcaWeightedRoundRobinConfig {
    pub(super) fn build(&self) -> Result<OrcaWeightedRoundRobin, Error> {
        let policy = OrcaWeightedRoundRobin::default();
        let blackout = time("blackout_period_seconds", self.blackout_period_seconds)?;
        let policy = set(policy, blackout, |p, time| Ok(p.with_blackout_period(time)))?;
        let expiration = self.weight_expiration_period_seconds;
        let expiration = time("weight_expiration_period_seconds", expiration)?;
        let policy = set(policy, expiration, |p, time| p.with_weight_expiration(time))?;
        let update = self.weight_update_period_seconds;
        let update = time("weight_update_period_seconds", update)?;
        let policy = set(policy, update, |p, time| Ok(p.with_update_period(time)))?;
        let penalty = self.error_utilization_penalty;
        let policy = set(policy, penalty, |p, penalty| p.with_error_penalty(penalty))?;
        let period = self.oob_reporting_period_seconds;
        let period = time("oob_reporting_period_seconds", period)?;
        let policy = set(policy, period, |p, time| p.with_out_of_band_period(time))?;
        Ok(policy.with_out_of_band_reports(self.enable_oob_load_report))
    }
}

impl LeastRequestConfig {
    pub(super) fn build(&self) -> Result<LeastRequest, Error> {
        if self.full_scan && (self.choices.is_some() || self.with_replacement) {
            let mistake = "looks at all endpoints: choices and with_replacement cannot hold too";
            return Err(Error::config("full_scan", mistake));
        }
        if self.full_scan {
            return Ok(LeastRequest::full_scan());
        }
        let policy = set(LeastRequest::default(), self.choices, |p, choices| {
            p.with_choices(choices)
        })?;
        Ok(if self.with_replacement {
            policy.with_replacement()
        } else {
            policy
        })
    }
}

impl PeakEwmaConfig {
    pub(super) fn build(&self) -> Result<PeakEwma, Error> {
        let policy = PeakEwma::default();
        let decay = time("decay_seconds", self.decay_seconds)?;
        let policy = set(policy, decay, |p, decay| p.with_decay(decay))?;
        let penalty = time("error_penalty_seconds", self.error_penalty_seconds)?;
        let policy = set(policy, penalty, |p, time| Ok(p.with_error_penalty(time)))?;
        Ok(if self.whole_call {
            policy.with_latency_until(Until::End)
        } else {
            policy
        })
    }
}

impl IpHashConfig {
    pub(super) fn build(&self) -> Result<IpHash, Error> {
        let policy = IpHash::default().with_trusted_hops(self.trusted_hops);
        set(policy, bound(self.bounded_load)?, |p, bound| {
            Ok(p.with_bounded_load(bound))
        })
    }
}

impl RingHashConfig {
    pub(super) fn build(&self) -> Result<RingHash, Error> {
        let size = match (self.min_size, self.max_size) {
            (None, None) => None,
            (Some(min), Some(max)) => Some((min, max)),
            (Some(_), None) => return Err(Error::config("max_size", "is missing beside min_size")),
            (None, Some(_)) => return Err(Error::config("min_size", "is missing beside max_size")),
        };
        let policy = RingHash::default();
        let policy = set(policy, size, |p, (min, max)| p.with_ring_size(min, max))?;
        hashing!(self, policy)
    }
}

impl MaglevConfig {
    pub(super) fn build(&self) -> Result<Maglev, Error> {
        let policy = Maglev::default();
        let policy = set(policy, self.table_size, |p, size| p.with_table_size(size))?;
        hashing!(self, policy)
    }
}

impl RendezvousConfig {
    pub(super) fn build(&self) -> Result<Rendezvous, Error> {
        hashing!(self, Rendezvous::default())
    }
}

impl PrequalConfig {
    pub(super) fn build(&self) -> Result<Prequal, Error> {
        let policy = Prequal::default();
        let policy = set(policy, self.pool_size, |p, size| p.with_pool_size(size))?;
        let age = time("max_age_seconds", self.max_age_seconds)?;
        let policy = set(policy, age, |p, age| p.with_max_age(age))?;
        let policy = set(policy, self.hot_quantile, |p, q| p.with_hot_quantile(q))?;
        let policy = set(policy, self.probe_rate, |p, rate| p.with_probe_rate(rate))?;
        let policy = set(policy, self.remove_rate, |p, rate| p.with_remove_rate(rate))?;
        let timeout = time("probe_timeout_seconds", self.probe_timeout_seconds)?;
        let policy = set(policy, timeout, |p, time| Ok(p.with_probe_timeout(time)))?;
        let idle = time("idle_probes_seconds", self.idle_probes_seconds)?;
        set(policy, idle, |p, every| Ok(p.with_idle_probes(every)))
    }
}

impl C3Config {
    pub(super) fn build(&self) -> Result<C3, Error> {
        let policy = C3::default();
        let policy = set(policy, self.clients, |p, clients| {
            Ok(p.with_clients(clients))
        })?;
        let policy = set(policy, self.choices, |p, choices| p.with_choices(choices))?;
        set(policy, self.probes, |p, probes| p.with_probes(probes))
    }
}

impl AdaptiveConfig {
    pub(super) fn build(&self) -> Result<Adaptive, Error> {
        let policy = Adaptive::default();
        let timeout = time("probe_timeout_seconds", self.probe_timeout_seconds)?;
        let policy = set(policy, timeout, |p, time| Ok(p.with_probe_timeout(time)))?;
        Ok(if self.without_probes {
            policy.without_probes()
        } else {
            policy
        })
    }
}

impl PickFirstConfig {
    pub(super) fn build(&self) -> Result<PickFirst, Error> {
        let policy = PickFirst::default().with_shuffle(self.shuffle_address_list);
        let delay = self.connection_attempt_delay_seconds;
        let delay = time("connection_attempt_delay_seconds", delay)?;
        set(policy, delay, |p, delay| {
            p.with_connection_attempt_delay(delay)
        })
    }
}

impl HashSourceConfig {
    pub(super) fn build(&self) -> Result<HashSource, Error> {
        let source = match (&self.header, self.source_ip_behind, self.path) {
            (Some(name), None, false) => HashSource::header(name)?,
            (None, Some(hops), false) => HashSource::source_ip_behind(hops),
            (None, None, true) => HashSource::path(),
            _ => {
                let mistake = "each is to name exactly one of header, source_ip_behind and path";
                return Err(Error::config("sources", mistake));
            }
        };
        Ok(if self.terminal {
            source.terminal()
        } else {
            source
        })
    }
}
