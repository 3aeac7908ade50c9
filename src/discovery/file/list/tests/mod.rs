mod mistakes;

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::math::testing::seeded;

fn good(text: &str, format: Format) -> Vec<Endpoint> {
    decode(text, format).unwrap_or_else(|mistake| panic!("{format:?} {text:?}: {mistake}"))
}

/// All that a file can say.
fn whole() -> Endpoint {
    let place = Locality::new("r").with_zone("z").with_sub_zone("s");
    Endpoint::new("http://c:1")
        .with_addresses(["http://d:1", "http://e:1"])
        .with_id("c")
        .with_weight(3)
        .with_priority(2)
        .with_locality(place)
        .with_metadata([("version", "canary"), ("shard", "7")])
        .with(EndpointHashKey::from("key"))
}

#[test]
fn a_list_in_either_words_is_the_same_endpoints() {
    let json = r#"[
        "http://a:1",
        {"address": "http://b:1"},
        {"address": "http://c:1", "addresses": ["http://d:1", "http://e:1"], "id": "c", "weight": 3, "priority": 2,
         "locality": "r/z/s", "metadata": {"version": "canary", "shard": "7"}, "hash_key": "key"}
    ]"#;
    let yaml = "
# A comment.
- http://a:1
- address: http://b:1
- address: http://c:1
  addresses: [http://d:1, 'http://e:1']
  id: c
  weight: 3
  priority: 2
  locality: {region: r, zone: z, sub_zone: s}
  metadata:
    version: canary
    shard: 7
  hash_key: \"key\"
";
    let want = [
        Endpoint::new("http://a:1"),
        Endpoint::new("http://b:1"),
        whole(),
    ];
    for (text, format) in [
        (json, Format::Json),
        (yaml, Format::Yaml),
        (json, Format::Yaml),
    ] {
        let read = good(text, format);
        assert_eq!(read.len(), want.len(), "{format:?}: {read:?}");
        for (read, want) in read.iter().zip(&want) {
            assert!(
                says_the_same(read, want),
                "{format:?}: {read:?} is {want:?}"
            );
        }
    }
}

