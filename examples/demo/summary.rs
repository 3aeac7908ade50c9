//! The end of a run, for people and for programs.

use std::fmt;
use std::time::Duration;

use evenkeel::EndpointId;
use evenkeel::observe::Report;
use serde_json::{Value, json};

use crate::ledger::{Books, Latency};
use crate::notice::Fault;
use crate::options::Options;
use crate::table::millis;
use crate::verdict::Verdict;

/// Everything that is told at the end.
pub(crate) struct Summary<'a> {
    pub(crate) options: &'a Options,
    pub(crate) elapsed: Duration,
    pub(crate) interrupted: bool,
    pub(crate) books: &'a Books,
    pub(crate) faults: &'a [Fault],
    pub(crate) verdict: &'a Verdict,
    /// The channel's last.
    pub(crate) report: &'a Report,
}

struct Line {
    id: EndpointId,
    calls: u64,
    failed: u64,
    share: f64,
    latency: Latency,
}

impl Summary<'_> {
    /// By endpoint, with the calls that the channel lost before their response began.
    fn endpoints(&self) -> Vec<Line> {
        let mut accounts = self.books.endpoints.clone();
        for (id, lost) in &self.verdict.lost {
            let account = accounts.entry(id.clone()).or_default();
            account.calls += lost;
            account.failed += lost;
        }
        for endpoint in &self.report.endpoints {
            accounts.entry(endpoint.id.clone()).or_default();
        }
        let total: u64 = accounts.values().map(|account| account.calls).sum();
        accounts
            .into_iter()
            .map(|(id, account)| Line {
                id,
                calls: account.calls,
                failed: account.failed,
                share: account.calls as f64 / total.max(1) as f64,
                latency: account.latency,
            })
            .collect()
    }

    fn failed(&self) -> u64 {
        self.verdict.expected + self.verdict.unexpected
    }

    /// One object.
    pub(crate) fn json(&self) -> Value {
        let endpoints = self.endpoints().into_iter().map(|line| {
            json!({
                "id": line.id.as_str(),
                "calls": line.calls,
                "failed": line.failed,
                "share": rounded(line.share, 4),
                "p50_ms": line.latency.quantile_ms(0.5),
                "p99_ms": line.latency.quantile_ms(0.99),
            })
        });
        let faults = self.faults.iter().map(|fault| {
            let noticed = fault.noticed_after();
            json!({
                "name": fault.name,
                "endpoint": fault.endpoint.as_str(),
                "played": fault.began.is_some(),
                "noticed_ms": noticed.map(|after| rounded(after.as_secs_f64() * 1000.0, 3)),
            })
        });
        let causes = self.verdict.causes.iter().map(|cause| {
            json!({ "cause": cause.text, "count": cause.count, "expected": cause.expected })
        });
        json!({
            "policy": self.options.policy.name(),
            "rps": self.options.rps,
            "seconds": rounded(self.elapsed.as_secs_f64(), 3),
            "interrupted": self.interrupted,
            "calls": self.books.sent,
            "failed": self.failed(),
            "expected_failures": self.verdict.expected,
            "unexpected_failures": self.verdict.unexpected,
            "not_sent": self.books.not_sent,
            "unimplemented": self.books.unimplemented,
            "p50_ms": self.books.latency.quantile_ms(0.5),
            "p99_ms": self.books.latency.quantile_ms(0.99),
            "failures": causes.collect::<Vec<_>>(),
            "endpoints": endpoints.collect::<Vec<_>>(),
            "faults": faults.collect::<Vec<_>>(),
        })
    }
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let books = self.books;
        let seconds = self.elapsed.as_secs_f64();
        writeln!(f)?;
        if self.interrupted {
            writeln!(f, "interrupted after {seconds:.1} s")?;
        }
        writeln!(
            f,
            "{} calls in {seconds:.1} s by {}: {} answered, {} failed\n\
             answered within {} ms (half) and {} ms (99 %)",
            books.sent,
            self.options.policy.name(),
            books.sent - self.failed(),
            self.failed(),
            millis(books.latency.quantile_ms(0.5)),
            millis(books.latency.quantile_ms(0.99)),
        )?;
        if books.not_sent > 0 {
            let not_sent = books.not_sent;
            writeln!(
                f,
                "{not_sent} more were due while too many were under way, and not sent"
            )?;
        }
        if books.unimplemented > 0 {
            writeln!(
                f,
                "{} of the answers were UNIMPLEMENTED: no evenkeel.demo.v1.Demo there",
                books.unimplemented
            )?;
        }
        self.failures(f)?;
        let endpoints = self.endpoints();
        let width = endpoints.iter().map(|line| line.id.as_str().len());
        let width = width.fold(8, usize::max);
        writeln!(
            f,
            "\n{:<width$}  {:>8}  {:>6}  {:>7}  {:>7}  {:>7}",
            "endpoint", "calls", "failed", "share", "p50 ms", "p99 ms"
        )?;
        for line in endpoints {
            writeln!(
                f,
                "{:<width$}  {:>8}  {:>6}  {:>5.1} %  {:>7}  {:>7}",
                line.id.as_str(),
                line.calls,
                line.failed,
                line.share * 100.0,
                millis(line.latency.quantile_ms(0.5)),
                millis(line.latency.quantile_ms(0.99)),
            )?;
        }
        if !self.faults.is_empty() {
            writeln!(f, "\n{:<11}  {:<8}  noticed", "fault", "endpoint")?;
        }
        for fault in self.faults {
            let noticed = match (fault.began, fault.noticed_after()) {
                (None, _) => "not played".to_owned(),
                (_, None) => "no".to_owned(),
                (_, Some(after)) => format!(
                    "after {} ms ({})",
                    millis(Some(after.as_secs_f64() * 1000.0)),
                    fault.sign.text()
                ),
            };
            let endpoint = fault.endpoint.as_str();
            writeln!(f, "{:<11}  {endpoint:<8}  {noticed}", fault.name)?;
        }
        Ok(())
    }
}

impl Summary<'_> {
    fn failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.failed() > 0 {
            writeln!(f, "\nfailed calls")?;
        }
        for cause in &self.verdict.causes {
            let mark = if cause.expected {
                "expected: "
            } else {
                "UNEXPECTED:"
            };
            writeln!(f, "{:>6} {mark} {}", cause.count, cause.text)?;
        }
        match self.verdict.unexpected {
            0 => writeln!(f, "no call failed that should not have"),
            count => writeln!(f, "{count} calls failed that should not have"),
        }
    }
}
