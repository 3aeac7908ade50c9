//! Finding a usable endpoint at random, and finding any at all; and endpoints to ask, at random.

use crate::math::Rng;
use crate::policy::{Candidate, PickContext};

/// Draws before the scan. A scan gives all that falls on a run of lost endpoints to the one behind
/// the run; with half of the set lost, 1 pick in 2^8 gets that far.
const DRAWS: usize = 8;

/// How many different ones can be drawn.
pub(super) const MOST_DRAWN: usize = 10;

/// Of two different ones, drawn at random, the one that can be used and is `better` than the other.
#[inline]
pub(super) fn better_of_two<'c>(
    candidates: &'c [Candidate],
    context: &mut PickContext<'_>,
    better: impl FnOnce(&Candidate, &Candidate) -> bool,
) -> Option<&'c Candidate> {
    let (a, b) = context.rng().two_below(candidates.len())?;
    let (a, b) = (&candidates[a], &candidates[b]);
    // (a, b) is as likely as (b, a), so a tie that goes to the first one is at random.
    better_of(a, b, context, || better(b, a))
}

/// Of two, the one that can be used; of two that can, `b` if it is better.
#[inline]
pub(super) fn better_of<'c>(
    a: &'c Candidate,
    b: &'c Candidate,
    context: &PickContext<'_>,
    b_is_better: impl FnOnce() -> bool,
) -> Option<&'c Candidate> {
    match (context.is_usable(a), context.is_usable(b)) {
        (true, true) if b_is_better() => Some(b),
        (true, _) => Some(a),
        (false, true) => Some(b),
        (false, false) => None,
    }
}

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

/// Has the servers of so many of `candidates` asked for their load, of all of them if there are no more: drawn at
/// random, and none twice.
#[inline]
pub(super) fn ask(candidates: &[Candidate], count: usize, context: &mut PickContext<'_>) {
    let mut drawn = Drawn::default();
    for _ in 0..count.min(candidates.len()).min(MOST_DRAWN) {
        let index = drawn.other(candidates.len(), context.rng());
        context.probe(&candidates[index]);
    }
}

/// The indices drawn so far, in ascending order; at most [`MOST_DRAWN`].
#[derive(Default)]
pub(super) struct Drawn {
    indices: [usize; MOST_DRAWN],
    count: usize,
}

impl Drawn {
    /// Adds an index. `false` if it was there.
    pub(super) fn insert(&mut self, index: usize) -> bool {
        let place = self.indices[..self.count].partition_point(|&drawn| drawn < index);
        if self.indices[..self.count].get(place) == Some(&index) {
            return false;
        }
        self.insert_at(place, index);
        true
    }

    /// Draws one below `n` that was not drawn yet; there is one.
    #[inline]
    pub(super) fn other(&mut self, n: usize, rng: &mut Rng) -> usize {
        // The n-th of those not drawn yet.
        let mut index = rng.below(n - self.count);
        let mut place = 0;
        while place < self.count && self.indices[place] <= index {
            index += 1;
            place += 1;
        }
        self.insert_at(place, index);
        index
    }

    #[inline]
    fn insert_at(&mut self, place: usize, index: usize) {
        // Of a handful, so a loop beats a call that copies memory.
        for from in (place..self.count).rev() {
            self.indices[from + 1] = self.indices[from];
        }
        self.indices[place] = index;
        self.count += 1;
    }
}
