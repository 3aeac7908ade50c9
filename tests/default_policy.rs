//! Who names no policy gets one that goes by latency, from each way in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use evenkeel::{Balance, Endpoint};
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};

const CALLS: u32 = 100;

/// Takes 80 ms where the name says slow, else 5; counts the slow calls.
fn server(
    name: String,
    slow: Arc<AtomicU32>,
) -> impl Service<(), Response = (), Error = BoxError, Future: Send> + Clone + Send + Sync {
    service_fn(move |()| {
        let is_slow = name == "slow";
        slow.fetch_add(u32::from(is_slow), Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(if is_slow { 80 } else { 5 })).await;
            Ok(())
        }
    })
}

/// Calls one after the other, so that calls under way tell nothing.
async fn call<S: Service<(), Error: std::fmt::Debug>>(mut balance: S) {
    for _ in 0..CALLS {
        let ready = balance.ready().await.expect("it is always ready");
        ready.call(()).await.expect("all answer");
    }
}

fn assert_by_latency(slow: &AtomicU32) {
    let slow = slow.load(Ordering::Relaxed);
    assert!(
        slow <= 3,
        "one call tells that it is slow; it got {slow} of {CALLS}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_builder_without_a_policy_goes_by_latency() {
    let slow = Arc::new(AtomicU32::new(0));
    let services = ["fast", "slow"].map(|name| (name, server(name.to_owned(), slow.clone())));
    let balance = Balance::builder().services(services).build();
    let balance = balance.expect("the settings are right");
    assert_eq!(balance.report().policy, "adaptive");
    call(balance).await;
    assert_by_latency(&slow);
}

#[tokio::test(start_paused = true)]
async fn a_layer_without_a_policy_goes_by_latency_with_one_for_each_balancer() {
    let slow = Arc::new(AtomicU32::new(0));
    let layer = Balance::builder().endpoints(["fast", "slow"]).layer();
    let layer = layer.expect("the settings are right");
    let connect = |slow: Arc<AtomicU32>| {
        service_fn(move |endpoint: Endpoint| {
            let service = server(endpoint.id().to_string(), slow.clone());
            async move { Ok::<_, BoxError>(service) }
        })
    };
    for _ in 0..2 {
        slow.store(0, Ordering::Relaxed);
        call(layer.layer(connect(slow.clone()))).await;
        assert_by_latency(&slow);
    }
}
