use proptest::prelude::*;

use super::*;
use crate::math::testing::seeded;

fn read(value: &str) -> Endpoint {
    decode(value.as_bytes()).unwrap_or_else(|error| panic!("{value}: {error}"))
}

#[test]
fn values_of_etcds_naming_are_read_old_ones_too() {
    for (value, id, address) in [
        (
            r#"{"Addr":"10.0.0.1:1"}"#,
            "10.0.0.1:1",
            "http://10.0.0.1:1",
        ),
        (
            r#"{"Op":0,"Addr":"a.b:1","Metadata":null}"#,
            "a.b:1",
            "http://a.b:1",
        ),
        (
            r#"{"addr":"[::1]:1","Metadata":"x"}"#,
            "[::1]:1",
            "http://[::1]:1",
        ),
        (r#"{"Addr":"https://a:1","More":[1]}"#, "a:1", "https://a:1"),
    ] {
        let endpoint = read(value);
        assert_eq!(endpoint.id().as_str(), id, "{value}");
        assert_eq!(endpoint.address(), address, "{value}");
        assert_eq!((endpoint.weight(), endpoint.priority()), (1, 0), "{value}");
        assert!(endpoint.metadata().is_empty(), "{value}");
    }
}

#[test]
fn metadata_is_settings_and_texts() {
    let endpoint = read(
        r#"{"Addr":"a:1","Metadata":{"weight":3,"priority":"1","locality":"eu/a","version":"v2",
        "canary":true,"build":7,"tags":["x"],"more":{"a":1},"none":null}}"#,
    );
    assert_eq!((endpoint.weight(), endpoint.priority()), (3, 1));
    assert_eq!(endpoint.locality().to_string(), "eu/a");
    let metadata: Vec<_> = endpoint.metadata().iter().collect();
    assert_eq!(
        metadata,
        [("build", "7"), ("canary", "true"), ("version", "v2")],
        "plain values are text, and what has parts is left out"
    );
}

#[test]
fn what_cannot_be_read_is_an_error_that_names_the_field() {
    for (value, why) in [
        ("", "no JSON"),
        ("\u{0}", "no JSON"),
        ("10.0.0.1:1", "no JSON"),
        ("[]", "no JSON object"),
        ("{}", "Addr: is missing"),
        (r#"{"Addr":1}"#, "Addr: is no string"),
        (r#"{"Addr":""}"#, "Addr: "),
        (r#"{"Addr":"a"}"#, "Addr: \"a\" has no port"),
        (r#"{"Addr":"a:0"}"#, "has no port"),
        (r#"{"Addr":"a:x"}"#, "Addr: "),
        (r#"{"Addr":"a:1/x"}"#, "Addr: "),
        (r#"{"Addr":"u@a:1"}"#, "Addr: "),
        (r#"{"Addr":"ftp://a:1"}"#, "Addr: "),
        (
            r#"{"Addr":"a:1","Metadata":{"weight":0}}"#,
            "Metadata.weight: 0 ",
        ),
        (
            r#"{"Addr":"a:1","Metadata":{"weight":-1}}"#,
            "Metadata.weight: -1 ",
        ),
        (
            r#"{"Addr":"a:1","Metadata":{"weight":1.5}}"#,
            "Metadata.weight: 1.5 ",
        ),
        (
            r#"{"Addr":"a:1","Metadata":{"weight":null}}"#,
            "Metadata.weight: null ",
        ),
        (
            r#"{"Addr":"a:1","Metadata":{"weight":"x"}}"#,
            "Metadata.weight: ",
        ),
        (
            r#"{"Addr":"a:1","Metadata":{"priority":4294967296}}"#,
            "Metadata.priority: ",
        ),
        (
            r#"{"Addr":"a:1","Metadata":{"locality":"a/b/c/d"}}"#,
            "Metadata.locality: ",
        ),
        (
            r#"{"Addr":"a:1","Metadata":{"locality":[]}}"#,
            "Metadata.locality: ",
        ),
    ] {
        let error = decode(value.as_bytes()).expect_err(value);
        assert!(error.contains(why), "{value}: {error}");
    }
    let deep = "[".repeat(100_000);
    assert!(decode(deep.as_bytes()).is_err(), "depth overflows no stack");
}

#[test]
fn what_no_value_can_say_is_refused() {
    let good = Endpoint::new("http://a:1");
    for bad in [
        Endpoint::new("unix:/a"),
        Endpoint::new("http://a"),
        good.clone().with_weight(0),
        good.clone().with_addresses(["http://b:1"]),
        good.with_metadata([("weight", "1")]),
    ] {
        let error = encode(&bad).expect_err("it is refused");
        assert_eq!(error.field(), Some("endpoint"), "{error}");
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
        "[a-z0-9.:/@-]{0,12}".prop_map(Value::from),
    ];
    let name = prop_oneof![
        "Addr|addr|Op|Metadata|weight|priority|locality".prop_map(String::from),
        ".{0,6}".prop_map(String::from),
    ];
    leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

proptest! {
    #![proptest_config(seeded(512, 31))]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = decode(&bytes);
    }

    #[test]
    fn what_is_read_can_be_used_and_what_is_not_names_a_field(
        address in prop_oneof![json_value(), "[a-z]{1,3}:[0-9]{1,5}".prop_map(Value::from)],
        metadata in json_value(),
    ) {
        let value = json!({ "Addr": address, "Metadata": metadata }).to_string();
        match decode(value.as_bytes()) {
            Ok(endpoint) => {
                endpoint.validate().expect("every policy can use it");
                check_address(endpoint.address()).expect("a channel can dial it");
            }
            Err(why) => prop_assert!(
                why.starts_with("Addr: ") || why.starts_with("Metadata."),
                "{}: {}", value, why
            ),
        }
    }

    #[test]
    fn what_is_written_is_read_alike(
        address in "(https?://)?[a-z]{1,9}:[1-9][0-9]{0,3}",
        weight in 1..=u32::MAX,
        priority in any::<u32>(),
        locality in "[a-z]{0,3}(/[a-z]{0,3}){0,2}",
        metadata in prop::collection::btree_map("[A-Za-z_]{1,5}", ".{0,8}", 0..4),
    ) {
        let address = match address.contains("://") {
            true => address,
            false => format!("http://{address}"),
        };
        let endpoint = Endpoint::new(address)
            .with_weight(weight)
            .with_priority(priority)
            .with_locality(locality.parse().expect("three parts"))
            .with_metadata(metadata);
        let read = decode(&encode(&endpoint).expect("it is written")).expect("it is read");
        prop_assert_eq!(read.address(), endpoint.address());
        prop_assert_eq!(read.weight(), weight);
        prop_assert_eq!(read.priority(), priority);
        prop_assert_eq!(read.locality(), endpoint.locality());
        prop_assert_eq!(read.metadata(), endpoint.metadata());
    }
}
