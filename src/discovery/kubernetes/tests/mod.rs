//! What it makes of slices; `access` has the way to a cluster, `settings` what can be set, `delays` when it is asked
//! again, `random` any slices at all.

mod access;
mod delays;
mod random;
mod settings;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::error::{KubernetesError, Mistake};
use super::merge::{ByName, Found, Wanted, merge};
use super::slice::Slice;
use crate::endpoint::{Authority, Endpoint};

/// The slices of a list that was written after a real one, from `tests/kubernetes`.
macro_rules! recorded {
    ($name:literal) => {
        read_all(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/kubernetes/",
            $name,
            ".json"
        )))
    };
}

fn read_all(list: &str) -> ByName {
    let list: Value = serde_json::from_str(list).expect("the file is JSON");
    let slices = list["items"].as_array().expect("it is a list").iter();
    let slices = slices.map(|slice| {
        let name = slice["metadata"]["name"]
            .as_str()
            .expect("a slice has a name");
        let read = Slice::read(slice).expect("a real slice can be read");
        (name.to_owned(), Arc::new(read))
    });
    slices.collect()
}

fn grpc() -> Wanted {
    Wanted::Name("grpc".into())
}

fn merged(slices: &ByName, wanted: &Wanted) -> BTreeMap<String, Found> {
    merge(slices, wanted).expect("the port is there")
}

/// As the balancer has them, in the order of their ids.
fn endpoints(slices: &ByName, wanted: &Wanted) -> Vec<Endpoint> {
    let authority = Authority::new("greeter.prod.svc").unwrap();
    let found = merged(slices, wanted);
    let found = found.iter();
    found
        .map(|(id, found)| found.endpoint(id, &authority))
        .collect()
}

fn addresses(endpoint: &Endpoint) -> Vec<&str> {
    endpoint.addresses().collect()
}

fn refused(slices: &ByName, wanted: &Wanted) -> String {
    match merge(slices, wanted) {
        Ok(found) => panic!("{wanted:?} was found: {found:?}"),
        Err(KubernetesError::Port { message }) => message,
        Err(error) => panic!("another error: {error}"),
    }
}

/// A slice of these, at the TCP port 1.
fn slice(family: &str, listed: Value) -> Value {
    json!({"addressType": family, "endpoints": listed, "ports": [{"port": 1}]})
}

fn one(slice: &Value) -> ByName {
    let read = Slice::read(slice).expect("it can be read");
    [("a".to_owned(), Arc::new(read))].into()
}

fn mistake(slice: &Value) -> Mistake {
    match Slice::read(slice) {
        Ok(read) => panic!("{slice} was read: {read:?}"),
        Err(mistake) => mistake,
    }
}

#[test]
fn all_slices_are_one_state_with_what_is_known_of_each_pod() {
    let slices = recorded!("several_slices");
    let endpoints = endpoints(&slices, &grpc());
    assert_eq!(endpoints.len(), 3, "three of the four pods are ready");
    let first = &endpoints[0];
    assert_eq!(
        first.id().as_str(),
        "00000001-5c1e-4f0b-9d35-7a4b1c2d3e4f:50051",
        "the pod's uid and the port"
    );
    assert_eq!(addresses(first), ["http://10.244.1.17:50051"]);
    assert_eq!(first.locality().to_string(), "/eu-west-1a", "a zone alone");
    let metadata: Vec<_> = first.metadata().iter().collect();
    assert_eq!(
        metadata,
        [("node", "node-1"), ("pod", "greeter-7d9c6b5f4-2xv8p")]
    );
    let authority = first.get::<Authority>().map(Authority::as_str);
    assert_eq!(authority, Some("greeter.prod.svc"));
}

#[test]
fn two_families_of_a_pod_are_one_endpoint() {
    let endpoints = endpoints(&recorded!("dual_stack"), &Wanted::Only);
    assert_eq!(endpoints.len(), 2, "two pods in four places");
    let both = [
        "http://[fd00:10:244:1::11]:50051",
        "http://10.244.1.17:50051",
    ];
    assert_eq!(addresses(&endpoints[0]), both, "IPv6 first");
}

#[test]
fn a_service_without_ports_is_reached_by_a_number_alone() {
    let slices = recorded!("no_ports");
    let endpoints = endpoints(&slices, &Wanted::Number(7000));
    assert_eq!(addresses(&endpoints[0]), ["http://10.244.1.40:7000"]);
    for wanted in [Wanted::Only, grpc()] {
        let message = refused(&slices, &wanted);
        assert!(message.contains("there is none"), "{message}");
    }
}

