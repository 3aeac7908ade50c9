//! Connections that are replaced because they are old.

use super::*;

const AGE: Duration = Duration::from_secs(600);

fn aging() -> Settings {
    Settings {
        max_connection_age: Some(AGE),
        ..settings()
    }
}

#[test]
fn an_old_connection_takes_no_new_calls_and_the_next_is_dialled_at_once() {
    let mut m = Machine::with(aging(), ["a"]);
    let old = m.succeed("a");
    let (candidates, _) = m.publish();
    let under_way = candidates.all()[0].claim(false).expect("it is ready");
    let due = m.cluster.next_tick().expect("there is an end") - m.now;
    assert!(due >= AGE * 9 / 10 && due <= AGE * 11 / 10, "{due:?}");
    m.advance(due - Duration::from_millis(1));
    assert!(m.dialing().is_empty(), "not yet");
    m.advance_ms(1);
    assert_eq!(m.dialing(), ["a"]);
    assert!(!under_way.is_connected(), "it takes no new calls");
    assert_ne!(
        m.state("a"),
        ConnectivityState::TransientFailure,
        "no failure"
    );
    let new = m.succeed("a");
    assert_ne!(old.connection, new.connection);
    assert_eq!(m.state("a"), ConnectivityState::Ready);
    let next = m.cluster.next_tick().expect("it ages, too") - m.now;
    assert!(next >= AGE * 9 / 10, "{next:?}");
    drop(under_way);
}

#[test]
fn connections_that_came_up_together_do_not_go_together() {
    let mut m = Machine::ready(aging(), ["a", "b", "c", "d", "e"]);
    let mut ends = HashSet::new();
    while ends.len() < 5 {
        let due = m.cluster.next_tick().expect("all age");
        ends.insert(due);
        m.advance(due - m.now);
        for id in ["a", "b", "c", "d", "e"] {
            if m.dialing().contains(&id) {
                m.fail(id);
            }
        }
        m.cluster.dial_queue.clear();
    }
    assert!(m.cluster.ages.is_empty(), "each had its end");
}

#[test]
fn one_that_left_or_lost_its_connection_is_not_waited_for() {
    let mut m = Machine::with(aging(), ["a", "b"]);
    let a = m.succeed("a");
    m.succeed("b");
    m.update(["a"]);
    assert_eq!(m.cluster.ages.len(), 1, "b left");
    m.advance_ms(1_000);
    m.end(&a, closed());
    m.succeed("a");
    assert_eq!(m.cluster.ages.len(), 1, "one connection, one age");
    m.advance(AGE * 9 / 10 - Duration::from_millis(1));
    assert!(m.dialing().is_empty(), "the new one is as old as it is");
}
