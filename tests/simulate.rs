//! The simulator of `examples/simulate`, before anything that it says is believed: closed forms,
//! processor sharing call by call, the same rows from the same seed, and no pick of a server that cannot be
//! used. What takes minutes in a debug build is behind `cargo run --release --example simulate -- --check`.

#[path = "../examples/simulate/engine/mod.rs"]
pub mod engine;
#[path = "../examples/simulate/oracles.rs"]
pub mod oracles;
#[path = "simulate/reports.rs"]
mod reports;
#[path = "../examples/simulate/rules/mod.rs"]
pub mod rules;
#[path = "../examples/simulate/scenario/mod.rs"]
pub mod scenario;
#[path = "simulate/small_fleets.rs"]
mod small_fleets;

use std::path::Path;

use engine::simulate;
use engine::tally::Results;
use evenkeel::math::Rng;
use rules::Rule;
use scenario::{Scenario, Work, catalog};

fn embedded(name: &str) -> Scenario {
    let mut files = catalog::FILES.iter();
    let (_, text) = files.find(|(file, _)| *file == name).expect("it is there");
    Scenario::parse(name, text).expect("it parses")
}

fn run(scenario: &Scenario, rule: &Rule, seed: u64) -> Results {
    simulate(scenario, rule, seed, |_| ())
}

fn named(name: &str) -> &'static Rule {
    rules::named(name).expect("the policy is known")
}

/// Four servers, one of them slow, and whatever else a test adds.
fn small(more: &str) -> String {
    format!(
        "name = \"small\"\nabout = \"\"\nclients = 3\nload = 0.3\nseconds = 10\nwarmup_seconds = 2\n\
         timeout_ms = 400\n{more}\n[work]\nkind = \"exponential\"\nmean_ms = 10\n\
         [[servers]]\ncount = 3\ncores = 2\n[[servers]]\ncount = 1\ncores = 2\nspeed = 0.5\n"
    )
}

#[test]
fn closed_forms_are_met_within_3_percent() {
    for oracle in oracles::ALL.iter().filter(|oracle| oracle.small) {
        let simulated = oracle.simulated_ms(1);
        let off = simulated / oracle.expected_ms - 1.0;
        assert!(
            off.abs() <= oracles::TOLERANCE,
            "{}: {simulated} ms, not {} ms",
            oracle.name,
            oracle.expected_ms
        );
    }
}

#[test]
fn the_formulas_are_those_of_the_literature() {
    let expected = |name: &str| {
        let mut all = oracles::ALL.iter();
        all.find(|oracle| oracle.name == name)
            .expect("it is there")
            .expected_ms
    };
    let close = |a: f64, b: f64| (a - b).abs() < 0.05;
    assert!(close(expected("M/M/1 processor sharing at 0.7"), 33.3));
    assert!(close(expected("random over 10 servers at 0.9"), 100.0));
    assert!(close(
        expected("two choices over 1000 servers at 0.7"),
        16.1
    ));
    assert!(close(
        expected("two choices over 1000 servers at 0.9"),
        26.1
    ));
}

#[test]
fn the_same_seed_gives_the_same_rows_and_another_one_others() {
    let scenario = Scenario::parse("small", &small("")).expect("it parses");
    for rule in rules::ALL {
        let first = run(&scenario, rule, 7);
        assert_eq!(
            format!("{first:?}"),
            format!("{:?}", run(&scenario, rule, 7)),
            "{}: the same seed, the same row",
            rule.name
        );
        assert_ne!(
            first.whole,
            run(&scenario, rule, 8).whole,
            "{}: another seed, another row",
            rule.name
        );
    }
}

#[test]
fn every_policy_meets_the_same_calls() {
    let scenario = Scenario::parse("small", &small("")).expect("it parses");
    let calls = |rule: &Rule| run(&scenario, rule, 3).whole.calls;
    let first = calls(&rules::ALL[0]);
    // 0.3 of 8 cores over 12.5 ms, the mean of a call over all servers: 192 a second for 10 s. Standard
    // deviation sqrt(1920) = 44; five of them.
    assert!(first.abs_diff(1920) < 220, "{first} calls");
    for rule in rules::ALL {
        assert_eq!(calls(rule), first, "{}: none is lost or made up", rule.name);
    }
}

#[test]
fn no_policy_names_a_server_that_cannot_be_used() {
    for name in ["fail-fast", "most-down", "rolling-restart", "retry-storm"] {
        // Few clients, since each builds hash tables anew at every change of the set.
        let scenario = Scenario {
            clients: 3,
            ..embedded(name).scaled(0.03)
        };
        for rule in rules::ALL {
            let results = run(&scenario, rule, 5);
            assert_eq!(results.misnamed, 0, "{name}, {}", rule.name);
            assert!(results.whole.calls > 1000, "{name}, {}: it ran", rule.name);
        }
    }
}

