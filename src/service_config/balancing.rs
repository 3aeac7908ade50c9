//! `loadBalancingConfig`: a list of policies, of which the first that is known counts (gRFC A24).

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{
    DeserializeSeed, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde_json::{Map, Value};

use crate::health::{Ejection, FailurePercentage, OutlierDetection, SuccessRate};
use crate::policy::{
    HashSource, LeastRequest, OrcaWeightedRoundRobin, PickFirst, Policy, PolicyConfig, RingHash,
    RoundRobin,
};
use crate::service_config::scalars::{
    Float, Integer, Object, Percentage, PositiveTime, Time, Uint32,
};
use crate::topology::RandomSubset;

/// A policy, and what the policies around it say.
#[derive(Debug, Clone)]
pub(crate) struct Balancing {
    pub(crate) policy: Arc<dyn Policy>,
    pub(crate) ejection: Option<Ejection>,
    pub(crate) subset: Option<RandomSubset>,
}

impl Balancing {
    fn of(policy: impl Policy) -> Self {
        Self {
            policy: Arc::new(policy),
            ejection: None,
            subset: None,
        }
    }

    /// By the name alone, as the deprecated `loadBalancingPolicy` has it.
    pub(super) fn by_name<E: Error>(name: &str) -> Result<Self, E> {
        let mistake = |what: &dyn fmt::Display| {
            E::custom(format_args!("loadBalancingPolicy: {name:?} {what}"))
        };
        let nothing = Value::Object(Map::new());
        // The names of policies are in lower case; those of the enum that this field once was are not.
        let known = Named(&name.to_ascii_lowercase()).deserialize(nothing);
        let known = known.map_err(|error| mistake(&error))?;
        known.ok_or_else(|| mistake(&"is not known"))
    }
}

impl<'de> Deserialize<'de> for Balancing {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FirstKnown)
    }
}

/// The list.
struct FirstKnown;

impl<'de> Visitor<'de> for FirstKnown {
    type Value = Balancing;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of policies")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Balancing, A::Error> {
        let mut skipped = Vec::new();
        let mut chosen = None;
        while let Some(known) = list.next_element_seed(Entry {
            wanted: chosen.is_none(),
            skipped: &mut skipped,
        })? {
            chosen = chosen.or(known);
        }
        chosen.ok_or_else(|| match skipped.as_slice() {
            [] => A::Error::custom("names no policy"),
            names => A::Error::custom(format_args!(
                "none of the policies is known: {}",
                names.join(", ")
            )),
        })
    }
}

/// One of the list: an object with one field, whose name is the policy's.
struct Entry<'a> {
    /// No earlier one is known.
    wanted: bool,
    skipped: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Entry<'_> {
    type Value = Option<Balancing>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_> {
    type Value = Option<Balancing>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with the policy's name as its only field")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let Some(name) = map.next_key::<String>()? else {
            return Err(A::Error::custom("names no policy"));
        };
        let known = if self.wanted {
            map.next_value_seed(Named(&name))?
        } else {
            map.next_value::<IgnoredAny>()?;
            None
        };
        if map.next_key::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("names more than one policy"));
        }
        if known.is_none() {
            self.skipped.push(name);
        }
        Ok(known)
    }
}

/// The settings of the policy of this name; `None`, if that is not known.
struct Named<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Named<'_> {
    type Value = Option<Balancing>;

    fn deserialize<D: Deserializer<'de>>(self, settings: D) -> Result<Self::Value, D::Error> {
        match self.0 {
            "pick_first" => read::<PickFirstFields, D>(settings),
            "round_robin" => read::<NoFields, D>(settings),
            "weighted_round_robin" => read::<WeightedRoundRobinFields, D>(settings),
            "least_request_experimental" => read::<LeastRequestFields, D>(settings),
            "ring_hash_experimental" => read::<RingHashFields, D>(settings),
            "outlier_detection_experimental" | "outlier_detection" => {
                read::<OutlierDetectionFields, D>(settings)
            }
            "random_subsetting_experimental" | "random_subsetting" => {
                read::<SubsettingFields, D>(settings)
            }
            own if own.parse::<PolicyConfig>().is_ok() => {
                read_own(own, Map::deserialize(settings)?).map(Some)
            }
            _ => IgnoredAny::deserialize(settings).map(|_| None),
        }
    }
}

fn read<'de, F: Fields + Deserialize<'de>, D: Deserializer<'de>>(
    settings: D,
) -> Result<Option<Balancing>, D::Error> {
    let Object(fields) = Object::<F>::deserialize(settings)?;
    fields.balancing().map(Some).map_err(D::Error::custom)
}

