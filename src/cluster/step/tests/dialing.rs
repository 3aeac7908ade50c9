//! When an endpoint is dialled, and what a connection's end means.

use super::*;
use crate::health::Cause;

#[test]
fn the_backoff_grows_from_the_start_of_each_dial() {
    let mut m = Machine::with(settings(), ["a"]);
    // Each dial takes 300 ms to fail, which is part of the delay.
    for want_s in [1.0, 1.6, 2.56, 4.096, 6.5536, 10.48576, 16.777216] {
        let start = m.now;
        m.advance_ms(300);
        m.fail("a");
        let due = m.cluster.next_tick().expect("a dial is due");
        let delay_s = (due - start).as_secs_f64();
        assert!(
            (delay_s - want_s).abs() < 1e-6,
            "{delay_s} s, not {want_s} s"
        );
        m.advance(due - m.now - Duration::from_nanos(1));
        assert!(m.dialing().is_empty(), "{want_s} s have not passed yet");
        m.advance(Duration::from_nanos(1));
        assert_eq!(m.dialing(), ["a"]);
    }
}

#[test]
fn the_delay_stops_growing_at_its_cap() {
    let mut m = Machine::with(settings(), ["a"]);
    for _ in 0..30 {
        m.fail("a");
        m.advance(Duration::from_secs(120));
        assert_eq!(m.dialing(), ["a"], "120 s are the longest delay");
    }
    m.fail("a");
    m.advance(Duration::from_millis(119_999));
    assert!(m.dialing().is_empty(), "and by now it is 120 s");
}

#[test]
fn a_dial_longer_than_its_delay_is_followed_at_once() {
    let mut m = Machine::with(settings(), ["a"]);
    m.advance_ms(20_000);
    m.fail("a");
    assert_eq!(
        m.dialing(),
        ["a"],
        "the delay counts from the start of the attempt"
    );
}

#[test]
fn success_resets_the_backoff() {
    let mut m = Machine::with(settings(), ["a"]);
    for _ in 0..10 {
        m.fail("a");
        m.advance_ms(120_000);
    }
    let dial = m.succeed("a");
    m.advance_ms(60_000);
    m.end(&dial, closed());
    assert_eq!(
        m.dialing(),
        ["a"],
        "a connection that held is dialled anew at once"
    );
    m.fail("a");
    m.advance_ms(999);
    assert!(m.dialing().is_empty());
    m.advance_ms(1);
    assert_eq!(m.dialing(), ["a"], "the delays begin with 1 s again");
}

#[test]
fn a_service_that_connects_and_breaks_backs_off_more_and_more() {
    let mut m = Machine::with(settings(), ["a"]);
    for delay_ms in [1_000, 1_600, 2_560] {
        let dial = m.succeed("a");
        m.end(&dial, not_ready());
        assert_eq!(m.state("a"), ConnectivityState::TransientFailure);
        m.advance_ms(delay_ms - 1);
        assert!(m.dialing().is_empty(), "{delay_ms} ms have not passed");
        m.advance_ms(1);
        assert_eq!(m.dialing(), ["a"], "{delay_ms} ms after the last dial");
    }
    let dial = m.succeed("a");
    m.advance_ms(1_000);
    m.end(&dial, not_ready());
    assert_eq!(
        m.dialing(),
        ["a"],
        "one that held for the base delay is a success"
    );
}

#[test]
fn a_server_that_hangs_up_at_once_is_not_dialled_in_a_tight_loop() {
    for end in [|| End::Draining, closed] {
        let mut m = Machine::with(settings(), ["a"]);
        for _ in 0..5 {
            let dial = m.succeed("a");
            m.advance_ms(10);
            m.end(&dial, end());
            m.advance_ms(89);
            assert!(
                m.dialing().is_empty(),
                "a tenth of the base delay since the last dial"
            );
            m.advance_ms(1);
            assert_eq!(m.dialing(), ["a"]);
        }
    }
}

#[test]
fn draining_is_dialled_anew_at_once_and_is_no_failure() {
    let mut m = Machine::with(settings(), ["a"]);
    let dial = m.succeed("a");
    m.advance_ms(100);
    m.end(&dial, End::Draining);
    assert_eq!(m.dialing(), ["a"], "at once");
    m.publish();
    assert_eq!(m.cluster.rows[0].service, None, "and the old service goes");
    assert_eq!(
        m.state("a"),
        ConnectivityState::Connecting,
        "nothing has failed"
    );
    assert_eq!(
        m.entry("a").subchannel.connection(),
        0,
        "no new call until then"
    );
    m.succeed("a");
    assert_eq!(m.state("a"), ConnectivityState::Ready);
}

