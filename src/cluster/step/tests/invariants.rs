//! Any events in any order.

use proptest::prelude::*;

use super::*;
use crate::cluster::step::entry::Warmth;
use crate::health::{Ejection, FailurePercentage, OutlierDetection, SlowStart};
use crate::math::testing::seeded;
use crate::policy::Connects;

/// One thing that may happen. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
enum Act {
    Update(Vec<(u8, u8, u32)>),
    DialOk(usize),
    /// After so many milliseconds of which nobody was told.
    LateDialOk(usize, u64),
    DialFails(usize),
    End(usize, u8),
    StaleEnd(usize),
    /// The reason counts, too.
    Checked(usize, Option<u8>),
    StaleVerdict(usize),
    Call(usize, u8),
    Probe(usize),
    Drain(usize),
    Undrain(usize),
    DrainIsOver(usize),
    Advance(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let endpoint = (0..6_u8, 0..2_u8, 0..3_u32);
    prop_oneof![
        2 => prop::collection::vec(endpoint, 0..8).prop_map(Act::Update),
        4 => any::<usize>().prop_map(Act::DialOk),
        1 => (any::<usize>(), 0..3_000_u64).prop_map(|(n, ms)| Act::LateDialOk(n, ms)),
        2 => any::<usize>().prop_map(Act::DialFails),
        2 => (any::<usize>(), 0..3_u8).prop_map(|(n, end)| Act::End(n, end)),
        1 => any::<usize>().prop_map(Act::StaleEnd),
        4 => (any::<usize>(), prop::option::of(0..2_u8)).prop_map(|(n, ill)| Act::Checked(n, ill)),
        1 => any::<usize>().prop_map(Act::StaleVerdict),
        6 => (any::<usize>(), 0..8_u8).prop_map(|(n, outcome)| Act::Call(n, outcome)),
        1 => any::<usize>().prop_map(Act::Probe),
        1 => any::<usize>().prop_map(Act::Drain),
        1 => any::<usize>().prop_map(Act::Undrain),
        1 => any::<usize>().prop_map(Act::DrainIsOver),
        3 => (0..40_000_u64).prop_map(Act::Advance),
    ]
}

fn perform(m: &mut Machine, act: Act, ended: &mut Vec<Dial>) {
    let by = |m: &Machine, n: usize, of: fn(&Entry<()>) -> Option<u64>| -> Option<Dial> {
        let ready: Vec<Dial> = m
            .cluster
            .rows
            .iter()
            .filter_map(|row| {
                let entry = &m.cluster.entries[&row.key];
                Some(Dial {
                    id: entry.endpoint.id().to_string(),
                    key: row.key,
                    connection: of(entry)?,
                })
            })
            .collect();
        (!ready.is_empty()).then(|| ready[n % ready.len()].clone())
    };
    let connected = |m: &Machine, n| by(m, n, |entry| entry.phase.connection());
    let usable = |m: &Machine, n| by(m, n, Entry::usable_connection);
    let say = |m: &mut Machine, dial: &Dial, verdict| {
        m.step(Event::Checked {
            key: dial.key,
            connection: dial.connection,
            verdict,
        });
    };
    let named = |m: &Machine, n: usize| -> Option<String> {
        let rows = &m.cluster.rows;
        let row = rows.get(n.checked_rem(rows.len())?)?;
        Some(row.candidate.endpoint().id().to_string())
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
        Act::LateDialOk(n, ms) if !m.dials.is_empty() => {
            m.now += Duration::from_millis(ms);
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
        Act::Checked(n, ill) if m.cluster.settings.health_checked => {
            if let Some(dial) = connected(m, n) {
                let why = ill.map(|why| Verdict::not_serving(why.to_string()));
                say(m, &dial, why.unwrap_or(Verdict::Serving));
            }
        }
        Act::StaleVerdict(n) if !ended.is_empty() => {
            let dial = ended[n % ended.len()].clone();
            say(m, &dial, Verdict::Serving);
        }
        Act::Call(n, outcome) => {
            if let Some(dial) = usable(m, n) {
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
            if let Some(dial) = usable(m, n) {
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
        Act::Drain(n) => {
            if let Some(id) = named(m, n) {
                m.cluster.drain(&id);
                m.step(Event::Tick);
            }
        }
        Act::Undrain(n) => {
            if let Some(id) = named(m, n) {
                m.cluster.undrain(&id, m.now);
                m.step(Event::Tick);
            }
        }
        Act::DrainIsOver(n) => {
            if let Some(id) = named(m, n) {
                let key = m.cluster.keys[id.as_str()];
                m.cluster.drain_is_over(key);
            }
        }
        Act::Advance(ms) => m.advance_ms(ms),
        Act::DialOk(_) | Act::LateDialOk(..) | Act::DialFails(_) | Act::StaleEnd(_) => {}
        Act::Checked(..) | Act::StaleVerdict(_) => {}
    }
}

fn assert_in_order(m: &Machine, order: &Order) {
    let c = &m.cluster;
    let mut ready = 0;
    let mut usable = 0;
    for entry in c.entries.values() {
        let is_ready = entry.phase.connection().is_some();
        ready += usize::from(is_ready);
        usable += usize::from(is_ready && entry.subchannel.health().gate().is_open());
    }
    if order.has_chosen() {
        let all = (ready, usable, c.dialing, c.dial_queue.len());
        assert_eq!(
            all,
            (1, 1, 0, 0),
            "one is connected, and no other is wanted"
        );
        return;
    }
    assert_eq!(usable, 0, "one that can be used is chosen");
    if !order.has_ended() {
        assert!(c.dial_queue.len() <= 1, "one has its turn");
        assert!(
            c.entries.is_empty() || c.dialing + c.dial_queue.len() > 0,
            "a pass goes on until it has ended"
        );
    }
}

fn assert_warm(m: &Machine) {
    let c = &m.cluster;
    let mut rising = 0;
    for entry in c.entries.values() {
        let is_usable = entry.usable_connection().is_some() && entry.ejection.is_none();
        assert!(
            !(is_usable && entry.warmth == Warmth::Cold),
            "who can be used is in its window, or was"
        );
        assert!(
            entry.ejection.is_none() || entry.warmth == Warmth::Cold,
            "who is ejected begins anew"
        );
        if let Warmth::Rising { since, factor } = entry.warmth {
            rising += 1;
            assert!(since <= m.now && (0.1..1.0).contains(&factor));
        }
    }
    assert!(
        rising == 0 || c.warming.due.is_some_and(|due| due > m.now),
        "the clock goes while somebody is in its window"
    );
}

fn assert_invariants(m: &mut Machine) {
    let c = &m.cluster;
    assert!(
        c.dialing <= c.settings.max_concurrent_dials,
        "dials are bounded"
    );
    assert_eq!(c.rows.len(), c.entries.len(), "a slot for each endpoint");
    assert_eq!(c.keys.len(), c.entries.len(), "an id for each endpoint");
    let mut dialing = 0;
    let mut waiting = 0;
    let mut out = 0;
    let mut drained = 0;
    for (key, entry) in &c.entries {
        match entry.phase {
            Phase::Waiting { due } => {
                waiting += 1;
                let queued = c.dial_queue.contains(&(due, *key));
                assert!(
                    queued || c.order.as_ref().is_some_and(|order| !order.has_ended()),
                    "who waits is in the queue, unless it waits for its turn"
                );
                assert!(
                    !queued || due > m.now || c.dialing == c.settings.max_concurrent_dials,
                    "who is due is dialled as soon as there is a permit"
                );
            }
            Phase::Dialing { connection, .. } => {
                dialing += 1;
                assert!(
                    m.dials
                        .iter()
                        .any(|d| d.key == *key && d.connection == connection),
                    "a dial is under way for it"
                );
            }
            Phase::Ready { .. } => {}
            Phase::Drained { .. } => drained += 1,
        }
        assert_eq!(
            entry.subchannel.connection(),
            entry.usable_connection().unwrap_or(0),
            "calls see the connection that is up, if its server is well"
        );
        if entry.is_drained() {
            assert!(entry.ejection.is_none(), "who is drained is not ejected");
            assert!(!entry.subchannel.health().admits(), "nor let in");
            continue;
        }
        let gate = entry.subchannel.health().gate();
        out += usize::from(!gate.is_open());
        assert_eq!(
            entry.ejection.is_some(),
            !gate.is_open(),
            "the report says who is out"
        );
        assert_eq!(entry.subchannel.load().current(), 0, "all calls have ended");
    }
    assert_eq!(c.drained, drained, "who is drained is counted");
    assert_eq!(c.dialing, dialing, "permits are those of dials under way");
    assert_eq!(
        m.dials.len(),
        dialing,
        "no dial is under way for an endpoint that left"
    );
    if let Some(order) = &c.order {
        assert_in_order(m, order);
    }
    if c.order.as_ref().is_none_or(Order::has_ended) {
        assert_eq!(c.dial_queue.len(), waiting, "nobody else is in the queue");
    }
    assert_eq!(
        c.ejected(),
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
    if c.settings.slow_start.is_some() {
        assert_warm(m);
    }
    let total = m.cluster.entries.len();
    let (candidates, summary) = m.publish();
    for (slot, row) in m.cluster.rows.iter().enumerate() {
        let entry = &m.cluster.entries[&row.key];
        let candidate = &row.candidate;
        let shown = (
            candidate.slot(),
            candidate.connection(),
            candidate.state(),
            candidate.slow_start_factor() < 1.0,
            row.service.is_some(),
            row.detail
                .as_ref()
                .map(|d| (d.last_error.is_some(), d.ejection.is_some(), &d.unhealthy)),
        );
        let unhealthy = entry.unhealthy().cloned();
        let told = entry.last_error().is_some()
            || entry.ejection.is_some()
            || unhealthy.is_some()
            || entry.is_drained();
        let true_now = (
            slot,
            entry.usable_connection().unwrap_or(0),
            entry.state(),
            matches!(entry.warmth, Warmth::Rising { .. }),
            entry.phase.connection().is_some(),
            told.then(|| {
                (
                    entry.last_error().is_some(),
                    entry.ejection.is_some(),
                    &unhealthy,
                )
            }),
        );
        assert_eq!(shown, true_now, "what is published is what there is");
        assert!(
            candidate.endpoint().ptr_eq(&entry.endpoint),
            "as it was last described"
        );
        assert!(
            Arc::ptr_eq(candidate.subchannel(), &entry.subchannel),
            "of the same record"
        );
    }
    assert_eq!((candidates.all().len(), summary.total), (total, total));
    assert_eq!(
        summary.ready + summary.connecting + summary.idle + summary.failing + summary.drained,
        total,
        "each endpoint is in one state"
    );
}

proptest! {
    #![proptest_config(seeded(300, 7))]

    #[test]
    fn any_events_keep_the_invariants(acts in prop::collection::vec(act(), 1..80)) {
        keep_the_invariants(dials(2), acts);
    }

    #[test]
    fn any_events_keep_the_invariants_in_order(
        acts in prop::collection::vec(act(), 1..80),
        shuffle: bool,
    ) {
        let connects = Connects::InOrder { attempt_delay: Duration::from_millis(250), shuffle };
        keep_the_invariants(Settings { connects, ..dials(2) }, acts);
    }

    #[test]
    fn any_events_keep_the_invariants_with_slow_start(
        acts in prop::collection::vec(act(), 1..80),
        seconds in 1..100_u64,
    ) {
        let slow_start = Some(SlowStart::new(Duration::from_secs(seconds)));
        keep_the_invariants(Settings { slow_start, ..dials(2) }, acts);
    }

    #[test]
    fn any_events_keep_the_invariants_with_health_checks(
        acts in prop::collection::vec(act(), 1..80),
        slowly: bool,
    ) {
        let slow_start = slowly.then(|| SlowStart::new(Duration::from_secs(20)));
        keep_the_invariants(Settings { health_checked: true, slow_start, ..dials(2) }, acts);
    }

    #[test]
    fn any_events_keep_the_invariants_with_outliers(
        acts in prop::collection::vec(act(), 1..80),
        in_order: bool,
    ) {
        let rule = FailurePercentage {
            threshold: 20,
            minimum_hosts: 1,
            request_volume: 2,
            ..FailurePercentage::default()
        };
        let rules = OutlierDetection::default()
            .with_interval(Duration::from_secs(3))
            .with_success_rate(None)
            .with_failure_percentage(rule);
        let ejection = Ejection::default().with_outlier_detection(rules);
        let connects = if in_order {
            Connects::InOrder { attempt_delay: Duration::from_millis(250), shuffle: false }
        } else {
            Connects::All
        };
        keep_the_invariants(Settings { connects, ejection, ..dials(2) }, acts);
    }
}

fn keep_the_invariants(settings: Settings, acts: Vec<Act>) {
    let mut m = Machine::new(settings);
    let mut ended = Vec::new();
    for act in acts {
        perform(&mut m, act, &mut ended);
        assert_invariants(&mut m);
    }
    m.update([] as [&str; 0]);
    assert_invariants(&mut m);
    assert_eq!(m.ejected(), 0, "an empty set has given everything back");
    if m.cluster.warming.due.is_some() {
        m.advance_ms(1_000);
    }
    let compared = m.cluster.next_comparison;
    assert_eq!(
        m.cluster.next_tick(),
        compared,
        "and waits for nothing else"
    );
}
