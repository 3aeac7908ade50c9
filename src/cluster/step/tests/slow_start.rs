//! Slow start: when it begins, how it goes on, and that it ends.

use super::*;
use crate::health::SlowStart;

const WINDOW: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);

/// 10 % at first, and in a straight line to the whole in 60 s: a step is a second.
fn slowly() -> Settings {
    Settings {
        slow_start: Some(SlowStart::new(WINDOW)),
        ..settings()
    }
}

/// What the newest set says of `id`.
fn factor(m: &mut Machine, id: &str) -> f64 {
    let (candidates, _) = m.publish();
    let mut all = candidates.all().iter();
    let candidate = all.find(|c| c.endpoint().id().as_str() == id);
    candidate.expect("it is there").slow_start_factor()
}

/// To the millisecond that [`SlowStart`] counts from, and to the parts that a candidate counts in.
#[track_caller]
fn assert_factor(m: &mut Machine, id: &str, expected: f64, rule: &str) {
    let factor = factor(m, id);
    assert!((factor - expected).abs() < 1e-4, "{rule}: {factor}");
}

/// Lets so many steps pass, one by one, as the driver does.
fn steps(m: &mut Machine, count: u32) {
    for _ in 0..count {
        m.advance(SECOND);
    }
}

/// These endpoints, all at their full weight.
fn warm<const N: usize>(settings: Settings, ids: [&str; N]) -> Machine {
    let mut m = Machine::ready(settings, ids);
    m.advance(WINDOW);
    m.publish();
    m.cluster.take_dirty();
    for id in ids {
        assert_factor(&mut m, id, 1.0, "it is over");
    }
    m
}

#[test]
fn who_joins_gets_its_part_by_the_formula_step_by_step() {
    let mut m = warm(slowly(), ["a"]);
    m.update(["a", "b"]);
    m.succeed("b");
    assert_factor(&mut m, "b", 0.1, "from the first set on");
    steps(&mut m, 6);
    assert_factor(&mut m, "b", 0.1, "6 s of 60 s");
    steps(&mut m, 6);
    assert_factor(&mut m, "b", 0.2, "12 s of 60 s");
    assert_factor(&mut m, "a", 1.0, "the other one is where it was");
    steps(&mut m, 47);
    assert_factor(&mut m, "b", 59.0 / 60.0, "59 s of 60 s");
    steps(&mut m, 1);
    assert_factor(&mut m, "b", 1.0, "60 s");
}

#[test]
fn the_clock_ticks_each_step_while_somebody_is_in_its_window_and_then_no_more() {
    let mut m = Machine::ready(slowly(), ["a", "b"]);
    m.publish();
    m.cluster.take_dirty();
    let mut ticks = 0;
    while let Some(due) = m.cluster.next_tick() {
        assert!(ticks < 60, "no more than a window has");
        assert_eq!(due - m.now, SECOND, "a sixtieth of the window");
        m.advance_ms(999);
        assert!(!m.cluster.take_dirty(), "nothing new before");
        m.advance_ms(1);
        assert!(m.cluster.take_dirty(), "a new set for all");
        m.publish();
        ticks += 1;
    }
    assert_eq!(ticks, 60, "until the window is over");
    m.advance(WINDOW);
    assert!(!m.cluster.take_dirty(), "nothing happens any more");
}

#[test]
fn without_it_nothing_ticks_and_nobody_is_slow() {
    let mut m = Machine::ready(settings(), ["a", "b"]);
    m.publish();
    m.cluster.take_dirty();
    assert_eq!(m.cluster.next_tick(), None, "no step is due");
    m.eject("a");
    m.readmit("a");
    assert_eq!(m.cluster.next_tick(), None, "nor after an ejection");
    for id in ["a", "b"] {
        assert_factor(&mut m, id, 1.0, "at once");
    }
}

