//! Outlier detection through `Balance`: who fails more calls than the others is out at the end of an interval.

use std::time::Duration;

use evenkeel::health::{Ejection, OutlierDetection};
use evenkeel::policy::RoundRobin;
use tokio::time::sleep;
use tower::ServiceExt;

use crate::builder;
use crate::world::*;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "flaky"];

/// Sends 200 calls a server in an interval, of which the flaky one fails every third. Returns how many failed.
async fn interval(world: &World, balance: &Balanced) -> usize {
    let flaky = world.server("flaky");
    let mut failed = 0;
    for call in 0..200 {
        flaky.set_answer(if call % 3 == 0 {
            Answer::Fail
        } else {
            Answer::Name
        });
        for _ in NAMES {
            failed += usize::from(balance.clone().oneshot(ask("x")).await.is_err());
        }
        sleep(Duration::from_millis(50)).await;
    }
    failed
}

async fn failed(ejection: Ejection) -> [usize; 3] {
    let world = World::new();
    let balance = builder!(world)
        .endpoints(NAMES)
        .policy(RoundRobin::default())
        .ejection(ejection)
        .build()
        .expect("the settings are right");
    connected(&balance, NAMES.len()).await;
    let mut failed = [0; 3];
    for failed in &mut failed {
        *failed = interval(&world, &balance).await;
    }
    failed
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_a_third_of_its_calls_is_out_within_two_intervals() {
    let [first, second, third] = failed(Ejection::default()).await;
    assert!(
        [first, second, third].iter().all(|n| (60..=70).contains(n)),
        "it never fails five in a row, so by default it stays: {first}, {second}, {third}"
    );
    let rules = Ejection::default().with_outlier_detection(OutlierDetection::default());
    let [first, second, third] = failed(rules).await;
    assert!((60..=70).contains(&first), "nobody can know: {first}");
    assert!(second < 5, "it was compared: {second}");
    assert_eq!(third, 0, "it is out for 30 s");
}

#[tokio::test(start_paused = true)]
async fn the_report_says_why_it_is_out() {
    let world = World::new();
    let outliers = OutlierDetection::default();
    let balance = builder!(world)
        .endpoints(NAMES)
        .policy(RoundRobin::default())
        .ejection(Ejection::default().with_outlier_detection(outliers))
        .build()
        .expect("the settings are right");
    connected(&balance, NAMES.len()).await;
    interval(&world, &balance).await;
    sleep(Duration::from_secs(1)).await;
    let ejected = endpoint(&balance, "flaky").ejected;
    let ejected = ejected.expect("it was compared");
    assert_eq!((ejected.reason, ejected.times), ("success rate", 1));
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let world = World::new();
    let never = OutlierDetection::default().with_interval(Duration::ZERO);
    let built = builder!(world)
        .endpoints(NAMES)
        .ejection(Ejection::default().with_outlier_detection(never))
        .build();
    let Err(error) = built else {
        panic!("an interval of nothing is refused");
    };
    assert_eq!(error.field(), Some("outlier_detection"), "{error}");
}
