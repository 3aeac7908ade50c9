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

use crate::math::atomic::{AtomicU32, Ordering};
use crate::outcome::Outcome;
use outlier::Bucket;

/// A change that the control plane must hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The endpoint was ejected.
    Ejected,
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
    consecutive_failures: AtomicU32,
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
        self.consecutive_failures.load(Ordering::Relaxed)
    }

    /// Judges the end of a call that came in by `entry`. `Some` is a change of state to pass on.
    #[inline]
    pub fn record(&self, outcome: Outcome, entry: Entry, rules: &Ejections) -> Option<Change> {
        match (outcome, entry) {
            (Outcome::Success, Entry::Normal) => {
                if rules.counts_calls() {
                    self.ended.count_success();
                }
                // A plain load keeps the cache line shared while all is well.
                if self.consecutive_failures.load(Ordering::Relaxed) != 0 {
                    self.consecutive_failures.store(0, Ordering::Relaxed);
                }
                None
            }
            (Outcome::Failure, Entry::Normal) => {
                if rules.counts_calls() {
                    self.ended.count_failure();
                }
                self.count_failure(rules)
            }
            (Outcome::Success, Entry::Probe) => self.pass_probe(rules),
            (Outcome::Failure, Entry::Probe) => self.gate.fail_probe().then_some(Change::Ejected),
            (_, Entry::Probe) => self.gate.return_probe().then_some(Change::ProbeReturned),
            _ => None,
        }
    }

    /// The probing call has shown that the endpoint works, though it is not over yet: a stream must
    /// not keep its endpoint out for as long as it lives.
    pub fn pass_probe(&self, rules: &Ejections) -> Option<Change> {
        self.consecutive_failures.swap(0, Ordering::Relaxed);
        if !self.gate.pass_probe() {
            return None;
        }
        rules.release();
        Some(Change::Readmitted)
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
        self.consecutive_failures.store(0, Ordering::Relaxed);
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
        let before = self.consecutive_failures.fetch_add(1, Ordering::Relaxed);
        let is_enough = before.saturating_add(1) >= rules.threshold();
        (is_enough && self.eject(rules)).then_some(Change::Ejected)
    }
}
