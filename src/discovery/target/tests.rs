use std::task::Poll;

use futures_util::{FutureExt, StreamExt};
use proptest::prelude::*;

use super::*;
use crate::discovery::Targets;
use crate::math::testing::seeded;

fn read(text: &str) -> Target {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// Asserts that `text` has this scheme, authority, path and name, and no query.
fn assert_read(text: &str, parts: [&str; 4]) {
    let target = read(text);
    let [scheme, authority] = [target.scheme(), target.authority()];
    let found = [scheme, authority, target.path(), target.name()];
    assert_eq!(found, parts, "{text}");
    assert_eq!(target.query(), None, "{text}");
}

/// The ids and addresses of the first state.
fn endpoints(text: &str) -> Vec<(String, String)> {
    let mut source = Targets::new()
        .source(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    let update = source.next().now_or_never().flatten().expect("a state");
    assert!(
        matches!(source.next().now_or_never(), Some(None)),
        "{text}: what is fixed says no more"
    );
    let update = update.expect("no error").into_endpoints();
    let parts = |e: crate::endpoint::Endpoint| (e.id().to_string(), e.address().to_owned());
    update.into_iter().map(parts).collect()
}

#[test]
fn the_forms_of_grpcs_naming_document_are_read() {
    for (text, scheme, authority, path, name) in [
        ("dns:///a:1", "dns", "", "/a:1", "a:1"),
        ("dns:a:1", "dns", "", "a:1", "a:1"),
        ("dns://10.0.0.53:53/a", "dns", "10.0.0.53:53", "/a", "a"),
        ("DNS:///a", "dns", "", "/a", "a"),
        ("unix:a/b.sock", "unix", "", "a/b.sock", "a/b.sock"),
        ("unix:/a/b.sock", "unix", "", "/a/b.sock", "a/b.sock"),
        ("unix:///a/b.sock", "unix", "", "/a/b.sock", "a/b.sock"),
        ("unix:///a%20b%25", "unix", "", "/a b%", "a b%"),
        ("unix-abstract:a", "unix-abstract", "", "a", "a"),
        ("xds://cell/a", "xds", "cell", "/a", "a"),
        ("dns://a", "dns", "a", "", ""),
    ] {
        assert_read(text, [scheme, authority, path, name]);
    }
    for bare in [
        "a:1",
        "a",
        "10.0.0.1:50051",
        "[::1]:50051",
        "localhost:50051",
    ] {
        assert_read(bare, ["dns", "", &format!("/{bare}"), bare]);
    }
    assert_eq!(read("etcd:///a?b=c%20").query(), Some("b=c%20"));
}

#[test]
fn what_is_no_target_is_refused_by_the_name_of_the_field() {
    for (text, why) in [
        ("", "is empty"),
        ("ftp://a/b", "scheme ftp, which is not known"),
        ("http://a:1", "scheme http, which is not known"),
        ("dns:///a#b", "fragment"),
        ("unix:///%ff", "not UTF-8"),
    ] {
        let error = text.parse::<Target>().expect_err(text);
        assert_eq!(error.field(), Some("target"), "{text}: {error}");
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
}

#[test]
fn fixed_targets_are_their_endpoints() {
    for (text, want) in [
        ("static:///a:1,b:2", &["a:1", "b:2"][..]),
        ("static:a", &["a:443"]),
        ("static:///[::1]:1,10.0.0.1:2", &["[::1]:1", "10.0.0.1:2"]),
        (
            "ipv4:10.0.0.1:50051,10.0.0.2",
            &["10.0.0.1:50051", "10.0.0.2:443"],
        ),
        ("ipv4:///10.0.0.1", &["10.0.0.1:443"]),
        (
            "ipv6:[fd00::1]:50051,fd00::2",
            &["[fd00::1]:50051", "[fd00::2]:443"],
        ),
        ("ipv6:%5B::1%5D:1", &["[::1]:1"]),
    ] {
        let found = endpoints(text);
        let ids: Vec<&str> = found.iter().map(|(id, _)| &**id).collect();
        assert_eq!(ids, want, "{text}");
        for (id, address) in &found {
            assert_eq!(
                *address,
                format!("http://{id}"),
                "{text}: gRPC names no scheme"
            );
        }
    }
}

#[cfg(unix)]
#[test]
fn unix_sockets_are_endpoints() {
    for (text, address) in [
        ("unix:a/b.sock", "unix:a/b.sock"),
        ("unix:/a/b.sock", "unix:/a/b.sock"),
        ("unix:///a/b.sock", "unix:/a/b.sock"),
        ("unix:////a//b.sock", "unix:/a//b.sock"),
        ("unix:///a%20b", "unix:/a b"),
        #[cfg(target_os = "linux")]
        ("unix-abstract:a b", "unix-abstract:a b"),
    ] {
        assert_eq!(endpoints(text)[0].1, address, "{text}");
    }
}

#[test]
fn what_a_scheme_cannot_read_is_refused_with_the_target_and_the_reason() {
    let long = format!("unix:///{}", "a".repeat(200));
    for (text, why) in [
        ("static:", "is no name"),
        ("static:///a:1,", "is no name"),
        ("static:///a:0", "1 to 65535"),
        ("static:///a:70000", "1 to 65535"),
        ("static:///a, b", "is neither"),
        ("static:///a:1,a:1", "two endpoints have the id a:1"),
        ("static://a/b", "as an authority"),
        ("static:///a?b", "has a query"),
        ("ipv4:a:1", "no IPv4"),
        ("ipv4:[::1]:1", "no IPv4"),
        ("ipv6:10.0.0.1", "no IPv6"),
        ("ipv6:[::1", "bracket"),
        ("unix:", "names no path"),
        ("unix://a/b", "as an authority"),
        ("unix:///a%00b", "unix:///a%00b"),
        (&long, "unix:///aaa"),
        ("unix-abstract:", "names nothing"),
        ("unix-abstract:a%00b", "unix-abstract:a%00b"),
        ("etcd:///a", "etcd is asked "),
        ("xds:///a", "no source for the scheme xds"),
    ] {
        let Err(error) = Targets::new().source(text) else {
            panic!("{text} was taken");
        };
        assert_eq!(error.field(), Some("target"), "{text}: {error}");
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
}

#[cfg(not(feature = "file"))]
#[test]
fn files_need_the_feature_file() {
    let Err(error) = Targets::new().source("file:///a.json") else {
        panic!("nothing reads it");
    };
    assert_eq!(error.field(), Some("target"), "{error}");
    assert!(error.to_string().contains("feature file"), "{error}");
}

#[cfg(not(feature = "dns"))]
#[test]
fn names_need_the_feature_dns() {
    for text in ["dns:///a:1", "a:1", "dns+srv:///a"] {
        let Err(error) = Targets::new().source(text) else {
            panic!("{text} was taken");
        };
        assert_eq!(error.field(), Some("target"), "{error}");
        assert!(error.to_string().contains("feature dns"), "{text}: {error}");
    }
}

#[cfg(not(feature = "kubernetes-unversioned"))]
#[test]
fn services_need_the_feature_kubernetes() {
    let Err(error) = Targets::new().source("kubernetes:///a.b:1") else {
        panic!("it was taken");
    };
    assert_eq!(error.field(), Some("target"), "{error}");
    assert!(error.to_string().contains("feature kubernetes"), "{error}");
}

#[test]
fn a_scheme_of_ones_own_is_known_to_that_registry_alone() {
    let nobody = || futures_util::stream::pending();
    let plain = Targets::new();
    let targets = plain
        .clone()
        .with_scheme("Rack+1", move |target: &Target| match target.name() {
            "seven" => Err("no such rack".into()),
            _ => Ok(nobody()),
        })
        .unwrap();
    for text in ["rack+1:7", "RACK+1:///7", "rack+1://dc/7?x"] {
        let mut source = targets.source(text).unwrap();
        let polled = source
            .next()
            .now_or_never()
            .map_or(Poll::Pending, Poll::Ready);
        assert!(
            polled.is_pending(),
            "{text}: it is the source of the scheme"
        );
    }
    let Err(error) = targets.source("rack+1:seven") else {
        panic!("the scheme refuses it");
    };
    assert_eq!(error.to_string(), "target: rack+1:seven: no such rack");
    assert_eq!(error.field(), Some("target"));
    assert!(
        std::error::Error::source(&error).is_some(),
        "its cause is kept"
    );
    assert!(
        plain.source("rack+1:///7").is_err(),
        "no registry knows what another was given"
    );
    let shadowed = targets.with_scheme("xds", move |_| Ok(nobody())).unwrap();
    assert!(
        shadowed.source("xds:///a").is_ok(),
        "what ships may be replaced"
    );
    for bad in ["", "1a", "a b", "a:", "\u{e9}"] {
        let error = plain.clone().with_scheme(bad, move |_| Ok(nobody()));
        assert_eq!(error.unwrap_err().field(), Some("scheme"), "{bad:?}");
    }
}

#[test]
fn an_error_of_evenkeels_own_is_not_wrapped() {
    let targets = Targets::new()
        .with_scheme("a", |_| {
            Err::<futures_util::stream::Pending<_>, _>(Error::config("b", "is c").into())
        })
        .unwrap();
    let Err(error) = targets.source("a:1") else {
        panic!("it is refused");
    };
    assert_eq!(error.to_string(), "b: is c");
}

proptest! {
    #![proptest_config(seeded(512, 31))]

    #[test]
    fn any_text_is_a_target_or_an_error_and_its_text_is_the_same_target(
        text in "(static|ipv4|ipv6|unix|unix-abstract|dns|xds|[a-z]{1,3}|[:/?#@%,.\\[\\]-]|[0-9]{1,5}|%[0-9a-f]{2}|\u{e9}|\\PC){0,12}",
    ) {
        if let Ok(target) = text.parse::<Target>() {
            let written = target.to_string();
            let again = written.parse::<Target>();
            prop_assert_eq!(again.ok(), Some(target), "{}", written);
        }
        if let Err(error) = Targets::new().source(&text) {
            prop_assert_eq!(error.field(), Some("target"), "{}", error);
        }
    }
}
