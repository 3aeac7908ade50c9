//! The machine by itself: instants made by hand, no runtime, no connection.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::math::Backoff;
use crate::outcome::Outcome;

/// A cluster, its clock, and what it wants done.
struct Machine {
    cluster: Cluster,
    now: Instant,
    changes: Arc<Mutex<Vec<(u64, Change)>>>,
    /// Dials that were asked for and have not ended.
    dials: Vec<Dial>,
    /// Every connection number that was ever handed out.
    connections: HashSet<u64>,
    disconnected: Vec<u64>,
    forgotten: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Dial {
    id: String,
    key: u64,
    connection: u64,
}

impl Machine {
    fn new(settings: Settings) -> Self {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let heard = changes.clone();
        let on_change: OnChange = Arc::new(move |key, change| {
            let mut changes = heard.lock().unwrap_or_else(PoisonError::into_inner);
            changes.push((key, change));
        });
        Self {
            cluster: Cluster::new(settings, Some(on_change)),
            now: Instant::now(),
            changes,
            dials: Vec::new(),
            connections: HashSet::new(),
            disconnected: Vec::new(),
            forgotten: Vec::new(),
        }
    }

    fn with<const N: usize>(settings: Settings, ids: [&str; N]) -> Self {
        let mut machine = Self::new(settings);
        machine.update(ids);
        machine
    }

    /// As [`with`](Self::with), all connected.
    fn ready<const N: usize>(settings: Settings, ids: [&str; N]) -> Self {
        let mut machine = Self::with(settings, ids);
        for id in ids {
            machine.succeed(id);
        }
        machine
    }

    fn step(&mut self, event: Event) {
        self.cluster.step(event, self.now);
        for effect in self.cluster.take_effects() {
            match effect {
                Effect::Dial {
                    endpoint,
                    subchannel,
                    connection,
                } => {
                    assert!(
                        connection != 0 && self.connections.insert(connection),
                        "connection {connection} is named once"
                    );
                    self.dials.push(Dial {
                        id: endpoint.id().to_string(),
                        key: subchannel.key(),
                        connection,
                    });
                }
                Effect::Disconnect { key } => self.disconnected.push(key),
                Effect::Forget { key } => {
                    self.dials.retain(|dial| dial.key != key);
                    self.forgotten.push(key);
                }
            }
        }
    }

    fn update<E: Into<Endpoint>>(&mut self, endpoints: impl IntoIterator<Item = E>) {
        self.step(Event::Update(Update::new(endpoints)));
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        self.step(Event::Tick);
    }

    fn advance_ms(&mut self, ms: u64) {
        self.advance(Duration::from_millis(ms));
    }

    /// Who is being dialled.
    fn dialing(&self) -> Vec<&str> {
        self.dials.iter().map(|dial| dial.id.as_str()).collect()
    }

    fn take_dial(&mut self, id: &str) -> Dial {
        let found = self.dials.iter().position(|dial| dial.id == id);
        self.dials
            .remove(found.unwrap_or_else(|| panic!("{id} is being dialled")))
    }

    fn end_dial(&mut self, dial: &Dial, result: Result<(), BoxError>) {
        self.step(Event::Dialed {
            key: dial.key,
            connection: dial.connection,
            result,
        });
    }

    fn succeed(&mut self, id: &str) -> Dial {
        let dial = self.take_dial(id);
        self.end_dial(&dial, Ok(()));
        dial
    }

    fn fail(&mut self, id: &str) {
        let dial = self.take_dial(id);
        self.end_dial(&dial, Err(format!("{id} refused").into()));
    }

    fn end(&mut self, dial: &Dial, end: End) {
        self.step(Event::Ended(Ended {
            key: dial.key,
            connection: dial.connection,
            end,
        }));
    }

    fn entry(&self, id: &str) -> &Entry {
        &self.cluster.entries[&self.cluster.keys[id]]
    }

    fn state(&self, id: &str) -> ConnectivityState {
        self.entry(id).state()
    }

    fn publish(&mut self) -> (Candidates, Summary) {
        let (candidates, _, summary) = self.cluster.publish(|_, _| {});
        (candidates, summary)
    }

