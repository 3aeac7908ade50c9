//! Endpoints chosen by a pool of answers: what the policies that probe share.

use std::sync::Arc;

use crate::load::{ProbePool, share_of_call};
use crate::policy::draw::ask;
use crate::policy::{Candidate, Candidates, PickContext};

/// A failed call makes it this much less likely that its endpoint's answers are believed, in bits; and
/// so on for each failure in a row, up to so many.
const BITS_PER_FAILURE: u32 = 3;
const MOST_FAILURES: u32 = 4;

/// One set of candidates and the pool that they are chosen by.
#[derive(Debug)]
pub(super) struct Pooled {
    candidates: Candidates,
    pool: Arc<ProbePool>,
    /// There are no other groups, which have answers in the pool, too.
    is_alone: bool,
    /// The place of each usable candidate by its key, in the order of keys.
    places: Box<[(u64, u32)]>,
}

impl Pooled {
    pub(super) fn new(candidates: &Candidates, pool: &Arc<ProbePool>) -> Self {
        let usable = candidates.usable();
        // One pool has the answers of all groups.
        pool.resize(candidates.fleet());
        let keys = usable.iter().map(|candidate| candidate.subchannel().key());
        let mut places: Box<[(u64, u32)]> = keys.zip(0..).collect();
        places.sort_unstable();
        Self {
            candidates: candidates.clone(),
            pool: pool.clone(),
            is_alone: candidates.fleet() == usable.len(),
            places,
        }
    }

    #[inline]
    pub(super) fn usable(&self) -> &[Candidate] {
        self.candidates.usable()
    }

    #[inline]
    pub(super) fn pool(&self) -> &ProbePool {
        &self.pool
    }

    /// Has servers asked that are drawn at random, as many as fall to the call with this number, none of
    /// them twice.
    #[inline]
    pub(super) fn ask(&self, context: &mut PickContext<'_>, number: u64) {
        let wanted = share_of_call(self.pool.rules().probe_rate, number);
        ask(self.usable(), (wanted.end - wanted.start) as usize, context);
    }

    /// The endpoint that the pool says is best, if it says something.
    #[inline]
    pub(super) fn take(&self, context: &mut PickContext<'_>, number: u64) -> Option<&Candidate> {
        let is_ours = |key| {
            self.is_alone
                || self
                    .places
                    .binary_search_by_key(&key, |&(key, _)| key)
                    .is_ok()
        };
        self.pool.take(context.now(), number, is_ours, |key| {
            let found = self.places.binary_search_by_key(&key, |&(key, _)| key);
            let (_, place) = self.places[found.ok()?];
            let candidate = &self.usable()[place as usize];
            (context.is_usable(candidate) && is_believed(candidate, context)).then_some(candidate)
        })
    }
}

/// A server that fails calls has few under way and says that it is fast. The more calls it failed in a row,
/// the less often it is believed: 1 time in 8, in 64, and so on. Not never, since nobody else would
/// find out that it works again.
#[inline]
fn is_believed(candidate: &Candidate, context: &mut PickContext<'_>) -> bool {
    let failures = candidate.subchannel().health().consecutive_failures();
    failures == 0 || {
        let bits = BITS_PER_FAILURE * failures.min(MOST_FAILURES);
        context.rng().next_u64() >> (64 - bits) == 0
    }
}
