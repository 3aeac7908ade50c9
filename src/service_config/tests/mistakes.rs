use serde_json::{Value, json};

use super::{mistake, retry};
use crate::service_config::ServiceConfig;

/// Where each mistake is, and a word of what it is.
#[test]
fn mistakes_have_their_path() {
    let lb = |list: Value| json!({ "loadBalancingConfig": list });
    let outliers = |field: &str, value: Value| {
        let mut settings = json!({"childPolicy": [{"round_robin": {}}]});
        settings[field] = value;
        json!({"loadBalancingConfig": [{"outlier_detection_experimental": settings}]})
    };
    let method = |field: &str, value: Value| json!({"methodConfig": [{}, {field: value}]});
    let hedging = |policy: Value| json!({"methodConfig": [{"hedgingPolicy": policy}]});
    let throttle = |tokens: Value, ratio: Value| json!({"retryThrottling": {"maxTokens": tokens, "tokenRatio": ratio}});
    let table = [
        // The whole.
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
        // Policies.
        (lb(json!({})), "loadBalancingConfig", "a list of policies"),
        (lb(json!([])), "loadBalancingConfig", "names no policy"),
        (
            lb(json!(["round_robin"])),
            "loadBalancingConfig[0]",
            "only field",
        ),
        (lb(json!([{}])), "loadBalancingConfig[0]", "names no policy"),
        (
            lb(json!([{"grpclb": {}}, {"xds_experimental": {}}])),
            "loadBalancingConfig",
            "grpclb, xds_experimental",
        ),
        (
            lb(json!([{"round_robin": {}, "pick_first": {}}])),
            "loadBalancingConfig[0]",
            "more than one",
        ),
        (
            lb(json!([{"grpclb": {}}, {"round_robin": {"a": 1}}])),
            "loadBalancingConfig[1].round_robin.a",
            "unknown field",
        ),
        (
            lb(json!([{"round_robin": null}])),
            "loadBalancingConfig[0].round_robin",
            "expected an object",
        ),
        (
            lb(json!([{"pick_first": [true]}])),
            "loadBalancingConfig[0].pick_first",
            "expected an object",
        ),
        (
            lb(json!([{"pick_first": {"shuffleAddressList": "true"}}])),
            "loadBalancingConfig[0].pick_first.shuffleAddressList",
            "a boolean",
        ),
        (
            lb(json!([{"least_request_experimental": {"choiceCount": 1}}])),
            "loadBalancingConfig[0].least_request_experimental.choiceCount",
            "from 2 on",
        ),
        (
            lb(json!([{"ring_hash_experimental": {"minRingSize": 0}}])),
            "loadBalancingConfig[0].ring_hash_experimental.minRingSize",
            "from 1 to 8388608",
        ),
        (
            lb(json!([{"ring_hash_experimental": {"maxRingSize": 8_388_609}}])),
            "loadBalancingConfig[0].ring_hash_experimental.maxRingSize",
            "from 1 to 8388608",
        ),
        (
            lb(json!([{"ring_hash_experimental": {"minRingSize": 5000}}])),
            "loadBalancingConfig[0].ring_hash_experimental",
            "over a maximum",
        ),
        (
            lb(json!([{"ring_hash_experimental": {"requestHashHeader": "user-bin"}}])),
            "loadBalancingConfig[0].ring_hash_experimental.requestHashHeader",
            "binary",
        ),
        (
            lb(json!([{"weighted_round_robin": {"errorUtilizationPenalty": -1}}])),
            "loadBalancingConfig[0].weighted_round_robin.errorUtilizationPenalty",
            "from 0 on",
        ),
        (
            lb(json!([{"weighted_round_robin": {"blackoutPeriod": 10}}])),
            "loadBalancingConfig[0].weighted_round_robin.blackoutPeriod",
            "seconds",
        ),
        (
            lb(json!([{"prequal": {"nonsense": 8}}])),
            "loadBalancingConfig[0].prequal",
            "unknown field `nonsense`",
        ),
        (
            outliers("maxEjectionPercent", json!(101)),
            "loadBalancingConfig[0].outlier_detection_experimental.maxEjectionPercent",
            "from 0 to 100",
        ),
        (
            outliers("interval", json!("-1s")),
            "loadBalancingConfig[0].outlier_detection_experimental.interval",
            "from 0 on",
        ),
        (
            outliers("successRateEjection", json!({"enforcementPercentage": 101})),
            "loadBalancingConfig[0].outlier_detection_experimental.successRateEjection.enforcementPercentage",
            "from 0 to 100",
        ),
        (
            outliers("failurePercentageEjection", json!({"threshold": -1})),
            "loadBalancingConfig[0].outlier_detection_experimental.failurePercentageEjection.threshold",
            "from 0 to 100",
        ),
        (
            outliers("childPolicy", json!([{"round_robin": {"a": 1}}])),
            "loadBalancingConfig[0].outlier_detection_experimental.childPolicy[0].round_robin.a",
            "unknown field",
        ),
        (
            outliers(
                "childPolicy",
                json!([{"outlier_detection_experimental": {"childPolicy": [{"round_robin": {}}]}}]),
            ),
            "loadBalancingConfig[0].outlier_detection_experimental",
            "within another",
        ),
        (
            lb(json!([{"outlier_detection_experimental": {}}])),
            "loadBalancingConfig[0].outlier_detection_experimental",
            "missing field `childPolicy`",
        ),
        (
            lb(
                json!([{"random_subsetting_experimental": {"subsetSize": 0, "childPolicy": [{"round_robin": {}}]}}]),
            ),
            "loadBalancingConfig[0].random_subsetting_experimental.subsetSize",
            "from 1 on",
        ),
        (
            lb(json!([{"random_subsetting_experimental": {"childPolicy": [{"round_robin": {}}]}}])),
            "loadBalancingConfig[0].random_subsetting_experimental",
            "missing field `subsetSize`",
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
        // Methods.
        (json!({"methodConfig": {}}), "methodConfig", "a sequence"),
        (
            json!({"methodConfig": [[]]}),
            "methodConfig[0]",
            "expected an object",
        ),
        (
            method("name", json!({})),
            "methodConfig[1].name",
            "a sequence",
        ),
        (
            method("name", json!([{"service": "a"}, {"method": "b"}])),
            "methodConfig[1].name[1]",
            "no service",
        ),
        (
            method("name", json!([{"service": "/a.B"}])),
            "methodConfig[1].name[0]",
            "slash",
        ),
        (
            method("name", json!([{"service": "a", "Method": "b"}])),
            "methodConfig[1].name[0].Method",
            "unknown field",
        ),
        (
            method(
                "name",
                json!([{"service": "a"}, {"service": "a", "method": ""}]),
            ),
            "methodConfig[1].name[1]",
            "the same name as methodConfig[1].name[0]",
        ),
        (
            json!({"methodConfig": [{"name": [{}]}, {"name": [{"service": null}]}]}),
            "methodConfig[1].name[0]",
            "the same name as methodConfig[0].name[0]",
        ),
        (
            method("waitForReady", json!(1)),
            "methodConfig[1].waitForReady",
            "a boolean",
        ),
        (
            method("timeout", json!("1")),
            "methodConfig[1].timeout",
            "as \"1.5s\"",
        ),
        (
            method("timeout", json!("1 s")),
            "methodConfig[1].timeout",
            "as \"1.5s\"",
        ),
        (
            method("timeout", json!("s")),
            "methodConfig[1].timeout",
            "as \"1.5s\"",
        ),
        (
            method("timeout", json!("1.0000000001s")),
            "methodConfig[1].timeout",
            "as \"1.5s\"",
        ),
        (
            method("timeout", json!("315576000001s")),
            "methodConfig[1].timeout",
            "as \"1.5s\"",
        ),
        (
            method("timeout", json!("-0.1s")),
            "methodConfig[1].timeout",
            "from 0 on",
        ),
        (
            method("timeout", json!("0s")),
            "methodConfig[1].timeout",
            "is zero",
        ),
        (
            method("maxRequestMessageBytes", json!(1024)),
            "methodConfig[1].maxRequestMessageBytes",
            "not enforced",
        ),
        (
            method("max_response_message_bytes", json!("1")),
            "methodConfig[1].max_response_message_bytes",
            "not enforced",
        ),
        // Retries.
        (
            retry("maxAttempts", &Value::Null),
            "methodConfig[0].retryPolicy",
            "missing field `maxAttempts`",
        ),
        (
            retry("initialBackoff", &Value::Null),
            "methodConfig[0].retryPolicy",
            "missing",
        ),
        (
            retry("maxBackoff", &Value::Null),
            "methodConfig[0].retryPolicy",
            "missing",
        ),
        (
            retry("backoffMultiplier", &Value::Null),
            "methodConfig[0].retryPolicy",
            "missing",
        ),
        (
            retry("retryableStatusCodes", &Value::Null),
            "methodConfig[0].retryPolicy",
            "missing",
        ),
        (
            retry("maxAttempts", &json!(1)),
            "methodConfig[0].retryPolicy.maxAttempts",
            "from 2 on",
        ),
        (
            retry("maxAttempts", &json!(2.5)),
            "methodConfig[0].retryPolicy.maxAttempts",
            "whole",
        ),
        (
            retry("maxAttempts", &json!("NaN")),
            "methodConfig[0].retryPolicy.maxAttempts",
            "whole",
        ),
        (
            retry("maxAttempts", &json!(4_294_967_296_u64)),
            "methodConfig[0].retryPolicy.maxAttempts",
            "from 2 on",
        ),
        (
            retry("maxAttempts", &json!(true)),
            "methodConfig[0].retryPolicy.maxAttempts",
            "whole",
        ),
        (
            retry("initialBackoff", &json!("0s")),
            "methodConfig[0].retryPolicy.initialBackoff",
            "is zero",
        ),
        (
            retry("maxBackoff", &json!("0.0s")),
            "methodConfig[0].retryPolicy.maxBackoff",
            "is zero",
        ),
        (
            retry("backoffMultiplier", &json!(0)),
            "methodConfig[0].retryPolicy.backoffMultiplier",
            "above 0",
        ),
        (
            retry("backoffMultiplier", &json!("Infinity")),
            "methodConfig[0].retryPolicy.backoffMultiplier",
            "a number",
        ),
        (
            retry("retryableStatusCodes", &json!([])),
            "methodConfig[0].retryPolicy.retryableStatusCodes",
            "no status code",
        ),
        (
            retry("retryableStatusCodes", &json!(["UNAVAILABLE", "NO_SUCH"])),
            "methodConfig[0].retryPolicy.retryableStatusCodes[1]",
            "status code",
        ),
        (
            retry("retryableStatusCodes", &json!(["OK"])),
            "methodConfig[0].retryPolicy.retryableStatusCodes[0]",
            "but OK",
        ),
        (
            retry("retryableStatusCodes", &json!([17])),
            "methodConfig[0].retryPolicy.retryableStatusCodes[0]",
            "1 to 16",
        ),
        (
            retry("perAttempt", &json!(1)),
            "methodConfig[0].retryPolicy.perAttempt",
            "unknown field",
        ),
        // Hedges.
        (
            hedging(json!({})),
            "methodConfig[0].hedgingPolicy",
            "missing field `maxAttempts`",
        ),
        (
            hedging(json!({"maxAttempts": 1})),
            "methodConfig[0].hedgingPolicy.maxAttempts",
            "from 2 on",
        ),
        (
            hedging(json!({"maxAttempts": 2, "hedgingDelay": 1})),
            "methodConfig[0].hedgingPolicy.hedgingDelay",
            "seconds",
        ),
        (
            hedging(json!({"maxAttempts": 2, "nonFatalStatusCodes": [0]})),
            "methodConfig[0].hedgingPolicy.nonFatalStatusCodes[0]",
            "but OK",
        ),
        // The rest.
        (
            throttle(json!(0), json!(0.1)),
            "retryThrottling.maxTokens",
            "from 1 to 1000",
        ),
        (
            throttle(json!(1001), json!(0.1)),
            "retryThrottling.maxTokens",
            "from 1 to 1000",
        ),
        (
            throttle(json!(10), json!(0)),
            "retryThrottling.tokenRatio",
            "above 0",
        ),
        (
            throttle(json!(10), json!(0.0009)),
            "retryThrottling.tokenRatio",
            "less than 0.001",
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
    ];
    for (json, path, what) in table {
        let mistake = mistake(&json);
        assert!(mistake.contains(what), "{json}: {mistake:?} says {what:?}");
        if !path.is_empty() {
            let place = mistake.split_once(": ").map(|(place, _)| place);
            assert_eq!(place, Some(path), "{json}: {mistake}");
        }
    }
    let mut both = retry("maxAttempts", &json!(2));
    both["methodConfig"][0]["hedgingPolicy"] = json!({"maxAttempts": 2});
    let mistake = mistake(&both);
    assert!(
        mistake.starts_with("methodConfig[0]: ") && mistake.contains("exclude"),
        "{mistake}"
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