#[test]
fn a_server_that_is_down_gets_no_call_and_one_that_fails_is_ejected() {
    let down =
        small("") + "[[events]]\nkind = \"down\"\nservers = 1\nat_seconds = 3\nfor_seconds = 3\n";
    let results = run(
        &Scenario::parse("down", &down).expect("it parses"),
        named("random"),
        1,
    );
    assert_eq!(results.faulty_share, Some(0.0), "its connection is gone");
    assert!(results.whole.failed > 0, "the calls on it were lost");

    let fails = small("") + "[[events]]\nkind = \"fail\"\nservers = 1\nat_seconds = 3\n";
    let fails = Scenario::parse("fails", &fails).expect("it parses");
    let results = run(&fails, named("random"), 1);
    assert_eq!(
        results.ejections, 3,
        "once by each client, for longer than the run"
    );
    // 5 failures in a row each, and what was under way meanwhile.
    let failed = results.whole.failed;
    assert!((15..30).contains(&failed), "{failed} failed calls");

    let kept = Scenario {
        ejection: false,
        ..fails
    };
    let results = run(&kept, named("random"), 1);
    let share = results.faulty_share.expect("a server was at fault");
    // A quarter of 1,340 attempts: standard deviation 1.2 %; five of them.
    assert!((share - 0.25).abs() < 0.06, "without ejection: {share}");
}

#[test]
fn a_silent_server_costs_the_timeout_and_a_retry_saves_the_call() {
    let silent = "[[events]]\nkind = \"silent\"\nservers = 1\n";
    let run_with = |more: &str| {
        let text = small(more) + silent;
        run(
            &Scenario::parse("silent", &text).expect("it parses"),
            named("random"),
            1,
        )
    };
    let without = run_with("ejection = false");
    let share = without.whole.error_rate();
    // Of 1,920 calls a quarter: standard deviation 1 %; five of them.
    assert!((share - 0.25).abs() < 0.05, "{share} of the calls time out");
    assert!(
        (without.whole.p90_ms / 400.0 - 1.0).abs() < 0.001,
        "at the timeout"
    );
    let with = run_with("ejection = false\nretries = 1");
    assert_eq!(with.whole.failed, 0, "the retry goes to another server");
    assert!(
        (with.attempts_per_call - 1.25).abs() < 0.05,
        "by a second attempt"
    );
}

#[test]
fn every_scenario_file_is_embedded_and_parses() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/simulate/scenarios");
    let mut found = 0;
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        assert_eq!(
            embedded(name).name,
            name,
            "a scenario is called as its file"
        );
        found += 1;
    }
    assert_eq!(found, catalog::FILES.len(), "each file is embedded once");
}

#[test]
fn a_mistake_in_a_scenario_is_refused_by_the_name_of_its_field() {
    let events = |event: &str| small("") + "[[events]]\n" + event;
    for (text, field) in [
        (small("lode = 1"), "lode"),
        (small("network_ms = -1"), "network_ms"),
        (small("probe_cost_us = -1"), "probe_cost_us"),
        (small("report_cost_us = nan"), "report_cost_us"),
        (small("").replace("load = 0.3", "load = \"much\""), "load"),
        (small("").replace("load = 0.3", "load = [0.5, 0]"), "load"),
        (small("").replace("load = 0.3", "load = []"), "load"),
        (small("").replace("load = 0.3", "load = nan"), "load"),
        (small("").replace("clients = 3", "clients = 0"), "clients"),
        (small("").replace("clients = 3\n", ""), "clients"),
        (
            small("").replace("mean_ms = 10", "mean_ms = 0"),
            "work.mean_ms",
        ),
        (small("").replace("mean_ms = 10", "mean = 10"), "mean"),
        (small("").replace("exponential", "pareto"), "pareto"),
        (
            small("").replace("count = 1", "count = 0"),
            "servers[1].count",
        ),
        (small("").replace("small", "sm/all"), "name"),
        (
            small("").replace("clients = 3", "clients = 99999999999"),
            "clients",
        ),
        (
            small("").replace("mean_ms = 10", "mean_ms = 0.000001"),
            "load",
        ),
        (
            small("").replace("seconds = 10", "seconds = 1e300"),
            "seconds",
        ),
        (events("kind = \"explode\"\nservers = 1"), "explode"),
        (events("kind = \"slow\"\nservers = 1"), "events[0].factor"),
        (events("kind = \"down\"\nservers = 5"), "events[0].servers"),
        (
            events("kind = \"down\"\nservers = 1\nrate = 0.5"),
            "events[0].rate",
        ),
        (
            events("kind = \"fail\"\nservers = 1\nrate = 1.5"),
            "events[0].rate",
        ),
    ] {
        let error = Scenario::parse("mine.toml", &text).expect_err(field);
        assert!(
            error.starts_with("mine.toml") && error.contains(field),
            "{field} in: {error}"
        );
    }
}

#[test]
fn work_has_the_mean_that_loads_are_reckoned_by() {
    let mut rng = Rng::new(1);
    for work in [
        Work::Constant { ms: 3.0 },
        Work::Exponential { mean_ms: 20.0 },
        Work::Normal {
            mu_ms: 66.7,
            sigma_ms: 66.7,
        },
        Work::Lognormal {
            mean_ms: 10.0,
            sigma: 1.5,
        },
        Work::Bimodal {
            short_ms: 5.0,
            long_ms: 55.0,
            long_share: 0.1,
        },
    ] {
        const DRAWS: u32 = 200_000;
        let sum: f64 = (0..DRAWS).map(|_| work.draw(&mut rng)).sum();
        let off = sum / f64::from(DRAWS) / work.mean() - 1.0;
        // The lognormal has the most spread: its standard deviation is sqrt(e^(1.5²) − 1) = 2.9 times its
        // mean, 0.65 % of it for the mean of these; five of them.
        assert!(off.abs() < 0.033, "{work:?}: off by {off}");
    }
}
