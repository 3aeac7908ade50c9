use futures_util::FutureExt;

use super::*;
use crate::discovery::Targets;

#[tokio::test]
async fn names_are_tried_with_the_search_domains_as_resolv_conf_has_it() {
    let servers = Servers {
        name_servers: vec!["127.0.0.1:1".parse().unwrap()],
        search: Some(vec!["one".parse().unwrap(), "two.".parse().unwrap()]),
        timeout: None,
    };
    let dns = Hickory::new(&servers).unwrap();
    for (name, tried) in [
        ("a", &["a.one.", "a.two.", "a."][..]),
        ("a.b", &["a.b.", "a.b.one.", "a.b.two."]),
        ("a.", &["a."]),
        ("localhost", &["localhost."]),
        (
            "_grpc._tcp.a",
            &["_grpc._tcp.a.", "_grpc._tcp.a.one.", "_grpc._tcp.a.two."],
        ),
    ] {
        let names: Vec<String> = dns
            .candidates(name)
            .unwrap()
            .iter()
            .map(Name::to_ascii)
            .collect();
        assert_eq!(names, tried, "{name}");
    }
}

#[tokio::test]
async fn an_address_needs_no_look_up() {
    let mut updates = Dns::host("[::1]:1").unwrap().updates().unwrap();
    let found = updates.next().now_or_never().flatten().unwrap().unwrap();
    assert_eq!(ids(found.endpoints()), ["[::1]:1"]);
    assert!(
        updates.next().now_or_never().unwrap().is_none(),
        "it stays so"
    );
    assert!(Targets::new().source("10.0.0.1:50051").is_ok());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    for name in ["", "a b", "a:0", "a:70000", "a..b", "[::1"] {
        assert_eq!(
            Dns::host(name).unwrap_err().field(),
            Some("name"),
            "{name:?}"
        );
    }
    for name in ["", "a b", "_grpc._tcp.a:1"] {
        assert_eq!(
            Dns::srv(name).unwrap_err().field(),
            Some("name"),
            "{name:?}"
        );
    }
    type Change = fn(Dns) -> Dns;
    let changes: [(&str, Change); 8] = [
        ("interval", |dns| dns.with_interval(Duration::ZERO)),
        ("ttl_bounds", |dns| dns.with_ttl_bounds(2 * S, S)),
        ("ttl_bounds", |dns| dns.with_ttl_bounds(Duration::ZERO, S)),
        ("ttl_bounds", |dns| {
            dns.with_ttl_bounds(Duration::ZERO, Duration::ZERO)
        }),
        ("timeout", |dns| dns.with_timeout(Duration::ZERO)),
        ("search", |dns| dns.with_search(["a b"])),
        ("backoff", |dns| {
            dns.with_backoff(Backoff::default().with_jitter(2.0))
        }),
        ("name_servers", |dns| {
            dns.with_name_servers(["127.0.0.1:0".parse().unwrap()])
        }),
    ];
    for (field, change) in changes {
        let error = change(host()).updates().expect_err(field);
        assert_eq!(error.field(), Some(field), "{error}");
    }
}

#[test]
fn targets_name_the_server_to_ask() {
    for target in [
        "dns:///a:1",
        "a:1",
        "dns:a",
        "dns://10.0.0.53/a:1",
        "dns://10.0.0.53:5353/a:1",
        "dns://[::1]:53/a",
        "dns://[::1]/a",
        "dns+srv:///_grpc._tcp.a",
        "dns+srv://127.0.0.1:53/_grpc._tcp.a",
    ] {
        let made = Targets::new().source(target);
        assert!(made.is_ok(), "{target}: {:?}", made.err());
    }
    for (target, why) in [
        ("dns://a:50051", "a name has three slashes: dns:///a:50051"),
        ("dns:///", "is no name"),
        ("dns:///a:0", "1 to 65535"),
        ("dns:///a b", "is neither"),
        ("dns:///a?b", "has a query"),
        ("dns://ns.example/a", "is no IP address"),
        ("dns://10.0.0.53:0/a", "1 to 65535"),
        ("dns+srv:///_grpc._tcp.a:1", "is neither"),
        ("foo:bar", "1 to 65535"),
    ] {
        let Err(error) = Targets::new().source(target) else {
            panic!("{target} was taken");
        };
        assert_eq!(error.field(), Some("target"), "{error}");
        assert!(error.to_string().contains(why), "{target}: {error}");
    }
}
