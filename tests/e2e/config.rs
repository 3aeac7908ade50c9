//! Mistakes in a configuration are errors of `build()` that name the setting.

use std::time::Duration;

use evenkeel::Endpoint;
use evenkeel::discovery::Handle;
use evenkeel::grpc::{Builder, Channel};
use evenkeel::health::{Ejection, Limits, SlowStart};
use evenkeel::math::Backoff;
use http::Uri;

const ZERO: Duration = Duration::ZERO;

fn good() -> Builder {
    Channel::builder().endpoints(["http://127.0.0.1:1"])
}

#[tokio::test]
async fn mistakes_are_refused_by_the_name_of_the_setting() {
    let address = |address: &str| Channel::builder().endpoints([address]);
    let twice = ["http://a:1", "http://b:1"].map(|a| Endpoint::new(a).with_id("same"));
    let bad: Vec<(&str, &str, Builder)> = vec![
        ("no source", "endpoints", Channel::builder()),
        (
            "no endpoints",
            "endpoints",
            Channel::builder().endpoints([""; 0]),
        ),
        ("an empty address", "endpoints", address("")),
        ("no scheme", "endpoints", address("127.0.0.1:50051")),
        ("another scheme", "endpoints", address("ftp://a:1")),
        ("no URI", "endpoints", address("http://a b:1")),
        ("no host", "endpoints", address("http://:1")),
        ("no such port", "endpoints", address("http://a:65536")),
        ("a path", "endpoints", address("http://a:1/path")),
        (
            "a second address that is none",
            "endpoints",
            Channel::builder().endpoints([Endpoint::new("http://a:1").with_addresses(["a:1"])]),
        ),
        (
            "two with one id",
            "endpoints",
            Channel::builder().endpoints(twice),
        ),
        (
            "the same twice",
            "endpoints",
            Channel::builder().endpoints(["http://a:1", "http://a:1"]),
        ),
        (
            "a weight of 0",
            "endpoints",
            Channel::builder().endpoints([Endpoint::new("http://a:1").with_weight(0)]),
        ),
        ("no timeout", "timeout", good().timeout(ZERO)),
        (
            "a connection that is old at once",
            "max_connection_age",
            good().max_connection_age(ZERO),
        ),
        (
            "no call at all",
            "limits.in_flight",
            good().limits(Limits::default().with_max_in_flight(0)),
        ),
        (
            "no connect timeout",
            "connect_timeout",
            good().connect_timeout(ZERO),
        ),
        (
            "no dials",
            "max_concurrent_dials",
            good().max_concurrent_dials(0),
        ),
        (
            "no backoff",
            "backoff",
            good().backoff(Backoff::default().with_base(ZERO)),
        ),
        (
            "jitter",
            "backoff",
            good().backoff(Backoff::default().with_jitter(1.1)),
        ),
        (
            "101 % ejected",
            "ejection",
            good().ejection(Ejection::default().with_max_percent(101)),
        ),
        (
            "101 % panic",
            "ejection",
            good().ejection(Ejection::default().with_panic_threshold_percent(101)),
        ),
        (
            "no ejection time",
            "ejection",
            good().ejection(Ejection::default().with_base_time(ZERO)),
        ),
        (
            "no failures",
            "ejection",
            good().ejection(Ejection::default().with_consecutive_failures(0)),
        ),
        (
            "no window",
            "slow_start.window",
            good().slow_start(SlowStart::new(ZERO)),
        ),
        (
            "a user agent of two lines",
            "user_agent",
            good().user_agent("a\nb"),
        ),
        (
            "an origin without a host",
            "origin",
            good().origin(Uri::from_static("/path")),
        ),
        (
            "no keep-alive interval",
            "keep_alive_interval",
            good().http2_with(|http2| http2.keep_alive_interval = Some(ZERO)),
        ),
        (
            "no keep-alive timeout",
            "keep_alive_timeout",
            good().http2_with(|http2| http2.keep_alive_timeout = ZERO),
        ),
        (
            "too short a delay between addresses",
            "connection_attempt_delay",
            good().http2_with(|http2| http2.connection_attempt_delay = Some(ZERO)),
        ),
        (
            "too small a frame",
            "max_frame_bytes",
            good().http2_with(|http2| http2.max_frame_bytes = Some(1)),
        ),
        (
            "too large a window",
            "initial_stream_window_bytes",
            good().http2_with(|http2| http2.initial_stream_window_bytes = Some(u32::MAX)),
        ),
    ];
    for (mistake, field, builder) in bad {
        let error = builder.build().expect_err(mistake);
        assert!(
            error.is_config(),
            "{mistake} is a mistake in a setting: {error}"
        );
        assert_eq!(error.field(), Some(field), "{mistake}: {error}");
        assert!(
            error.to_string().starts_with(field),
            "{mistake}: the text names the setting: {error}"
        );
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn certificates_that_cannot_be_read_are_refused() {
    use evenkeel::grpc::Tls;

    let bad = [
        ("no PEM", Tls::new().ca_certificate("nonsense")),
        ("no key", Tls::new().identity("nonsense", "nonsense")),
        ("no name", Tls::new().domain_name("not a name")),
    ];
    for (mistake, tls) in bad {
        let error = good().tls(tls).build().expect_err(mistake);
        assert_eq!(
            (error.is_config(), error.field()),
            (true, Some("tls")),
            "{mistake}: {error}"
        );
    }
}

/// Each dial would fail, so `build()` says it first.
#[cfg(not(any(feature = "tls-native-roots", feature = "tls-webpki-roots")))]
#[tokio::test]
async fn an_https_endpoint_without_tls_is_refused() {
    let https = || Channel::builder().endpoints(["https://127.0.0.1:1"]);
    let error = https().build().expect_err("nothing is trusted");
    assert_eq!(error.field(), Some("tls"), "{error}");
    assert!(
        error.to_string().contains("the feature tls"),
        "it says what to enable: {error}"
    );
    #[cfg(feature = "tls")]
    {
        let ca = crate::support::TestCa::new();
        let tls = evenkeel::grpc::Tls::new().ca_certificate(ca.pem());
        https().tls(tls).build().expect("there is a certificate");
    }
}

#[tokio::test]
async fn a_handle_refuses_the_same_mistakes() {
    let (handle, _updates) = Handle::new(["http://a:1"]).unwrap();
    let weightless = Endpoint::new("http://b:1").with_weight(0);
    for error in [
        handle.insert(weightless.clone()).unwrap_err(),
        handle.replace([weightless]).unwrap_err(),
        handle.replace(["http://b:1", "http://b:1"]).unwrap_err(),
        Handle::new(["http://b:1", "http://b:1"])
            .map(drop)
            .unwrap_err(),
    ] {
        assert_eq!(
            (error.is_config(), error.field()),
            (true, Some("endpoints")),
            "{error}"
        );
    }
    assert_eq!(handle.endpoints().len(), 1, "the set is as it was");
}

#[test]
fn building_outside_a_runtime_is_an_error_and_no_panic() {
    let error = good().build().expect_err("there is no runtime");
    assert!(error.is_config(), "{error}");
    assert_eq!(error.field(), Some("runtime"), "{error}");
}
