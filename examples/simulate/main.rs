//! Policies compared, in virtual time:
//!
//! ```text
//! cargo run --release --example simulate -- --scenario all
//! ```
//!
//! simulates clients, servers and what happens to them, and lets the crate's own policies balance the
//! calls. `--help` lists the flags; a scenario of one's own is a TOML file like those in
//! `examples/simulate/scenarios/`.
//!
//! - `options`: the flags;
//! - [`scenario`]: what is simulated, and the files that come along;
//! - [`rules`]: the policies by name, and rules of the literature beside them;
//! - [`engine`]: the simulation itself;
//! - [`oracles`]: what it must agree with;
//! - `runs`, `rows`: all runs, and what they come to;
//! - `table`, `plots`, `page`: what the user sees.

pub mod engine;
mod options;
pub mod oracles;
mod page;
mod plots;
mod rows;
pub mod rules;
mod runs;
pub mod scenario;
mod table;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use options::Options;
use rows::Summary;
use runs::Row;
use scenario::Scenario;

fn main() -> ExitCode {
    let options = Options::parse();
    let done = if options.check {
        Ok(check())
    } else if options.list {
        list(&options)
    } else {
        run(&options)
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode, String> {
    let scenarios = options.scenarios()?;
    let seeds = options.seeds();
    let rules = options.rules()?;
    page::prepare(&options.out)?;
    let rows = runs::run(&scenarios, &rules, &seeds);
    let mut parts: Vec<(&Scenario, Vec<Summary>)> = Vec::new();
    let mut text = String::new();
    for rows in rows.chunk_by(|a, b| a.scenario == b.scenario) {
        let scenario = &scenarios[rows[0].scenario];
        let all: Vec<&Row> = rows.iter().collect();
        let summaries = rows::summaries(&all);
        if options.json {
            for row in rows {
                text.push_str(&format!("{}\n", rows::json(row, scenario)));
            }
        } else {
            text.push_str(&format!("{}: {}\n\n", scenario.name, scenario.about));
            text.push_str(&table::text(&summaries));
            if let Some(remark) = table::remark(&summaries) {
                text.push_str(&format!("\n{remark}\n"));
            }
            text.push('\n');
        }
        parts.push((scenario, summaries));
    }
    let page = page::write(&options.out, &seeds, &parts)?;
    if !options.json {
        let seeds = seeds.len();
        text.push_str(&format!(
            "{seeds} seeds: medians, with ranges. Plots and tables: {}\n",
            page.display()
        ));
    }
    print(&text);
    Ok(ExitCode::SUCCESS)
}

fn list(options: &Options) -> Result<ExitCode, String> {
    let mut text = String::from("scenarios:\n");
    for scenario in options.scenarios()? {
        text.push_str(&format!("  {:<16} {}\n", scenario.name, scenario.about));
    }
    text.push_str("policies:\n");
    for rule in rules::ALL {
        text.push_str(&format!("  {:<20} {}\n", rule.name, rule.about));
    }
    print(&text);
    Ok(ExitCode::SUCCESS)
}

fn check() -> ExitCode {
    let mut failed = false;
    for oracle in oracles::ALL {
        let simulated = oracle.simulated_ms(1);
        let off = simulated / oracle.expected_ms - 1.0;
        let verdict = if off.abs() <= oracles::TOLERANCE {
            "ok"
        } else {
            failed = true;
            "OFF"
        };
        print(&format!(
            "{:<40} exact {:>7.2} ms, simulated {simulated:>7.2} ms, {:>+5.2} %: {verdict}\n",
            oracle.name,
            oracle.expected_ms,
            off * 100.0
        ));
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn print(text: &str) {
    // Whoever closed the pipe does not want it.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
