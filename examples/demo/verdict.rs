//! Which calls had to fail.
//!
//! The script says when a server was killed and when one began to fail; the channel's report says
//! when that was noticed and how many calls it counts as failed; the ledger says when each call began
//! and ended. A call that these three do not explain should not have failed.

use std::collections::BTreeMap;

use evenkeel::EndpointId;
use evenkeel::observe::Report;
use tonic::Code;

use crate::ledger::{Books, FailedCall};
use crate::notice::{Fault, Sign, find};

/// The failed calls, by cause.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) causes: Vec<Cause>,
    pub(crate) expected: u64,
    pub(crate) unexpected: u64,
    /// Calls that were lost before a response head arrived, by the endpoint that lost them.
    pub(crate) lost: BTreeMap<EndpointId, u64>,
}

/// Calls that failed alike.
#[derive(Debug)]
pub(crate) struct Cause {
    pub(crate) text: String,
    pub(crate) count: u64,
    pub(crate) expected: bool,
}

impl Verdict {
    /// Judges a run that is over; `report` is the channel's last.
    pub(crate) fn new(books: &Books, faults: &[Fault], report: &Report, eject_after: u32) -> Self {
        let mut verdict = Self::default();
        let mut left: Vec<&FailedCall> = books.failures.iter().collect();
        left.sort_by_key(|call| call.ended);
        for fault in faults {
            match fault.sign {
                Sign::LeftReady => verdict.lost_with(fault, report, &mut left),
                Sign::Ejected => verdict.before_ejection(fault, books, eject_after, &mut left),
                _ => {}
            }
        }
        let mut rest = BTreeMap::new();
        for call in &left {
            *rest.entry(describe(call)).or_insert(0) += 1;
        }
        for (text, count) in rest {
            verdict.add(text, count, false);
        }
        let uncounted = books.failed.saturating_sub(books.failures.len() as u64);
        verdict.add("not kept one by one".to_owned(), uncounted, false);
        let open = books.sent.saturating_sub(books.finished);
        verdict.add("never ended".to_owned(), open, false);
        verdict
    }

    fn add(&mut self, text: String, count: u64, expected: bool) {
        if count == 0 {
            return;
        }
        if expected {
            self.expected += count;
        } else {
            self.unexpected += count;
        }
        self.causes.push(Cause {
            text,
            count,
            expected,
        });
    }

    /// Calls under way on a connection that was cut: lost with it, ended after the cut, begun before
    /// the client knew. The channel knows how many it lost there, and more than those are not
    /// excused.
    fn lost_with(&mut self, fault: &Fault, report: &Report, left: &mut Vec<&FailedCall>) {
        let Some(began) = fault.began else { return };
        let noticed = fault.noticed.unwrap_or(began);
        let failures = find(report, &fault.endpoint).map_or(0, |endpoint| endpoint.failures);
        let most = failures.saturating_sub(fault.failures_before);
        let mut count = 0;
        left.retain(|call| {
            let there = call
                .endpoint
                .as_ref()
                .is_none_or(|id| *id == fault.endpoint);
            let then = call.ended >= began && call.started <= noticed;
            let excused = call.failure.lost && there && then && count < most;
            if excused {
                count += 1;
                if call.endpoint.is_none() {
                    *self.lost.entry(fault.endpoint.clone()).or_default() += 1;
                }
            }
            !excused
        });
        let text = format!(
            "UNAVAILABLE: lost with {}, which was killed",
            fault.endpoint
        );
        self.add(text, count, true);
    }

    /// Calls that a failing server answered before it was ejected, or that were under way to it then.
    ///
    /// A call that it had taken while it was healthy may still succeed and begins the count of
    /// failures in a row anew. So there may be `eject_after` failures for each of those successes,
    /// and once more, and those that were under way at the last.
    fn before_ejection(
        &mut self,
        fault: &Fault,
        books: &Books,
        eject_after: u32,
        left: &mut Vec<&FailedCall>,
    ) {
        let Some(began) = fault.began else { return };
        let mut answers = books.answers.clone();
        answers.retain(|answer| answer.ended >= began);
        answers.sort_by_key(|answer| answer.ended);
        let mut in_a_row = 0;
        let due = answers.iter().find(|answer| {
            in_a_row = if answer.ok { 0 } else { in_a_row + 1 };
            in_a_row == eject_after
        });
        // Without so many in a row no ejection was due, up to the last answer.
        let due = due.or(answers.last()).map(|answer| answer.ended);
        let Some(due) = due else { return };
        // Answers may reach the ledger in another order than the channel, so the later of both.
        let last = fault.noticed.map_or(due, |noticed| noticed.max(due));
        let successes = answers.iter().filter(|a| a.ok && a.ended <= last).count() as u64;
        let under_way = answers.iter().filter(|a| a.started <= due && a.ended > due);
        let most = u64::from(eject_after) * (1 + successes) + under_way.count() as u64;
        let mut count = 0;
        left.retain(|call| {
            let there = call.endpoint.as_ref() == Some(&fault.endpoint);
            let then = call.ended >= began && call.started <= last;
            let excused = call.failure.code == Code::Unavailable
                && !call.failure.lost
                && there
                && then
                && count < most;
            count += u64::from(excused);
            !excused
        });
        let text = format!(
            "UNAVAILABLE: answered by {} before it was ejected",
            fault.endpoint
        );
        self.add(text, count, true);
    }
}

fn describe(call: &FailedCall) -> String {
    let message = &call.failure.message;
    let what = match call.failure.code {
        Code::Ok => format!("wrong answer: {message}"),
        code => format!("{}: {message}", name(code)),
    };
    match &call.endpoint {
        Some(endpoint) => format!("{what} (from {endpoint})"),
        None => what,
    }
}

/// gRPC's name of a code.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.extend(letter.to_uppercase());
    }
    name
}
