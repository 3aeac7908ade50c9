//! Which endpoints may be picked: rules only, no I/O, no clock of their own.
//!
//! A call's outcome is judged where it ends, on the caller's thread, because an endpoint that fails
//! at once can swallow thousands of calls in the time that a message takes to a background task.
//! So the *decision* to eject is a few atomics here; *when* it ends, and what that does to the set of
//! candidates, is the control plane's, which hears of each change.
//!
//! - [`gate`]: whether one endpoint lets calls in, and the single probing call on its way back;
//! - [`ejection`]: the rules: how many failures in a row, for how long, how many endpoints at most;
//! - [`limits`]: how many calls may be under way and wait;
//! - [`outlier`]: who fails more than the others do, looked at after each interval;
//! - [`check`]: what active checks say, and how many answers it takes;
//! - [`slow_start`]: how the part of the calls grows of who is new, or back;
//! - [`panic`](panic_mode): when so few endpoints are left that the ejections are ignored.
//!
//! [`Health::admits`] is the one answer to "may this endpoint be picked".

pub mod check;
pub mod ejection;
pub mod gate;
mod in_a_row;
pub mod limits;
pub mod outlier;
pub mod panic_mode;
pub mod slow_start;

pub use check::{CheckRules, Verdict};
pub use ejection::{Ejection, Ejections};
pub use gate::{Entry, Gate};
pub use limits::{Limit, Limits};
pub use outlier::{Cause, Counts, FailurePercentage, OutlierDetection, SuccessRate};
pub use slow_start::SlowStart;

use crate::outcome::Outcome;
use in_a_row::InARow;
use outlier::Bucket;

/// A change that the control plane must hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The endpoint was ejected by what its calls came to.
    Ejected(Cause),
    /// Its probing call failed: it is out again, for what it was out for.
    ProbeFailed,
    /// Its probing call went well: it is back.
    Readmitted,
    /// Its probing call said nothing: the next call may probe. A set of candidates that was made
    /// while the probe was under way does not offer the endpoint, and calls may be waiting for it.
    ProbeReturned,
}

/// The health record of one endpoint.
#[derive(Debug, Default)]
pub struct Health {
    gate: Gate,
    in_a_row: InARow,
    ended: Bucket,
}

impl Health {
    /// An endpoint with a clean record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the endpoint may be picked.
    #[inline]
    pub fn admits(&self) -> bool {
        self.gate.admits()
    }

    /// The gate that calls enter by.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// How many calls failed in a row; 0 after a success or a new connection.
    #[inline]
    pub fn consecutive_failures(&self) -> u32 {
        self.in_a_row.failures()
    }

    /// Judges the end of a call that came in by `entry`. `Some` is a change of state to pass on.
    #[inline]
    pub fn record(&self, outcome: Outcome, entry: Entry, rules: &Ejections) -> Option<Change> {
        match (outcome, entry) {
            (Outcome::Success, Entry::Normal) => {
                if rules.counts_calls() {
                    self.ended.count_success();
                }
                self.in_a_row.succeeded();
                None
            }
            (Outcome::Failure, Entry::Normal) => {
                if rules.counts_calls() {
                    self.ended.count_failure();
                }
                self.count_failure(rules)
            }
            (Outcome::Success, Entry::Probe) => self.pass_probe(rules),
            (Outcome::Overload { .. }, Entry::Normal) => self.count_overload(rules),
            (Outcome::Failure, Entry::Probe) => self.fail_probe(),
            // What has it ejected fails its probe.
            (Outcome::Overload { .. }, Entry::Probe)
                if rules.rules().consecutive_overloads().is_some() =>
            {
                self.fail_probe()
            }
            (_, Entry::Probe) => self.gate.return_probe().then_some(Change::ProbeReturned),
            _ => None,
        }
    }

    /// The probing call has shown that the endpoint works, though it is not over yet: a stream must
    /// not keep its endpoint out for as long as it lives.
    pub fn pass_probe(&self, rules: &Ejections) -> Option<Change> {
        self.in_a_row.clear();
        if !self.gate.pass_probe() {
            return None;
        }
        rules.release();
        Some(Change::Readmitted)
    }

    /// A call began to be answered: the endpoint does not swallow its calls.
    #[inline]
    pub fn answered(&self) {
        self.in_a_row.answered();
    }

    /// The caller gave a call up that had no answer after longer than this endpoint takes: the loser of a race, or
    /// a caller whose patience was over. `true` if it counts as a failure: one says nothing, five in a row with
    /// nothing answered between do, else an endpoint that swallows its calls would hide behind its callers' time
    /// limits.
    pub fn given_up(&self) -> bool {
        self.in_a_row.given_up()
    }

    /// What ended since the last time, if the rules want it counted.
    pub fn take_counts(&self) -> Counts {
        self.ended.take()
    }

    /// Ejects the endpoint, if it is in full use and one more may be out.
    pub fn eject(&self, rules: &Ejections) -> bool {
        if !self.gate.is_open() || !rules.reserve() {
            return false;
        }
        let ejected = self.gate.eject();
        if !ejected {
            rules.release();
        }
        ejected
    }

    /// Forgets the failures in a row: a new connection is a new start.
    pub fn clear_failures(&self) {
        self.in_a_row.succeeded();
    }

    /// The endpoint is leaving: gives back its place among the ejected.
    pub fn retire(&self, rules: &Ejections) {
        if self.gate.retire() {
            rules.release();
        }
    }

    #[cold]
    fn count_failure(&self, rules: &Ejections) -> Option<Change> {
        if !self.gate.is_open() {
            return None;
        }
        let is_enough = self.in_a_row.failed() >= rules.rules().consecutive_failures();
        let cause = Cause::ConsecutiveFailures;
        (is_enough && self.eject(rules)).then_some(Change::Ejected(cause))
    }

    #[cold]
    fn count_overload(&self, rules: &Ejections) -> Option<Change> {
        let Some(most) = rules.rules().consecutive_overloads() else {
            // A count would have each success after it write, too.
            self.in_a_row.answered();
            return None;
        };
        if !self.gate.is_open() {
            return None;
        }
        let is_enough = self.in_a_row.overloaded() >= most;
        let cause = Cause::ConsecutiveOverloads;
        (is_enough && self.eject(rules)).then_some(Change::Ejected(cause))
    }

    #[cold]
    fn fail_probe(&self) -> Option<Change> {
        self.gate.fail_probe().then_some(Change::ProbeFailed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overload_answers_are_counted_only_where_they_eject() {
        let overload = Outcome::Overload { retry_after: None };
        for (most, counted) in [(None, 0), (Some(5), 3)] {
            let rules = Ejections::new(Ejection::default().with_consecutive_overloads(most));
            rules.set_endpoints(2);
            let health = Health::new();
            (0..4).for_each(|_| _ = health.given_up());
            for _ in 0..3 {
                assert_eq!(health.record(overload, Entry::Normal, &rules), None);
            }
            assert!(!health.given_up(), "each is an answer: {most:?}");
            assert_eq!(health.in_a_row.overloaded(), counted + 1, "{most:?}");
        }
    }
}
