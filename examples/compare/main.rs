//! Balancers of real calls over real servers, side by side:
//!
//! ```text
//! cargo run --release --example compare
//! ```
//!
//! starts ten tonic servers in a process of their own for each cell, sends the same calls through each
//! balancer in turn, and compares their latencies and failures. `--help` lists the flags.
//!
//! - `options`: the flags;
//! - `scenario`: what is wrong with the servers, and how many calls they get;
//! - `machine`, `serve`: the servers, and what they are in place of machines;
//! - `servers`: their process, from outside;
//! - `arms`: the balancers;
//! - `load`, `cell`: calls at their time, and what became of them;
//! - `results`: the table.

mod arms;
mod cell;
#[path = "../../tests/support/connected.rs"]
pub mod connected;
mod load;
mod machine;
mod options;
#[path = "../../tests/support/proto.rs"]
pub mod proto;
mod results;
mod scenario;
mod serve;
mod servers;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use evenkeel::BoxError;
use evenkeel::math::Rng;

use cell::Cell;
use load::Calls;
use options::{Options, name_of};
use results::Results;
use scenario::Scenario;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let done = match options.serve {
        Some(scenario) => serve::serve(scenario, options.seed).await.map(|()| true),
        None => run(&options).await,
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all cells could be run.
async fn run(options: &Options) -> Result<bool, BoxError> {
    let mut all_ran = true;
    for &scenario in &options.scenario.0 {
        let mut results = Results::new(scenario, &options.arm.0);
        for round in 0..options.rounds {
            all_ran &= play(options, scenario, round, &mut results).await;
        }
        let text = if options.json {
            results.json()?
        } else {
            format!("{}\n", results.table()?)
        };
        // Whoever closed the pipe does not want it.
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
    Ok(all_ran)
}

/// One round: each arm's turn. Whether all could be run.
async fn play(options: &Options, scenario: Scenario, round: u32, results: &mut Results) -> bool {
    let seed = Rng::stream(options.seed, round.into()).next_u64();
    let calls = Calls::draw(scenario, options.cell(), seed);
    let mut arms = options.arm.0.clone();
    shuffle(&mut arms, &mut Rng::new(seed));
    let mut all_ran = true;
    for arm in arms {
        let name = format!(
            "{}, round {}, {}",
            name_of(&scenario),
            round + 1,
            arm.title()
        );
        if !options.quiet {
            eprintln!("{name}");
        }
        let cell = Cell::run(arm, scenario, &calls, options.cell(), seed).await;
        if let Err(error) = &cell {
            eprintln!("error: {name}: {error}");
            all_ran = false;
        }
        results.add(arm, cell.ok());
    }
    all_ran
}

/// Each order is equally likely.
fn shuffle<T>(items: &mut [T], rng: &mut Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, rng.below(last + 1));
    }
}
