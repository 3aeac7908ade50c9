//! Any slices, and any bytes where slices are expected.

use std::collections::BTreeSet;
use std::sync::Arc;

use kube::core::{DynamicObject, WatchEvent};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::endpoints;
use crate::discovery::kubernetes::merge::{ByName, Wanted, merge};
use crate::discovery::kubernetes::slice::Slice;

/// Few values, so that they meet: the same pod in two slices, the same address of two pods.
fn entry(family: &'static str) -> impl Strategy<Value = Value> {
    let address = match family {
        "IPv4" => prop_oneof![
            "10\\.0\\.0\\.[1-4]",
            "10\\.0\\.0\\.[1-4]",
            "fd00::[12]",
            ".{0,3}"
        ]
        .boxed(),
        "IPv6" => prop_oneof!["fd00::[1-4]", "fd00::[1-4]", "10\\.0\\.0\\.1", ".{0,3}"].boxed(),
        _ => "[ab]\\.example".boxed(),
    };
    let flag = prop_oneof![Just(Value::Null), Just(json!(true)), Just(json!(false))];
    let some = |text: &'static str| proptest::option::of(text);
    (
        prop::collection::vec(address, 0..3),
        (flag.clone(), flag.clone(), flag),
        some("[xyz]"),
        some("[12]"),
        proptest::option::of((prop_oneof!["Pod", "Node"], some("u[1-4]"))),
        proptest::option::of(prop::collection::vec("[xyz]", 0..3)),
    )
        .prop_map(|(addresses, conditions, zone, node, target, hints)| {
            let (ready, serving, terminating) = conditions;
            let hints = hints.map(|zones| {
                let zones = zones.iter().map(|zone| json!({"name": zone}));
                json!({"forZones": zones.collect::<Vec<_>>()})
            });
            json!({
                "addresses": addresses,
                "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
                "zone": zone, "nodeName": node, "hints": hints,
                "targetRef": target.map(|(kind, uid)| json!({"kind": kind, "uid": uid, "name": "n"})),
            })
        })
}

fn slice() -> impl Strategy<Value = Value> {
    let family = prop_oneof![4 => Just("IPv4"), 4 => Just("IPv6"), 1 => Just("FQDN")];
    let port = (
        proptest::option::of(prop_oneof!["grpc", "http", ""]),
        proptest::option::of(prop_oneof![8 => 1_i64..4, 1 => -1_i64..70_000]),
        proptest::option::of(prop_oneof![4 => Just("TCP"), 1 => Just("UDP")]),
    );
    let port = port.prop_map(
        |(name, port, protocol)| json!({"name": name, "port": port, "protocol": protocol}),
    );
    family.prop_flat_map(move |family| {
        let listed = prop::collection::vec(entry(family), 0..5);
        let ports = proptest::option::of(prop::collection::vec(port.clone(), 0..3));
        (listed, ports).prop_map(
            move |(listed, ports)| json!({"addressType": family, "endpoints": listed, "ports": ports}),
        )
    })
}

fn wanted() -> impl Strategy<Value = Wanted> {
    prop_oneof![
        Just(Wanted::Only),
        (1_u16..4).prop_map(Wanted::Number),
        prop_oneof!["grpc", "http"].prop_map(Wanted::Name),
    ]
}

/// The slices that can be read, by names that go up or down.
fn named(slices: &[Value], up: bool) -> ByName {
    let slices = slices.iter().enumerate();
    let read = slices.filter_map(|(n, slice)| {
        let name = if up { n } else { usize::MAX - n };
        Some((format!("{name:020}"), Arc::new(Slice::read(slice).ok()?)))
    });
    read.collect()
}

proptest! {
    #[test]
    fn any_slices_have_unique_endpoints_in_whatever_order_they_come(
        slices in prop::collection::vec(slice(), 0..6),
        wanted in wanted(),
    ) {
        let (up, down) = (named(&slices, true), named(&slices, false));
        let (merged, turned) = (merge(&up, &wanted), merge(&down, &wanted));
        prop_assert_eq!(merged.is_ok(), turned.is_ok(), "an error is one in any order");
        let (Ok(merged), Ok(turned)) = (merged, turned) else {
            return Ok(());
        };
        prop_assert_eq!(merged, turned, "the order of the slices is no matter");
        let endpoints = endpoints(&up, &wanted);
        let ids: BTreeSet<_> = endpoints.iter().map(|e| e.id().clone()).collect();
        prop_assert_eq!(ids.len(), endpoints.len(), "no id comes twice");
        for endpoint in &endpoints {
            prop_assert!(endpoint.validate().is_ok(), "the balancer takes it: {:?}", endpoint);
            for address in endpoint.addresses() {
                let uri = address.parse::<http::Uri>();
                let port = uri.ok().and_then(|uri| uri.port_u16());
                prop_assert!(port.is_some(), "it can be dialled: {}", address);
            }
        }
    }

    #[test]
    fn any_bytes_are_an_event_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode(&bytes);
    }

    #[test]
    fn an_event_with_any_byte_changed_is_one_or_an_error(
        slice in slice(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut object = slice;
        object["metadata"] = json!({"name": "a", "resourceVersion": "1"});
        let event = json!({"type": "MODIFIED", "object": object});
        let mut bytes = event.to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        decode(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        decode(&bytes);
    }
}

/// As kube reads a line of a watch, and what is made of it here.
fn decode(bytes: &[u8]) {
    let Ok(event) = serde_json::from_slice::<WatchEvent<DynamicObject>>(bytes) else {
        return;
    };
    if let WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) =
        event
        && let Ok(slice) = Slice::read(&object.data)
    {
        let slices = [("a".to_owned(), Arc::new(slice))].into();
        for wanted in [Wanted::Only, Wanted::Number(1)] {
            let _ = merge(&slices, &wanted);
        }
    }
}
