//! What is said of the set as a whole.

use super::*;

#[test]
fn panic_counts_ready_and_not_ejected_over_all() {
    let mut m = Machine::ready(settings(), ["a", "b", "c", "d"]);
    m.eject("a");
    m.eject("b");
    let (candidates, summary) = m.publish();
    assert!(!summary.panic, "2 of 4 is not under 50 %");
    assert_eq!(candidates.usable().len(), 2);
    let dial = Dial {
        id: "c".into(),
        key: m.cluster.keys["c"],
        connection: m.entry("c").phase.connection().unwrap(),
    };
    m.end(&dial, closed());
    let (candidates, summary) = m.publish();
    assert!(
        summary.panic,
        "1 of 4: an endpoint that is not READY is not usable"
    );
    assert_eq!(
        candidates.usable().len(),
        3,
        "all that are connected are candidates, ejected or not"
    );
    m.advance_ms(100);
    m.succeed("c");
    let (candidates, summary) = m.publish();
    assert_eq!(
        (summary.panic, candidates.usable().len()),
        (false, 2),
        "the panic is over"
    );
}

#[test]
fn without_an_ejection_there_is_nothing_to_ignore() {
    let mut m = Machine::with(settings(), ["a", "b", "c"]);
    m.succeed("a");
    m.fail("b");
    let (_, summary) = m.publish();
    assert!(!summary.panic, "1 of 3 usable, but none ejected");
}

#[test]
fn the_state_of_the_whole() {
    let mut m = Machine::new(settings());
    assert_eq!(
        m.publish().1.state(),
        ConnectivityState::Connecting,
        "nothing known yet"
    );
    m.update([] as [&str; 0]);
    assert_eq!(
        m.publish().1.state(),
        ConnectivityState::TransientFailure,
        "an empty set"
    );
    m.update(["a", "b"]);
    m.fail("b");
    assert_eq!(
        m.publish().1.state(),
        ConnectivityState::Connecting,
        "{{CONNECTING, TRANSIENT_FAILURE}} is CONNECTING"
    );
    m.succeed("a");
    assert_eq!(
        m.publish().1.state(),
        ConnectivityState::Ready,
        "{{READY, TRANSIENT_FAILURE}} is READY"
    );
    let mut m = Machine::with(settings(), ["a", "b"]);
    m.fail("a");
    m.fail("b");
    assert_eq!(m.publish().1.state(), ConnectivityState::TransientFailure);
}

#[test]
fn the_sources_words() {
    let mut m = Machine::new(settings());
    m.step(Event::DiscoveryFailed("no such name".into()));
    let (_, summary) = m.publish();
    assert_eq!(summary.state(), ConnectivityState::TransientFailure);
    assert!(summary.to_string().contains("no such name"));
    m.step(Event::DiscoveryEnded);
    let (_, summary) = m.publish();
    assert!(summary.resolved, "it will not say more");
    assert!(
        summary.to_string().contains("no such name"),
        "so its last word stands"
    );

    let mut m = Machine::ready(settings(), ["a"]);
    m.step(Event::DiscoveryFailed("flaky".into()));
    m.step(Event::DiscoveryEnded);
    let (candidates, summary) = m.publish();
    assert_eq!(candidates.usable().len(), 1, "the last good state stands");
    assert_eq!(summary.discovery_error.as_deref(), Some("flaky"));
    m.update(["a"]);
    assert_eq!(
        m.publish().1.discovery_error,
        None,
        "a state is the newer word"
    );
}

#[test]
fn the_last_connect_error_is_told_while_something_fails() {
    let mut m = Machine::with(settings(), ["a", "b"]);
    m.fail("a");
    m.fail("b");
    let (_, summary) = m.publish();
    assert_eq!(summary.last_error.as_deref(), Some("b refused"));
    m.advance_ms(1_000);
    m.succeed("a");
    m.succeed("b");
    assert_eq!(m.publish().1.last_error, None, "it is of no use any more");
}

#[test]
fn a_connect_error_is_quoted_while_somebody_cannot_be_reached_and_no_longer() {
    let mut m = Machine::with(
        Settings {
            health_checked: true,
            ..settings()
        },
        ["a", "b"],
    );
    let a = m.succeed("a");
    let say = |m: &mut Machine, dial: &Dial, verdict| {
        m.step(Event::Checked {
            key: dial.key,
            connection: dial.connection,
            verdict,
        });
    };
    say(&mut m, &a, Verdict::not_serving("in maintenance"));
    m.fail("b");
    let quotes = |m: &mut Machine| m.publish().1.to_string().contains("b refused");
    assert!(quotes(&mut m), "b is not connected");
    m.advance_ms(1_000);
    let b = m.succeed("b");
    assert!(quotes(&mut m), "nor known to be well yet");
    say(&mut m, &b, Verdict::not_serving("in maintenance"));
    assert!(!quotes(&mut m), "b is connected now, and so is a");
    let (_, summary) = m.publish();
    assert_eq!((summary.failing, summary.unhealthy), (2, 2));
}