/// A policy that gRPC does not have, with its settings as [`PolicyConfig`] has them.
fn read_own<E: Error>(name: &str, mut settings: Map<String, Value>) -> Result<Balancing, E> {
    if settings.insert("policy".into(), name.into()).is_some() {
        return Err(E::custom("unknown field `policy`"));
    }
    let config = PolicyConfig::deserialize(Value::Object(settings).into_deserializer());
    let policy = config.map_err(E::custom)?.build().map_err(E::custom)?;
    Ok(Balancing::of(policy))
}

type Result<T, E = crate::error::Error> = std::result::Result<T, E>;

/// The settings of one policy.
trait Fields {
    fn balancing(self) -> Result<Balancing>;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoFields {}

impl Fields for NoFields {
    fn balancing(self) -> Result<Balancing> {
        Ok(Balancing::of(RoundRobin::default()))
    }
}

/// gRFC A62.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PickFirstFields {
    #[serde(alias = "shuffle_address_list")]
    shuffle_address_list: Option<bool>,
}

impl Fields for PickFirstFields {
    fn balancing(self) -> Result<Balancing> {
        let shuffle = self.shuffle_address_list.unwrap_or_default();
        Ok(Balancing::of(PickFirst::default().with_shuffle(shuffle)))
    }
}

/// gRFC A58.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WeightedRoundRobinFields {
    #[serde(alias = "enable_oob_load_report")]
    enable_oob_load_report: Option<bool>,
    #[serde(alias = "oob_reporting_period")]
    oob_reporting_period: Option<PositiveTime>,
    #[serde(alias = "blackout_period")]
    blackout_period: Option<Time>,
    #[serde(alias = "weight_expiration_period")]
    weight_expiration_period: Option<PositiveTime>,
    #[serde(alias = "weight_update_period")]
    weight_update_period: Option<Time>,
    #[serde(alias = "error_utilization_penalty")]
    error_utilization_penalty: Option<Float>,
}

impl Fields for WeightedRoundRobinFields {
    fn balancing(self) -> Result<Balancing> {
        let mut policy = OrcaWeightedRoundRobin::default()
            .with_out_of_band_reports(self.enable_oob_load_report.unwrap_or_default());
        if let Some(PositiveTime(period)) = self.oob_reporting_period {
            policy = policy.with_out_of_band_period(period)?;
        }
        if let Some(Time(period)) = self.blackout_period {
            policy = policy.with_blackout_period(period);
        }
        if let Some(PositiveTime(period)) = self.weight_expiration_period {
            policy = policy.with_weight_expiration(period)?;
        }
        if let Some(Time(period)) = self.weight_update_period {
            policy = policy.with_update_period(period);
        }
        if let Some(Float(penalty)) = self.error_utilization_penalty {
            policy = policy.with_error_penalty(penalty)?;
        }
        Ok(Balancing::of(policy))
    }
}

/// gRFC A48.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LeastRequestFields {
    #[serde(alias = "choice_count")]
    choice_count: Option<Integer<2, { u32::MAX }>>,
}

impl Fields for LeastRequestFields {
    fn balancing(self) -> Result<Balancing> {
        let mut policy = LeastRequest::default();
        if let Some(Integer(choices)) = self.choice_count {
            // "If a value larger than 10 is given, it is treated as 10."
            policy = policy.with_choices(choices.min(10))?;
        }
        Ok(Balancing::of(policy))
    }
}

/// gRFC A42, A76.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RingHashFields {
    #[serde(alias = "min_ring_size")]
    min_ring_size: Option<RingSize>,
    #[serde(alias = "max_ring_size")]
    max_ring_size: Option<RingSize>,
    #[serde(alias = "request_hash_header")]
    request_hash_header: Option<HashHeader>,
}

/// `None`, if the name is empty.
struct HashHeader(Option<HashSource>);

impl<'de> Deserialize<'de> for HashHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let name = Some(name).filter(|name| !name.is_empty());
        let source = name.map(|name| HashSource::header(&name)).transpose();
        source.map(Self).map_err(D::Error::custom)
    }
}

type RingSize = Integer<1, { 8 << 20 }>;

impl Fields for RingHashFields {
    fn balancing(self) -> Result<Balancing> {
        let min = self.min_ring_size.map_or(1024, |size| size.0);
        let max = self.max_ring_size.map_or(4096, |size| size.0);
        let mut policy = RingHash::default().with_ring_size(min, max)?;
        if let Some(HashHeader(Some(header))) = self.request_hash_header {
            policy = policy.with_sources([header]);
        }
        Ok(Balancing::of(policy))
    }
}