#[test]
fn pods_that_terminate_and_serve_are_used_where_none_is_ready() {
    let slices = recorded!("terminating");
    let leaving = endpoints(&slices, &grpc());
    assert_eq!(leaving.len(), 1, "one of three still serves");
    assert_eq!(addresses(&leaving[0]), ["http://10.244.1.17:50051"]);
    // One that is ready, in another slice.
    let mut slices = slices;
    let ready = slice("IPv4", json!([{"addresses": ["10.0.0.9"]}]));
    slices.extend(one(&ready));
    let ready = merged(&slices, &Wanted::Only);
    let ids: Vec<_> = ready.keys().collect();
    assert_eq!(ids, ["10.0.0.9:1"], "then no other is");
}

#[test]
fn conditions_that_are_not_said_are_as_the_api_has_them() {
    for (conditions, ready_beside, alone) in [
        (json!(null), true, true),
        (json!({}), true, true),
        (json!({"ready": null, "serving": false}), true, true),
        (json!({"ready": false}), false, false),
        (json!({"ready": false, "serving": true}), false, false),
        (json!({"ready": false, "terminating": true}), false, false),
        (
            json!({"ready": false, "serving": true, "terminating": true}),
            false,
            true,
        ),
        // A service that publishes addresses that are not ready says so by this.
        (json!({"ready": true, "terminating": true}), true, true),
    ] {
        let it = json!({"addresses": ["10.0.0.1"], "conditions": conditions});
        let other = json!({"addresses": ["10.0.0.2"]});
        let is_in = |listed: Value| {
            let found = merged(&one(&slice("IPv4", listed)), &Wanted::Only);
            found.contains_key("10.0.0.1:1")
        };
        assert_eq!(
            is_in(json!([it, other])),
            ready_beside,
            "{conditions} beside one that is ready"
        );
        assert_eq!(is_in(json!([it])), alone, "{conditions} alone");
    }
}

#[test]
fn zone_hints_are_kept_and_not_acted_on() {
    let endpoints = endpoints(&recorded!("zone_hints"), &grpc());
    let hints = endpoints.iter().map(|e| e.metadata().get("for_zones"));
    let hints: Vec<_> = hints.collect();
    assert_eq!(hints, [Some("eu-west-1a"), Some("eu-west-1b,eu-west-1c")]);
}

#[test]
fn a_service_without_pods_is_an_empty_state() {
    let slices = recorded!("no_endpoints");
    for wanted in [Wanted::Only, grpc(), Wanted::Number(1)] {
        assert!(merged(&slices, &wanted).is_empty(), "{wanted:?}");
    }
}

#[test]
fn names_are_endpoints_by_their_name() {
    let endpoints = endpoints(&recorded!("names"), &Wanted::Only);
    let ids: Vec<_> = endpoints.iter().map(|e| e.id().as_str()).collect();
    assert_eq!(
        ids,
        ["a.mainframe.example:7443", "b.mainframe.example:7443"]
    );
    assert!(endpoints[0].locality().is_unknown() && endpoints[0].metadata().is_empty());
    assert_eq!(
        addresses(&endpoints[1]),
        ["http://b.mainframe.example:7443"]
    );
}

#[test]
fn a_pod_in_two_slices_of_one_family_is_one_endpoint() {
    let pod = |address: &str, zone: Value| json!({"addresses": [address], "zone": zone, "targetRef": {"kind": "Pod", "uid": "u"}});
    let mut slices = one(&slice("IPv4", json!([pod("10.0.0.1", json!("z"))])));
    let other = slice("IPv4", json!([pod("10.0.0.1", Value::Null)]));
    slices.insert("b".into(), Arc::new(Slice::read(&other).unwrap()));
    let endpoints = endpoints(&slices, &Wanted::Only);
    assert_eq!(endpoints.len(), 1);
    assert_eq!(addresses(&endpoints[0]), ["http://10.0.0.1:1"], "once");
    assert_eq!(endpoints[0].locality().zone(), "z", "what one of them says");
}

#[test]
fn what_is_no_pod_goes_by_its_address() {
    let reference = json!({"kind": "VirtualMachine", "name": "vm", "uid": "u"});
    let listed = json!([{"addresses": ["10.0.0.1"], "targetRef": reference}]);
    let endpoints = endpoints(&one(&slice("IPv4", listed)), &Wanted::Only);
    assert_eq!(endpoints[0].id().as_str(), "10.0.0.1:1");
    assert_eq!(endpoints[0].metadata().get("pod"), None);
}

#[test]
fn a_port_goes_by_its_name_or_by_the_number_that_the_pods_have() {
    let slices = recorded!("several_slices");
    for (wanted, port) in [
        (grpc(), 50051),
        (Wanted::Name("metrics".into()), 9090),
        (Wanted::Number(9090), 9090),
    ] {
        let endpoints = endpoints(&slices, &wanted);
        let want = format!("http://10.244.1.17:{port}");
        assert_eq!(addresses(&endpoints[0]), [want], "{wanted:?}");
    }
    for (wanted, why) in [
        (Wanted::Only, "several ports"),
        (Wanted::Number(80), "targetPort"),
        (Wanted::Name("http".into()), "no TCP port \"http\""),
    ] {
        let message = refused(&slices, &wanted);
        assert!(message.contains(why), "{wanted:?}: {message}");
        assert!(
            message.contains("grpc 50051") && message.contains("metrics 9090"),
            "the ports that there are: {message}"
        );
    }
}