#[test]
fn those_that_are_new_together_are_equal_all_the_time() {
    let mut m = Machine::with(slowly(), ["a", "b", "c"]);
    m.succeed("a");
    m.advance_ms(700);
    m.succeed("b");
    m.advance_ms(2_299);
    m.succeed("c");
    for _ in 0..70 {
        let first = factor(&mut m, "a");
        for other in ["b", "c"] {
            assert_eq!(factor(&mut m, other), first, "all within 3 s of the first");
        }
        m.advance(SECOND);
    }
    assert_eq!(factor(&mut m, "a"), 1.0);

    let mut m = Machine::with(slowly(), ["a", "b"]);
    m.succeed("a");
    m.advance_ms(3_000);
    m.succeed("b");
    steps(&mut m, 12);
    assert_factor(&mut m, "a", 0.25, "15 s");
    assert_factor(&mut m, "b", 0.2, "3 s later is not together");
}

#[test]
fn who_begins_with_another_one_is_its_equal_before_the_next_step_too() {
    let steep = SlowStart::new(WINDOW)
        .with_aggression(2.0)
        .with_min_weight_percent(1.0);
    let settings = Settings {
        slow_start: Some(steep),
        ..settings()
    };
    let mut m = Machine::with(settings, ["a", "b", "c"]);
    m.succeed("a");
    for (late, time) in [("b", 700), ("c", 1_600)] {
        m.advance_ms(time);
        m.succeed(late);
        for _ in 0..3 {
            let first = factor(&mut m, "a");
            assert_eq!(factor(&mut m, late), first, "{late} begins with a");
            m.advance_ms(50);
        }
    }
}

#[test]
fn a_connection_that_is_there_again_at_the_first_dial_begins_nothing() {
    for end in [
        closed,
        || End::Draining,
        || End::Closed(Some("reset".into())),
    ] {
        let mut m = Machine::ready(slowly(), ["a", "b"]);
        steps(&mut m, 30);
        let dial = m.dialed("a");
        m.end(&dial, end());
        let dial = m.succeed("a");
        assert_factor(&mut m, "a", 0.5, "what is under way goes on");
        steps(&mut m, 30);
        assert_factor(&mut m, "a", 1.0, "and ends when it would have");
        m.end(&dial, end());
        m.succeed("a");
        assert_factor(&mut m, "a", 1.0, "as warm as before");
        assert_eq!(m.cluster.next_tick(), None, "nobody is in its window");
    }
}

#[test]
fn a_connection_that_is_replaced_for_its_age_begins_nothing() {
    let aging = Settings {
        max_connection_age: Some(10 * WINDOW),
        ..slowly()
    };
    let mut m = warm(aging, ["a"]);
    m.advance(m.cluster.next_tick().expect("it ages") - m.now);
    m.succeed("a");
    assert_factor(&mut m, "a", 1.0, "its server is the same");
}

#[test]
fn who_failed_begins_anew() {
    let mut m = warm(slowly(), ["a", "b"]);
    let mut dial = m.dialed("a");
    m.end(&dial, closed());
    m.fail("a");
    m.advance(SECOND);
    assert_eq!(m.cluster.next_tick(), None, "not while it cannot be used");
    dial = m.succeed("a");
    assert_factor(&mut m, "a", 0.1, "a dial had failed");
    steps(&mut m, 30);
    assert_factor(&mut m, "a", 0.5, "half of the window");

    for end in [not_ready, || End::BackOff("calm down".into())] {
        m.end(&dial, end());
        m.advance(m.cluster.next_tick().expect("a dial is due") - m.now);
        m.advance(SECOND);
        dial = m.succeed("a");
        assert_factor(&mut m, "a", 0.1, "its service had failed");
        steps(&mut m, 12);
        assert_factor(&mut m, "a", 0.2, "12 s of 60 s");
    }
    assert_factor(&mut m, "b", 1.0, "the other one is where it was");
}

