//! Endpoints that leave, and endpoints that change.

use super::*;

#[test]
fn removal_while_dialing_gives_the_permit_back() {
    let mut m = Machine::with(dials(1), ["a", "b"]);
    let dial = m.dials[0].clone();
    m.update(["b"]);
    assert_eq!(m.dialing(), ["b"]);
    assert_eq!(m.forgotten, [dial.key]);
    m.end_dial(&dial, Ok(()));
    m.end_dial(&dial, Err("late".into()));
    assert_eq!(
        m.cluster.dialing, 1,
        "a late result gives nothing back twice"
    );
}

#[test]
fn removal_while_waiting_leaves_the_queue() {
    let mut m = Machine::with(settings(), ["a", "b"]);
    m.fail("a");
    m.update(["b"]);
    m.advance_ms(10_000);
    assert_eq!(m.dialing(), ["b"], "nobody dials for an endpoint that left");
    assert_eq!(m.cluster.next_tick(), None);
}

#[test]
fn removal_while_ready_takes_the_connection_out_of_the_picks() {
    let mut m = Machine::ready(settings(), ["a", "b"]);
    let (candidates, _) = m.publish();
    let a = m.entry("a").subchannel.clone();
    m.update(["b"]);
    assert_eq!(
        a.connection(),
        0,
        "also for calls that still see the old set"
    );
    assert!(!candidates.all()[0].is_connected());
    assert!(
        candidates.all()[0].claim(false).is_none(),
        "its gate is shut for good"
    );
    m.update([] as [&str; 0]);
    let (_, summary) = m.publish();
    assert_eq!((summary.total, m.cluster.entries.len()), (0, 0));
}

#[test]
fn removal_while_ejected_gives_the_place_back() {
    let mut m = Machine::ready(settings(), ["a", "b"]);
    m.eject("a");
    assert_eq!(m.ejected(), 1);
    m.update(["b", "c"]);
    assert_eq!(m.ejected(), 0);
    assert_eq!(m.cluster.ejection_ends.len(), 0);
    m.succeed("c");
    m.eject("c");
    assert_eq!(m.ejected(), 1, "the place is there for another one");
}

#[test]
fn removal_while_probed_gives_the_place_back_once() {
    let mut m = Machine::ready(settings(), ["a", "b"]);
    m.eject("a");
    m.advance_ms(30_000);
    let (candidates, _) = m.publish();
    let mut probe = candidates.all()[0].claim(false).expect("the probing call");
    probe.sent();
    m.update(["b"]);
    assert_eq!(m.ejected(), 0);
    probe.finish(Outcome::Success);
    m.hear();
    assert_eq!(m.ejected(), 0, "the probe's end gives nothing back twice");
}

#[test]
fn an_id_with_a_new_address_is_another_server() {
    let mut m = Machine::new(settings());
    m.update([Endpoint::new("old").with_id("a"), Endpoint::new("b")]);
    let old = m.succeed("a");
    m.succeed("b");
    m.eject("a");
    m.update([Endpoint::new("new").with_id("a"), Endpoint::new("b")]);
    assert_eq!(m.forgotten, [old.key]);
    assert_eq!(m.ejected(), 0, "it has done nothing wrong");
    let new = m.succeed("a");
    assert_ne!((old.key, old.connection), (new.key, new.connection));
    m.end(&old, closed());
    assert_eq!(m.state("a"), ConnectivityState::Ready);
}

#[test]
fn a_new_weight_is_seen_and_nothing_else_changes() {
    let mut m = Machine::ready(settings(), ["a", "b"]);
    m.eject("a");
    let before = m.entry("a").subchannel.clone();
    m.update([Endpoint::new("b"), Endpoint::new("a").with_weight(5)]);
    assert!(
        Arc::ptr_eq(&before, &m.entry("a").subchannel),
        "one record for load and health"
    );
    assert!(m.dials.is_empty() && m.forgotten.is_empty());
    let (candidates, _) = m.publish();
    assert_eq!(
        candidates.all()[1].endpoint().weight(),
        5,
        "in the source's new order"
    );
    assert_eq!(m.ejected(), 1);
}