/// gRFC A50.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct OutlierDetectionFields {
    interval: Option<PositiveTime>,
    #[serde(alias = "base_ejection_time")]
    base_ejection_time: Option<PositiveTime>,
    #[serde(alias = "max_ejection_time")]
    max_ejection_time: Option<Time>,
    #[serde(alias = "max_ejection_percent")]
    max_ejection_percent: Option<Percentage>,
    #[serde(alias = "success_rate_ejection")]
    success_rate_ejection: Option<Object<SuccessRateFields>>,
    #[serde(alias = "failure_percentage_ejection")]
    failure_percentage_ejection: Option<Object<FailurePercentageFields>>,
    #[serde(alias = "child_policy")]
    child_policy: Balancing,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SuccessRateFields {
    #[serde(alias = "stdev_factor")]
    stdev_factor: Option<Uint32>,
    #[serde(alias = "enforcement_percentage")]
    enforcement_percentage: Option<Percentage>,
    #[serde(alias = "minimum_hosts")]
    minimum_hosts: Option<Uint32>,
    #[serde(alias = "request_volume")]
    request_volume: Option<Uint32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FailurePercentageFields {
    threshold: Option<Percentage>,
    #[serde(alias = "enforcement_percentage")]
    enforcement_percentage: Option<Percentage>,
    #[serde(alias = "minimum_hosts")]
    minimum_hosts: Option<Uint32>,
    #[serde(alias = "request_volume")]
    request_volume: Option<Uint32>,
}

/// gRFC A50's; ours is 50.
const MAX_EJECTION_PERCENT: u32 = 10;

impl Fields for OutlierDetectionFields {
    fn balancing(self) -> Result<Balancing> {
        let mut child = self.child_policy;
        if child.ejection.is_some() {
            let mistake = "stands within another one";
            return Err(crate::error::Error::config("outlier_detection", mistake));
        }
        let percent = self.max_ejection_percent;
        // A50's rules and no others: neither failures in a row nor panic.
        let mut ejection = Ejection::default()
            .with_consecutive_failures(u32::MAX)
            .with_panic_threshold_percent(0)
            .with_max_percent(percent.map_or(MAX_EJECTION_PERCENT, |percent| percent.0));
        if let Some(PositiveTime(time)) = self.base_ejection_time {
            ejection = ejection.with_base_time(time);
        }
        if let Some(Time(time)) = self.max_ejection_time {
            ejection = ejection.with_max_time(time);
        }
        let success_rate = self.success_rate_ejection.map(|Object(rule)| rule.rule());
        let failures = self.failure_percentage_ejection;
        let failures = failures.map(|Object(rule)| rule.rule());
        // With neither rule nobody is compared.
        if success_rate.is_some() || failures.is_some() {
            let mut outliers = OutlierDetection::default()
                .with_success_rate(success_rate)
                .with_failure_percentage(failures);
            if let Some(PositiveTime(interval)) = self.interval {
                outliers = outliers.with_interval(interval);
            }
            ejection = ejection.with_outlier_detection(outliers);
        }
        child.ejection = Some(ejection);
        Ok(child)
    }
}

impl SuccessRateFields {
    fn rule(self) -> SuccessRate {
        let default = SuccessRate::default();
        SuccessRate {
            stdev_factor: or(self.stdev_factor, default.stdev_factor),
            enforcement_percentage: or(self.enforcement_percentage, default.enforcement_percentage),
            minimum_hosts: or(self.minimum_hosts, default.minimum_hosts),
            request_volume: or(self.request_volume, default.request_volume),
        }
    }
}

impl FailurePercentageFields {
    fn rule(self) -> FailurePercentage {
        let default = FailurePercentage::default();
        FailurePercentage {
            threshold: or(self.threshold, default.threshold),
            enforcement_percentage: or(self.enforcement_percentage, default.enforcement_percentage),
            minimum_hosts: or(self.minimum_hosts, default.minimum_hosts),
            request_volume: or(self.request_volume, default.request_volume),
        }
    }
}

fn or<const LEAST: u32, const MOST: u32>(given: Option<Integer<LEAST, MOST>>, default: u32) -> u32 {
    given.map_or(default, |given| given.0)
}

/// gRFC A68.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SubsettingFields {
    #[serde(alias = "subset_size")]
    subset_size: Integer<1, { u32::MAX }>,
    #[serde(alias = "child_policy")]
    child_policy: Balancing,
}

impl Fields for SubsettingFields {
    fn balancing(self) -> Result<Balancing> {
        let mut child = self.child_policy;
        if child.subset.is_some() {
            let mistake = "stands within another one";
            return Err(crate::error::Error::config("random_subsetting", mistake));
        }
        child.subset = Some(RandomSubset::new(self.subset_size.0 as usize)?);
        Ok(child)
    }
}
