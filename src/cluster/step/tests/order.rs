//! One connection, dialled in the order of the list.

use super::*;
use crate::health::{Ejection, FailurePercentage, OutlierDetection};
use crate::policy::Connects;

fn in_order() -> Settings {
    Settings {
        connects: Connects::InOrder {
            attempt_delay: Duration::from_millis(250),
            shuffle: false,
        },
        ..settings()
    }
}

/// The endpoints in this state.
fn those(m: &Machine, state: ConnectivityState) -> Vec<String> {
    let rows = m.cluster.rows.iter();
    let ids = rows.map(|row| m.cluster.entries[&row.key].endpoint.id().to_string());
    ids.filter(|id| m.state(id) == state).collect()
}

/// What a call finds.
fn usable(m: &mut Machine) -> Vec<String> {
    let (candidates, _) = m.publish();
    let usable = candidates.usable().iter();
    usable.map(|c| c.endpoint().id().to_string()).collect()
}

#[test]
fn the_next_one_is_dialled_when_the_one_before_does_not_answer() {
    let mut m = Machine::with(in_order(), ["a", "b", "c"]);
    assert_eq!(m.dialing(), ["a"], "the first of the list, and no other");
    for (dialing, next) in [(vec!["a"], "b"), (vec!["a", "b"], "c")] {
        let due = m.now + Duration::from_millis(250);
        assert_eq!(m.cluster.next_tick(), Some(due), "{next} is due then");
        m.advance_ms(249);
        assert_eq!(m.dialing(), dialing, "249 ms are too soon for {next}");
        m.advance_ms(1);
        assert_eq!(m.dialing().last(), Some(&next), "250 ms without an answer");
    }
    assert_eq!(m.cluster.next_tick(), None, "there is nobody left to dial");
    m.advance_ms(60_000);
    assert_eq!(m.dialing(), ["a", "b", "c"]);
}

#[test]
fn the_next_one_is_dialled_at_once_when_the_one_before_failed() {
    let mut m = Machine::with(in_order(), ["a", "b", "c"]);
    m.advance_ms(100);
    m.fail("a");
    assert_eq!(m.dialing(), ["b"], "at once");
    m.advance_ms(249);
    assert_eq!(m.dialing(), ["b"], "the delay counts from the dial of b");
    m.advance_ms(1);
    assert_eq!(m.dialing(), ["b", "c"]);
    m.fail("c");
    assert_eq!(m.dialing(), ["b"], "b may answer yet");
    m.advance_ms(10_000);
    assert_eq!(
        m.dialing(),
        ["b"],
        "nobody is dialled again before each has failed once"
    );
}

#[test]
fn the_failure_of_an_earlier_one_does_not_hurry_the_next() {
    let mut m = Machine::with(in_order(), ["a", "b", "c"]);
    m.advance_ms(250);
    m.fail("a");
    assert_eq!(m.dialing(), ["b"], "b has had no time to answer yet");
    m.advance_ms(250);
    assert_eq!(m.dialing(), ["b", "c"]);
}

#[test]
fn the_first_that_is_ready_is_the_only_one() {
    let mut m = Machine::with(in_order(), ["a", "b", "c"]);
    m.advance_ms(250);
    let late = m.dials[0].clone();
    m.succeed("b");
    assert!(m.dialing().is_empty(), "the dial of a is given up");
    assert_eq!(m.forgotten, [late.key]);
    assert_eq!(
        m.cluster.next_tick(),
        None,
        "and nothing else is to be done"
    );
    m.advance_ms(3_600_000);
    assert_eq!(those(&m, ConnectivityState::Ready), ["b"]);
    assert_eq!(those(&m, ConnectivityState::Idle), ["a", "c"]);
    for result in [Ok(()), Err("late".into())] {
        m.end_dial(&late, result);
        assert_eq!(usable(&mut m), ["b"], "a late answer changes nothing");
    }
    let (_, summary) = m.publish();
    assert!(summary.one_is_enough, "who is idle will not be dialled");
    assert!(
        !summary.panic,
        "one of three is no panic: it is all there is to be"
    );
}

