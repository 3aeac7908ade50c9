use serde_json::{Value, json};

use super::{mistake, retry};
use crate::service_config::ServiceConfig;

/// This is a mistake at `path`, with a word of what it is. Without a path it is one of the whole.
fn assert_mistake(json: &Value, path: &str, what: &str) {
    let mistake = mistake(json);
    assert!(mistake.contains(what), "{json}: {mistake:?} says {what:?}");
    if !path.is_empty() {
        let place = mistake.split_once(": ").map(|(place, _)| place);
        assert_eq!(place, Some(path), "{json}: {mistake}");
    }
}

/// A field, what it is given by mistake, the rest of the path within that, and a word of what it is.
type InField = (&'static str, Value, &'static str, &'static str);

/// The fields are those of `place`, and `config` is one with this field there.
fn assert_mistakes(place: &str, config: impl Fn(&str, &Value) -> Value, rows: &[InField]) {
    for (field, value, rest, what) in rows {
        let path = format!("{place}.{field}{rest}");
        assert_mistake(&config(field, value), &path, what);
    }
}

fn policies(list: &Value) -> Value {
    json!({ "loadBalancingConfig": list })
}

/// The only one.
fn policy(name: &str, settings: &Value) -> Value {
    policies(&json!([{ name: settings }]))
}

fn method(field: &str, value: &Value) -> Value {
    json!({"methodConfig": [{}, {field: value}]})
}

#[test]
fn mistakes_of_the_whole_and_of_lists_have_their_path() {
    for (json, path, what) in [
        (json!([]), "", "expected an object"),
        (json!("{}"), "", "expected an object"),
        (
            json!({"methodConfigs": []}),
            "methodConfigs",
            "unknown field",
        ),
        (
            json!({"methodConfig": [], "method_config": []}),
            "",
            "duplicate field `methodConfig`",
        ),
        (
            json!({"loadBalancingPolicy": "no_such"}),
            "loadBalancingPolicy",
            "\"no_such\" is not known",
        ),
        (
            json!({"load_balancing_policy": "outlier_detection_experimental"}),
            "loadBalancingPolicy",
            "missing field `childPolicy`",
        ),
        (json!({"methodConfig": {}}), "methodConfig", "a sequence"),
        (
            json!({"methodConfig": [[]]}),
            "methodConfig[0]",
            "expected an object",
        ),
        (
            json!({"methodConfig": [{"name": [{}]}, {"name": [{"service": null}]}]}),
            "methodConfig[1].name[0]",
            "the same name as methodConfig[0].name[0]",
        ),
        (
            json!({"retryThrottling": {"maxTokens": 10}}),
            "retryThrottling",
            "missing field `tokenRatio`",
        ),
        (
            json!({"healthCheckConfig": {"serviceName": 1}}),
            "healthCheckConfig.serviceName",
            "a string",
        ),
        (
            json!({"healthCheckConfig": "a"}),
            "healthCheckConfig",
            "expected an object",
        ),
        (
            json!({"connectionScaling": {"maxConnectionsPerSubchannel": 0}}),
            "connectionScaling.maxConnectionsPerSubchannel",
            "from 1 on",
        ),
        (
            json!({"connectionScaling": {"maxConnections": 2}}),
            "connectionScaling.maxConnections",
            "unknown field",
        ),
    ] {
        assert_mistake(&json, path, what);
    }
    let mut both = retry("maxAttempts", &json!(2));
    both["methodConfig"][0]["hedgingPolicy"] = json!({"maxAttempts": 2});
    assert_mistake(&both, "methodConfig[0]", "exclude");
}

#[test]
fn mistakes_of_policies_have_their_path() {
    for (list, rest, what) in [
        (json!({}), "", "a list of policies"),
        (json!([]), "", "names no policy"),
        (json!(["round_robin"]), "[0]", "only field"),
        (json!([{}]), "[0]", "names no policy"),
        (
            json!([{"grpclb": {}}, {"xds_experimental": {}}]),
            "",
            "grpclb, xds_experimental",
        ),
        (
            json!([{"round_robin": {}, "pick_first": {}}]),
            "[0]",
            "more than one",
        ),
        (
            json!([{"grpclb": {}}, {"round_robin": {"a": 1}}]),
            "[1].round_robin.a",
            "unknown field",
        ),
    ] {
        let path = format!("loadBalancingConfig{rest}");
        assert_mistake(&policies(&list), &path, what);
    }
    let child = json!([{"round_robin": {}}]);
    let outliers = json!([{"outlier_detection_experimental": {"childPolicy": child}}]);
    assert_mistakes(
        "loadBalancingConfig[0]",
        policy,
        &[
            ("round_robin", Value::Null, "", "expected an object"),
            ("pick_first", json!([true]), "", "expected an object"),
            (
                "ring_hash_experimental",
                json!({"minRingSize": 5000}),
                "",
                "over a maximum",
            ),
            (
                "prequal",
                json!({"nonsense": 8}),
                "",
                "unknown field `nonsense`",
            ),
            (
                "prequal",
                json!({"policy": "c3"}),
                "",
                "unknown field `policy`",
            ),
            (
                "outlier_detection_experimental",
                json!({}),
                "",
                "missing field `childPolicy`",
            ),
            (
                "outlier_detection_experimental",
                json!({ "childPolicy": outliers }),
                "",
                "within another",
            ),
            (
                "random_subsetting_experimental",
                json!({ "childPolicy": child }),
                "",
                "missing field `subsetSize`",
            ),
            (
                "random_subsetting_experimental",
                json!({"subsetSize": 0, "childPolicy": child}),
                ".subsetSize",
                "from 1 on",
            ),
        ],
    );
}

#[test]
fn mistakes_of_a_policys_settings_have_their_path() {
    let ring = "ring_hash_experimental";
    let weighted = "weighted_round_robin";
    for (name, field, value, what) in [
        (
            "pick_first",
            "shuffleAddressList",
            json!("true"),
            "a boolean",
        ),
        (
            "least_request_experimental",
            "choiceCount",
            json!(1),
            "from 2 on",
        ),
        (ring, "minRingSize", json!(0), "from 1 to 8388608"),
        (ring, "maxRingSize", json!(8_388_609), "from 1 to 8388608"),
        (ring, "requestHashHeader", json!("user-bin"), "binary"),
        (weighted, "errorUtilizationPenalty", json!(-1), "from 0 on"),
        (weighted, "blackoutPeriod", json!(10), "seconds"),
    ] {
        let path = format!("loadBalancingConfig[0].{name}.{field}");
        assert_mistake(&policy(name, &json!({ field: value })), &path, what);
    }
}

#[test]
fn mistakes_of_outlier_detection_have_their_path() {
    let outliers = |field: &str, value: &Value| {
        let mut settings = json!({"childPolicy": [{"round_robin": {}}]});
        settings[field] = value.clone();
        policy("outlier_detection_experimental", &settings)
    };
    assert_mistakes(
        "loadBalancingConfig[0].outlier_detection_experimental",
        outliers,
        &[
            ("maxEjectionPercent", json!(101), "", "from 0 to 100"),
            ("interval", json!("-1s"), "", "from 0 on"),
            (
                "successRateEjection",
                json!({"enforcementPercentage": 101}),
                ".enforcementPercentage",
                "from 0 to 100",
            ),
            (
                "failurePercentageEjection",
                json!({"threshold": -1}),
                ".threshold",
                "from 0 to 100",
            ),
            (
                "childPolicy",
                json!([{"round_robin": {"a": 1}}]),
                "[0].round_robin.a",
                "unknown field",
            ),
        ],
    );
}

#[test]
fn mistakes_of_methods_have_their_path() {
    let twice = json!([{"service": "a"}, {"service": "a", "method": ""}]);
    assert_mistakes(
        "methodConfig[1]",
        method,
        &[
            ("name", json!({}), "", "a sequence"),
            (
                "name",
                json!([{"service": "a"}, {"method": "b"}]),
                "[1]",
                "no service",
            ),
            ("name", json!([{"service": "/a.B"}]), "[0]", "slash"),
            (
                "name",
                json!([{"service": "a", "Method": "b"}]),
                "[0].Method",
                "unknown field",
            ),
            (
                "name",
                twice,
                "[1]",
                "the same name as methodConfig[1].name[0]",
            ),
            ("waitForReady", json!(1), "", "a boolean"),
            ("timeout", json!("-0.1s"), "", "from 0 on"),
            ("timeout", json!("0s"), "", "is zero"),
            ("maxRequestMessageBytes", json!(1024), "", "not enforced"),
            ("max_response_message_bytes", json!("1"), "", "not enforced"),
        ],
    );
    for no_time in ["1", "1 s", "s", "1.0000000001s", "315576000001s"] {
        let config = method("timeout", &json!(no_time));
        assert_mistake(&config, "methodConfig[1].timeout", "as \"1.5s\"");
    }
}

#[test]
fn mistakes_of_retries_have_their_path() {
    let place = "methodConfig[0].retryPolicy";
    for field in [
        "maxAttempts",
        "initialBackoff",
        "maxBackoff",
        "backoffMultiplier",
        "retryableStatusCodes",
    ] {
        let missing = format!("missing field `{field}`");
        assert_mistake(&retry(field, &Value::Null), place, &missing);
    }
    assert_mistakes(
        place,
        retry,
        &[
            ("maxAttempts", json!(1), "", "from 2 on"),
            ("maxAttempts", json!(2.5), "", "whole"),
            ("maxAttempts", json!("NaN"), "", "whole"),
            ("maxAttempts", json!(1_u64 << 32), "", "from 2 on"),
            ("maxAttempts", json!(true), "", "whole"),
            ("initialBackoff", json!("0s"), "", "is zero"),
            ("maxBackoff", json!("0.0s"), "", "is zero"),
            ("backoffMultiplier", json!(0), "", "above 0"),
            ("backoffMultiplier", json!("Infinity"), "", "a number"),
            ("retryableStatusCodes", json!([]), "", "no status code"),
            (
                "retryableStatusCodes",
                json!(["UNAVAILABLE", "NO_SUCH"]),
                "[1]",
                "status code",
            ),
            ("retryableStatusCodes", json!(["OK"]), "[0]", "but OK"),
            ("retryableStatusCodes", json!([17]), "[0]", "1 to 16"),
            ("perAttempt", json!(1), "", "unknown field"),
        ],
    );
}

#[test]
fn mistakes_of_hedges_have_their_path() {
    let hedging = |policy: Value| json!({"methodConfig": [{"hedgingPolicy": policy}]});
    let place = "methodConfig[0].hedgingPolicy";
    assert_mistake(&hedging(json!({})), place, "missing field `maxAttempts`");
    assert_mistakes(
        place,
        |field, value| {
            let mut policy = json!({"maxAttempts": 2});
            policy[field] = value.clone();
            hedging(policy)
        },
        &[
            ("maxAttempts", json!(1), "", "from 2 on"),
            ("hedgingDelay", json!(1), "", "seconds"),
            ("nonFatalStatusCodes", json!([0]), "[0]", "but OK"),
        ],
    );
}

#[test]
fn mistakes_of_the_throttle_have_their_path() {
    assert_mistakes(
        "retryThrottling",
        |field, value| {
            let mut throttle = json!({"maxTokens": 10, "tokenRatio": 0.1});
            throttle[field] = value.clone();
            json!({ "retryThrottling": throttle })
        },
        &[
            ("maxTokens", json!(0), "", "from 1 to 1000"),
            ("maxTokens", json!(1001), "", "from 1 to 1000"),
            ("tokenRatio", json!(0), "", "above 0"),
            ("tokenRatio", json!(0.0009), "", "less than 0.001"),
        ],
    );
}

#[test]
fn text_that_is_no_json_is_an_error() {
    let deep = "[".repeat(100_000);
    let nested = format!(
        "{}[{{\"round_robin\":{{}}}}]{}",
        r#"[{"outlier_detection_experimental":{"childPolicy":"#.repeat(1_000),
        "}}]".repeat(1_000)
    );
    let nested = format!("{{\"loadBalancingConfig\":{nested}}}");
    for text in [
        "",
        "{",
        "{}}",
        "{} {}",
        "nonsense",
        "\u{feff}{}",
        &deep,
        &nested,
    ] {
        let error = ServiceConfig::parse(text).expect_err("is no service config");
        let shown: String = text.chars().take(40).collect();
        assert_eq!(error.field(), Some("service_config"), "{shown}: {error}");
    }
}
