//! Ten clients of ten servers, where a policy over the servers' own answers can do harm: a pool that holds
//! every server shows all clients the same best one.

use crate::rules::Rule;
use crate::scenario::Scenario;
use crate::{named, run};

const FLEET: &str = r#"
name = "small-fleet"
about = ""
clients = 10
load = 0.8
seconds = 20
warmup_seconds = 4

[work]
kind = "exponential"
mean_ms = 20

[[servers]]
count = 10
cores = 2
"#;

fn p99(rule: &Rule, more: &str) -> f64 {
    let text = FLEET.replace("\n[work]", &format!("{more}\n[work]"));
    let scenario = Scenario::parse("small-fleet", &text).expect("it parses");
    run(&scenario, rule, 1).whole.p99_ms
}

#[test]
fn published_prequal_collapses_on_a_small_fleet_and_adaptive_does_not() {
    let two_choices = p99(named("least_request"), "");
    let prequal = p99(named("prequal"), "");
    let adaptive = p99(named("adaptive"), "");
    assert!(
        prequal > 1.5 * two_choices,
        "its page says so: {prequal} ms, two choices {two_choices} ms"
    );
    assert!(
        adaptive < 0.9 * two_choices,
        "it is safe there, and better: {adaptive} ms, two choices {two_choices} ms"
    );
}

#[test]
fn without_reports_adaptive_is_little_worse_than_two_choices() {
    let two_choices = p99(named("least_request"), "reports = false");
    let adaptive = p99(named("adaptive"), "reports = false");
    assert!(
        adaptive < 1.15 * two_choices,
        "{adaptive} ms, two choices {two_choices} ms"
    );
}
