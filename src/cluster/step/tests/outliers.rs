//! Who is out by comparison with the others.

use super::*;
use crate::health::{Cause, Ejection, FailurePercentage, OutlierDetection};

const SIX: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn comparing(rules: OutlierDetection) -> Settings {
    Settings {
        ejection: Ejection::default().with_outlier_detection(rules),
        ..settings()
    }
}

/// 100 calls on each that is let in; of those on the first `flaky` ones every third fails.
fn calls(m: &mut Machine, flaky: usize) {
    for (place, id) in SIX.into_iter().enumerate() {
        for call in 0..100 {
            let fails = place < flaky && call % 3 == 0;
            let outcome = if fails {
                Outcome::Failure
            } else {
                Outcome::Success
            };
            m.call(id, outcome);
        }
    }
}

/// Calls on all but the first, all of which go well.
fn calls_on_the_others(m: &mut Machine) {
    for id in &SIX[1..] {
        for _ in 0..100 {
            m.call(id, Outcome::Success);
        }
    }
}

/// Calls on the first one, and no word of what they change is on its way yet.
fn unheard_calls(m: &mut Machine, count: usize, fails: impl Fn(usize) -> bool) {
    let (candidates, _) = m.publish();
    for call in 0..count {
        let mut claim = candidates.all()[0].claim(false).expect("it lets calls in");
        claim.sent();
        claim.finish(if fails(call) {
            Outcome::Failure
        } else {
            Outcome::Success
        });
    }
}

fn since(m: &Machine, id: &str) -> Option<Instant> {
    let ejection = m.entry(id).ejection.as_ref();
    ejection.map(|ejection| ejection.since)
}

fn cause(m: &Machine, id: &str) -> Option<Cause> {
    m.entry(id).ejection.as_ref().map(|ejection| ejection.cause)
}

#[test]
fn one_that_fails_a_third_of_its_calls_is_out_at_the_end_of_the_interval() {
    let mut m = Machine::ready(comparing(OutlierDetection::default()), SIX);
    calls(&mut m, 1);
    m.advance_ms(9_999);
    assert_eq!(m.ejected(), 0, "at 9,999 ms none is");
    m.advance_ms(1);
    assert_eq!(cause(&m, "a"), Some(Cause::SuccessRate), "the flaky one");
    assert_eq!(m.ejected(), 1, "and nobody else");
    assert_eq!(m.left("a"), Duration::from_secs(30));

    m.readmit("a");
    assert_eq!(cause(&m, "a"), None, "its probing call brought it back");
    calls(&mut m, 1);
    m.advance_ms(10_000);
    assert_eq!(m.left("a"), Duration::from_secs(60), "twice in a row");
}

#[test]
fn without_it_nobody_is_compared_and_nothing_wakes() {
    let mut m = Machine::ready(settings(), SIX);
    calls(&mut m, 1);
    assert_eq!(m.cluster.next_tick(), None);
    m.advance(Duration::from_secs(60));
    assert_eq!(m.ejected(), 0);
    let counts = m.entry("a").subchannel.health().take_counts();
    assert_eq!(counts, Default::default(), "nor is a call counted");
}

#[test]
fn an_interval_starts_anew_with_no_calls() {
    let mut m = Machine::ready(comparing(OutlierDetection::default()), SIX);
    calls(&mut m, 0);
    m.advance_ms(10_000);
    for _ in 0..4 {
        m.call("a", Outcome::Failure);
    }
    m.advance_ms(10_000);
    assert_eq!(m.ejected(), 0, "four calls are not enough to be judged by");
    assert_eq!(
        m.cluster.next_tick(),
        Some(m.now + Duration::from_secs(10)),
        "the next comparison"
    );
}

#[test]
fn what_a_busy_task_is_late_by_is_not_made_up_for() {
    let mut m = Machine::ready(comparing(OutlierDetection::default()), SIX);
    let due = |m: &Machine| m.cluster.next_tick().expect("a comparison") - m.now;
    m.advance_ms(13_000);
    assert_eq!(due(&m), Duration::from_secs(7), "the later ones stay");
    m.advance_ms(35_000);
    assert_eq!(due(&m), Duration::from_secs(10), "but one is one");
}