#[test]
fn when_it_is_lost_the_list_begins_anew() {
    for end in [closed, || End::Draining, not_ready] {
        let mut m = Machine::with(in_order(), ["a", "b", "c"]);
        m.fail("a");
        let b = m.succeed("b");
        assert_eq!(
            m.state("a"),
            ConnectivityState::Idle,
            "its failure is of the past"
        );
        m.advance_ms(100);
        m.end(&b, end());
        assert_eq!(m.dialing(), ["a"], "from the front, and without a backoff");
        assert_eq!(usable(&mut m), [""; 0]);
        m.fail("a");
        let next = if m.state("b") == ConnectivityState::TransientFailure {
            "c"
        } else {
            "b"
        };
        assert_eq!(m.dialing(), [next], "{next}, whose backoff is over");
    }
}

#[test]
fn servers_that_hang_up_are_not_dialled_in_a_tight_loop() {
    let mut m = Machine::with(in_order(), ["a", "b"]);
    m.fail("a");
    for _ in 0..5 {
        let b = m.succeed("b");
        m.end(&b, closed());
        m.advance_ms(99);
        assert!(
            m.dialing().is_empty(),
            "a tenth of the base delay since the last dial"
        );
        m.advance_ms(1);
        assert_eq!(m.dialing(), ["a"], "who has its turn is waited for");
        m.fail("a");
        assert_eq!(m.dialing(), ["b"]);
    }
}

#[test]
fn once_all_have_failed_each_has_its_own_backoff() {
    let mut m = Machine::with(in_order(), ["a", "b"]);
    m.advance_ms(100);
    m.fail("a");
    assert_eq!(those(&m, ConnectivityState::TransientFailure), ["a"]);
    let (_, summary) = m.publish();
    assert_eq!(
        summary.state(),
        ConnectivityState::Connecting,
        "b may answer"
    );
    m.advance_ms(100);
    m.fail("b");
    let (_, summary) = m.publish();
    assert_eq!(summary.state(), ConnectivityState::TransientFailure);
    assert!(!summary.one_is_enough);
    m.advance_ms(799);
    assert!(m.dialing().is_empty(), "1 s since the dial of a, the first");
    m.advance_ms(1);
    assert_eq!(m.dialing(), ["a"]);
    m.advance_ms(1);
    assert_eq!(
        m.dialing(),
        ["a"],
        "b was dialled 100 ms later, when a failed"
    );
    m.advance_ms(99);
    assert_eq!(m.dialing(), ["a", "b"], "b does not wait for a");
    for _ in 0..3 {
        let (_, summary) = m.publish();
        assert_eq!(
            summary.state(),
            ConnectivityState::TransientFailure,
            "it stays through later dials (gRFC A62)"
        );
        m.fail("a");
        m.advance_ms(10_000);
    }
    m.succeed("b");
    assert!(m.dialing().is_empty(), "until one is ready");
    assert_eq!(those(&m, ConnectivityState::Idle), ["a"]);
    assert_eq!(m.cluster.next_tick(), None);
}

#[test]
fn who_joins_those_that_failed_looks_no_better_but_is_dialled() {
    let mut m = Machine::with(in_order(), ["a"]);
    m.fail("a");
    m.update(["a", "b"]);
    assert_eq!(m.dialing(), ["b"], "a's backoff is not over");
    let (_, summary) = m.publish();
    assert_eq!(
        summary.state(),
        ConnectivityState::TransientFailure,
        "until one is ready (gRFC A62)"
    );
    m.succeed("b");
    m.update(["c", "b"]);
    assert_eq!(m.state("c"), ConnectivityState::Idle, "that is over");
    let mut m = Machine::with(in_order(), []);
    m.update(["a"]);
    assert_eq!(
        m.state("a"),
        ConnectivityState::Connecting,
        "an empty list is no failure of those that come"
    );
}

#[test]
fn an_update_that_names_the_connected_one_keeps_it() {
    let mut m = Machine::with(in_order(), ["a", "b"]);
    m.fail("a");
    let b = m.succeed("b");
    m.update(["c", "a", "b"]);
    assert!(m.dialing().is_empty(), "whatever its place in the list");
    assert_eq!(m.entry("b").phase.connection(), Some(b.connection));
    m.advance_ms(100);
    m.update(["c", "a"]);
    assert_eq!(
        m.dialing(),
        ["c"],
        "an update without it begins the new list"
    );
    m.fail("c");
    assert_eq!(m.dialing(), ["a"]);
    m.update([] as [&str; 0]);
    assert!(m.dialing().is_empty());
    assert_eq!(m.cluster.next_tick(), None);
}

