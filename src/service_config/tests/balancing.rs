use std::time::Duration;

use serde_json::{Value, json};

use super::{balancing, read, shown};
use crate::health::{Ejection, FailurePercentage, OutlierDetection, SuccessRate};

#[test]
fn the_first_known_policy_counts() {
    for (list, name) in [
        (json!([{"pick_first": {}}]), "pick_first"),
        (json!([{"round_robin": {}}]), "round_robin"),
        (
            json!([{"weighted_round_robin": {}}]),
            "weighted_round_robin",
        ),
        (
            json!([{"least_request_experimental": {}}]),
            "least_request_experimental",
        ),
        (
            json!([{"ring_hash_experimental": {}}]),
            "ring_hash_experimental",
        ),
        (
            json!([{"grpclb": {"childPolicy": [{"pick_first": {}}]}}, {"round_robin": {}}]),
            "round_robin",
        ),
        (
            json!([{"priority_experimental": {"priorities": []}}, {"round_robin": {}}, {"pick_first": {}}]),
            "round_robin",
        ),
        (
            // Not looked at, as in gRPC.
            json!([{"round_robin": {}}, {"pick_first": {"nonsense": 1}}]),
            "round_robin",
        ),
        (
            json!([{"outlier_detection_experimental": {"childPolicy": [{"no_such": 1}, {"round_robin": {}}]}}]),
            "round_robin",
        ),
        // Not gRPC's, but this crate's.
        (json!([{"prequal": {"pool_size": 8}}]), "prequal"),
        (json!([{"no_such": {}}, {"adaptive": {}}]), "adaptive"),
    ] {
        assert_eq!(balancing(&list).policy.name(), name, "{list}");
    }
    let config = read(&json!({"loadBalancingPolicy": "ROUND_ROBIN"}));
    let policy = config.balancing.expect("by the deprecated name").policy;
    assert_eq!(policy.name(), "round_robin", "the enum's name");
    let both = json!({
        "loadBalancingPolicy": "grpclb",
        "load_balancing_config": [{"round_robin": {}}]
    });
    let policy = read(&both).balancing.expect("both are set").policy;
    assert_eq!(policy.name(), "round_robin", "the list before the name");
}

#[test]
fn settings_of_policies_by_either_name_of_their_fields() {
    let own = |policy: &dyn std::fmt::Debug| format!("{policy:?}");
    use crate::policy::{
        HashSource, LeastRequest, OrcaWeightedRoundRobin, PickFirst, RingHash, RoundRobin,
    };
    let seconds = Duration::from_secs;
    for (list, policy) in [
        (json!([{"round_robin": {}}]), own(&RoundRobin::default())),
        (
            json!([{"pick_first": {"shuffleAddressList": true}}]),
            own(&PickFirst::default().with_shuffle(true)),
        ),
        (
            json!([{"pick_first": {"shuffle_address_list": false}}]),
            own(&PickFirst::default()),
        ),
        (
            json!([{"least_request_experimental": {"choiceCount": 3}}]),
            own(&LeastRequest::default().with_choices(3).unwrap()),
        ),
        (
            // "Larger than 10 is treated as 10."
            json!([{"least_request_experimental": {"choice_count": "11"}}]),
            own(&LeastRequest::default().with_choices(10).unwrap()),
        ),
        (
            json!([{"ring_hash_experimental": {"minRingSize": "7", "max_ring_size": 70.0}}]),
            own(&RingHash::default().with_ring_size(7, 70).unwrap()),
        ),
        (
            json!([{"ring_hash_experimental": {"requestHashHeader": "X-User"}}]),
            own(&RingHash::default().with_sources([HashSource::header("x-user").unwrap()])),
        ),
        (
            json!([{"ring_hash_experimental": {"requestHashHeader": ""}}]),
            own(&RingHash::default()),
        ),
        (
            json!([{"weighted_round_robin": {
                "enableOobLoadReport": true, "oobReportingPeriod": "3s", "blackoutPeriod": "0s",
                "weightExpirationPeriod": "60s", "weightUpdatePeriod": "0.001s",
                "errorUtilizationPenalty": 0.5
            }}]),
            own(&OrcaWeightedRoundRobin::default()
                .with_out_of_band_reports(true)
                .with_out_of_band_period(seconds(3))
                .unwrap()
                .with_blackout_period(seconds(0))
                .with_weight_expiration(seconds(60))
                .unwrap()
                .with_update_period(Duration::from_millis(100))
                .with_error_penalty(0.5)
                .unwrap()),
        ),
        (
            json!([{"weighted_round_robin": {
                "enable_oob_load_report": null, "blackout_period": "1.5s",
                "error_utilization_penalty": "2"
            }}]),
            own(&OrcaWeightedRoundRobin::default()
                .with_blackout_period(Duration::from_millis(1_500))
                .with_error_penalty(2.0)
                .unwrap()),
        ),
    ] {
        assert_eq!(shown(&list), policy, "{list}");
    }
}