#[test]
fn who_is_readmitted_begins_anew() {
    let mut m = warm(slowly(), ["a", "b", "c"]);
    m.eject("a");
    let until = m.entry("a").ejection.as_ref().expect("it is out").until;
    assert_eq!(
        m.cluster.next_tick(),
        Some(until),
        "nothing before its time is over"
    );
    m.readmit("a");
    assert_factor(&mut m, "a", 0.1, "its probing call went well");
    steps(&mut m, 12);
    assert_factor(&mut m, "a", 0.2, "12 s of 60 s");
    m.eject("a");
    m.readmit("a");
    assert_factor(&mut m, "a", 0.1, "and once more, from its window");
    assert_factor(&mut m, "b", 1.0, "the other one is where it was");
}

#[test]
fn who_is_ejected_is_not_in_its_window_by_a_new_connection() {
    let mut m = warm(slowly(), ["a", "b", "c"]);
    m.eject("a");
    let dial = m.dialed("a");
    m.end(&dial, closed());
    m.succeed("a");
    assert_eq!(
        m.cluster.next_tick(),
        Some(m.entry("a").ejection.as_ref().expect("it is out").until),
        "it gets no calls, so there is nothing to do slowly"
    );
    m.readmit("a");
    assert_factor(&mut m, "a", 0.1, "now it does");
}

#[test]
fn a_health_check_that_lets_it_in_begins_it() {
    let mut m = Machine::with(
        Settings {
            health_checked: true,
            ..slowly()
        },
        ["a", "b"],
    );
    let (a, b) = (m.succeed("a"), m.succeed("b"));
    assert_eq!(m.cluster.next_tick(), None, "nobody can be used yet");
    let say = |m: &mut Machine, dial: &Dial, verdict: Verdict| {
        m.step(Event::Checked {
            key: dial.key,
            connection: dial.connection,
            verdict,
        });
    };
    say(&mut m, &b, Verdict::Serving);
    steps(&mut m, 30);
    say(&mut m, &a, Verdict::Serving);
    assert_factor(&mut m, "a", 0.1, "from its first verdict on");
    steps(&mut m, 30);
    assert_factor(&mut m, "a", 0.5, "30 s later");
    say(&mut m, &a, Verdict::Serving);
    assert_factor(&mut m, "a", 0.5, "said twice, begun once");
    say(&mut m, &a, Verdict::not_serving("NOT_SERVING"));
    steps(&mut m, 10);
    assert_eq!(m.cluster.next_tick(), None, "not while it is not serving");
    say(&mut m, &a, Verdict::Serving);
    assert_factor(&mut m, "a", 0.1, "let in again");

    steps(&mut m, 60);
    m.end(&a, End::Draining);
    let a = m.succeed("a");
    steps(&mut m, 2);
    say(&mut m, &a, Verdict::Serving);
    assert_factor(&mut m, "a", 1.0, "checked anew, but it had not failed");
}

#[test]
fn who_leaves_and_joins_begins_anew_and_who_is_described_anew_does_not() {
    let mut m = warm(slowly(), ["a", "b"]);
    m.update([Endpoint::new("a").with_weight(3), Endpoint::new("b")]);
    assert_factor(&mut m, "a", 1.0, "another weight is not another server");
    m.update(["b"]);
    m.update(["b", "a"]);
    m.succeed("a");
    assert_factor(&mut m, "a", 0.1, "it joined");
    m.update([Endpoint::new("b"), Endpoint::new("a").with_weight(3)]);
    steps(&mut m, 12);
    assert_factor(&mut m, "a", 0.2, "what is under way goes on");
    m.update(["b"]);
    m.publish();
    m.cluster.take_dirty();
    steps(&mut m, 1);
    assert!(!m.cluster.take_dirty(), "nobody is left in its window");
    assert_eq!(m.cluster.next_tick(), None, "so the clock stops");
}

#[test]
fn who_joins_does_not_hold_up_the_others() {
    let mut m = warm(slowly(), ["a"]);
    m.update(["a", "b"]);
    m.succeed("b");
    let due = m.now + SECOND;
    m.advance_ms(600);
    m.update(["a", "b", "c"]);
    m.succeed("c");
    assert_eq!(
        m.cluster.next_tick(),
        Some(due),
        "else a stream of new ones would stop the clock"
    );
}
