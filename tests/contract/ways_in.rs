//! The ways to make a balancer besides a connector, and what each hands on.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use evenkeel::balance::Http;
use evenkeel::call::ChosenEndpoint;
use evenkeel::discovery::Handle;
use evenkeel::outcome::ByStatusCode;
use evenkeel::topology::RandomSubset;
use evenkeel::{Balance, ConnectivityState, Endpoint};
use http::{Request, Response};
use http_body_util::Empty;
use tower::limit::ConcurrencyLimitLayer;
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt, service_fn};

use crate::builder;
use crate::world::*;

#[tokio::test(start_paused = true)]
async fn a_response_names_its_endpoint_where_the_builder_was_told_so() {
    for expose in [true, false] {
        let service = service_fn(|_: Request<()>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let balance = Balance::builder()
            .services([("the only one", service)])
            .track(Http::new(ByStatusCode).with_exposed_endpoint(expose))
            .build()
            .unwrap();
        let response = within("a call", balance.oneshot(Request::new(())))
            .await
            .unwrap();
        let chosen = response.extensions().get::<ChosenEndpoint>();
        let chosen = chosen.map(|chosen| chosen.0.as_str());
        assert_eq!(
            chosen,
            expose.then_some("the only one"),
            "an extension costs an allocation"
        );
    }
}

/// A service that makes services, which says how often it was called and may refuse.
fn make(
    made: Arc<AtomicUsize>,
) -> impl tower::Service<
    Endpoint,
    Response = impl tower::Service<u32, Response = String, Error = Infallible, Future: Send>
               + Clone
               + Send
               + Sync
               + 'static,
    Error = BoxError,
    Future: Send,
> + Clone
+ Send
+ Sync
+ 'static {
    service_fn(move |endpoint: Endpoint| {
        made.fetch_add(1, Ordering::SeqCst);
        async move {
            if endpoint.address() == "refuses" {
                return Err("refused".into());
            }
            Ok::<_, BoxError>(service_fn(move |n: u32| {
                let answer = format!("{} {n}", endpoint.id());
                async move { Ok::<_, Infallible>(answer) }
            }))
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_service_that_makes_services_is_a_connector() {
    let made = Arc::new(AtomicUsize::new(0));
    // Not ready for a second dial before the first has ended.
    let make = ServiceBuilder::new()
        .layer(ConcurrencyLimitLayer::new(1))
        .service(make(made.clone()));
    let balance = Balance::builder()
        .endpoints(["refuses", "a", "b"])
        .make_service(make)
        .build()
        .unwrap();
    connected(&balance, 2).await;
    let answer = within("a call", balance.clone().oneshot(7)).await.unwrap();
    assert!(answer.ends_with(" 7"), "{answer}");
    let refused = endpoint(&balance, "refuses");
    assert_eq!(refused.state, ConnectivityState::TransientFailure);
    assert!(refused.last_error.unwrap().contains("refused"));
    assert_eq!(made.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn each_layering_starts_abalancer_of_its_own() {
    let made = Arc::new(AtomicUsize::new(0));
    let layer = Balance::builder().endpoints(["a", "b"]).layer().unwrap();
    let first = layer.layer(make(made.clone()));
    let second = layer.clone().layer(make(made.clone()));
    connected(&first, 2).await;
    connected(&second, 2).await;
    assert_eq!(made.load(Ordering::SeqCst), 4, "they share no connection");
    within("a call", first.clone().oneshot(7)).await.unwrap();
    let calls = |balance: &evenkeel::observe::Report| -> u64 {
        balance.endpoints.iter().map(|e| e.calls).sum()
    };
    assert_eq!(
        (calls(&first.report()), calls(&second.report())),
        (1, 0),
        "nor a count"
    );
    drop(first);
    settle().await;
    within("the other one lives on", second.oneshot(7))
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn of_a_subset_only_its_endpoints_are_dialled_and_one_that_leaves_is_replaced() {
    let world = World::new();
    let names = ["a", "b", "c", "d", "e"];
    let servers = world.servers(names);
    let (handle, updates) = Handle::new(names).unwrap();
    let balance = builder!(world)
        .discovery(updates)
        .subset(RandomSubset::new(2).unwrap())
        .build()
        .unwrap();
    let used = || -> Vec<&str> {
        let report = balance.report();
        names
            .into_iter()
            .filter(|name| report.endpoints.iter().any(|e| e.id.as_str() == *name))
            .collect()
    };
    connected(&balance, 2).await;
    let first = used();
    assert_eq!(first.len(), 2, "as many as were asked for");
    for (name, server) in names.iter().zip(&servers) {
        let dials = usize::from(first.contains(name));
        assert_eq!(
            server.dials().len(),
            dials,
            "{name} is dialled if it is used"
        );
    }
    assert!(handle.remove(first[0]));
    settle().await;
    connected(&balance, 2).await;
    let second = used();
    assert_eq!(second.len(), 2, "another one takes the place");
    assert!(second.contains(&first[1]), "and the one that stayed stays");
    let kept = servers[names.iter().position(|n| *n == first[1]).unwrap()].dials();
    assert_eq!(kept.len(), 1, "with its connection");
}
