//! All runs, on all processors.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use indicatif::{ProgressBar, ProgressStyle};

use crate::engine::simulate;
use crate::engine::tally::Results;
use crate::rules::Rule;
use crate::scenario::Scenario;

/// Steps of the bar for one run.
const STEPS: u64 = 100;

/// One run and what came of it.
pub(crate) struct Row {
    /// Which of the scenarios.
    pub(crate) scenario: usize,
    pub(crate) rule: &'static Rule,
    pub(crate) seed: u64,
    pub(crate) results: Results,
}

/// Runs each policy on each scenario from each seed. The rows are in that order, whatever ran first.
pub(crate) fn run(scenarios: &[Scenario], rules: &[&'static Rule], seeds: &[u64]) -> Vec<Row> {
    let mut jobs = Vec::new();
    for scenario in 0..scenarios.len() {
        for &rule in rules {
            jobs.extend(seeds.iter().map(|&seed| (scenario, rule, seed)));
        }
    }
    // Shows itself only where standard error is a terminal.
    let bar = ProgressBar::new(jobs.len() as u64 * STEPS).with_style(
        ProgressStyle::with_template("{bar:40} {percent:>3} % {elapsed} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    let next = AtomicUsize::new(0);
    let rows = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(jobs.len()) {
            scope.spawn(|| {
                while let Some((index, &(number, rule, seed))) = {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    jobs.get(index).map(|job| (index, job))
                } {
                    let scenario = &scenarios[number];
                    bar.set_message(format!("{}, {}", scenario.name, rule.name));
                    let mut done = 0;
                    let results = simulate(scenario, rule, seed, |share| {
                        let steps = (share * STEPS as f64) as u64;
                        bar.inc(steps - done);
                        done = steps;
                    });
                    bar.inc(STEPS - done);
                    let row = Row {
                        scenario: number,
                        rule,
                        seed,
                        results,
                    };
                    rows.lock()
                        .expect("no run panics with it")
                        .push((index, row));
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut rows = rows.into_inner().expect("no run panics with it");
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}
