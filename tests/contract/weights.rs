//! Weights may change while calls flow: connection, load and health stay, the shares follow.

use evenkeel::Endpoint;
use evenkeel::discovery::Handle;
use evenkeel::policy::{LeastRequest, Policy, WeightedRandom, WeightedRoundRobin};
use tower::ServiceExt;

use crate::builder;
use crate::world::*;

const NAMES: [&str; 3] = ["a", "b", "c"];

fn weighted(weights: [u32; 3]) -> impl Iterator<Item = Endpoint> {
    let endpoint = |(name, weight)| Endpoint::new(name).with_weight(weight);
    NAMES.into_iter().zip(weights).map(endpoint)
}

#[tokio::test(start_paused = true)]
async fn a_new_weight_changes_the_shares_and_nothing_else() {
    let world = World::new();
    let [_, b, c] = world.servers(NAMES);
    let (handle, updates) = Handle::new(weighted([1, 2, 3])).unwrap();
    let balance = builder!(world)
        .discovery(updates)
        .policy(WeightedRoundRobin::default())
        .build()
        .unwrap();
    connected(&balance, 3).await;
    let call = || within("a call", balance.clone().oneshot(ask("x")));
    let counts = || NAMES.map(|name| endpoint(&balance, name).calls);
    for _ in 0..60 {
        call().await.unwrap();
    }
    assert_eq!(counts(), [10, 20, 30], "60 calls at 1, 2, 3");

    c.set_answer(Answer::Fail);
    for _ in 0..60 {
        let _ = call().await;
    }
    settle().await;
    let before = endpoint(&balance, "c");
    assert!(before.ejected.is_some(), "five failures in a row: {before}");
    b.set_answer(Answer::Hang);
    let hanging: Vec<_> = (0..9)
        .map(|_| tokio::spawn(balance.clone().oneshot(ask("x"))))
        .collect();
    until("b is busy", || endpoint(&balance, "b").in_flight == 6).await;

    handle.replace(weighted([4, 1, 9])).unwrap();
    until("the weights are in", || endpoint(&balance, "c").weight == 9).await;
    let after = endpoint(&balance, "c");
    assert!(after.ejected.is_some(), "an ejected endpoint stays out");
    assert_eq!(
        (after.calls, after.failures),
        (before.calls, before.failures),
        "its record stays"
    );
    assert_eq!(endpoint(&balance, "b").in_flight, 6, "the load stays");
    b.set_answer(Answer::Name);
    for call in hanging {
        within("a hanging call ends", call).await.unwrap().unwrap();
    }
    let [a0, b0, c0] = counts();
    for _ in 0..60 {
        call().await.unwrap();
    }
    let [a1, b1, c1] = counts();
    assert_eq!(
        [a1 - a0, b1 - b0, c1 - c0],
        [48, 12, 0],
        "60 calls at 4 and 1, without the ejected one"
    );
    for server in world.servers(NAMES) {
        assert_eq!(server.dials().len(), 1, "every connection stays");
    }
}

/// The calls that the servers get of `count` sequential ones.
async fn shares(policy: impl Policy, weights: [u32; 3], count: usize) -> [u64; 3] {
    let world = World::new();
    let balance = builder!(world)
        .endpoints(weighted(weights))
        .policy(policy)
        .build()
        .unwrap();
    connected(&balance, 3).await;
    for _ in 0..count {
        within("a call", balance.clone().oneshot(ask("x")))
            .await
            .unwrap();
    }
    NAMES.map(|name| endpoint(&balance, name).calls)
}

#[tokio::test(start_paused = true)]
async fn every_policy_that_knows_weights_follows_them_through_a_balancer() {
    let exact = shares(WeightedRoundRobin::default(), [1, 2, 3], 600).await;
    assert_eq!(exact, [100, 200, 300], "weighted round robin");
    for (name, shares) in [
        (
            "weighted random",
            shares(WeightedRandom::default(), [1, 2, 3], 6000).await,
        ),
        (
            "least request",
            shares(LeastRequest::default(), [1, 2, 3], 6000).await,
        ),
    ] {
        for (share, expected) in shares.into_iter().zip([1000, 2000, 3000]) {
            // Standard deviation at most sqrt(6000 / 4) = 39; six of them.
            assert!(share.abs_diff(expected) < 233, "{name}: {shares:?}");
        }
    }
}
