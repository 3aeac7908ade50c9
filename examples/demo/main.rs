//! evenkeel at work in one command:
//!
//! ```text
//! cargo run --release --example demo
//! ```
//!
//! starts five real tonic servers, sends real unary and streaming calls through one
//! [`Channel`](evenkeel::grpc::Channel), breaks the servers one after the other, and shows how the
//! calls go on. `--help` lists the flags.
//!
//! - `options`: the flags;
//! - `script`: the servers, and what happens to them;
//! - `load`, `calls`: calls at a steady rate, and whom each reached;
//! - `ledger`: what became of them;
//! - `notice`: when the channel's report showed each fault;
//! - `verdict`: which of the failed calls had to fail;
//! - `view`, `table`, `summary`: what the user sees.

mod calls;
mod ledger;
mod load;
mod notice;
mod options;
mod script;
mod summary;
#[path = "../../tests/support/mod.rs"]
pub mod support;
mod table;
mod verdict;
mod view;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use evenkeel::ConnectivityState;
use evenkeel::grpc::Channel;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use calls::Caller;
use ledger::Ledger;
use load::Load;
use notice::Notices;
use options::Options;
use script::Stage;
use summary::Summary;
use table::Table;
use verdict::Verdict;
use view::View;

/// How long the demo's own servers may take to be connected, on a machine busy with other things.
const CONNECTED_WITHIN: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run(options: &Options) -> Result<ExitCode, evenkeel::BoxError> {
    let builder = Channel::builder().expose_endpoint(true);
    let builder = options.policy.apply(builder, options.out_of_band())?;
    let (stage, builder) = if options.plays_script() {
        let (stage, updates) = Stage::open()?;
        let builder = script::compress(builder, options.duration()).discovery(updates);
        (Some(Arc::new(stage)), builder)
    } else {
        (None, builder.endpoints(options.endpoints.iter().cloned()))
    };
    let channel = builder.build()?;
    if stage.is_some() && !connected(&channel).await {
        eprintln!(
            "error: the demo's servers are not connected: {:#?}",
            channel.report()
        );
        return Ok(ExitCode::FAILURE);
    }

    let (events, mut heard) = mpsc::unbounded_channel();
    let faults = stage.iter().flat_map(|_| script::faults()).collect();
    let notices = Arc::new(Notices::new(faults, events));
    let ledger = Arc::new(Ledger::default());
    let stop = CancellationToken::new();
    let began = Instant::now();

    // Ends with this scope.
    let mut helpers = JoinSet::new();
    helpers.spawn(notice::watch(channel.clone(), notices.clone()));
    helpers.spawn(interrupt(stop.clone()));
    if let Some(stage) = &stage {
        helpers.spawn(script::play(
            stage.clone(),
            channel.clone(),
            ledger.clone(),
            notices.clone(),
            options.duration(),
        ));
    }
    let load = Load {
        rps: options.rps,
        duration: options.duration(),
        policy: options.policy,
    };
    let caller = Caller::new(channel.clone(), stage.is_some());
    let mut load = tokio::spawn(load.run(caller, ledger.clone(), stop.clone()));

    let mut view = View::new(options);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = began;
    let mut show = |view: &mut View| {
        let now = Instant::now();
        let page = ledger.turn_page();
        let table = Table::new(
            &channel.report(),
            &page,
            now - std::mem::replace(&mut last, now),
        );
        let at = now - began;
        view.table(at, title(options, at, &ledger), table);
    };
    loop {
        tokio::select! {
            biased;
            Some(event) = heard.recv() => view.event(began.elapsed(), &event),
            _ = &mut load => break,
            _ = ticks.tick() => show(&mut view),
        }
    }
    let elapsed = began.elapsed();
    while let Ok(event) = heard.try_recv() {
        view.event(elapsed, &event);
    }
    view.close();
    helpers.shutdown().await;

    let books = ledger.read();
    let faults = notices.faults();
    let report = channel.report();
    let verdict = Verdict::new(&books, &faults, &report, script::EJECT_AFTER);
    let summary = Summary {
        options,
        elapsed,
        interrupted: stop.is_cancelled(),
        books: &books,
        faults: &faults,
        verdict: &verdict,
        report: &report,
    };
    let text = if options.json {
        format!("{:#}\n", summary.json())
    } else {
        summary.to_string()
    };
    // Whoever closed the pipe does not want it.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(if verdict.unexpected == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Waits until every endpoint is connected.
async fn connected(channel: &Channel) -> bool {
    let all = async {
        let ready = |report: &evenkeel::observe::Report| {
            let mut states = report.endpoints.iter().map(|endpoint| endpoint.state);
            report.resolved && states.all(|state| state == ConnectivityState::Ready)
        };
        while !ready(&channel.report()) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(CONNECTED_WITHIN, all).await.is_ok()
}

/// Ctrl-C ends the load; the summary follows.
async fn interrupt(stop: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        stop.cancel();
    }
}

fn title(options: &Options, at: Duration, ledger: &Ledger) -> String {
    let (sent, failed) = ledger.totals();
    format!(
        "{}, {} rps, {:.0} of {} s: {sent} calls, {failed} failed",
        options.policy.name(),
        options.rps,
        at.min(options.duration()).as_secs_f64(),
        options.seconds,
    )
}
