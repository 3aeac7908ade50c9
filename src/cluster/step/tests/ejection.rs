//! Who is out, for how long, and how it comes back.

use super::*;

#[test]
fn five_failures_in_a_row_eject_for_30_s_and_the_second_time_for_60_s() {
    let mut m = Machine::ready(settings(), ["a", "b", "c"]);
    for _ in 0..4 {
        m.call("a", Outcome::Failure);
    }
    m.call("a", Outcome::Success);
    for _ in 0..4 {
        m.call("a", Outcome::Failure);
    }
    assert_eq!(m.ejected(), 0, "in a row means in a row");
    m.call("a", Outcome::Failure);
    assert_eq!(m.ejected(), 1);
    assert_eq!(m.cluster.next_tick(), Some(m.now + Duration::from_secs(30)));
    m.advance_ms(9_999);
    assert!(!m.call("a", Outcome::Success), "at 9,999 ms still");
    m.advance_ms(20_002);
    assert!(
        m.call("a", Outcome::Failure),
        "at 30,001 ms one call may probe"
    );
    assert!(
        !m.call("a", Outcome::Failure),
        "it failed, so none may again"
    );
    assert_eq!(
        m.left("a"),
        Duration::from_secs(60),
        "the second ejection lasts 60 s"
    );
    assert_eq!(m.ejected(), 1, "it has had its place all the time");
    m.advance_ms(59_999);
    assert!(!m.call("a", Outcome::Success));
    m.advance_ms(1);
    assert!(m.call("a", Outcome::Success));
    assert_eq!(
        (m.ejected(), m.entry("a").ejection.is_none()),
        (0, true),
        "and it is back"
    );
}

#[test]
fn the_longest_ejection_is_300_s() {
    let mut m = Machine::ready(settings(), ["a", "b"]);
    m.eject("a");
    for times in 2..=14_u64 {
        m.advance(m.left("a"));
        assert!(m.call("a", Outcome::Failure));
        let want = Duration::from_secs((30 * times).min(300));
        assert_eq!(m.left("a"), want, "the {times}th in a row");
    }
}

#[test]
fn ten_healthy_seconds_take_one_off_the_count() {
    let times = |healthy_ms: u64| {
        let mut m = Machine::ready(settings(), ["a", "b"]);
        m.eject("a");
        for _ in 0..2 {
            m.advance(m.left("a"));
            m.call("a", Outcome::Failure);
        }
        m.readmit("a");
        m.advance_ms(healthy_ms);
        m.eject("a");
        m.entry("a").ejection.as_ref().unwrap().times
    };
    // Three ejections in a row before.
    assert_eq!(times(0), 4);
    assert_eq!(times(9_999), 4);
    assert_eq!(times(10_000), 3);
    assert_eq!(times(29_999), 2);
    assert_eq!(times(30_000), 1);
    assert_eq!(times(3_600_000), 1, "the first is the first");
}

#[test]
fn no_ejection_that_would_take_more_than_half_or_the_only_one() {
    let mut m = Machine::ready(settings(), ["a"]);
    for _ in 0..20 {
        assert!(m.call("a", Outcome::Failure), "the only one is never out");
    }
    let mut m = Machine::ready(settings(), ["a", "b", "c"]);
    m.eject("a");
    for _ in 0..20 {
        assert!(m.call("b", Outcome::Failure), "half of three is one");
    }
    m.readmit("a");
    assert!(m.call("b", Outcome::Failure));
    assert!(!m.call("b", Outcome::Failure), "now there is a place for b");
}

#[test]
fn a_returned_probe_makes_a_new_set() {
    let mut m = Machine::ready(settings(), ["a", "b"]);
    m.eject("a");
    m.advance_ms(30_000);
    let (candidates, _) = m.publish();
    let probe = candidates.all()[0].claim(false).expect("the probing call");
    let (candidates, _) = m.publish();
    assert_eq!(
        candidates.usable().len(),
        1,
        "it is being probed by another call"
    );
    m.cluster.take_dirty();
    drop(probe);
    m.hear();
    assert!(m.cluster.take_dirty(), "who waits must learn of it");
    let (candidates, _) = m.publish();
    assert_eq!(candidates.usable().len(), 2);
}

/// The words of two callers may overtake each other on their way here.
#[test]
fn out_again_is_newer_than_back_whichever_comes_first() {
    let mut m = Machine::ready(settings(), ["a", "b"]);
    m.eject("a");
    m.advance_ms(30_000);
    let (candidates, _) = m.publish();
    let candidate = &candidates.all()[0];
    candidate
        .claim(false)
        .expect("the probing call")
        .finish(Outcome::Success);
    for _ in 0..5 {
        candidate
            .claim(false)
            .expect("it is back")
            .finish(Outcome::Failure);
    }
    m.changes.lock().unwrap().reverse();
    m.hear();
    assert!(!m.entry("a").subchannel.health().gate().is_open());
    assert!(
        m.entry("a").ejection.is_some(),
        "the report says that it is out"
    );
    m.update(["b"]);
    assert!(
        m.cluster.ejection_ends.is_empty(),
        "and nothing is left of it"
    );
}