    /// One call that goes to `id` by the newest set, if its gate lets it in. What that changes is
    /// heard at once.
    fn call(&mut self, id: &str, outcome: Outcome) -> bool {
        let (candidates, _) = self.publish();
        let candidate = candidates
            .all()
            .iter()
            .find(|c| c.endpoint().id().as_str() == id);
        let Some(mut claim) = candidate.and_then(|c| c.claim(false)) else {
            return false;
        };
        claim.sent();
        claim.finish(outcome);
        self.hear();
        true
    }

    fn hear(&mut self) {
        let changes: Vec<_> = self
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect();
        for (key, change) in changes {
            self.step(Event::Health { key, change });
        }
    }

    /// Fails calls on `id` until it is out.
    fn eject(&mut self, id: &str) {
        for _ in 0..5 {
            assert!(self.call(id, Outcome::Failure), "{id} lets calls in");
        }
        assert!(
            !self.entry(id).subchannel.health().gate().is_open(),
            "{id} is out"
        );
    }

    /// Lets the time of the ejection pass, and the probing call go well.
    fn readmit(&mut self, id: &str) {
        let until = self.entry(id).ejection.as_ref().expect("it is out").until;
        self.advance(until - self.now);
        assert!(
            self.call(id, Outcome::Success),
            "the probing call is let in"
        );
        assert!(
            self.entry(id).subchannel.health().gate().is_open(),
            "{id} is back"
        );
    }

    fn ejected(&self) -> usize {
        self.cluster.ejections.ejected()
    }

    /// How long the present ejection of `id` lasts from now.
    fn left(&self, id: &str) -> Duration {
        self.entry(id).ejection.as_ref().expect("it is out").until - self.now
    }
}

fn settings() -> Settings {
    Settings {
        backoff: Backoff::default().with_jitter(0.0),
        seed: 7,
        ..Settings::default()
    }
}

fn dials(max: usize) -> Settings {
    Settings {
        max_concurrent_dials: max,
        ..settings()
    }
}

fn closed() -> End {
    End::Closed(None)
}

fn not_ready() -> End {
    End::NotReady("broken".into())
}

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
    assert_eq!(m.disconnected, [dial.key], "and the old service goes");
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
        change: Change::Ejected,
    });
    assert_eq!(m.entry("a").subchannel.connection(), second.connection);
    assert_eq!((m.cluster.dialing, m.cluster.dial_queue.len()), (0, 0));
}

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

/// One thing that may happen. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Act {
    Update(Vec<(u8, u8, u32)>),
    DialOk(usize),
    DialFails(usize),
    End(usize, u8),
    StaleEnd(usize),
    Call(usize, u8),
    Probe(usize),
    Advance(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let endpoint = (0..6_u8, 0..2_u8, 0..3_u32);
    prop_oneof![
        2 => prop::collection::vec(endpoint, 0..8).prop_map(Act::Update),
        4 => any::<usize>().prop_map(Act::DialOk),
        2 => any::<usize>().prop_map(Act::DialFails),
        2 => (any::<usize>(), 0..3_u8).prop_map(|(n, end)| Act::End(n, end)),
        1 => any::<usize>().prop_map(Act::StaleEnd),
        6 => (any::<usize>(), 0..8_u8).prop_map(|(n, outcome)| Act::Call(n, outcome)),
        1 => any::<usize>().prop_map(Act::Probe),
        3 => (0..40_000_u64).prop_map(Act::Advance),
    ]
}