#[test]
fn at_most_so_many_dials_at_once_and_nobody_is_forgotten() {
    let mut m = Machine::with(dials(2), ["a", "b", "c", "d"]);
    assert_eq!(m.dialing(), ["a", "b"], "in the order of the source");
    assert_eq!(
        m.cluster.next_tick(),
        None,
        "no use in waking before a dial ends"
    );
    m.advance_ms(60_000);
    assert_eq!(m.dialing().len(), 2, "time gives no permit");
    m.fail("a");
    assert_eq!(
        m.dialing(),
        ["b", "c"],
        "who waits longest comes before who failed"
    );
    m.succeed("b");
    assert_eq!(m.dialing(), ["c", "d"]);
    m.succeed("c");
    m.succeed("d");
    assert_eq!(m.dialing(), ["a"]);
    m.succeed("a");
    assert_eq!(
        m.cluster.next_tick(),
        None,
        "all is well: nothing to wake for"
    );
}

#[test]
fn a_due_dial_wakes_the_driver() {
    let mut m = Machine::with(settings(), ["a"]);
    m.fail("a");
    assert_eq!(m.cluster.next_tick(), Some(m.now + Duration::from_secs(1)));
}

#[test]
fn transient_failure_is_sticky() {
    let mut m = Machine::with(settings(), ["a"]);
    assert_eq!(m.state("a"), ConnectivityState::Connecting);
    m.fail("a");
    assert_eq!(m.state("a"), ConnectivityState::TransientFailure);
    m.advance_ms(1_000);
    assert_eq!(m.dialing(), ["a"]);
    assert_eq!(
        m.state("a"),
        ConnectivityState::TransientFailure,
        "it stays through later dials (gRFC A62)"
    );
    m.succeed("a");
    assert_eq!(m.state("a"), ConnectivityState::Ready, "until one succeeds");
}

#[test]
fn events_of_old_connections_are_ignored() {
    let mut m = Machine::with(settings(), ["a"]);
    let first = m.succeed("a");
    m.advance_ms(1_000);
    m.end(&first, closed());
    let second = m.succeed("a");
    for end in [closed(), End::Draining, not_ready()] {
        m.end(&first, end);
        assert_eq!(
            m.state("a"),
            ConnectivityState::Ready,
            "the old one ended before"
        );
    }
    for result in [Ok(()), Err("late".into())] {
        m.end_dial(&first, result);
        assert_eq!(m.entry("a").phase.connection(), Some(second.connection));
    }
    let unknown = Dial {
        key: 99,
        ..second.clone()
    };
    m.end(&unknown, closed());
    m.end_dial(&unknown, Ok(()));
    m.step(Event::Health {
        key: 99,
        change: Change::Ejected(Cause::ConsecutiveFailures),
    });
    assert_eq!(m.entry("a").subchannel.connection(), second.connection);
    assert_eq!((m.cluster.dialing, m.cluster.dial_queue.len()), (0, 0));
}

#[test]
fn equal_events_give_equal_delays() {
    let run = |seed| {
        let mut m = Machine::with(
            Settings {
                backoff: Backoff::default(),
                seed,
                ..Settings::default()
            },
            ["a"],
        );
        let start = m.now;
        let mut due = Vec::new();
        for _ in 0..5 {
            m.fail("a");
            let tick = m.cluster.next_tick().unwrap();
            due.push(tick - start);
            m.advance(tick - m.now);
        }
        due
    };
    assert_eq!(run(1), run(1), "same seed, same clock, same events");
    assert_ne!(
        run(1),
        run(2),
        "clients of different seeds do not dial in step"
    );
}

#[test]
fn an_end_that_is_heard_of_before_its_dial_counts_after_it_and_keeps_its_reason() {
    let mut m = Machine::with(settings(), ["a"]);
    let dial = m.take_dial("a");
    m.end(&dial, End::Closed(Some("reset by peer".into())));
    assert_eq!(
        m.state("a"),
        ConnectivityState::Connecting,
        "it was never up"
    );
    m.end_dial(&dial, Ok(()));
    assert_ne!(m.state("a"), ConnectivityState::Ready, "it is gone already");
    assert_eq!(
        m.entry("a").subchannel.connection(),
        0,
        "no call goes there"
    );
    m.publish();
    let detail = m.cluster.rows[0]
        .detail
        .clone()
        .expect("there is something to say");
    assert_eq!(detail.last_error.as_deref(), Some("reset by peer"));
    m.advance_ms(100);
    assert_eq!(m.dialing(), ["a"], "and it is dialled anew");
    let again = m.take_dial("a");
    m.end(&dial, closed());
    m.end_dial(&again, Ok(()));
    assert_eq!(
        m.state("a"),
        ConnectivityState::Ready,
        "an older end is not this one's"
    );
}