#[test]
fn a_slice_without_the_port_is_passed_over_if_another_has_it() {
    let mut slices = recorded!("several_slices");
    // Pods that have no container port of the name that the service refers to are in a slice of their own.
    let other = json!({
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}],
        "ports": [{"name": "metrics", "port": 9090}],
    });
    slices.extend(one(&other));
    let found = merged(&slices, &grpc());
    assert_eq!(found.len(), 3, "only those that have it");
    assert_eq!(merged(&slices, &Wanted::Name("metrics".into())).len(), 4);
}

#[test]
fn other_protocols_and_all_ports_are_told_apart() {
    let with = |ports: Value| {
        let listed = json!([{"addresses": ["10.0.0.1"]}]);
        one(&json!({"addressType": "IPv4", "endpoints": listed, "ports": ports}))
    };
    let udp = json!({"name": "dns", "port": 53, "protocol": "UDP"});
    let tcp = json!({"name": "dns-tcp", "port": 53, "protocol": "TCP"});
    let found = merged(&with(json!([udp, tcp])), &Wanted::Only);
    assert!(found.contains_key("10.0.0.1:53"), "one is TCP");
    for wanted in [Wanted::Only, Wanted::Number(53), Wanted::Name("dns".into())] {
        let message = refused(&with(json!([udp])), &wanted);
        assert!(message.contains("dns 53 (not TCP)"), "{message}");
    }
    let all = with(json!([{"name": "any", "port": null}]));
    assert!(merged(&all, &Wanted::Number(7)).contains_key("10.0.0.1:7"));
    for wanted in [Wanted::Only, Wanted::Name("any".into())] {
        let message = refused(&all, &wanted);
        assert!(message.contains("by its number"), "{message}");
    }
}

#[test]
fn what_a_slice_cannot_be_is_refused_with_the_place() {
    let ports = |port: Value| json!({"addressType": "IPv4", "endpoints": [], "ports": [{}, port]});
    for (slice, field, why) in [
        (json!({}), "addressType", "is missing"),
        (slice("IPX", json!([])), "addressType", "\"IPX\""),
        (
            slice("IPv4", json!([{"addresses": []}])),
            "endpoints[0].addresses",
            "is empty",
        ),
        (
            slice("IPv4", json!([{"zone": "z"}])),
            "endpoints[0].addresses",
            "is empty",
        ),
        (
            slice("IPv4", json!([{"addresses": ["10.0.0.1", "fd00::1"]}])),
            "endpoints[0].addresses[1]",
            "no IPv4 address",
        ),
        (
            slice("IPv6", json!([{"addresses": ["10.0.0.1"]}])),
            "endpoints[0].addresses[0]",
            "no IPv6 address",
        ),
        (
            slice("FQDN", json!([{"addresses": ["a b"]}])),
            "endpoints[0].addresses[0]",
            "is neither",
        ),
        (
            slice("IPv4", json!([{"addresses": "10.0.0.1"}])),
            "endpoints[0].addresses",
            "invalid type",
        ),
        (
            slice(
                "IPv4",
                json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": "yes"}}]),
            ),
            "endpoints[0].conditions.ready",
            "invalid type",
        ),
        (ports(json!({"port": 0})), "ports[1].port", "1 to 65535"),
        (
            ports(json!({"port": 65_536})),
            "ports[1].port",
            "1 to 65535",
        ),
        (ports(json!({"port": -1})), "ports[1].port", "1 to 65535"),
        (
            ports(json!({"port": "grpc"})),
            "ports[1].port",
            "invalid type",
        ),
    ] {
        let mistake = mistake(&slice);
        assert_eq!(mistake.field, field, "{slice}");
        assert!(mistake.message.contains(why), "{slice}: {mistake:?}");
    }
}

#[test]
fn errors_say_what_to_do() {
    let forbidden = KubernetesError::Forbidden {
        verb: "list",
        namespace: "prod".into(),
        message: "cannot list".into(),
    };
    let slice = Mistake::new("ports[0].port", "0 is not 1 to 65535").of("greeter-x");
    for (error, parts) in [
        (
            forbidden,
            &["\"prod\"", "get, list and watch", "discovery.k8s.io"][..],
        ),
        (slice, &["\"greeter-x\"", "ports[0].port"][..]),
    ] {
        let text = error.to_string();
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