#[test]
fn short_forms_and_what_is_left_out_have_their_meaning() {
    for (text, format) in [
        ("[]", Format::Json),
        (" [ ]\n", Format::Json),
        ("[]", Format::Yaml),
        ("# Nobody yet.\n--- []\n", Format::Yaml),
    ] {
        assert!(good(text, format).is_empty(), "{text:?} is an empty list");
    }
    let marked = good("\u{feff}[\"a\"]", Format::Json);
    assert_eq!(
        marked[0].address(),
        "a",
        "a mark of the byte order is no text"
    );
    let nulls =
        r#"[{"address": "a", "id": null, "weight": null, "locality": null, "metadata": null}]"#;
    let alone = Endpoint::new("a");
    assert!(
        says_the_same(&good(nulls, Format::Json)[0], &alone),
        "null is not said"
    );
    for (locality, written) in [
        (r#""r""#, "r"),
        (r#""/z""#, "/z"),
        (r#""""#, ""),
        (r#"{"zone": "z"}"#, "/z"),
        (r#"{"region": "r", "sub_zone": "s"}"#, "r//s"),
        ("{}", ""),
    ] {
        let text = format!(r#"[{{"address": "a", "locality": {locality}}}]"#);
        for format in [Format::Json, Format::Yaml] {
            let read = good(&text, format);
            assert_eq!(read[0].locality().to_string(), written, "{format:?} {text}");
        }
    }
}

#[test]
fn a_change_of_any_field_is_news() {
    let base = whole();
    assert!(
        says_the_same(&base, &whole()),
        "an equal one made anew is no news"
    );
    let none: [&str; 0] = [];
    let nothing: [(&str, &str); 0] = [];
    let elsewhere = Endpoint::new("http://x:1")
        .with_addresses(["http://d:1", "http://e:1"])
        .with_id("c")
        .with_weight(3)
        .with_priority(2)
        .with_locality(base.locality().clone())
        .with_metadata(base.metadata().iter())
        .with(EndpointHashKey::from("key"));
    for (what, changed) in [
        ("address", elsewhere),
        ("addresses", whole().with_addresses(none)),
        (
            "order of addresses",
            whole().with_addresses(["http://e:1", "http://d:1"]),
        ),
        ("id", whole().with_id("d")),
        ("weight", whole().with_weight(4)),
        ("priority", whole().with_priority(0)),
        ("locality", whole().with_locality(Locality::new("r"))),
        ("metadata", whole().with_metadata(nothing)),
        ("hash key", whole().with(EndpointHashKey::from("other"))),
    ] {
        assert!(!says_the_same(&base, &changed), "another {what} is news");
    }
}

/// Texts that YAML would read as something else, were they not quoted, and any others.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "(null|~|true|no|0x1f|1e3|1_000|-|- a|a: b|#x|\\[|\\{|&a|\\*a|!t|%|@|`|'|\"|\\||>| a|a |\n)",
        "\\PC{1,6}",
        "[a-z0-9.:/]{1,12}",
    ]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let place = proptest::array::uniform3("[a-z]{0,2}");
    let place = place.prop_map(|[region, zone, sub_zone]| {
        Locality::new(region)
            .with_zone(zone)
            .with_sub_zone(sub_zone)
    });
    (
        text(),
        proptest::collection::vec(text(), 0..3),
        proptest::option::of(text()),
        1_u32..,
        any::<u32>(),
        place,
        proptest::collection::btree_map(text(), text(), 0..3),
        proptest::option::of(text()),
    )
        .prop_map(
            |(address, more, id, weight, priority, place, metadata, key)| {
                let mut endpoint = Endpoint::new(address)
                    .with_addresses(more)
                    .with_weight(weight)
                    .with_priority(priority)
                    .with_locality(place)
                    .with_metadata(metadata);
                if let Some(id) = id {
                    endpoint = endpoint.with_id(id);
                }
                match key {
                    Some(key) => endpoint.with(EndpointHashKey::from(key)),
                    None => endpoint,
                }
            },
        )
}

/// The endpoint as an entry; in short where that says all, if `short`.
fn entry(endpoint: &Endpoint, short: bool) -> Value {
    if short && says_the_same(endpoint, &Endpoint::new(endpoint.address())) {
        return endpoint.address().into();
    }
    let place = endpoint.locality();
    let place = match short {
        true => place.to_string().into(),
        false => {
            json!({"region": place.region(), "zone": place.zone(), "sub_zone": place.sub_zone()})
        }
    };
    let metadata: Map<String, Value> = endpoint
        .metadata()
        .iter()
        .map(|(name, value)| (name.to_owned(), value.into()))
        .collect();
    json!({
        "address": endpoint.address(),
        "addresses": endpoint.addresses().skip(1).collect::<Vec<_>>(),
        "id": endpoint.id().as_str(),
        "weight": endpoint.weight(),
        "priority": endpoint.priority(),
        "locality": place,
        "metadata": metadata,
        "hash_key": endpoint.get::<EndpointHashKey>().map(EndpointHashKey::as_str),
    })
}

proptest! {
    #![proptest_config(seeded(256, 41))]

    #[test]
    fn any_list_that_is_written_is_read_back(
        endpoints in proptest::collection::vec(endpoint(), 0..6),
        short: bool,
    ) {
        let mut ids = BTreeSet::new();
        let endpoints: Vec<Endpoint> =
            endpoints.into_iter().filter(|endpoint| ids.insert(endpoint.id().clone())).collect();
        let list: Value = endpoints.iter().map(|endpoint| entry(endpoint, short)).collect();
        let json = serde_json::to_string_pretty(&list).expect("it is JSON");
        let yaml = serde_norway::to_string(&list).expect("it is YAML");
        for (text, format) in [(json, Format::Json), (yaml, Format::Yaml)] {
            let read = match decode(&text, format) {
                Ok(read) => read,
                Err(mistake) => return Err(TestCaseError::fail(format!("{mistake}: {text}"))),
            };
            prop_assert_eq!(read.len(), endpoints.len(), "{}", text);
            for (read, endpoint) in read.iter().zip(&endpoints) {
                prop_assert!(says_the_same(read, endpoint), "{:?} {:?}: {}", read, endpoint, text);
            }
        }
    }

    #[test]
    fn no_prefix_of_a_list_in_json_is_one(
        endpoints in proptest::collection::vec(endpoint(), 1..4),
        cut in 0.0..1.0_f64,
    ) {
        let list: Value = endpoints.iter().map(|endpoint| entry(endpoint, true)).collect();
        let text = list.to_string();
        let mut cut = (text.len() as f64 * cut) as usize;
        while !text.is_char_boundary(cut) {
            cut -= 1;
        }
        prop_assert!(decode(&text[..cut], Format::Json).is_err(), "{}", &text[..cut]);
    }

    #[test]
    fn any_text_is_a_list_or_a_mistake(
        text in "([\\[\\]{},:\"'&*|>#!?%@\n\t -]|address|id|weight|metadata|locality|<<|---|[0-9]{1,3}|[a-c]|\u{e9}|\\PC|.){0,40}",
    ) {
        for format in [Format::Json, Format::Yaml] {
            match decode(&text, format) {
                Ok(list) => prop_assert!(crate::discovery::validate(&list).is_ok(), "{:?}", list),
                Err(mistake) => prop_assert!(!mistake.is_empty()),
            }
        }
    }
}