#[test]
fn an_update_during_a_pass_keeps_the_dials_under_way() {
    let mut m = Machine::with(in_order(), ["a", "b", "c"]);
    m.fail("a");
    let b = m.dials[0].clone();
    m.update(["d", "b", "a"]);
    assert_eq!(m.dialing(), ["b", "d"], "from the front of the new list");
    m.fail("d");
    assert_eq!(m.dialing(), ["b"], "b is under way, and a has failed");
    m.end_dial(&b, Ok(()));
    assert_eq!(those(&m, ConnectivityState::Ready), ["b"]);
}

#[test]
fn an_ejected_one_makes_room_for_the_next() {
    let mut m = Machine::with(in_order(), ["a", "b", "c"]);
    m.succeed("a");
    let (candidates, _) = m.publish();
    let under_way = candidates.all()[0].claim(false).expect("it is connected");
    m.eject("a");
    assert_eq!(
        m.dialing(),
        ["b"],
        "from the front, but for the ejected one"
    );
    let (_, summary) = m.publish();
    assert!(summary.panic, "until then it is better than none");
    assert_eq!(usable(&mut m), ["a"]);
    m.succeed("b");
    assert_eq!(usable(&mut m), ["b"], "the ejected one is not needed now");
    assert_eq!(m.entry("a").phase.connection(), None, "nor its connection");
    let (_, summary) = m.publish();
    assert!(!summary.panic);
    drop(under_way);
    m.hear();

    m.advance_ms(30_000);
    assert_eq!(
        (m.ejected(), m.entry("a").ejection.is_none()),
        (0, true),
        "nobody calls it, so that no call could bring it back: its time does"
    );
    m.eject("b");
    assert_eq!(m.dialing(), ["a"], "and there is a place for b");
    assert!(m.entry("a").subchannel.health().gate().is_open());
}

#[test]
fn an_ejected_one_stays_as_long_as_no_other_can_be_reached() {
    let mut m = Machine::with(in_order(), ["a", "b"]);
    m.succeed("a");
    m.eject("a");
    m.fail("b");
    m.advance_ms(29_999);
    assert_eq!(m.dialing(), ["b"], "each by its own backoff");
    assert_eq!(usable(&mut m), ["a"], "a panic: an ejected one, or none");
    m.advance_ms(1);
    assert!(m.call("a", Outcome::Success), "its probing call");
    assert!(
        m.dialing().is_empty(),
        "it is well again, and one is enough"
    );
    assert_eq!(those(&m, ConnectivityState::Ready), ["a"]);
    assert_eq!(those(&m, ConnectivityState::Idle), ["b"]);
}

#[test]
fn an_ejected_one_whose_connection_is_gone_is_dialled_last() {
    let mut m = Machine::with(in_order(), ["a", "b", "c"]);
    let a = m.succeed("a");
    m.eject("a");
    m.end(&a, closed());
    assert_eq!(m.dialing(), ["b"]);
    m.fail("b");
    assert_eq!(m.dialing(), ["c"]);
    m.fail("c");
    m.advance_ms(100);
    assert_eq!(m.dialing(), ["a"], "an ejected one is better than none");
}

#[test]
fn an_ejected_one_that_is_not_connected_has_no_turn() {
    let mut m = Machine::with(in_order(), ["a", "b", "c"]);
    m.succeed("a");
    m.eject("a");
    let b = m.succeed("b");
    m.advance_ms(1_000);
    m.end(&b, closed());
    assert_eq!(m.dialing(), ["b"], "the first of those that are not out");
}

#[test]
fn an_ejected_one_whose_time_is_over_is_back_when_it_is_not_wanted_any_more() {
    let mut m = Machine::with(in_order(), ["a", "b"]);
    m.succeed("a");
    m.eject("a");
    m.advance_ms(30_000);
    assert_eq!(m.ejected(), 1, "it is connected, so a call is to show it");
    m.succeed("b");
    assert_eq!(m.entry("a").phase.connection(), None, "b takes its place");
    assert_eq!(
        (m.ejected(), m.entry("a").ejection.is_none()),
        (0, true),
        "no call could bring it back any more"
    );
}

#[test]
fn a_probing_call_that_outlives_its_turn_takes_no_place_for_ever() {
    for outcome in [Outcome::Success, Outcome::Failure, Outcome::Ignored] {
        let mut m = Machine::with(in_order(), ["a", "b"]);
        m.succeed("a");
        m.eject("a");
        m.advance_ms(30_000);
        let (candidates, _) = m.publish();
        let mut probe = candidates.all()[0].claim(false).expect("the probing call");
        m.succeed("b");
        assert_eq!(usable(&mut m), ["b"]);
        probe.sent();
        probe.finish(outcome);
        m.hear();
        m.advance_ms(60_000);
        assert_eq!(m.ejected(), 0, "{outcome:?}: no endpoint is out for ever");
    }
}

