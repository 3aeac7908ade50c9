use super::*;
use crate::policy::Candidates;

fn field(config: &PolicyConfig) -> &'static str {
    let error = config.build().expect_err("it cannot be built");
    error.field().expect("a setting is named")
}

#[test]
fn each_policy_is_built_by_its_name() {
    for config in PolicyConfig::all() {
        let name = config.name();
        assert_eq!(name.parse::<PolicyConfig>().expect(name), config);
        let policy = config.build().expect(name);
        let candidates = Candidates::connected_for(["a", "b"], policy.measures());
        policy.build(&candidates, None);
        assert_eq!(policy.name(), name, "a policy says the name it is known by");
        assert_eq!(config.to_string(), name);
    }
}

#[test]
fn two_names_need_no_experimental() {
    for name in ["least_request", "ring_hash"] {
        let config: PolicyConfig = name.parse().expect(name);
        assert_eq!(config.name(), format!("{name}_experimental"));
    }
}

#[test]
fn an_unknown_name_is_told_with_those_there_are() {
    for name in ["", "ROUND_ROBIN", "round robin", "p2c", "\0"] {
        let error = name.parse::<PolicyConfig>().expect_err(name);
        assert_eq!(error.field(), Some("policy"));
        let message = error.to_string();
        assert!(message.contains("round_robin, static_"), "{message}");
    }
}

#[test]
fn reports_out_of_band_are_a_setting_with_the_period_of_grpc() {
    let period = |enable, seconds| {
        let settings = OrcaWeightedRoundRobinConfig {
            enable_oob_load_report: enable,
            oob_reporting_period_seconds: seconds,
            ..OrcaWeightedRoundRobinConfig::default()
        };
        let config = PolicyConfig::OrcaWeightedRoundRobin(settings);
        config
            .build()
            .expect("it is right")
            .measures()
            .out_of_band()
    };
    assert_eq!(period(false, None), None, "off by default");
    assert_eq!(
        period(false, Some(1.0)),
        None,
        "a period alone asks for none"
    );
    assert_eq!(
        period(true, None),
        Some(Duration::from_secs(10)),
        "gRFC A58"
    );
    assert_eq!(period(true, Some(1.5)), Some(Duration::from_millis(1_500)));
}

#[test]
fn a_setting_that_cannot_be_is_refused_by_its_name() {
    let orca = |change: fn(&mut OrcaWeightedRoundRobinConfig)| {
        let mut settings = OrcaWeightedRoundRobinConfig::default();
        change(&mut settings);
        field(&PolicyConfig::OrcaWeightedRoundRobin(settings))
    };
    assert_eq!(
        orca(|s| s.blackout_period_seconds = Some(-1.0)),
        "blackout_period_seconds"
    );
    assert_eq!(
        orca(|s| s.weight_update_period_seconds = Some(f64::NAN)),
        "weight_update_period_seconds"
    );
    assert_eq!(
        orca(|s| s.error_utilization_penalty = Some(f64::INFINITY)),
        "error_utilization_penalty"
    );
    assert_eq!(
        orca(|s| s.oob_reporting_period_seconds = Some(0.0)),
        "oob_reporting_period"
    );

    let ring = |change: fn(&mut RingHashConfig)| {
        let mut settings = RingHashConfig::default();
        change(&mut settings);
        field(&PolicyConfig::RingHash(settings))
    };
    assert_eq!(ring(|s| s.min_size = Some(2)), "max_size");
    assert_eq!(ring(|s| s.max_size = Some(2)), "min_size");
    assert_eq!(ring(|s| s.bounded_load = Some(0.5)), "bounded_load");
    assert_eq!(
        ring(|s| s.sources = vec![HashSourceConfig::default()]),
        "sources"
    );
    assert_eq!(
        ring(|s| s.sources = vec![HashSourceConfig {
            header: Some("x y".to_owned()),
            ..HashSourceConfig::default()
        }]),
        "header"
    );

    let least = |change: fn(&mut LeastRequestConfig)| {
        let mut settings = LeastRequestConfig::default();
        change(&mut settings);
        field(&PolicyConfig::LeastRequest(settings))
    };
    assert_eq!(least(|s| s.choices = Some(0)), "choices");
    assert_eq!(
        least(|s| (s.full_scan, s.choices) = (true, Some(2))),
        "full_scan"
    );
}

#[cfg(feature = "serde")]
mod read {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> Result<PolicyConfig, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_and_its_settings_are_read_and_written() {
        for config in PolicyConfig::all() {
            let json = serde_json::to_string(&config).expect("plain data");
            assert_eq!(read(&json), Ok(config.clone()), "{json}");
            let name = format!(r#"{{"policy":"{config}"}}"#);
            assert_eq!(read(&name), Ok(config), "the name alone is enough");
        }
        let toml = r#"
            policy = "ring_hash"
            min_size = 2048
            max_size = 4096
            sources = [{ header = "x-user", terminal = true }, { source_ip_behind = 1 }]
            bounded_load = 1.5
        "#;
        let config: PolicyConfig = toml::from_str(toml).expect("it is right");
        let PolicyConfig::RingHash(settings) = &config else {
            panic!("not {config:?}");
        };
        assert_eq!(settings.sources[0].header.as_deref(), Some("x-user"));
        assert!(config.build().is_ok(), "it is right");
    }

    #[test]
    fn pick_first_is_read_as_grpc_writes_it() {
        for name in ["shuffleAddressList", "shuffle_address_list"] {
            let json = format!(r#"{{"policy":"pick_first","{name}":true}}"#);
            let Ok(PolicyConfig::PickFirst(settings)) = read(&json) else {
                panic!("it is right: {json}");
            };
            assert!(settings.shuffle_address_list, "{json}");
            let policy = settings.build().expect("it is right");
            assert_eq!(
                policy,
                crate::policy::PickFirst::default().with_shuffle(true)
            );
        }
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (json, word) in [
            (r#"{"policy":"least_request","choice":3}"#, "choice"),
            (r#"{"policy":"round_robin","choices":3}"#, "choices"),
            (r#"{"policy":"p2c"}"#, "p2c"),
            (r#"{"choices":3}"#, "policy"),
            (r#"{"policy":"least_request","choices":-3}"#, "-3"),
        ] {
            let error = read(json).expect_err(json);
            assert!(error.contains(word), "{json}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_numbers_make_a_policy_or_an_error_that_names_a_field(
            factor: f64,
            seconds: f64,
            count: u32,
            name in "\\PC{0,8}",
        ) {
            for config in PolicyConfig::all() {
                let mut value = serde_json::to_value(&config).expect("plain data");
                let fields = value.as_object_mut().expect("an object");
                for (key, value) in fields.iter_mut().filter(|(key, _)| *key != "policy") {
                    *value = match (&*value, key.as_str()) {
                        (serde_json::Value::Null, key) if key.ends_with("seconds") => seconds.into(),
                        (serde_json::Value::Null, "bounded_load" | "hot_quantile") => factor.into(),
                        (serde_json::Value::Null, _) => (count % 100_000).into(),
                        (serde_json::Value::Array(_), _) => serde_json::json!([{ "header": name }]),
                        (other, _) => other.clone(),
                    };
                }
                let config: PolicyConfig = match serde_json::from_value(value) {
                    Ok(config) => config,
                    // JSON has no infinity.
                    Err(_) => continue,
                };
                if let Err(error) = config.build() {
                    prop_assert!(error.field().is_some(), "{config:?}: {error}");
                }
            }
        }
    }
}
