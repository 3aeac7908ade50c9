//! Finding a usable endpoint at random, and finding any at all.

use crate::policy::{Candidate, PickContext};

/// Draws before the scan. A scan gives all that falls on a run of lost endpoints to the one behind
/// the run; with half of the set lost, 1 pick in 2^8 gets that far.
const DRAWS: usize = 8;

/// A usable one of `candidates`, each equally likely as long as most are usable.
#[inline]
pub(super) fn draw<'c>(
    candidates: &'c [Candidate],
    context: &mut PickContext<'_>,
) -> Option<&'c Candidate> {
    for _ in 0..DRAWS.min(candidates.len()) {
        let candidate = &candidates[context.rng().below(candidates.len())];
        if context.is_usable(candidate) {
            return Some(candidate);
        }
    }
    let start = context.rng().below(candidates.len());
    first_from(candidates, start, context)
}

/// The first usable one from `start` on, going round once.
#[cold]
pub(super) fn first_from<'c>(
    candidates: &'c [Candidate],
    start: usize,
    context: &PickContext<'_>,
) -> Option<&'c Candidate> {
    let (before, from) = candidates.split_at_checked(start)?;
    from.iter().chain(before).find(|c| context.is_usable(c))
}
