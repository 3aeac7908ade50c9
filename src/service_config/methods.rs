//! `methodConfig` and `retryThrottling`: gRFC A6 and gRPC's `service_config.proto`.

use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use crate::math::Backoff;
use crate::retry::{HedgePolicy, RetryPolicy, ThrottleSettings};
use crate::service_config::scalars::{
    FailureCode, Integer, Object, PositiveFloat, PositiveTime, Time,
};

/// What holds for the calls of some methods. One that is named by the method counts whole, before that of its
/// service, and that before the default.
#[derive(Debug)]
pub(crate) struct MethodConfig {
    pub(crate) names: Vec<Name>,
    pub(crate) wait_for_ready: Option<bool>,
    /// Above zero.
    pub(crate) timeout: Option<Duration>,
    pub(crate) attempts: Attempts,
}

/// Which calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    /// All that no other name fits.
    Default,
    Service(String),
    Method(String, String),
}

/// How often a call is made.
#[derive(Debug)]
pub(crate) enum Attempts {
    One,
    Retries(RetryPolicy),
    Hedges(HedgePolicy),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct MethodFields {
    name: Option<Vec<Object<Name>>>,
    #[serde(alias = "wait_for_ready")]
    wait_for_ready: Option<bool>,
    timeout: Option<PositiveTime>,
    #[serde(alias = "max_request_message_bytes")]
    max_request_message_bytes: Option<NotEnforced>,
    #[serde(alias = "max_response_message_bytes")]
    max_response_message_bytes: Option<NotEnforced>,
    #[serde(alias = "retry_policy")]
    retry_policy: Option<Object<RetryFields>>,
    #[serde(alias = "hedging_policy")]
    hedging_policy: Option<Object<HedgingFields>>,
}

impl<'de> Deserialize<'de> for MethodConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = MethodFields::deserialize(deserializer)?;
        // Both end at their field, so that there is nothing to look at.
        let (None, None) = (
            fields.max_request_message_bytes,
            fields.max_response_message_bytes,
        ) else {
            return Err(NotEnforced::error());
        };
        let attempts = match (fields.retry_policy, fields.hedging_policy) {
            (None, None) => Attempts::One,
            (Some(Object(retry)), None) => Attempts::Retries(retry.policy()),
            (None, Some(Object(hedging))) => Attempts::Hedges(hedging.policy()),
            (Some(_), Some(_)) => {
                let mistake = "retryPolicy and hedgingPolicy exclude each other";
                return Err(D::Error::custom(mistake));
            }
        };
        let names = fields.name.unwrap_or_default();
        Ok(Self {
            names: names.into_iter().map(|Object(name)| name).collect(),
            wait_for_ready: fields.wait_for_ready,
            timeout: fields.timeout.map(|PositiveTime(time)| time),
            attempts,
        })
    }
}

/// What gRPC knows and a channel cannot do: the messages are the generated client's.
struct NotEnforced;

impl NotEnforced {
    fn error<E: Error>() -> E {
        E::custom("is not enforced here: give the generated client its limits")
    }
}

impl<'de> Deserialize<'de> for NotEnforced {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(Self::error())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameFields {
    service: Option<String>,
    method: Option<String>,
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = NameFields::deserialize(deserializer)?;
        // proto3 does not tell what is empty from what is not there.
        let service = fields.service.unwrap_or_default();
        let method = fields.method.unwrap_or_default();
        if service.contains('/') || method.contains('/') {
            return Err(D::Error::custom(
                "a slash is in the name of a service or method",
            ));
        }
        match (service.is_empty(), method.is_empty()) {
            (true, true) => Ok(Self::Default),
            (false, true) => Ok(Self::Service(service)),
            (false, false) => Ok(Self::Method(service, method)),
            (true, false) => Err(D::Error::custom("names a method and no service")),
        }
    }
}

/// At least two; more than five count as five where they are used.
type AttemptCount = Integer<2, { u32::MAX }>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RetryFields {
    #[serde(alias = "max_attempts")]
    max_attempts: AttemptCount,
    #[serde(alias = "initial_backoff")]
    initial_backoff: PositiveTime,
    #[serde(alias = "max_backoff")]
    max_backoff: PositiveTime,
    #[serde(alias = "backoff_multiplier")]
    backoff_multiplier: PositiveFloat,
    #[serde(alias = "retryable_status_codes")]
    retryable_status_codes: SomeCodes,
}

impl RetryFields {
    fn policy(self) -> RetryPolicy {
        let backoff = Backoff::default()
            .with_base(self.initial_backoff.0)
            .with_max(self.max_backoff.0)
            .with_multiplier(self.backoff_multiplier.0)
            .with_jitter(0.2);
        let codes = self.retryable_status_codes.0;
        RetryPolicy::default()
            .with_max_attempts(self.max_attempts.0)
            .with_backoff(backoff)
            // A lost connection is UNAVAILABLE, as any other.
            .with_transport_errors(codes.contains(&UNAVAILABLE))
            .with_codes(codes)
            // What bounds all of them together is the throttle.
            .with_budget(None)
    }
}

const UNAVAILABLE: i32 = 14;

/// Not none.
struct SomeCodes(Vec<i32>);

impl<'de> Deserialize<'de> for SomeCodes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let codes = Vec::<FailureCode>::deserialize(deserializer)?;
        if codes.is_empty() {
            return Err(D::Error::custom("names no status code"));
        }
        Ok(Self(codes.into_iter().map(|code| code.0).collect()))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HedgingFields {
    #[serde(alias = "max_attempts")]
    max_attempts: AttemptCount,
    #[serde(alias = "hedging_delay")]
    hedging_delay: Option<Time>,
    #[serde(alias = "non_fatal_status_codes")]
    non_fatal_status_codes: Option<Vec<FailureCode>>,
}

impl HedgingFields {
    fn policy(self) -> HedgePolicy {
        let codes = self.non_fatal_status_codes.unwrap_or_default();
        let codes: Vec<i32> = codes.into_iter().map(|code| code.0).collect();
        HedgePolicy::default()
            .with_max_attempts(self.max_attempts.0)
            .with_delay(self.hedging_delay.map_or(Duration::ZERO, |time| time.0))
            // As of retries, with both.
            .with_transport_errors(codes.contains(&UNAVAILABLE))
            .with_codes(codes)
            .with_budget(None)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ThrottleFields {
    #[serde(alias = "max_tokens")]
    max_tokens: Integer<1, 1_000>,
    #[serde(alias = "token_ratio")]
    token_ratio: Ratio,
}

impl ThrottleFields {
    pub(super) fn settings(self) -> ThrottleSettings {
        ThrottleSettings::new(self.max_tokens.0, self.token_ratio.0)
    }
}

/// At least a thousandth: A6 counts three decimals.
struct Ratio(f64);

impl<'de> Deserialize<'de> for Ratio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let PositiveFloat(ratio) = PositiveFloat::deserialize(deserializer)?;
        if ratio < 0.001 {
            return Err(D::Error::custom("is less than 0.001"));
        }
        Ok(Self(ratio))
    }
}
