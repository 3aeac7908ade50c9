//! Reports and probes in the simulator.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use evenkeel::load::{Measures, ProbeRules, ReportRules, ReportSource, ServerQueue};
use evenkeel::policy::{Candidates, Pick, PickContext, Picker, Policy, Subchannel};

use crate::engine::tally::Results;
use crate::rules::{Contestant, Rule};
use crate::scenario::Scenario;
use crate::{named, run, small};

/// What the policies of one run heard. Of all runs, since a rule can only be a function.
static HEARD: Heard = Heard {
    responses: AtomicU64::new(0),
    probes: AtomicU64::new(0),
    in_flight: AtomicU64::new(0),
    with_latency: AtomicU64::new(0),
    builds: AtomicU64::new(0),
};

#[derive(Debug)]
struct Heard {
    responses: AtomicU64,
    probes: AtomicU64,
    /// The sum over all reports.
    in_flight: AtomicU64,
    with_latency: AtomicU64,
    builds: AtomicU64,
}

/// Any server for the call; asks one with each, and counts what it hears.
#[derive(Debug)]
struct Listener {
    timeout: Duration,
}

#[derive(Debug)]
struct ListenerPicker(Candidates);

impl Policy for Listener {
    fn name(&self) -> &'static str {
        "listener"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        HEARD.builds.fetch_add(1, Relaxed);
        Arc::new(ListenerPicker(candidates.clone()))
    }

    fn measures(&self) -> Measures {
        let mut probes = ProbeRules::default();
        probes.timeout = self.timeout;
        Measures::NOTHING
            .with_reports(ReportRules::default())
            .with_probes(probes)
    }

    fn refresh(&self) -> Option<Duration> {
        Some(Duration::from_secs(1))
    }

    fn reported(&self, _: &Subchannel, queue: ServerQueue, source: ReportSource) {
        let count = match source {
            ReportSource::Probe => &HEARD.probes,
            _ => &HEARD.responses,
        };
        count.fetch_add(1, Relaxed);
        HEARD
            .in_flight
            .fetch_add(u64::from(queue.in_flight), Relaxed);
        HEARD
            .with_latency
            .fetch_add(u64::from(!queue.latency.is_zero()), Relaxed);
    }
}

impl Picker for ListenerPicker {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = self.0.usable();
        if usable.is_empty() {
            return Pick::Nothing;
        }
        let asked = context.rng().below(usable.len());
        context.probe(&usable[asked]);
        let start = context.rng().below(usable.len());
        let (before, from) = usable.split_at(start);
        let mut order = from.iter().chain(before);
        let chosen = order.find(|c| context.is_usable(c));
        chosen.map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

/// Whose answers to probes count for so many milliseconds.
macro_rules! listener {
    ($ms:expr) => {
        Rule {
            name: "listener",
            about: "",
            standard: false,
            make: |_| Contestant {
                policy: Arc::new(Listener {
                    timeout: Duration::from_millis($ms),
                }),
                poll: None,
            },
        }
    };
}

/// Runs one at a time, and starts the counts from 0.
fn listen(text: &str, rule: &Rule) -> (Results, MutexGuard<'static, ()>) {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for count in [
        &HEARD.responses,
        &HEARD.probes,
        &HEARD.in_flight,
        &HEARD.with_latency,
        &HEARD.builds,
    ] {
        count.store(0, Relaxed);
    }
    let scenario = Scenario::parse("listener", text).expect("it parses");
    (run(&scenario, rule, 1), alone)
}