#[test]
fn dials_are_limited_in_order_too() {
    let mut settings = in_order();
    settings.max_concurrent_dials = 1;
    let mut m = Machine::with(settings, ["a", "b", "c"]);
    m.advance_ms(1_000);
    assert_eq!(m.dialing(), ["a"], "the next one waits for the permit");
    m.fail("a");
    assert_eq!(m.dialing(), ["b"]);
    m.advance_ms(250);
    m.succeed("b");
    assert!(m.dialing().is_empty());
    assert_eq!(m.cluster.next_tick(), None);
}

#[test]
fn a_delay_out_of_bounds_is_taken_for_the_nearest_one_within() {
    for (given_ms, ms) in [(0, 100), (5_000, 2_000), (u64::MAX, 2_000)] {
        let connects = Connects::InOrder {
            attempt_delay: Duration::from_millis(given_ms),
            shuffle: false,
        };
        let m = Machine::with(
            Settings {
                connects,
                ..settings()
            },
            ["a", "b"],
        );
        let due = m.now + Duration::from_millis(ms);
        assert_eq!(m.cluster.next_tick(), Some(due), "{given_ms} ms");
    }
}

#[test]
fn a_shuffled_list_is_another_one_for_each_client_and_each_update() {
    let shuffled = |seed| Settings {
        connects: Connects::InOrder {
            attempt_delay: Duration::from_millis(250),
            shuffle: true,
        },
        seed,
        ..settings()
    };
    let ids = ["a", "b", "c", "d"];
    // In which order each of two lists is dialled.
    let dialled = |seed| {
        let mut m = Machine::new(shuffled(seed));
        let mut order = Vec::new();
        for update in [ids, ["e", "f", "g", "h"]] {
            m.update(update);
            for _ in update {
                let [id] = m.dialing()[..] else {
                    panic!("one at a time: {:?}", m.dialing());
                };
                let id = id.to_owned();
                m.fail(&id);
                order.push(id);
            }
        }
        order
    };
    assert_eq!(dialled(1), dialled(1), "the same seed, the same order");
    let mut first = [0_i32; 8];
    for seed in 0..2_000 {
        let order = dialled(seed);
        for id in [&order[0], &order[4]] {
            first[usize::from(id.as_bytes()[0] - b'a')] += 1;
        }
    }
    // 500 each expected, standard deviation sqrt(2000 * 1/4 * 3/4) = 19; six of them.
    assert!(
        first.iter().all(|n| (n - 500).abs() < 116),
        "each is the first equally often: {first:?}"
    );
}

#[test]
fn one_that_is_ready_as_another_is_ejected_is_chosen() {
    let rule = FailurePercentage {
        threshold: 20,
        minimum_hosts: 1,
        ..FailurePercentage::default()
    };
    let rules = OutlierDetection::default()
        .with_success_rate(None)
        .with_failure_percentage(rule);
    let settings = Settings {
        ejection: Ejection::default().with_outlier_detection(rules),
        ..in_order()
    };
    let mut m = Machine::with(settings, ["a", "b", "c"]);
    let a = m.succeed("a");
    for call in 0..99 {
        let fails = call % 3 == 0;
        let outcome = if fails {
            Outcome::Failure
        } else {
            Outcome::Success
        };
        m.call("a", outcome);
    }
    m.advance_ms(9_800);
    m.end(&a, closed());
    m.fail("a");
    assert_eq!(m.dialing(), ["b"]);
    // The interval is over, and the first to say so is the dial that ends.
    m.now += Duration::from_millis(200);
    m.succeed("b");
    assert_eq!(m.ejected(), 1, "a failed too many");
    assert!(m.dialing().is_empty(), "b is ready, and one is enough");
    let (_, summary) = m.publish();
    assert!(summary.one_is_enough, "b is the one");
}

#[test]
fn whatever_goes_by_a_connection_that_is_not_wanted_is_given_up() {
    let mut m = Machine::with(in_order(), ["a", "b"]);
    let a = m.succeed("a");
    m.eject("a");
    m.succeed("b");
    assert_eq!(m.entry("a").phase.connection(), None, "one is enough");
    assert_eq!(
        m.forgotten,
        [a.key],
        "a watch would hold the connection open"
    );
}