#[test]
fn outlier_detection_is_a50s() {
    let of = |settings: Value| {
        let mut settings = settings;
        settings["childPolicy"] = json!([{"round_robin": {}}]);
        let list = json!([{ "outlier_detection_experimental": settings }]);
        balancing(&list).ejection.expect("there are rules")
    };
    let none = Ejection::default()
        .with_consecutive_failures(u32::MAX)
        .with_panic_threshold_percent(0);
    let defaults = none.with_max_percent(10);
    assert_eq!(
        of(json!({})),
        defaults,
        "A50's 10 %, and nobody is compared"
    );
    assert_eq!(
        of(json!({"successRateEjection": {}})),
        defaults.with_outlier_detection(OutlierDetection::default()),
        "A50's defaults"
    );
    assert_eq!(
        of(json!({"failure_percentage_ejection": {}})),
        defaults.with_outlier_detection(
            OutlierDetection::default()
                .with_success_rate(None)
                .with_failure_percentage(FailurePercentage::default())
        ),
        "one rule alone"
    );
    let all = of(json!({
        "interval": "1s", "baseEjectionTime": "2s", "maxEjectionTime": "3s", "maxEjectionPercent": 100,
        "successRateEjection": {
            "stdevFactor": 1, "enforcementPercentage": 2, "minimumHosts": 3, "requestVolume": 4
        },
        "failurePercentageEjection": {
            "threshold": 5, "enforcementPercentage": 6, "minimumHosts": 7, "requestVolume": "8"
        }
    }));
    let rules = OutlierDetection::default()
        .with_interval(Duration::from_secs(1))
        .with_success_rate(SuccessRate {
            stdev_factor: 1,
            enforcement_percentage: 2,
            minimum_hosts: 3,
            request_volume: 4,
        })
        .with_failure_percentage(FailurePercentage {
            threshold: 5,
            enforcement_percentage: 6,
            minimum_hosts: 7,
            request_volume: 8,
        });
    let wanted = none
        .with_base_time(Duration::from_secs(2))
        .with_max_time(Duration::from_secs(3))
        .with_max_percent(100)
        .with_outlier_detection(rules);
    assert_eq!(all, wanted, "each field has its place");
}

#[test]
fn policies_around_policies_may_stand_in_any_order() {
    let list = json!([{"outlier_detection_experimental": {
        "childPolicy": [{"random_subsetting_experimental": {
            "subsetSize": 20, "childPolicy": [{"least_request_experimental": {}}]
        }}]
    }}]);
    let turned = json!([{"random_subsetting_experimental": {
        "subset_size": 20,
        "child_policy": [{"outlier_detection_experimental": {
            "childPolicy": [{"least_request_experimental": {}}]
        }}]
    }}]);
    for list in [list, turned] {
        let balancing = balancing(&list);
        assert_eq!(balancing.policy.name(), "least_request_experimental");
        assert!(balancing.ejection.is_some(), "{list}");
        let size = balancing.subset.map(|subset| subset.size());
        assert_eq!(size, Some(20), "{list}");
    }
}
