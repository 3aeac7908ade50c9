//! The one place where calls read the time.

pub(super) use crate::cluster::now;
use crate::outcome::{LoadReport, Outcome};
use crate::policy::Claim;

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

/// Data of a call's response has come. A stream has much of it, so the time is read for the first only.
#[inline]
pub(super) fn responded(claim: &mut Claim) {
    if claim.awaits_response() {
        claim.responded(now());
    } else {
        claim.progressed();
    }
}

/// The caller gives a call up that has no answer yet.
#[cold]
pub(super) fn given_up(claim: Claim) {
    if claim.is_awaited() {
        claim.given_up_at(now());
    }
}
