//! Every mistake in a builder is a typed error that names the setting.

use std::time::Duration;

use evenkeel::balance::{Builder, Plain};
use evenkeel::connection::connector_fn;
use evenkeel::discovery::{Handle, Update};
use evenkeel::health::{Ejection, SlowStart};
use evenkeel::math::Backoff;
use evenkeel::policy::LeastRequest;
use evenkeel::{Balance, BoxError, Endpoint, Error};
use tower::{ServiceExt, service_fn};

type Service = tower::util::BoxCloneSyncService<u32, u32, std::io::Error>;

fn service() -> Service {
    Service::new(service_fn(
        |n: u32| async move { Ok::<_, std::io::Error>(n) },
    ))
}

fn build<F>(set: F) -> Result<(), Error>
where
    F: FnOnce(Builder<(), Plain>) -> Builder<(), Plain>,
{
    set(Balance::builder())
        .connector(connector_fn(|_, _| async {
            Ok::<_, std::io::Error>(service())
        }))
        .build()
        .map(drop)
}

#[track_caller]
fn assert_field(result: Result<(), Error>, field: &str) {
    let error = result.expect_err("a value that cannot be used is refused");
    assert!(error.is_config(), "{error}");
    assert!(!error.is_unavailable(), "{error}");
    assert_eq!(error.field(), Some(field), "{error}");
    assert!(
        error.to_string().starts_with(field) || field == "runtime",
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn each_mistake_names_its_setting() {
    assert_field(build(|b| b), "endpoints");
    assert_field(build(|b| b.endpoints([] as [&str; 0])), "endpoints");
    assert_field(build(|b| b.endpoints([""])), "endpoints");
    assert_field(build(|b| b.endpoints(["a", "b", "a"])), "endpoints");
    assert_field(
        build(|b| b.endpoints([Endpoint::new("a").with_weight(0)])),
        "endpoints",
    );
    assert_field(
        build(|b| b.endpoints([Endpoint::new("a"), Endpoint::new("b").with_id("a")])),
        "endpoints",
    );
    assert_field(
        Balance::builder()
            .services([] as [(&str, Service); 0])
            .build()
            .map(drop),
        "endpoints",
    );

    let backoff = Backoff::default();
    for bad in [
        backoff.with_base(Duration::ZERO),
        backoff.with_max(Duration::from_millis(1)),
        backoff.with_multiplier(0.9),
        backoff.with_multiplier(f64::NAN),
        backoff.with_multiplier(f64::INFINITY),
        backoff.with_jitter(-0.1),
        backoff.with_jitter(1.1),
        backoff.with_jitter(f64::NAN),
    ] {
        assert_field(build(|b| b.endpoints(["a"]).backoff(bad)), "backoff");
    }
    assert_field(
        build(|b| b.endpoints(["a"]).connect_timeout(Duration::ZERO)),
        "connect_timeout",
    );
    assert_field(
        build(|b| b.endpoints(["a"]).max_concurrent_dials(0)),
        "max_concurrent_dials",
    );
    let ejection = Ejection::default();
    for bad in [
        ejection.with_consecutive_failures(0),
        ejection.with_base_time(Duration::ZERO),
        ejection.with_max_percent(101),
        ejection.with_panic_threshold_percent(101),
    ] {
        assert_field(build(|b| b.endpoints(["a"]).ejection(bad)), "ejection");
    }
    let slow_start = SlowStart::new(Duration::from_secs(60));
    for (bad, field) in [
        (SlowStart::new(Duration::ZERO), "slow_start.window"),
        (slow_start.with_aggression(0.0), "slow_start.aggression"),
        (
            slow_start.with_min_weight_percent(0.0),
            "slow_start.min_weight_percent",
        ),
    ] {
        assert_field(build(|b| b.endpoints(["a"]).slow_start(bad)), field);
    }

    let (_handle, updates) = Handle::new(["a"]).unwrap();
    assert_field(
        Balance::builder().discovery(updates).layer().map(drop),
        "discovery",
    );
    assert_field(Balance::builder().layer().map(drop), "endpoints");
    assert_field(Handle::new(["a", "a"]).map(drop), "endpoints");
    let (handle, _updates) = Handle::new(["a"]).unwrap();
    assert_field(handle.insert(""), "endpoints");
    assert_field(
        handle.insert(Endpoint::new("b").with_weight(0)),
        "endpoints",
    );
    assert_field(handle.replace(["b", "b"]), "endpoints");
    assert_eq!(
        handle.endpoints().len(),
        1,
        "what is refused changes nothing"
    );
}

#[test]
fn outside_a_runtime_build_and_layer_are_typed_errors() {
    assert_field(build(|b| b.endpoints(["a"])), "runtime");
    assert_field(
        Balance::builder().endpoints(["a"]).layer().map(drop),
        "runtime",
    );
    assert_field(build(|b| b.endpoints([""])), "endpoints");
}

#[test]
fn a_runtime_without_timers_is_a_typed_error() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        assert_field(build(|b| b.endpoints(["a"])), "runtime");
        assert_field(
            Balance::builder().endpoints(["a"]).layer().map(drop),
            "runtime",
        );
    });
}

/// "No limit" is how such values are meant.
#[tokio::test(start_paused = true)]
async fn the_longest_times_are_times_like_any_other() {
    let refusing = connector_fn(|endpoint: &Endpoint, _| {
        let bad = endpoint.address() == "bad";
        async move {
            match bad {
                true => Err("refused".into()),
                false => Ok::<_, BoxError>(service_fn(|fail: bool| async move {
                    match fail {
                        true => Err("failed".into()),
                        false => Ok::<_, BoxError>(()),
                    }
                })),
            }
        }
    });
    let balance = Balance::builder()
        .endpoints(["bad", "a", "b", "c"])
        // One that needs no refresh: a million seconds are as many of them.
        .policy(LeastRequest::default())
        .connector(refusing)
        .backoff(
            Backoff::default()
                .with_base(Duration::MAX)
                .with_max(Duration::MAX)
                .with_multiplier(f64::MAX),
        )
        .connect_timeout(Duration::MAX)
        .ejection(
            Ejection::default()
                .with_consecutive_failures(1)
                .with_base_time(Duration::MAX)
                .with_max_time(Duration::MAX),
        )
        .build()
        .unwrap();
    crate::world::connected(&balance, 3).await;
    crate::world::within("a failure", balance.clone().oneshot(true))
        .await
        .unwrap_err();
    crate::world::until("it is out", || {
        balance
            .report()
            .endpoints
            .iter()
            .any(|e| e.ejected.is_some())
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1_000_000)).await;
    crate::world::within("the driver lives", balance.clone().oneshot(false))
        .await
        .unwrap();
    let report = balance.report();
    assert_eq!(
        report
            .endpoints
            .iter()
            .filter(|e| e.ejected.is_some())
            .count(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_names_nonsense_leaves_it_out() {
    let world = crate::world::World::new();
    let update = Update::new([
        Endpoint::new("a"),
        Endpoint::new(""),
        Endpoint::new("b").with_weight(0),
        Endpoint::new("c").with_id("a"),
    ]);
    let source = futures::stream::iter([Ok::<_, BoxError>(update)]);
    let balance = crate::builder!(world).discovery(source).build().unwrap();
    crate::world::connected(&balance, 1).await;
    let report = balance.report();
    assert_eq!(report.endpoints.len(), 1, "only the first a can be used");
    assert_eq!(report.endpoints[0].address, "a");
}
