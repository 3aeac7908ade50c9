//! The flags.

use std::path::PathBuf;

use clap::{Parser, value_parser};

use crate::rules::{self, Rule};
use crate::scenario::{Scenario, catalog};

/// How much `--quick` shortens.
const QUICK: f64 = 0.1;

/// How many seeds a table is made of, if nothing is said.
const SEEDS: u32 = 5;

/// Balances simulated calls over simulated servers with the crate's own policies, and compares them.
///
/// Clients, servers with processor sharing, the network, time and chance are simulated; the policies,
/// load counts and ejections are evenkeel's own code. Prints a table, medians over the seeds with their
/// ranges, and draws a report that a browser can open.
#[derive(Debug, Parser)]
#[command(
    name = "simulate",
    after_help = "A call that failed counts in the quantiles as one that took the timeout. The same \
                  scenario, policy and seed give the same row."
)]
pub(crate) struct Options {
    /// "all", a name, or a file that ends in .toml; several with commas.
    #[arg(
        long,
        default_value = "all",
        value_name = "NAME|FILE",
        value_delimiter = ','
    )]
    scenario: Vec<String>,

    /// "all" or names, with commas; --list has them. Without this, all but those that need a key.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    policy: Vec<String>,

    /// The first seed; given alone, the only one.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,

    /// How many seeds, one after the other. [default: 5, or 1 with --seed or --quick]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000))]
    seeds: Option<u32>,

    /// Print one JSON object for each scenario, policy and seed, a line each, and nothing else.
    #[arg(long)]
    pub(crate) json: bool,

    /// A tenth of the time: enough to see that it runs, not to compare.
    #[arg(long)]
    quick: bool,

    /// Let no server be ejected, whatever the scenario says.
    #[arg(long)]
    no_ejection: bool,

    /// Let servers say nothing of their load, whatever the scenario says.
    #[arg(long)]
    no_reports: bool,

    /// Where the plots and the report go.
    #[arg(long, value_name = "DIR", default_value = "target/simulate")]
    pub(crate) out: PathBuf,

    /// Name the scenarios and policies, and end.
    #[arg(long)]
    pub(crate) list: bool,

    /// Compare the simulator with what queueing theory says exactly, and end: exit code 1 if it is off
    /// by more than 3 %.
    #[arg(long)]
    pub(crate) check: bool,
}

impl Options {
    /// The scenarios to run.
    pub(crate) fn scenarios(&self) -> Result<Vec<Scenario>, String> {
        let mut scenarios = Vec::new();
        for name in &self.scenario {
            if name == "all" {
                for (file, text) in catalog::FILES {
                    scenarios.push(Scenario::parse(file, text)?);
                }
            } else if name.ends_with(".toml") {
                let text = std::fs::read_to_string(name)
                    .map_err(|error| format!("--scenario {name}: {error}"))?;
                scenarios.push(Scenario::parse(name, &text)?);
            } else {
                let known = catalog::FILES.iter().find(|(file, _)| file == name);
                let (file, text) = known.ok_or_else(|| {
                    let names: Vec<_> = catalog::FILES.iter().map(|(file, _)| *file).collect();
                    format!(
                        "--scenario {name}: neither a file.toml nor one of all, {}",
                        names.join(", ")
                    )
                })?;
                scenarios.push(Scenario::parse(file, text)?);
            }
        }
        for scenario in &mut scenarios {
            scenario.ejection &= !self.no_ejection;
            scenario.reports &= !self.no_reports;
            if self.quick {
                *scenario = scenario.clone().scaled(QUICK);
            }
        }
        Ok(scenarios)
    }

    /// The policies to run.
    pub(crate) fn rules(&self) -> Result<Vec<&'static Rule>, String> {
        if self.policy.is_empty() {
            return Ok(rules::ALL.iter().filter(|rule| rule.standard).collect());
        }
        let mut chosen = Vec::new();
        for name in &self.policy {
            if name == "all" {
                chosen.extend(rules::ALL);
            } else {
                chosen.push(rules::named(name).ok_or_else(|| {
                    let names: Vec<_> = rules::ALL.iter().map(|rule| rule.name).collect();
                    format!("--policy {name}: none of all, {}", names.join(", "))
                })?);
            }
        }
        Ok(chosen)
    }

    /// The seeds to run.
    pub(crate) fn seeds(&self) -> Vec<u64> {
        let alone = self.seed.is_some() || self.quick;
        let count = self.seeds.unwrap_or(if alone { 1 } else { SEEDS });
        let first = self.seed.unwrap_or(1);
        (0..u64::from(count))
            .map(|n| first.wrapping_add(n))
            .collect()
    }
}
