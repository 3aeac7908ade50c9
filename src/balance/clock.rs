//! The one place where calls read the time.

use std::sync::OnceLock;

use tokio::time::Instant;

use crate::math::Moment;
use crate::outcome::{LoadReport, Outcome};
use crate::policy::Claim;

/// The first time that any balancer asked.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// The time, as policies count it. Tokio's clock, so that tests may pause it.
#[inline]
pub(super) fn now() -> Moment {
    let now = Instant::now();
    Moment::from_origin(now.saturating_duration_since(*ORIGIN.get_or_init(|| now)))
}

/// Ends a call; reads the time only if the policy wants it.
#[inline]
pub(super) fn finish(claim: Claim, outcome: Outcome) {
    if claim.is_timed() {
        claim.finish_at(outcome, now());
    } else {
        claim.finish(outcome);
    }
}

/// Hands on what a response says of the server's load; `read` is called only if the policy wants it.
#[inline]
pub(super) fn reported(claim: &Claim, read: impl FnOnce() -> Option<LoadReport>) {
    if claim.wants_report()
        && let Some(report) = read()
    {
        claim.reported(&report, now());
    }
}

/// The first data of a call's response has come.
#[inline]
pub(super) fn responded(claim: &mut Claim) {
    if claim.is_timed() {
        claim.responded(now());
    } else {
        claim.progressed();
    }
}
