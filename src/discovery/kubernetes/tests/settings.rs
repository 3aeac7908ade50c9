//! What can be set, and targets.

use std::time::Duration;

use crate::discovery::kubernetes::{Kubernetes, Wanted, read_port};
use crate::discovery::{Target, Targets};
use crate::error::Error;
use crate::math::Backoff;

fn greeter() -> Kubernetes {
    Kubernetes::service("prod", "greeter").unwrap()
}

#[test]
fn names_that_kubernetes_would_not_take_are_refused() {
    let long = "a".repeat(64);
    for bad in ["", "A", "a_b", "-a", "a-", "a.b", "a b", "\u{e9}", &long] {
        let refused = [
            ("service", Kubernetes::service("prod", bad)),
            ("namespace", Kubernetes::service(bad, "greeter")),
            ("service", Kubernetes::own_service(bad)),
        ];
        for (field, made) in refused {
            let error = made.expect_err(bad);
            assert_eq!(error.field(), Some(field), "{bad:?}: {error}");
        }
    }
    for good in ["a", "0a", "a-b", &long[..63]] {
        assert!(Kubernetes::service(good, good).is_ok(), "{good}");
    }
}

#[test]
fn ports_are_names_or_numbers() {
    assert_eq!(read_port("50051").unwrap(), Wanted::Number(50051));
    assert_eq!(read_port("http-2").unwrap(), Wanted::Name("http-2".into()));
    for bad in ["", "0", "65536", "99999999999", "-1", "+1", "a_b", "http 2"] {
        let error = greeter().with_port(bad).updates().expect_err(bad);
        assert_eq!(error.field(), Some("port"), "{bad:?}: {error}");
    }
}

#[test]
fn settings_that_cannot_be_are_refused_by_name() {
    let seconds = Duration::from_secs;
    for (source, field) in [
        (greeter().with_timeout(Duration::ZERO), "timeout"),
        (
            greeter().with_watch_timeout(Duration::ZERO),
            "watch_timeout",
        ),
        (
            greeter().with_watch_timeout(Duration::from_millis(999)),
            "watch_timeout",
        ),
        (greeter().with_watch_timeout(seconds(295)), "watch_timeout"),
        (
            greeter().with_backoff(Backoff::default().with_base(Duration::ZERO)),
            "backoff",
        ),
    ] {
        let error: Error = source.updates().expect_err(field);
        assert_eq!(error.field(), Some(field), "{error}");
    }
    for good in [seconds(1), seconds(294)] {
        assert!(greeter().with_watch_timeout(good).updates().is_ok());
    }
}

#[test]
fn targets_name_service_namespace_and_port() {
    for text in [
        "kubernetes:///greeter.prod:50051",
        "kubernetes:///greeter.prod:grpc",
        "kubernetes:///greeter.prod",
        "kubernetes:///greeter:50051",
        "kubernetes:greeter",
    ] {
        assert!(Targets::new().source(text).is_ok(), "{text}");
    }
    for (text, why) in [
        ("kubernetes:///", "service: \"\""),
        ("kubernetes:///Greeter.prod", "service: \"Greeter\""),
        ("kubernetes:///greeter.:1", "namespace: \"\""),
        ("kubernetes:///greeter.prod:0", "port: 0"),
        ("kubernetes:///greeter.prod:", "port: \"\""),
        ("kubernetes:///greeter.prod:1:2", "port: \"1:2\""),
        (
            "kubernetes:///greeter.prod.svc:1",
            "more than service.namespace",
        ),
        ("kubernetes:///greeter.prod/1", "namespace: \"prod/1\""),
        ("kubernetes://greeter.prod:1", "as an authority"),
        ("kubernetes:///greeter?a", "has a query"),
    ] {
        let Err(error) = Targets::new().source(text) else {
            panic!("{text} was taken");
        };
        assert_eq!(error.field(), Some("target"), "{text}: {error}");
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
    let target: Target = "KUBERNETES:///a.b:c".parse().unwrap();
    assert_eq!(target.name(), "a.b:c");
}
