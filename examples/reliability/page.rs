//! How it is shown: a table as RELIABILITY.md has it, or a JSON object a row.

use std::time::Duration;

use serde_json::json;

use crate::arms::Arm;
use crate::fault::Fault;
use crate::options::Options;
use crate::verdict::Verdict;

pub(crate) fn head(options: &Options) {
    if options.json {
        return;
    }
    println!(
        "{} servers, {} calls/s for {:?}, of which the fault lasts {:?}; deadline {:?}",
        options.servers,
        options.rate,
        options.length(),
        options.ends() - options.begins(),
        crate::load::DEADLINE,
    );
    println!();
    println!(
        "| fault | balancer | failed, of those after its begin | last failure after | isolated after | \
         restored after | p50 / p99 / p99.9 healthy, ms | while it lasts, ms | attempts a call |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or("–".to_owned(), |time| {
        format!("{:.2} s", time.as_secs_f64())
    })
}

pub(crate) fn row(options: &Options, fault: Fault, arm: Arm, verdict: &Verdict) {
    let Verdict {
        healthy, faulty, ..
    } = verdict;
    if options.json {
        let quantiles = |of: &crate::verdict::Quantiles| json!({ "p50_ms": of.p50, "p99_ms": of.p99, "p999_ms": of.p999 });
        let secs = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        let row = json!({
            "fault": fault.title(),
            "balancer": arm.title(),
            "calls": verdict.calls,
            "failed": verdict.failed,
            "hung": verdict.hung,
            "failed_share": verdict.failed_share,
            "last_failure_s": secs(verdict.last_failure),
            "isolated_s": secs(verdict.isolated),
            "restored_s": secs(verdict.restored),
            "recovered_s": secs(verdict.recovered),
            "attempts_per_call": verdict.attempts,
            "healthy": quantiles(healthy),
            "faulty": quantiles(faulty),
        });
        println!("{row}");
        return;
    }
    let hung = match verdict.hung {
        0 => String::new(),
        hung => format!(", {hung} hung"),
    };
    println!(
        "| {} | {} | {:.3} % ({}{hung}) | {} | {} | {} | {:.1} / {:.1} / {:.1} | {:.1} / {:.1} / {:.1} | {} |",
        fault.title(),
        arm.title(),
        verdict.failed_share * 100.0,
        verdict.failed,
        seconds(verdict.last_failure),
        seconds(verdict.isolated),
        seconds(verdict.restored),
        healthy.p50,
        healthy.p99,
        healthy.p999,
        faulty.p50,
        faulty.p99,
        faulty.p999,
        verdict
            .attempts
            .map_or("–".to_owned(), |attempts| format!("{attempts:.3}")),
    );
}

pub(crate) fn skipped(options: &Options, fault: Fault, arm: Arm, why: &str) {
    if options.json {
        let row = json!({ "fault": fault.title(), "balancer": arm.title(), "skipped": why });
        println!("{row}");
    } else {
        println!(
            "| {} | {} | skipped: {why} | | | | | | |",
            fault.title(),
            arm.title()
        );
    }
}
