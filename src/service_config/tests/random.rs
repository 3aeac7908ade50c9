//! Documents that nobody would write.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::read;
use crate::service_config::{Attempts, ServiceConfig};

/// Names and values that mean something in some place, so that random documents get past the first field.
fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "loadBalancingConfig",
        "loadBalancingPolicy",
        "methodConfig",
        "retryThrottling",
        "healthCheckConfig",
        "connectionScaling",
        "maxConnectionsPerSubchannel",
        "name",
        "service",
        "method",
        "timeout",
        "waitForReady",
        "retryPolicy",
        "hedgingPolicy",
        "maxAttempts",
        "initialBackoff",
        "maxBackoff",
        "backoffMultiplier",
        "retryableStatusCodes",
        "hedgingDelay",
        "nonFatalStatusCodes",
        "maxTokens",
        "tokenRatio",
        "serviceName",
        "round_robin",
        "pick_first",
        "weighted_round_robin",
        "least_request_experimental",
        "choiceCount",
        "ring_hash_experimental",
        "minRingSize",
        "maxRingSize",
        "requestHashHeader",
        "outlier_detection_experimental",
        "childPolicy",
        "interval",
        "baseEjectionTime",
        "maxEjectionPercent",
        "successRateEjection",
        "stdevFactor",
        "random_subsetting_experimental",
        "subsetSize",
        "prequal",
        "max_age_seconds",
        "c3",
        "clients",
        "UNAVAILABLE",
        "1s",
        "-1s",
        "1e400",
        "NaN",
        "0.000000001s",
        "99999999999999999999s",
        "",
        "é",
    ];
    let word = proptest::sample::select(words.to_vec());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (0..20_u32).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(8, 64, 6, move |inner| {
        let key = word.clone().prop_map(str::to_owned);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((key, inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A good one of which each part may be exchanged for another.
fn good() -> Value {
    json!({
        "loadBalancingConfig": [{"outlier_detection_experimental": {
            "interval": "1s", "successRateEjection": {"stdevFactor": 1},
            "childPolicy": [{"random_subsetting_experimental": {
                "subsetSize": 3,
                "childPolicy": [{"ring_hash_experimental": {"minRingSize": 3, "requestHashHeader": "a"}}]
            }}]
        }}],
        "methodConfig": [{
            "name": [{"service": "a", "method": "b"}], "timeout": "1s", "waitForReady": true,
            "retryPolicy": {
                "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"]
            }
        }, {
            "name": [{"service": "a"}],
            "hedgingPolicy": {
                "maxAttempts": 3, "hedgingDelay": "0.1s", "nonFatalStatusCodes": ["UNAVAILABLE"]
            }
        }],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        "healthCheckConfig": {"serviceName": "a"},
        "connectionScaling": {"maxConnectionsPerSubchannel": 2}
    })
}

/// The pointers of all parts.
fn pointers(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                pointers(value, &format!("{at}/{name}"), all);
            }
        }
        Value::Array(list) => {
            for (place, value) in list.iter().enumerate() {
                pointers(value, &format!("{at}/{place}"), all);
            }
        }
        _ => {}
    }
}

/// No panic, and of two outcomes one: all that was read can be used, or an error names the setting.
fn harmless(json: &str) -> Result<(), TestCaseError> {
    match ServiceConfig::parse(json) {
        Ok(config) => {
            for method in &config.methods {
                let usable = match &method.attempts {
                    Attempts::One => Ok(()),
                    Attempts::Retries(policy) => policy.with_throttle(config.throttle).validate(),
                    Attempts::Hedges(policy) => policy.with_throttle(config.throttle).validate(),
                };
                prop_assert!(usable.is_ok(), "{json}");
            }
            let ejection = config.balancing.and_then(|balancing| balancing.ejection);
            prop_assert!(
                ejection.is_none_or(|ejection| ejection.validate().is_ok()),
                "{json}"
            );
        }
        Err(error) => prop_assert_eq!(error.field(), Some("service_config"), "{}", json),
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_json_panics(json in any_json()) {
        harmless(&json.to_string())?;
    }

    #[test]
    fn no_part_of_a_good_one_may_be_such_that_it_panics(part in any::<prop::sample::Index>(), other in any_json()) {
        let mut json = good();
        let mut all = Vec::new();
        pointers(&json, "", &mut all);
        let pointer = &all[part.index(all.len())];
        *json.pointer_mut(pointer).expect("it is there") = other;
        harmless(&json.to_string())?;
    }

    #[test]
    fn no_text_panics(text in ".*") {
        harmless(&text)?;
    }
}

#[test]
fn the_good_one_is_good() {
    let config = read(&good());
    assert!(config.balancing.is_some() && config.methods.len() == 2);
}
