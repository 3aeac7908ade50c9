//! Health checks: no call before the first verdict, none while it is not serving.

use super::*;

fn checked() -> Settings {
    Settings {
        health_checked: true,
        ..settings()
    }
}

fn say(m: &mut Machine, dial: &Dial, verdict: Verdict) {
    m.step(Event::Checked {
        key: dial.key,
        connection: dial.connection,
        verdict,
    });
}

/// Whether a pick by the newest set may name it.
fn is_offered(m: &mut Machine, id: &str) -> bool {
    let (candidates, _) = m.publish();
    let mut all = candidates.all().iter();
    let candidate = all.find(|c| c.endpoint().id().as_str() == id);
    let candidate = candidate.expect("it is there");
    let offered = candidate.is_connected() && candidate.subchannel().health().admits();
    let usable = candidates.usable().iter();
    assert!(!offered || usable.clone().any(|c| c.endpoint().id().as_str() == id));
    offered
}

fn ill() -> Verdict {
    Verdict::not_serving("NOT_SERVING")
}

#[test]
fn an_endpoint_is_connecting_until_its_first_verdict() {
    let mut m = Machine::with(checked(), ["a"]);
    let a = m.succeed("a");
    assert_eq!(m.state("a"), ConnectivityState::Connecting);
    assert!(!is_offered(&mut m, "a"), "it gets no call");
    let (_, summary) = m.publish();
    assert_eq!((summary.ready, summary.connecting), (0, 1));
    say(&mut m, &a, Verdict::Serving);
    assert_eq!(m.state("a"), ConnectivityState::Ready);
    assert!(is_offered(&mut m, "a"));
}

#[test]
fn one_that_is_not_serving_gets_no_call_and_keeps_its_connection() {
    let mut m = Machine::with(checked(), ["a", "b"]);
    let (a, b) = (m.succeed("a"), m.succeed("b"));
    say(&mut m, &a, Verdict::Serving);
    say(&mut m, &b, Verdict::Serving);
    let (candidates, _) = m.publish();
    let under_way = candidates.all()[0].claim(false).expect("it is ready");
    say(&mut m, &a, ill());
    assert!(
        !under_way.is_connected(),
        "who waits for it looks elsewhere"
    );
    assert_eq!(m.state("a"), ConnectivityState::TransientFailure);
    assert!(!is_offered(&mut m, "a") && is_offered(&mut m, "b"));
    assert_eq!(m.entry("a").phase.connection(), Some(a.connection), "kept");
    assert!(m.dialing().is_empty(), "and not dialled anew");
    let (_, summary) = m.publish();
    assert_eq!((summary.failing, summary.unhealthy), (1, 1));
    assert!(
        summary.to_string().contains("health check: NOT_SERVING"),
        "{summary}"
    );
    say(&mut m, &a, Verdict::Serving);
    assert!(is_offered(&mut m, "a"), "back");
    drop(under_way);
    assert_eq!(m.entry("a").subchannel.load().current(), 0);
}

#[test]
fn one_that_was_ill_looks_so_until_it_serves_by_its_next_connection() {
    let mut m = Machine::with(checked(), ["a"]);
    let a = m.succeed("a");
    say(&mut m, &a, ill());
    m.end(&a, closed());
    assert_eq!(m.state("a"), ConnectivityState::TransientFailure);
    m.advance_ms(1_000);
    let next = m.succeed("a");
    assert_eq!(m.state("a"), ConnectivityState::TransientFailure, "sticky");
    say(&mut m, &a, Verdict::Serving);
    assert!(
        !is_offered(&mut m, "a"),
        "the word of the connection that is gone is not true of this one"
    );
    say(&mut m, &next, Verdict::Serving);
    assert_eq!(m.state("a"), ConnectivityState::Ready);
}

#[test]
fn a_verdict_for_a_connection_that_has_ended_brings_nothing_back() {
    let mut m = Machine::with(checked(), ["a"]);
    let a = m.succeed("a");
    say(&mut m, &a, Verdict::Serving);
    m.end(&a, closed());
    say(&mut m, &a, ill());
    say(&mut m, &a, Verdict::Serving);
    assert_eq!(m.entry("a").subchannel.connection(), 0);
    assert_ne!(m.state("a"), ConnectivityState::Ready);
    m.update(["b"]);
    say(&mut m, &a, Verdict::Serving);
    assert_eq!(m.publish().1.total, 1, "nor one that has left");
}

#[test]
fn an_ejection_and_a_check_have_to_agree() {
    let mut m = Machine::with(checked(), ["a", "b", "c"]);
    let dials = ["a", "b", "c"].map(|id| m.succeed(id));
    for dial in &dials {
        say(&mut m, dial, Verdict::Serving);
    }
    m.eject("a");
    say(&mut m, &dials[0], ill());
    say(&mut m, &dials[0], Verdict::Serving);
    assert!(!is_offered(&mut m, "a"), "still ejected");
    m.readmit("a");
    assert!(is_offered(&mut m, "a"));
}
