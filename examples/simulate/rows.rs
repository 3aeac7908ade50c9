//! Rows as JSON, and rows of several seeds as one.

use serde_json::{Value, json};

use crate::engine::tally::{Figures, LoadSample, Results};
use crate::rules::Rule;
use crate::runs::Row;
use crate::scenario::Scenario;

/// One row as an object.
pub(crate) fn json(row: &Row, scenario: &Scenario) -> Value {
    let results = &row.results;
    let mut object = json!({
        "scenario": scenario.name,
        "policy": row.rule.name,
        "seed": row.seed,
    });
    add(&mut object, figures(&results.whole));
    add(
        &mut object,
        json!({
            "load_mean": round(results.load.mean),
            "load_max": round(results.load.max),
            "server_mean_ms": round(results.server_mean_ms),
            "attempts_per_call": round(results.attempts_per_call),
            "probes_per_call": round(results.probes_per_call),
            "ejections": results.ejections,
            "faulty_share": results.faulty_share.map(round),
        }),
    );
    if results.phases.len() > 1 {
        let phase = |(load, of): &(f64, Figures)| {
            let mut phase = json!({ "load": load });
            add(&mut phase, figures(of));
            phase
        };
        let phases: Vec<Value> = results.phases.iter().map(phase).collect();
        add(&mut object, json!({ "phases": phases }));
    }
    object
}

fn figures(figures: &Figures) -> Value {
    json!({
        "calls": figures.calls,
        "mean_ms": round(figures.mean_ms),
        "p50_ms": round(figures.p50_ms),
        "p90_ms": round(figures.p90_ms),
        "p99_ms": round(figures.p99_ms),
        "p999_ms": round(figures.p999_ms),
        "error_rate": figures.error_rate(),
    })
}

/// More digits say nothing.
fn round(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}

fn add(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

/// One policy in one scenario, or in one phase of it, over all seeds.
pub(crate) struct Summary {
    pub(crate) rule: &'static Rule,
    /// Of a phase: its load.
    pub(crate) phase: Option<f64>,
    pub(crate) p50: Spread,
    pub(crate) p90: Spread,
    pub(crate) p99: Spread,
    pub(crate) p999: Spread,
    pub(crate) errors: Spread,
    /// Nothing for a phase.
    pub(crate) load: Option<Loads>,
    /// Of the first seed.
    pub(crate) load_by_second: Vec<LoadSample>,
}

/// What is known of the whole scenario only.
pub(crate) struct Loads {
    pub(crate) mean: Spread,
    pub(crate) max: Spread,
    pub(crate) probes_per_call: Spread,
    pub(crate) faulty_share: Option<Spread>,
}

/// A median and the range around it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) least: f64,
    pub(crate) median: f64,
    pub(crate) most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Self {
            least: values[0],
            median,
            most: values[values.len() - 1],
        }
    }
}

/// The summaries of the rows of one scenario, policy after policy; phases follow the whole.
pub(crate) fn summaries(rows: &[&Row]) -> Vec<Summary> {
    rows.chunk_by(|a, b| a.rule.name == b.rule.name)
        .flat_map(|rows| {
            let phases = rows[0].results.phases.len();
            let phases = if phases > 1 { phases } else { 0 };
            let whole = summary(rows, None);
            std::iter::once(whole).chain((0..phases).map(|phase| summary(rows, Some(phase))))
        })
        .collect()
}

fn summary(rows: &[&Row], phase: Option<usize>) -> Summary {
    let of = |value: fn(&Figures) -> f64| {
        Spread::of(rows.iter().map(|row| match phase {
            Some(phase) => value(&row.results.phases[phase].1),
            None => value(&row.results.whole),
        }))
    };
    let all = |value: fn(&Results) -> f64| Spread::of(rows.iter().map(|row| value(&row.results)));
    let first = &rows[0].results;
    Summary {
        rule: rows[0].rule,
        phase: phase.map(|phase| first.phases[phase].0),
        p50: of(|figures| figures.p50_ms),
        p90: of(|figures| figures.p90_ms),
        p99: of(|figures| figures.p99_ms),
        p999: of(|figures| figures.p999_ms),
        errors: of(Figures::error_rate),
        load: phase.is_none().then(|| Loads {
            mean: all(|results| results.load.mean),
            max: all(|results| results.load.max),
            probes_per_call: all(|results| results.probes_per_call),
            faulty_share: first
                .faulty_share
                .map(|_| all(|results| results.faulty_share.unwrap_or_default())),
        }),
        load_by_second: first.load_by_second.clone(),
    }
}
