//! Servers are asked for their load beside the calls, and by a task that ends with the last handle.

use std::convert::Infallible;
use std::future::{Future, pending, ready};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel::discovery::Handle;
use evenkeel::outcome::LoadReport;
use evenkeel::policy::{Adaptive, Prequal, RoundRobin};
use evenkeel::probe::{Answer, Probe, probe_fn};
use evenkeel::{Balance, ConnectivityState};
use tower::{ServiceExt, service_fn};

use crate::builder;
use crate::world::*;

const LONG: Duration = Duration::from_secs(600);

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

fn load(in_flight: u32, ms: u64) -> Answer {
    let report = LoadReport::new().with_in_flight(in_flight);
    Answer::Load(report.with_latency(Duration::from_millis(ms)))
}

/// Asks no server: says what `load_of` says of the one with this name.
fn told<F>(load_of: impl Fn(&str) -> F + Send + Sync + 'static) -> impl Probe<Stub>
where
    F: Future<Output = Answer> + Send + 'static,
{
    probe_fn(move |stub: Stub| {
        let answer = load_of(stub.name());
        async move {
            // Held while the probe is under way, as a real one would.
            let _stub = stub;
            answer.await
        }
    })
}

#[tokio::test(start_paused = true)]
async fn prequal_calls_the_servers_that_say_they_are_idle() {
    let world = World::new();
    let names = ["idle", "busy", "also-idle"];
    let balance = builder!(world)
        .endpoints(names)
        .policy(Prequal::default())
        .probe(told(|name| {
            ready(match name {
                "busy" => load(50, 500),
                _ => load(0, 1),
            })
        }))
        .build()
        .unwrap();
    connected(&balance, 3).await;
    for _ in 0..200 {
        within("a call", balance.clone().oneshot(ask("x")))
            .await
            .unwrap();
        settle().await;
    }
    let calls = world.servers(names).map(|server| server.calls());
    // The first ones find no answers yet.
    assert!(calls[1] <= 5, "{calls:?}");
    assert_eq!(calls.iter().sum::<usize>(), 200, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_no_call_whatever_becomes_of_it() {
    // What the probes ask with, and what calls do.
    const PROBE: u32 = 0;
    const CALL: u32 = 1;
    let asked = Arc::new(AtomicUsize::new(0));
    let services = ["fails", "hangs", "answers"].map(|name| {
        let service = service_fn(move |request: u32| async move {
            match (request, name) {
                (CALL, _) | (_, "answers") => Ok(request),
                (_, "fails") => Err(std::io::Error::other("no probes here")),
                _ => pending().await,
            }
        });
        (name, service)
    });
    let count = asked.clone();
    let balance = Balance::builder()
        .services(services)
        .policy(Prequal::default())
        .ejection(at_the_first_failure())
        .seed(7)
        .probe(probe_fn(move |service| {
            count.fetch_add(1, Ordering::SeqCst);
            let answer = ServiceExt::<u32>::oneshot(service, PROBE);
            async move {
                match answer.await {
                    Ok(_) => load(0, 1),
                    Err(_) => Answer::Silent,
                }
            }
        }))
        .build()
        .unwrap();
    connected(&balance, 3).await;
    for _ in 0..100 {
        within("a call", balance.clone().oneshot(CALL))
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(asked.load(Ordering::SeqCst) > 100, "probes were sent");
    let report = balance.report();
    let calls: u64 = report.endpoints.iter().map(|e| e.calls).sum();
    assert_eq!(calls, 100, "only calls are counted: {report:?}");
    for endpoint in report.endpoints {
        assert_eq!(endpoint.failures, 0, "{endpoint}");
        assert_eq!(endpoint.in_flight, 0, "{endpoint}");
        assert!(endpoint.ejected.is_none(), "{endpoint}");
        assert_eq!(endpoint.state, ConnectivityState::Ready, "{endpoint}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_may_leave_while_it_is_probed() {
    let world = World::new();
    let (source, updates) = Handle::new(["a", "b"]).unwrap();
    let timeout = Duration::from_secs(1);
    let balance = builder!(world)
        .discovery(updates)
        .policy(Prequal::default().with_probe_timeout(timeout))
        .probe(told(|_| pending()))
        .build()
        .unwrap();
    connected(&balance, 2).await;
    within("a call", balance.clone().oneshot(ask("x")))
        .await
        .unwrap();
    settle().await;
    let gone = world.server("a");
    source.remove("a");
    until("it has left", || balance.report().endpoints.len() == 1).await;
    let before = gone.calls();
    for _ in 0..20 {
        let answer = within("a call", balance.clone().oneshot(ask("x"))).await;
        assert_eq!(answer.unwrap(), "b");
    }
    assert_eq!(gone.calls(), before, "who left gets no call");
    tokio::time::sleep(timeout * 2).await;
    assert_eq!(
        gone.clones_alive(),
        0,
        "a probe holds a connection no longer than its time"
    );
}

#[tokio::test(start_paused = true)]
async fn the_last_handle_takes_the_probes_with_it() {
    let world = World::new();
    let names = ["a", "b", "c"];
    let before = alive_tasks();
    let probing = Arc::new(());
    let held = probing.clone();
    let balance = builder!(world)
        .endpoints(names)
        .policy(
            Prequal::default()
                .with_probe_timeout(LONG)
                .with_idle_probes(Duration::from_secs(1)),
        )
        .probe(told(move |_| {
            let held = held.clone();
            async move {
                let _held = held;
                pending().await
            }
        }))
        .build()
        .unwrap();
    connected(&balance, 3).await;
    let clone = balance.clone();
    drop(balance);
    for _ in 0..10 {
        within("a call", clone.clone().oneshot(ask("x")))
            .await
            .unwrap();
    }
    settle().await;
    // One is the probe's own.
    assert!(Arc::strong_count(&probing) > 2, "probes are under way");
    assert_eq!(alive_tasks(), before + 2, "one drives and one probes");
    drop(clone);
    until("every task ends", || alive_tasks() == before).await;
    assert_eq!(Arc::strong_count(&probing), 1, "no probe is left");
    for server in world.servers(names) {
        assert_eq!(server.clones_alive(), 0, "no clone is left");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_runs_where_the_policy_asks_nobody() {
    let world = World::new();
    let before = alive_tasks();
    let balance = builder!(world)
        .endpoints(["a"])
        .policy(RoundRobin::default())
        .probe(told(|_| async { panic!("nobody wants it") }))
        .build()
        .unwrap();
    connected(&balance, 1).await;
    within("a call", balance.clone().oneshot(ask("x")))
        .await
        .unwrap();
    settle().await;
    assert_eq!(
        alive_tasks(),
        before + 1,
        "one task drives, and none probes"
    );
}

#[tokio::test(start_paused = true)]
async fn an_idle_balancer_asks_if_it_is_told_to() {
    let world = World::new();
    let asked = Arc::new([const { AtomicUsize::new(0) }; 2]);
    let count = asked.clone();
    let balance = builder!(world)
        .endpoints(["a", "b"])
        .policy(Prequal::default().with_idle_probes(Duration::from_millis(100)))
        .probe(told(move |name| {
            count[usize::from(name == "b")].fetch_add(1, Ordering::SeqCst);
            ready(load(0, 1))
        }))
        .build()
        .unwrap();
    connected(&balance, 2).await;
    tokio::time::sleep(Duration::from_millis(2_050)).await;
    let asked = [0, 1].map(|n| asked[n].load(Ordering::SeqCst));
    let sum: usize = asked.iter().sum();
    assert!((19..=20).contains(&sum), "one in each 100 ms: {asked:?}");
    assert!(asked.iter().all(|&n| n > 0), "at random: {asked:?}");
    // With answers there from before, the first call goes by them.
    within("a call", balance.oneshot(ask("x"))).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_goes_by_probes_alone_needs_one() {
    let world = World::new();
    let error = builder!(world)
        .endpoints(["a"])
        .policy(Prequal::default())
        .build()
        .unwrap_err();
    assert!(error.is_config(), "{error}");
    let text = error.to_string();
    assert!(text.contains("probe") && text.contains("prequal"), "{text}");
    let layer = Balance::builder()
        .endpoints(["a"])
        .policy(Prequal::default())
        .layer();
    assert!(layer.unwrap_err().is_config(), "a layer has no probe");

    let balance = builder!(world)
        .endpoints(["a"])
        .policy(Adaptive::default())
        .build()
        .unwrap();
    within("a call", balance.oneshot(ask("x"))).await.unwrap();
}

#[test]
fn calls_go_on_when_the_runtime_that_probed_is_gone() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let balance = runtime.block_on(async {
        let service = service_fn(|n: u32| ready(Ok::<_, Infallible>(n)));
        let balance = Balance::builder()
            .services([("a", service)])
            .policy(Prequal::default())
            .probe(probe_fn(|_| pending()))
            .build()
            .unwrap();
        assert_eq!(
            within("a call", balance.clone().oneshot(7)).await.unwrap(),
            7
        );
        balance
    });
    drop(runtime);
    let next = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = next.block_on(within("no hang", balance.oneshot(7)));
    assert!(error.unwrap_err().is_closed());
}
