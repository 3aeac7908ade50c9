use std::time::Duration;

use serde_json::json;

use super::{read, retries, retry};
use crate::math::Backoff;
use crate::retry::{HedgePolicy, RetryPolicy, ThrottleSettings};
use crate::service_config::{Attempts, Name};

#[test]
fn retries_are_a6s() {
    let policy = RetryPolicy::default()
        .with_max_attempts(4)
        .with_backoff(
            Backoff::default()
                .with_base(Duration::from_millis(100))
                .with_max(Duration::from_secs(1))
                .with_multiplier(2.0)
                .with_jitter(0.2),
        )
        .with_codes([14])
        .with_budget(None);
    assert_eq!(
        retries(&retry("maxAttempts", &json!(4))),
        policy,
        "A6's example"
    );
    for (field, value, wanted) in [
        ("maxAttempts", json!("2"), policy.with_max_attempts(2)),
        // Five at most, where it is used.
        ("maxAttempts", json!(6), policy.with_max_attempts(6)),
        (
            "retryableStatusCodes",
            json!(["unavailable", "Deadline_Exceeded", 8]),
            policy.with_codes([14, 4, 8]),
        ),
        (
            "retryableStatusCodes",
            json!(["CANCELLED", 16]),
            policy.with_codes([1, 16]).with_transport_errors(false),
        ),
    ] {
        let read = retries(&retry(field, &value));
        assert_eq!(read, wanted, "{field}: {value}");
        assert!(
            read.validate().is_ok(),
            "what is read can be used: {field}: {value}"
        );
    }
    // Delays may grow less, and a maximum below the first delay cuts that.
    for (field, value) in [
        ("backoffMultiplier", json!(0.5)),
        ("backoffMultiplier", json!("1e-9")),
        ("maxBackoff", json!("0.000000001s")),
        ("initialBackoff", json!("315576000000s")),
    ] {
        let read = retries(&retry(field, &value));
        assert!(read.validate().is_ok(), "A6 allows {field}: {value}");
    }
}

#[test]
fn hedges_are_a6s() {
    let policy = HedgePolicy::default().with_budget(None);
    for (json, wanted) in [
        (
            json!({"maxAttempts": 4, "hedgingDelay": "0.5s", "nonFatalStatusCodes": ["UNAVAILABLE", "internal"]}),
            policy
                .with_max_attempts(4)
                .with_delay(Duration::from_millis(500))
                .with_codes([14, 13]),
        ),
        (
            json!({"max_attempts": 9, "non_fatal_status_codes": []}),
            policy
                // Five at most, where it is used.
                .with_max_attempts(9)
                .with_delay(Duration::ZERO)
                .with_codes([0_i32; 0])
                .with_transport_errors(false),
        ),
    ] {
        let config = json!({"methodConfig": [{"name": [{"service": "s"}], "hedgingPolicy": json}]});
        match &read(&config).methods[0].attempts {
            Attempts::Hedges(policy) => {
                assert_eq!(policy, &wanted, "{config}");
                assert!(policy.validate().is_ok(), "what is read can be used");
            }
            other => panic!("{config} asks for hedges, not {other:?}"),
        }
    }
}

#[test]
fn methods_throttle_and_health() {
    let config = read(&json!({
        "methodConfig": [
            {"name": [{}], "waitForReady": true},
            {
                "name": [{"service": "a.B"}, {"service": "a.B", "method": "C"}, {"service": "a.D", "method": ""}],
                "timeout": "1.000340012s"
            },
            // Skipped, says the proto.
            {"timeout": "2s"}
        ],
        "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
        "healthCheckConfig": {"serviceName": ""},
        "connectionScaling": {"maxConnectionsPerSubchannel": "20"}
    }));
    let [first, second, third] = config.methods.as_slice() else {
        panic!("three: {config:?}");
    };
    assert_eq!(first.names, [Name::Default]);
    assert_eq!((first.wait_for_ready, first.timeout), (Some(true), None));
    assert_eq!(
        second.names,
        [
            Name::Service("a.B".into()),
            Name::Method("a.B".into(), "C".into()),
            Name::Service("a.D".into()),
        ]
    );
    assert_eq!(second.timeout, Some(Duration::new(1, 340_012)));
    assert_eq!(third.names, [], "for no method");
    assert_eq!(
        config.throttle,
        Some(ThrottleSettings::new(10, 0.1)),
        "A6's example"
    );
    assert_eq!(config.health_service.as_deref(), Some(""), "A17: all of it");
    assert_eq!(config.max_connections, Some(20), "A105: as it is written");
}
