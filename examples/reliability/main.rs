//! What faults cost: real servers, calls at a steady rate, one fault at a time, beside tonic's own balancer.
//!
//! ```text
//! cargo run --release --example reliability                     # all faults, about 23 minutes
//! cargo run --release --example reliability -- --fault fail_fast,slow --seconds 30
//! ```
//!
//! - `options`: the flags;
//! - `fault`: what breaks, when, and how it is mended;
//! - `servers`, `counter`, `netns`, `late`: who is called: tonic servers whose behaviour can be set, one that has a
//!   queue, one behind a network that can be broken, and what makes its packets late;
//! - `arms`: who balances;
//! - `load`: calls at their times, and what became of each;
//! - `run`: one fault, one balancer; `verdict`: what it says; `page`: how it is shown.

mod arms;
mod counter;
mod fault;
mod late;
mod load;
mod netns;
mod options;
mod page;
mod run;
mod servers;
#[path = "../../tests/support/mod.rs"]
pub mod support;
mod verdict;

use std::process::ExitCode;

use clap::Parser;
use evenkeel::BoxError;

use arms::Arm;
use options::Options;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(address) = options.serve {
        if options.late
            && let Err(error) = late::start()
        {
            return ended(Err(format!("packets cannot be held up: {error}").into()));
        }
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
            std::process::exit(0);
        });
        return ended(counter::serve(address).await);
    }
    ended(measure(&options).await)
}

fn ended(result: Result<(), BoxError>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn measure(options: &Options) -> Result<(), BoxError> {
    page::head(options);
    for &fault in &options.fault.0 {
        for arm in Arm::of(fault, options) {
            eprintln!("{} by {} …", fault.title(), arm.title());
            match run::run(fault, arm, options).await? {
                Ok(verdict) => page::row(options, fault, arm, &verdict),
                Err(why) => page::skipped(options, fault, arm, &why),
            }
        }
    }
    Ok(())
}
