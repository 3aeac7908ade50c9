//! What holds of every source.

use std::sync::Arc;
use std::time::Duration;

use tower::ServiceExt;

use crate::place::{Burst, Place, Said, What};
use crate::world::{World, within};

pub(crate) async fn what_is_added_is_used<P: Place>() {
    let Some(mut world) = World::<P>::start(&[1]).await else {
        return;
    };
    world.add(2).await;
    world
        .until_ready("what was added is connected", &[1, 2])
        .await;
    assert_eq!(
        world.dials(),
        2,
        "{}: who was there stays connected",
        P::NAME
    );
    assert_eq!(
        world.answers(4).await,
        [P::id(1), P::id(2)],
        "{}: both are used",
        P::NAME
    );
}

pub(crate) async fn what_is_removed_is_used_no_more<P: Place>() {
    let Some(mut world) = World::<P>::start(&[1, 2]).await else {
        return;
    };
    world.remove(1).await;
    world.until_ready("who is left", &[2]).await;
    assert_eq!(
        world.answers(10).await,
        [P::id(2)],
        "{}: the other one",
        P::NAME
    );
    world.add(1).await;
    world.until_ready("it comes back", &[1, 2]).await;
    assert_eq!(world.dials(), 3, "{}: and is dialled anew", P::NAME);
}

pub(crate) async fn a_change_of_weight_keeps_the_connection<P: Place>() {
    if !World::<P>::can("a change of weight", P::CAN.weights) {
        return;
    }
    let Some(mut world) = World::<P>::start(&[1, 2]).await else {
        return;
    };
    world.answers(10).await;
    let heavy = Said {
        weight: 7,
        ..Said::default()
    };
    world.put(1, heavy).await;
    let id = P::id(1);
    world
        .until("the weight is seen", || {
            let report = world.balance.report();
            report
                .endpoints
                .iter()
                .any(|e| e.id.as_str() == id && e.weight == 7 && e.calls == 5)
        })
        .await;
    world.until_ready("both are as they were", &[1, 2]).await;
    assert_eq!(world.dials(), 2, "{}: nothing is dialled anew", P::NAME);
}

pub(crate) async fn a_change_of_metadata_keeps_the_connection<P: Place>() {
    if !World::<P>::can("a change of metadata", P::CAN.metadata) {
        return;
    }
    let Some(mut world) = World::<P>::start(&[1, 2]).await else {
        return;
    };
    for version in [Some("canary"), Some("stable"), None] {
        let said = Said {
            version,
            ..Said::default()
        };
        world.put(1, said).await;
        world
            .until("policies see it", || {
                let seen = world.seen(1).expect("it stays");
                seen.metadata().get("version") == version
            })
            .await;
    }
    world.until_ready("both are as they were", &[1, 2]).await;
    assert_eq!(world.dials(), 2, "{}: nothing is dialled anew", P::NAME);
}

/// With thousands of endpoints a state costs little only if those that did not change are known by their pointers.
pub(crate) async fn what_is_as_before_is_handed_on_as_it_was<P: Place>() {
    let Some(mut world) = World::<P>::start(&[1]).await else {
        return;
    };
    let before = world.seen(1).expect("it is there");
    world.add(2).await;
    world
        .until("the next state", || world.seen(2).is_some())
        .await;
    let after = world.seen(1).expect("it is there still");
    let same = std::ptr::eq(before.address(), after.address());
    assert!(same, "{}: the same endpoint, not an equal one", P::NAME);
}

pub(crate) async fn an_empty_set_is_a_state<P: Place>() {
    if !World::<P>::can("an empty set", P::CAN.empty) {
        return;
    }
    let Some(mut world) = World::<P>::start(&[1]).await else {
        return;
    };
    world.remove(1).await;
    world.until_ready("nobody is left", &[]).await;
    let call = within("a call", world.balance.clone().oneshot(())).await;
    let error = call.expect_err("there is nobody to call");
    assert!(
        error.is_unavailable(),
        "{}: it fails at once: {error}",
        P::NAME
    );
    assert_eq!(
        world.error(),
        None,
        "{}: that is no error of the source",
        P::NAME
    );
    world.add(2).await;
    world.until_ready("it fills again", &[2]).await;
    assert_eq!(world.answers(1).await, [P::id(2)], "{}", P::NAME);
}