#[test]
fn no_more_are_out_than_may_be() {
    let half = FailurePercentage {
        threshold: 20,
        ..FailurePercentage::default()
    };
    let rules = OutlierDetection::default()
        .with_success_rate(None)
        .with_failure_percentage(half);
    let mut m = Machine::ready(comparing(rules), SIX);
    calls(&mut m, 5);
    m.advance_ms(10_000);
    assert_eq!(m.ejected(), 3, "half of six, though five are outliers");
    assert_eq!(cause(&m, "a"), Some(Cause::FailurePercentage));
    m.update(["d", "e", "f"]);
    assert_eq!(m.ejected(), 0, "those that left gave their places back");
}

#[test]
fn a_probing_call_that_fails_keeps_the_cause() {
    let mut m = Machine::ready(comparing(OutlierDetection::default()), SIX);
    calls(&mut m, 1);
    m.advance_ms(10_000);
    m.advance(m.left("a"));
    assert!(m.call("a", Outcome::Failure), "it probes");
    assert_eq!(cause(&m, "a"), Some(Cause::SuccessRate));
    m.readmit("a");
    m.eject("a");
    assert_eq!(cause(&m, "a"), Some(Cause::ConsecutiveFailures));
}

#[test]
fn an_interval_that_no_clock_reaches_is_never_over() {
    for interval in [Duration::MAX, Duration::from_secs(1 << 62)] {
        let rules = OutlierDetection::default().with_interval(interval);
        let mut m = Machine::ready(comparing(rules), SIX);
        calls(&mut m, 1);
        m.advance(Duration::from_secs(3_600));
        assert_eq!(m.ejected(), 0, "{interval:?} is not over");
        m.call("a", Outcome::Success);
        m.eject("a");
        m.readmit("a");
        m.eject("a");
        assert_eq!(
            m.left("a"),
            Duration::from_secs(60),
            "no interval has passed that forgives the first time"
        );
    }
}

#[test]
fn one_that_is_out_again_before_its_return_was_heard_of_has_its_new_cause() {
    let mut m = Machine::ready(comparing(OutlierDetection::default()), SIX);
    calls(&mut m, 1);
    m.advance_ms(10_000);
    assert_eq!(cause(&m, "a"), Some(Cause::SuccessRate));
    m.advance(m.left("a"));
    unheard_calls(&mut m, 1, |_| false);
    unheard_calls(&mut m, 5, |_| true);
    m.hear();
    assert_eq!(
        cause(&m, "a"),
        Some(Cause::ConsecutiveFailures),
        "it was back for a moment"
    );
    assert_eq!(since(&m, "a"), Some(m.now), "and is out since then");
    assert_eq!(m.left("a"), Duration::from_secs(60), "twice in a row");
}

#[test]
fn one_that_is_out_again_by_comparison_before_its_return_was_heard_of_is_out_since_then() {
    let mut m = Machine::ready(comparing(OutlierDetection::default()), SIX);
    calls(&mut m, 1);
    m.advance_ms(10_000);
    let first = since(&m, "a");
    assert_eq!(first, Some(m.now), "the first time");
    m.advance(m.left("a"));
    calls_on_the_others(&mut m);
    // The probing call, and then calls of which every third fails.
    unheard_calls(&mut m, 1, |_| false);
    unheard_calls(&mut m, 100, |call| call % 3 == 0);
    m.advance_ms(10_000);
    let heard_late = |m: &Machine, rule: &str| {
        assert_eq!(cause(m, "a"), Some(Cause::SuccessRate), "{rule}");
        assert_eq!(since(m, "a"), Some(m.now), "{rule}: it was back between");
        assert_eq!(m.left("a"), Duration::from_secs(60), "{rule}: twice");
    };
    heard_late(&m, "compared");
    m.hear();
    heard_late(&m, "its return is old news");
}