#[test]
fn reports_of_calls_and_probes_come_to_the_policy() {
    let (results, _alone) = listen(&small(""), &listener!(3));
    // The warm-up of 2 s before the 10 that are measured, and what is under way at the end.
    let calls = results.whole.calls as f64 * 1.2;
    for (kind, count) in [("responses", &HEARD.responses), ("probes", &HEARD.probes)] {
        let heard = count.load(Relaxed) as f64;
        assert!(
            (heard / calls - 1.0).abs() < 0.1,
            "each of {calls} calls has one report of {kind}, not {heard}"
        );
    }
    assert!((results.probes_per_call - 1.0).abs() < 1e-9, "one a call");
    let all = HEARD.responses.load(Relaxed) + HEARD.probes.load(Relaxed);
    // By Little's law: 48 calls a second at each server, for 14 ms or so at three and more than 20 at the
    // slow one.
    let in_flight = HEARD.in_flight.load(Relaxed) as f64 / all as f64;
    assert!((0.4..1.2).contains(&in_flight), "{in_flight} under way");
    let with_latency = HEARD.with_latency.load(Relaxed);
    assert!(
        with_latency > all * 99 / 100,
        "each server answers many times a second"
    );
    // 12 s for 3 clients, the first within a second of the start, and two of each at the start.
    let builds = HEARD.builds.load(Relaxed);
    assert!((36..=45).contains(&builds), "{builds} pickers");
}

#[test]
fn a_probe_that_comes_back_late_does_not_count_but_is_counted() {
    for (more, rule, counts) in [
        ("network_ms = 1.5", listener!(3), true),
        ("network_ms = 1.6", listener!(3), false),
        ("network_ms = 1.6", listener!(4), true),
        // The answer takes a core for 2.8 ms, on the slow server 5.6.
        ("probe_cost_us = 2800", listener!(2), false),
        ("probe_cost_us = 2800", listener!(60), true),
    ] {
        let (results, _alone) = listen(&small(more), &rule);
        let heard = HEARD.probes.load(Relaxed);
        assert_eq!(heard > 0, counts, "{more}: {heard} heard");
        assert!((results.probes_per_call - 1.0).abs() < 1e-9, "{more}: sent");
    }
}

#[test]
fn a_server_that_fails_answers_probes_and_one_that_is_silent_does_not() {
    let fails = "[[events]]\nkind = \"fail\"\nservers = 4\n";
    let (_, alone) = listen(
        &(small("ejection = false").replace("warmup_seconds = 2", "warmup_seconds = 0") + fails),
        &listener!(3),
    );
    assert!(HEARD.probes.load(Relaxed) > 1_000, "it is up");
    assert_eq!(
        HEARD.with_latency.load(Relaxed),
        0,
        "it answered nothing well"
    );
    drop(alone);
    let silent = "[[events]]\nkind = \"silent\"\nservers = 4\n";
    let (_, _alone) = listen(
        &(small("ejection = false").replace("warmup_seconds = 2", "warmup_seconds = 0") + silent),
        &listener!(3),
    );
    assert_eq!(HEARD.probes.load(Relaxed), 0);
    assert_eq!(HEARD.responses.load(Relaxed), 0);
}

#[test]
fn servers_that_do_not_report_tell_a_policy_nothing() {
    let (results, _alone) = listen(&small("reports = false"), &listener!(3));
    assert_eq!(HEARD.responses.load(Relaxed), 0);
    assert_eq!(HEARD.probes.load(Relaxed), 0);
    assert!((results.probes_per_call - 1.0).abs() < 1e-9, "it asks");
    // A quarter of 192 calls a second at 20 ms on the slow server's 2 cores: 0.48 without weights. With
    // them all servers are about equally busy: 0.27, and what weights taken over half a second are off by.
    let busiest = |more: &str| {
        let scenario = Scenario::parse("small", &small(more)).expect("it parses");
        run(&scenario, named("wrr"), 1).load.max
    };
    let (without, with) = (busiest("reports = false"), busiest(""));
    assert!((0.42..0.54).contains(&without), "in turn: {without}");
    assert!(with < 0.4, "by weights: {with}");
}

#[test]
fn reports_and_probes_cost_what_the_scenario_says() {
    let load = |more: &str| listen(&small(more), &listener!(3)).0.load.mean;
    let free = load("");
    // 192 calls a second over 8 cores, and a quarter of the costs twice, at the slow server.
    let more = 192.0 / 8.0 * 1.25 * 1e-3;
    for key in ["report_cost_us", "probe_cost_us"] {
        let added = load(&format!("{key} = 1000")) - free;
        assert!(
            (added / more - 1.0).abs() < 0.2,
            "{key}: {added}, not {more}"
        );
    }
}