pub(crate) async fn an_error_keeps_the_last_good_state_and_shows<P: Place>() {
    if !World::<P>::can("an error", P::CAN.errors) {
        return;
    }
    let Some(mut world) = World::<P>::start(&[1, 2]).await else {
        return;
    };
    let says = world.place.fail().await;
    world
        .until("the report has the error", || {
            world.error().is_some_and(|error| error.contains(says))
        })
        .await;
    world
        .until_ready("the last good state stands", &[1, 2])
        .await;
    assert_eq!(
        world.answers(4).await,
        [P::id(1), P::id(2)],
        "{}: and is used",
        P::NAME
    );
    assert_eq!(world.dials(), 2, "{}: over the same connections", P::NAME);
}

pub(crate) async fn a_source_that_comes_back_is_read_again<P: Place>() {
    if !World::<P>::can("a return", P::CAN.errors) {
        return;
    }
    let Some(mut world) = World::<P>::start(&[1]).await else {
        return;
    };
    for (at, server) in [2, 3].into_iter().enumerate() {
        world.place.fail().await;
        world.until("it fails", || world.error().is_some()).await;
        world.mend().await;
        if World::<P>::can("a return without a change", P::CAN.returns) {
            world
                .until("it is back as it was", || world.error().is_none())
                .await;
        }
        world.add(server).await;
        world
            .until_ready("it is read again", &[1, 2, 3][..at + 2])
            .await;
        world
            .until("the error is over", || world.error().is_none())
            .await;
    }
    assert_eq!(
        world.dials(),
        3,
        "{}: nobody was dialled anew for it",
        P::NAME
    );
}

pub(crate) async fn a_burst_of_1000_changes_is_merged_and_its_last_one_is_visible<P: Place>() {
    let Some(mut world) = World::<P>::start(&[1]).await else {
        return;
    };
    let mut changes = Vec::new();
    for _ in 0..500 {
        changes.push(world.change(What::Put(2, Said::default())));
        changes.push(world.change(What::Remove(2)));
    }
    changes.push(world.change(What::Put(3, Said::default())));
    let (items, dials, builds) = (world.items(), world.dials(), world.builds());
    world.place.write_all(&changes).await;
    world.until_ready("the last change", &[1, 3]).await;
    let [items, dials, builds] = [
        world.items() - items,
        world.dials() - dials,
        world.builds() - builds,
    ];
    let most = match P::BURST {
        Burst::States(most) => {
            assert!(
                (1..=most).contains(&items),
                "{}: {items} states, not {most}",
                P::NAME
            );
            most
        }
        Burst::Each => {
            assert_eq!(items, changes.len(), "{}: each is a state", P::NAME);
            // The balancer takes all that is there before it makes anything of it.
            1
        }
    };
    assert!(
        dials <= most,
        "{}: who came and went was not dialled but in the states between: {dials}",
        P::NAME
    );
    // A state is a snapshot, and so is each dial's beginning and its end.
    assert!(
        builds <= 3 * most,
        "{}: {builds} snapshots of at most {most} states",
        P::NAME
    );
}

pub(crate) async fn the_end_keeps_the_last_state<P: Place>() {
    if !World::<P>::can("an end", P::CAN.ends) {
        return;
    }
    let Some(mut world) = World::<P>::start(&[1]).await else {
        return;
    };
    world.add(2).await;
    world.place.end().await;
    world
        .until_ready("the last change before the end", &[1, 2])
        .await;
    world
        .until("the stream is let go", || world.streams() == 0)
        .await;
    assert_eq!(
        world.answers(4).await,
        [P::id(1), P::id(2)],
        "{}: it stands",
        P::NAME
    );
    assert_eq!(world.dials(), 2, "{}", P::NAME);
}

pub(crate) async fn the_drop_of_the_balancer_ends_the_source<P: Place>() {
    let Some(world) = World::<P>::start(&[1]).await else {
        return;
    };
    assert_eq!(world.streams(), 1, "{}: the balancer reads it", P::NAME);
    let (mut place, stream) = world.without_balancer();
    let gone = async {
        while Arc::strong_count(&stream) > 1 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within("the stream goes with the balancer", gone).await;
    if !World::<P>::can("reads after the end", P::CAN.reads) {
        return;
    }
    // What was under way may be counted yet; one that goes on reads ten times as often.
    let before = place.reads();
    tokio::time::sleep(20 * READ_EVERY).await;
    let reads = place.reads() - before;
    assert!(reads <= 2, "{}: nobody reads it any more: {reads}", P::NAME);
}

/// How often a source that has to look by itself does so here.
pub(crate) const READ_EVERY: Duration = Duration::from_millis(20);
