//! The flags.

use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum, value_parser};

use crate::arms::Arm;
use crate::scenario::Scenario;

/// Balances the same real gRPC calls over real servers by evenkeel's policies, by tonic's balance_list
/// and by tower's peak EWMA, and compares their latencies and failures.
///
/// For each cell ten tonic servers start on loopback ports in a process of their own, and four clients,
/// each with a balancer of its own, send calls at the times of a Poisson process: the same calls with the
/// same work for each arm. The work of a server is waited for, not burnt, so the servers do not need a
/// machine each. Arms take turns, in another order each round.
#[derive(Debug, Parser)]
#[command(
    name = "compare",
    after_help = "A failed call counts in the quantiles as one of 2 s, the timeout: to fail at once is no \
                  fast answer. The first quarter of each cell, while clients learn, is not in the \
                  quantiles; its failures have a column of their own. Exit code: 0 if all cells ran, 1 if \
                  one could not be run, 2 if the flags cannot be used."
)]
pub(crate) struct Options {
    /// "all" or names with commas: slow, failing, antagonist.
    #[arg(long, default_value = "all", value_name = "NAME,NAME")]
    pub(crate) scenario: Chosen<Scenario>,

    /// "all" or names with commas; a wrong one gets the list.
    #[arg(long, default_value = "all", value_name = "NAME,NAME")]
    pub(crate) arm: Chosen<Arm>,

    /// How often each arm gets its turn.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,

    /// How long calls are sent in one turn.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = value_parser!(u32).range(1..=600))]
    seconds: u32,

    /// What times, work and the neighbours' changes are drawn from.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,

    /// Print one JSON object for each arm and scenario, a line each, and nothing else on stdout.
    #[arg(long)]
    pub(crate) json: bool,

    /// Say nothing on stderr while it runs.
    #[arg(long)]
    pub(crate) quiet: bool,

    /// Be the servers of this scenario, until stdin ends.
    #[arg(long, hide = true, value_enum, value_name = "NAME")]
    pub(crate) serve: Option<Scenario>,
}

impl Options {
    /// How long calls are sent in one cell.
    pub(crate) fn cell(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }
}

/// Some of the values, each once, or all.
#[derive(Debug, Clone)]
pub(crate) struct Chosen<T>(pub(crate) Vec<T>);

impl<T: ValueEnum + PartialEq> FromStr for Chosen<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(T::value_variants().to_vec()));
        }
        let one = |name: &str| {
            T::from_str(name, false).map_err(|_| {
                let names = T::value_variants().iter().map(name_of);
                let names = names.collect::<Vec<_>>().join(", ");
                format!("{name:?} is not one of: all, {names}")
            })
        };
        let mut chosen = Vec::new();
        for name in text.split(',') {
            let value = one(name)?;
            if !chosen.contains(&value) {
                chosen.push(value);
            }
        }
        Ok(Self(chosen))
    }
}

/// A value's name as a flag takes it.
pub(crate) fn name_of<T: ValueEnum>(value: &T) -> String {
    let value = value.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}
