//! Any sequence of calls, outcomes and changes of the set, beside a model of a few lines that says
//! what each must do.

use std::sync::Arc;

use evenkeel::health::{Cause, Change, Ejection, Ejections, Entry, Health};
use evenkeel::outcome::Outcome;
use proptest::prelude::*;

const ENDPOINTS: usize = 4;

#[derive(Debug, Clone)]
enum Step {
    /// A call asks to get in; in a panic, `true`, it goes in even if refused.
    Enter(usize, bool),
    /// A call that is in ends.
    End(prop::sample::Index, Outcome),
    /// The response of a call that is in begins to carry data.
    Progress(prop::sample::Index),
    /// The time of an ejection is over.
    TimeOver(usize),
    /// The endpoint has a new connection.
    Connected(usize),
    /// The endpoint leaves and a new one comes in its place. Calls on the old one go on.
    Replace(usize),
    /// So many endpoints there are.
    Count(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let endpoint = 0..ENDPOINTS;
    let outcome = prop_oneof![
        2 => Just(Outcome::Success),
        4 => Just(Outcome::Failure),
        2 => Just(Outcome::Overload { retry_after: None }),
        1 => Just(Outcome::ConnectionLost),
        1 => Just(Outcome::Ignored),
    ];
    prop_oneof![
        8 => (endpoint.clone(), prop::bool::weighted(0.1)).prop_map(|(e, p)| Step::Enter(e, p)),
        8 => (any::<prop::sample::Index>(), outcome).prop_map(|(i, o)| Step::End(i, o)),
        1 => any::<prop::sample::Index>().prop_map(Step::Progress),
        3 => endpoint.clone().prop_map(Step::TimeOver),
        1 => endpoint.clone().prop_map(Step::Connected),
        1 => endpoint.prop_map(Step::Replace),
        1 => (0..=2 * ENDPOINTS).prop_map(Step::Count),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Open,
    Ejected,
    Due,
    Probing,
    Retired,
}

/// An endpoint beside what it should be. Those that left stay in the list for the calls on them.
struct Pair {
    health: Arc<Health>,
    state: State,
    failures: u32,
    overloads: u32,
}

impl Pair {
    fn new() -> Self {
        Self {
            health: Arc::new(Health::new()),
            state: State::Open,
            failures: 0,
            overloads: 0,
        }
    }
}

/// What the model says of the end of a call; `room` is whether one more may be ejected.
fn expect(
    pair: &mut Pair,
    outcome: Outcome,
    entry: Entry,
    threshold: u32,
    most_overloads: Option<u32>,
    room: bool,
) -> Option<Change> {
    match (entry, outcome) {
        (Entry::Normal, Outcome::Success) => (pair.failures, pair.overloads) = (0, 0),
        // What fails while the endpoint is out, or on its way back, is no news.
        (Entry::Normal, Outcome::Failure) if pair.state == State::Open => {
            pair.failures += 1;
            if pair.failures >= threshold && room {
                pair.state = State::Ejected;
                return Some(Change::Ejected(Cause::ConsecutiveFailures));
            }
        }
        (Entry::Normal, Outcome::Overload { .. }) if pair.state == State::Open => {
            pair.overloads += 1;
            if most_overloads.is_some_and(|most| pair.overloads >= most) && room {
                pair.state = State::Ejected;
                return Some(Change::Ejected(Cause::ConsecutiveOverloads));
            }
        }
        (Entry::Probe, _) if pair.state == State::Retired => {}
        (Entry::Probe, Outcome::Success) => {
            (pair.state, pair.failures, pair.overloads) = (State::Open, 0, 0);
            return Some(Change::Readmitted);
        }
        (Entry::Probe, Outcome::Failure) => {
            pair.state = State::Ejected;
            return Some(Change::ProbeFailed);
        }
        (Entry::Probe, Outcome::Overload { .. }) if most_overloads.is_some() => {
            pair.state = State::Ejected;
            return Some(Change::ProbeFailed);
        }
        (Entry::Probe, _) => {
            pair.state = State::Due;
            return Some(Change::ProbeReturned);
        }
        _ => {}
    }
    None
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 400,
        failure_persistence: None,
        rng_seed: prop::test_runner::RngSeed::Fixed(37),
        ..ProptestConfig::default()
    })]

    #[test]
    fn health_does_what_its_model_says(
        threshold in 1_u32..4,
        most_overloads in prop::option::of(1_u32..4),
        percent in 0_u32..=100,
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let settings = Ejection::default()
            .with_consecutive_failures(threshold)
            .with_consecutive_overloads(most_overloads)
            .with_max_percent(percent);
        let rules = Ejections::new(settings);
        rules.set_endpoints(ENDPOINTS);
        let mut allowed = settings.allowed(ENDPOINTS);
        let mut pairs: Vec<Pair> = (0..ENDPOINTS).map(|_| Pair::new()).collect();
        // Which of the pairs is the endpoint of this number now.
        let mut current: Vec<usize> = (0..ENDPOINTS).collect();
        let mut calls: Vec<(usize, Entry)> = Vec::new();

        for step in steps {
            let before = rules.ejected();
            match step {
                Step::Enter(endpoint, panic) => {
                    let pair = &mut pairs[current[endpoint]];
                    let want = match pair.state {
                        State::Open => Some(Entry::Normal),
                        State::Due => Some(Entry::Probe),
                        _ => None,
                    };
                    prop_assert_eq!(pair.health.admits(), want.is_some(), "a look says the same");
                    let entry = pair.health.gate().enter();
                    prop_assert_eq!(entry, want, "in state {:?}", pair.state);
                    if entry == Some(Entry::Probe) {
                        pair.state = State::Probing;
                    }
                    let entry = entry.or(panic.then_some(Entry::Normal));
                    calls.extend(entry.map(|entry| (current[endpoint], entry)));
                }
                Step::End(index, outcome) if !calls.is_empty() => {
                    let (at, entry) = calls.swap_remove(index.index(calls.len()));
                    let want = expect(&mut pairs[at], outcome, entry, threshold, most_overloads, before < allowed);
                    let got = pairs[at].health.record(outcome, entry, &rules);
                    prop_assert_eq!(got, want, "{:?} of a call that came as {:?}", outcome, entry);
                }
                Step::Progress(index) if !calls.is_empty() => {
                    let at = index.index(calls.len());
                    let (at, entry) = &mut calls[at];
                    if *entry == Entry::Probe {
                        *entry = Entry::Normal;
                        let pair = &mut pairs[*at];
                        let want = expect(pair, Outcome::Success, Entry::Probe, threshold, None, true);
                        prop_assert_eq!(pair.health.pass_probe(&rules), want);
                    }
                }
                Step::End(..) | Step::Progress(_) => {}
                Step::TimeOver(endpoint) => {
                    let pair = &mut pairs[current[endpoint]];
                    let was_ejected = pair.state == State::Ejected;
                    prop_assert_eq!(pair.health.gate().offer_probe(), was_ejected);
                    if was_ejected {
                        pair.state = State::Due;
                    }
                }
                Step::Connected(endpoint) => {
                    let pair = &mut pairs[current[endpoint]];
                    pair.health.clear_failures();
                    (pair.failures, pair.overloads) = (0, 0);
                }
                Step::Replace(endpoint) => {
                    let pair = &mut pairs[current[endpoint]];
                    pair.health.retire(&rules);
                    pair.state = State::Retired;
                    current[endpoint] = pairs.len();
                    pairs.push(Pair::new());
                }
                Step::Count(count) => {
                    rules.set_endpoints(count);
                    allowed = settings.allowed(count);
                }
            }

            let out = |pair: &&Pair| !matches!(pair.state, State::Open | State::Retired);
            prop_assert_eq!(
                rules.ejected(),
                pairs.iter().filter(out).count(),
                "the count is that of the endpoints that are out"
            );
            prop_assert!(
                rules.ejected() <= allowed.max(before),
                "{} out of {} allowed: only a smaller set may leave more out than allowed",
                rules.ejected(),
                allowed
            );
            let probing = |at: usize| calls.iter().filter(move |c| **c == (at, Entry::Probe));
            for (at, pair) in pairs.iter().enumerate() {
                prop_assert!(probing(at).count() <= 1, "one call at a time probes");
                if pair.state == State::Probing {
                    prop_assert_eq!(probing(at).count(), 1, "somebody holds the probe");
                }
            }
        }

        for (at, entry) in calls {
            pairs[at].health.record(Outcome::Ignored, entry, &rules);
        }
        for pair in &pairs {
            pair.health.retire(&rules);
        }
        prop_assert_eq!(rules.ejected(), 0, "when all have left, every place is free");
    }
}