fn perform(m: &mut Machine, act: Act, ended: &mut Vec<Dial>) {
    let connected = |m: &Machine, n: usize| -> Option<Dial> {
        let ready: Vec<Dial> = m
            .cluster
            .order
            .iter()
            .filter_map(|key| {
                let entry = &m.cluster.entries[key];
                Some(Dial {
                    id: entry.endpoint.id().to_string(),
                    key: *key,
                    connection: entry.phase.connection()?,
                })
            })
            .collect();
        (!ready.is_empty()).then(|| ready[n % ready.len()].clone())
    };
    match act {
        Act::Update(endpoints) => m.update(endpoints.into_iter().map(|(id, address, weight)| {
            Endpoint::new(format!("address {id} {address}"))
                .with_id(id.to_string())
                .with_weight(weight)
        })),
        Act::DialOk(n) if !m.dials.is_empty() => {
            let dial = m.dials.remove(n % m.dials.len());
            m.end_dial(&dial, Ok(()));
        }
        Act::DialFails(n) if !m.dials.is_empty() => {
            let dial = m.dials.remove(n % m.dials.len());
            m.end_dial(&dial, Err("refused".into()));
        }
        Act::End(n, end) => {
            if let Some(dial) = connected(m, n) {
                let end = match end {
                    0 => End::Draining,
                    1 => closed(),
                    _ => not_ready(),
                };
                m.end(&dial, end);
                ended.push(dial);
            }
        }
        Act::StaleEnd(n) if !ended.is_empty() => {
            let dial = ended[n % ended.len()].clone();
            m.end(&dial, closed());
            m.end_dial(&dial, Ok(()));
        }
        Act::Call(n, outcome) => {
            if let Some(dial) = connected(m, n) {
                let outcome = match outcome {
                    0 => Outcome::Success,
                    1 => Outcome::Ignored,
                    _ => Outcome::Failure,
                };
                m.call(&dial.id, outcome);
            }
        }
        // A call under way while the set changes around it.
        Act::Probe(n) => {
            if let Some(dial) = connected(m, n) {
                let (candidates, _) = m.publish();
                let of = candidates
                    .all()
                    .iter()
                    .find(|c| c.endpoint().id().as_str() == dial.id);
                let claim = of.and_then(|c| c.claim(true));
                m.update(["0", "1"]);
                drop(claim);
                m.hear();
            }
        }
        Act::Advance(ms) => m.advance_ms(ms),
        Act::DialOk(_) | Act::DialFails(_) | Act::StaleEnd(_) => {}
    }
}

fn assert_invariants(m: &mut Machine) {
    let c = &m.cluster;
    assert!(
        c.dialing <= c.settings.max_concurrent_dials,
        "dials are bounded"
    );
    assert_eq!(c.order.len(), c.entries.len(), "a slot for each endpoint");
    assert_eq!(c.keys.len(), c.entries.len(), "an id for each endpoint");
    let mut dialing = 0;
    let mut waiting = 0;
    let mut out = 0;
    for (key, entry) in &c.entries {
        match entry.phase {
            Phase::Waiting { due } => {
                waiting += 1;
                assert!(
                    c.dial_queue.contains(&(due, *key)),
                    "who waits is in the queue"
                );
                assert!(
                    due > m.now || c.dialing == c.settings.max_concurrent_dials,
                    "who is due is dialled as soon as there is a permit"
                );
            }
            Phase::Dialing { connection } => {
                dialing += 1;
                assert!(
                    m.dials
                        .iter()
                        .any(|d| d.key == *key && d.connection == connection),
                    "a dial is under way for it"
                );
            }
            Phase::Ready { .. } => {}
        }
        assert_eq!(
            entry.subchannel.connection(),
            entry.phase.connection().unwrap_or(0),
            "calls see the connection that is up"
        );
        let gate = entry.subchannel.health().gate();
        out += usize::from(!gate.is_open());
        assert_eq!(
            entry.ejection.is_some(),
            !gate.is_open(),
            "the report says who is out"
        );
        assert_eq!(entry.subchannel.load().current(), 0, "all calls have ended");
    }
    assert_eq!(c.dialing, dialing, "permits are those of dials under way");
    assert_eq!(
        m.dials.len(),
        dialing,
        "no dial is under way for an endpoint that left"
    );
    assert_eq!(c.dial_queue.len(), waiting, "nobody else is in the queue");
    assert_eq!(
        c.ejections.ejected(),
        out,
        "places are those of the endpoints that are out"
    );
    for (until, key) in &c.ejection_ends {
        let entry = &c.entries[key];
        assert_eq!(
            entry.ejection.as_ref().unwrap().until,
            *until,
            "ends are of ejections"
        );
    }
    let total = c.entries.len();
    let (candidates, summary) = m.publish();
    assert_eq!((candidates.all().len(), summary.total), (total, total));
    assert_eq!(
        summary.ready + summary.connecting + summary.idle + summary.failing,
        total,
        "each endpoint is in one state"
    );
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        rng_seed: prop::test_runner::RngSeed::Fixed(7),
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_events_keep_the_invariants(acts in prop::collection::vec(act(), 1..80)) {
        let mut m = Machine::new(dials(2));
        let mut ended = Vec::new();
        for act in acts {
            perform(&mut m, act, &mut ended);
            assert_invariants(&mut m);
        }
        m.update([] as [&str; 0]);
        assert_invariants(&mut m);
        prop_assert_eq!(m.ejected(), 0, "an empty set has given everything back");
        prop_assert_eq!(m.cluster.next_tick(), None, "and waits for nothing");
    }
}
