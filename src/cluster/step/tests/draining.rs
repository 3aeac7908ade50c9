//! Endpoints that are drained, and all of them at once.

use super::*;
use crate::health::{Cause, Ejection};
use crate::observe::DrainStage;
use crate::policy::{ATTEMPT_DELAYS, Connects};

impl Machine {
    fn drain(&mut self, id: &str) -> Option<u64> {
        let key = self.cluster.drain(id);
        self.step(Event::Tick);
        key
    }

    fn stage(&mut self, id: &str) -> Option<DrainStage> {
        let detail = self.entry(id).detail();
        detail.and_then(|detail| detail.drain)
    }
}

#[test]
fn a_drained_endpoint_is_nobodys_candidate_until_it_is_put_back() {
    let mut m = Machine::ready(settings(), ["a", "b", "c"]);
    let key = m.drain("b").expect("it is there");
    assert!(
        m.forgotten.contains(&key),
        "its dials and watches are given up"
    );
    let (candidates, summary) = m.publish();
    assert_eq!(candidates.usable().len(), 2, "the others");
    assert_eq!(candidates.all().len(), 3, "it keeps its place");
    assert_eq!(m.state("b"), ConnectivityState::Shutdown);
    assert_eq!((summary.total, summary.drained, summary.ejected), (3, 1, 0));
    assert_eq!(m.stage("b"), Some(DrainStage::Draining));
    m.cluster.drain_is_over(key);
    assert_eq!(m.stage("b"), Some(DrainStage::Drained));
    assert_eq!(m.drain("b"), Some(key), "a second drain changes nothing");
    assert_eq!(m.stage("b"), Some(DrainStage::Drained));
    m.advance_ms(600_000);
    assert_eq!(m.dialing(), [] as [&str; 0], "it is not dialled");

    assert!(m.cluster.undrain("b", m.now));
    m.step(Event::Tick);
    assert_eq!(m.dialing(), ["b"], "put back, it is dialled at once");
    m.succeed("b");
    let (candidates, summary) = m.publish();
    let ids = candidates
        .usable()
        .iter()
        .map(|c| c.endpoint().id().as_str());
    assert_eq!(ids.collect::<Vec<_>>(), ["a", "b", "c"], "in its old place");
    assert_eq!(summary.drained, 0);
    assert!(
        m.cluster.undrain("a", m.now),
        "one that is not drained is left alone"
    );
    assert_eq!(m.state("a"), ConnectivityState::Ready);
    assert!(!m.cluster.undrain("x", m.now) && m.drain("x").is_none());
}

#[test]
fn what_the_source_says_ends_a_drain_only_by_a_new_beginning() {
    let mut m = Machine::ready(settings(), ["a", "b"]);
    m.drain("b");
    m.update([Endpoint::new("a"), Endpoint::new("b").with_weight(7)]);
    assert_eq!(
        m.state("b"),
        ConnectivityState::Shutdown,
        "named again with another weight it stays drained"
    );
    m.update(["a"]);
    m.update(["a", "b"]);
    assert_eq!(m.dialing(), ["b"], "left and named again, it is back");
    m.succeed("b");
    m.drain("b");
    m.update([Endpoint::new("a"), Endpoint::new("b").with_addresses(["x"])]);
    assert_eq!(
        m.dialing(),
        ["b"],
        "at other addresses it is another server"
    );
    let (_, summary) = m.publish();
    assert_eq!(summary.drained, 0);
}

#[test]
fn a_drained_endpoint_counts_neither_for_ejection_nor_for_panic() {
    let rules = Ejection::default()
        .with_max_percent(50)
        .with_panic_threshold_percent(50);
    let settings = Settings {
        ejection: rules,
        ..settings()
    };
    let mut m = Machine::ready(settings, ["a", "b", "c", "d"]);
    m.eject("a");
    m.drain("a");
    assert_eq!(m.ejected(), 0, "it gives its place among the ejected back");
    assert!(
        m.entry("a").ejection.is_none(),
        "and is out for another reason"
    );
    m.drain("b");
    let (_, summary) = m.publish();
    assert!(!summary.panic, "all that are not drained are usable");
    m.eject("c");
    let (_, summary) = m.publish();
    assert_eq!(summary.ejected, 1, "one of two may be out");
    assert!(!summary.panic, "half of two is not under 50 %");
    for _ in 0..5 {
        m.call("d", Outcome::Failure);
    }
    assert!(
        m.entry("d").subchannel.health().gate().is_open(),
        "not both of the two that are left"
    );
    let key = m.cluster.keys["a"];
    m.step(Event::Health {
        key,
        change: Change::Ejected(Cause::ConsecutiveFailures),
    });
    assert!(m.entry("a").ejection.is_none(), "late news changes nothing");
}

#[test]
fn a_drain_gives_up_a_dial_and_hears_no_more_of_it() {
    let mut m = Machine::with(dials(1), ["a", "b"]);
    let dial = m.take_dial("a");
    m.drain("a");
    assert_eq!(m.dialing(), ["b"], "its place goes to the next");
    m.end_dial(&dial, Ok(()));
    assert_eq!(m.state("a"), ConnectivityState::Shutdown);
    m.end(&dial, closed());
    m.advance_ms(600_000);
    assert_eq!(m.state("a"), ConnectivityState::Shutdown);
}

#[test]
fn where_one_is_connected_the_next_takes_its_place() {
    let connects = Connects::InOrder {
        attempt_delay: *ATTEMPT_DELAYS.start(),
        shuffle: false,
    };
    let settings = Settings {
        connects,
        ..settings()
    };
    let mut m = Machine::with(settings, ["a", "b"]);
    m.succeed("a");
    m.drain("a");
    assert_eq!(m.dialing(), ["b"], "the chosen one is gone");
    m.succeed("b");
    assert_eq!(m.state("a"), ConnectivityState::Shutdown, "and stays so");
    m.drain("b");
    m.advance_ms(600_000);
    assert_eq!(m.dialing(), [] as [&str; 0], "nobody is left to dial");
    assert!(m.cluster.undrain("a", m.now));
    m.step(Event::Tick);
    assert_eq!(m.dialing(), ["a"]);
    let connecting = ConnectivityState::Connecting;
    assert_eq!(m.state("a"), connecting, "it was drained and did not fail");
}

#[test]
fn a_shutdown_leaves_nothing_to_do() {
    let mut m = Machine::with(dials(2), ["a", "b", "c", "d"]);
    m.succeed("a");
    m.drain("d");
    m.step(Event::ShutDown);
    assert_eq!(m.dialing(), [] as [&str; 0], "dials are given up");
    assert_eq!(m.cluster.next_tick(), None, "nothing is due any more");
    let (candidates, _) = m.publish();
    assert_eq!(candidates.all().len(), 0);
}
