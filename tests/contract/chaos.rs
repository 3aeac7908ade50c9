//! Everything at once, from many threads: whatever happens around a call, it ends, and everything
//! that was taken is given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel::discovery::Handle;
use evenkeel::health::Ejection;
use evenkeel::math::{Backoff, Rng};
use evenkeel::{Balance, Endpoint};
use tokio::time::{Instant, sleep, timeout};
use tower::{Service, ServiceExt};

use crate::world::*;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// How long it lasts, how many calls it takes at least, and how long it waits for them.
const WHILE: Duration = Duration::from_secs(2);
const CALLS: usize = 1_000;
const AT_MOST: Duration = Duration::from_secs(60);

/// What is there by itself takes no time but the machine's own.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_call_ends_and_everything_is_given_back() {
    let seed = 7;
    let world = World::new();
    let before = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    let (handle, updates) = Handle::new(NAMES).unwrap();
    let balance = Balance::builder()
        .discovery(updates)
        .connector(world.clone())
        .track(track())
        .backoff(
            Backoff::default()
                .with_base(Duration::from_millis(1))
                .with_max(Duration::from_millis(5)),
        )
        .connect_timeout(Duration::from_millis(20))
        .max_concurrent_dials(2)
        .ejection(
            Ejection::default()
                .with_base_time(Duration::from_millis(2))
                .with_max_time(Duration::from_millis(10)),
        )
        .seed(seed)
        .build()
        .unwrap();

    let over = Arc::new(AtomicBool::new(false));
    let done = Arc::new(AtomicUsize::new(0));
    let callers: Vec<_> = (0..16)
        .map(|caller| {
            let mut balance = balance.clone();
            let over = over.clone();
            let done = done.clone();
            let mut rng = Rng::stream(seed, caller);
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let ask = Ask {
                        text: "x",
                        wait: rng.below(2) == 0,
                    };
                    let call = balance.ready().await.unwrap().call(ask);
                    // Some callers give up; an answer that hangs needs that.
                    let patience = Duration::from_micros(rng.below(3_000) as u64);
                    let _ = timeout(patience, call).await;
                    done.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();

    let mut rng = Rng::stream(seed, 99);
    let start = Instant::now();
    // For a while, and on a slow machine for as long as it takes to break something.
    let enough = || start.elapsed() > WHILE && done.load(Ordering::SeqCst) > CALLS;
    while !enough() && start.elapsed() < AT_MOST {
        let server = world.server(NAMES[rng.below(6)]);
        match rng.below(8) {
            0 => server.set_dial([Dial::Connect, Dial::Refuse, Dial::Hang][rng.below(3)]),
            1 => server.set_readiness(
                [Readiness::Ready, Readiness::Queue, Readiness::Broken][rng.below(3)],
            ),
            2 => server.set_answer(
                [Answer::Name, Answer::Fail, Answer::HandBack, Answer::Hang][rng.below(4)],
            ),
            3 => {
                if let Some(connection) = server.last_connection() {
                    match rng.below(2) {
                        0 => connection.draining(),
                        _ => connection.closed(Some("reset".into())),
                    }
                }
            }
            4 => {
                let weight = 1 + rng.below(3) as u32;
                handle
                    .insert(Endpoint::new(server.name.as_str()).with_weight(weight))
                    .unwrap();
            }
            5 => {
                handle.remove(&server.name);
            }
            6 => {
                server.admit();
            }
            _ => sleep(Duration::from_micros(rng.below(500) as u64)).await,
        }
        if rng.below(4) == 0 {
            tokio::task::yield_now().await;
        }
    }

    // All is well again: who waits must notice.
    for server in world.servers(NAMES) {
        server.set_dial(Dial::Connect);
        server.set_answer(Answer::Name);
        server.set_readiness(Readiness::Ready);
    }
    handle.replace(NAMES).unwrap();
    let wait = Ask {
        text: "x",
        wait: true,
    };
    for _ in 0..100 {
        timeout(PATIENCE, balance.clone().oneshot(wait.clone()))
            .await
            .expect("a call that waits for ready is answered once all is well")
            .unwrap();
    }
    over.store(true, Ordering::SeqCst);
    for caller in callers {
        timeout(PATIENCE, caller)
            .await
            .expect("every caller ends")
            .expect("and none panics");
    }
    let done = done.load(Ordering::SeqCst);
    assert!(done > CALLS, "there was something to break: {done} calls");
    for report in balance.report().endpoints {
        assert_eq!(report.in_flight, 0, "all load was given back: {report}");
    }
    drop(balance);
    let end = Instant::now() + PATIENCE;
    let metrics = tokio::runtime::Handle::current().metrics();
    let left = || {
        let clones: usize = world.servers(NAMES).iter().map(|s| s.clones_alive()).sum();
        (metrics.num_alive_tasks() - before, clones, world.dialing())
    };
    while left() != (0, 0, 0) {
        assert!(
            Instant::now() < end,
            "tasks, clones, dials left behind: {:?}",
            left()
        );
        sleep(Duration::from_millis(1)).await;
    }
}
