mod balancing;
mod methods;
mod mistakes;
mod random;

use serde_json::{Value, json};

use crate::error::Error;
use crate::retry::RetryPolicy;
use crate::service_config::{Attempts, Balancing, ServiceConfig};

fn parse(json: &Value) -> Result<ServiceConfig, Error> {
    ServiceConfig::parse(&json.to_string())
}

fn read(json: &Value) -> ServiceConfig {
    parse(json).unwrap_or_else(|error| panic!("{json} can be used: {error}"))
}

/// The message, without the name of the setting.
fn mistake(json: &Value) -> String {
    let error = parse(json).expect_err(&format!("{json} is a mistake"));
    assert_eq!(error.field(), Some("service_config"), "{error}");
    let message = error.to_string();
    let message = message.strip_prefix("service_config: ");
    message.expect("the setting comes first").to_owned()
}

fn balancing(list: &Value) -> Balancing {
    let config = read(&json!({ "loadBalancingConfig": list }));
    config.balancing.expect("a policy is named")
}

/// What tells policies of one name with other settings apart.
fn shown(list: &Value) -> String {
    format!("{:?}", balancing(list).policy)
}

/// What is required of a retry policy, with this in place of one field.
fn retry(field: &str, value: &Value) -> Value {
    let mut policy = json!({
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "1s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    });
    match value {
        Value::Null => policy.as_object_mut().unwrap().remove(field),
        value => (policy.as_object_mut().unwrap()).insert(field.to_owned(), value.clone()),
    };
    json!({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
}

fn retries(json: &Value) -> RetryPolicy {
    match read(json).methods.remove(0).attempts {
        Attempts::Retries(policy) => policy,
        other => panic!("{json} asks for retries, not {other:?}"),
    }
}

#[test]
fn nothing_said_sets_nothing() {
    for json in [
        json!({}),
        json!({
            "loadBalancingPolicy": null, "loadBalancingConfig": null, "methodConfig": null,
            "retryThrottling": null, "healthCheckConfig": null
        }),
        json!({"loadBalancingPolicy": "", "methodConfig": [], "healthCheckConfig": {}}),
        json!({"healthCheckConfig": {"serviceName": null}}),
        json!({"connectionScaling": {}}),
        json!({"connectionScaling": {"maxConnectionsPerSubchannel": null}}),
    ] {
        let config = read(&json);
        assert!(
            config.balancing.is_none()
                && config.methods.is_empty()
                && config.throttle.is_none()
                && config.health_service.is_none()
                && config.max_connections.is_none(),
            "{json} says nothing: {config:?}"
        );
    }
}
