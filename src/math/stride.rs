//! Static stride scheduling: an order by weights that any number of threads follow by one counter.
//!
//! gRPC's scheduler for weighted round robin (gRFC A58). A tick `q` looks at one entry, `i = q % n`, in
//! generation `g = q / n`; the entry is picked in a share of the generations that is its weight over the
//! greatest one, as evenly as whole numbers allow, and passed over in the others. Neighbours are half
//! a round out of step, so that light entries do not all come in the same generation.
//!
//! An earliest-deadline-first queue gives as smooth an order, but needs a heap behind a lock. Here
//! the whole state is the counter, so it also goes on when the weights change.

use crate::math::atomic::{AtomicU64, Ordering};
use crate::math::weights::fill;

/// What the greatest weight is scaled to; weights are told apart in steps of 1/65,535 of it.
const K: u32 = u16::MAX as u32;

/// How far out of step neighbours are.
const HALF_A_ROUND: u32 = K / 2;

/// The golden section of [`K`], to a number without a common divisor: its multiples keep apart, so that
/// many entries of one weight are spread over all generations. Half a round would put every other
/// one of them in the same.
const GOLDEN: u32 = 40_502;

/// Over this multiple of the mean, an entry is split. gRPC's C++ cuts the weight off there.
const MAX_OVER_MEAN: f64 = 10.0;

/// Where those who follow a [`StaticStride`] have got to. Outlives the stride: one of other weights, or
/// of more or fewer numbers, goes on at the same place.
///
/// It holds a generation, modulo 65,535 since that is the period of the order, and an entry in
/// it. A single count of ticks would have to be divided on every pick.
#[derive(Debug)]
pub struct Sequence(AtomicU64);

/// No entry of no generation.
const UNSTARTED: u64 = u64::MAX;

impl Sequence {
    /// One whose first use says where it starts.
    pub fn unstarted() -> Self {
        Self(AtomicU64::new(UNSTARTED))
    }
}

impl Default for Sequence {
    fn default() -> Self {
        Self::unstarted()
    }
}

/// An entry in a generation.
#[derive(Debug, Clone, Copy)]
struct Place {
    generation: u32,
    index: u32,
}

impl Place {
    #[inline]
    fn from_word(word: u64) -> Self {
        Self {
            generation: (word >> 32) as u32,
            index: word as u32,
        }
    }

    #[inline]
    fn to_word(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The place of this tick, of `count` entries a generation.
    #[cold]
    fn at(tick: u64, count: u32) -> Self {
        let count = u64::from(count);
        Self {
            generation: (tick / count % u64::from(K)) as u32,
            index: (tick % count) as u32,
        }
    }

    /// One tick on.
    #[inline]
    fn step(&mut self, count: u32) {
        self.index += 1;
        if self.index >= count {
            self.index = 0;
            self.generation += 1;
            if self.generation >= K {
                self.generation = 0;
            }
        }
    }
}

/// Numbers `0..n` in an order by their weights.
///
/// Over any `G` whole generations, an entry of weight `w` is picked `w * G` over the greatest weight
/// times, rounded up or down: shares are exact but for the scaling to 16 bits. Not the smoothest order there
/// is: entries of one weight come in one of two generations, the even and the odd ones, so beside
/// many light entries a heavy one has a few picks in a row between theirs.
///
/// | | |
/// |---|---|
/// | next | one compare-exchange; ticks looked at: the greatest weight over the mean on average, at most 11 |
/// | build | O(n) |
/// | memory | 4 bytes per entry; none if all weights are equal |
///
/// ```
/// use evenkeel::math::stride::{Sequence, StaticStride};
///
/// let stride = StaticStride::new(&[1.0, 2.0, 3.0]);
/// let sequence = Sequence::unstarted();
/// let picks: Vec<_> = (0..6).filter_map(|_| stride.next(&sequence, || 0)).collect();
/// assert_eq!(picks, [1, 2, 2, 0, 1, 2]);
/// ```
#[derive(Debug)]
pub struct StaticStride {
    /// Entries in a generation.
    count: u32,
    /// Empty: all are equal.
    entries: Box<[Entry]>,
    /// Whose entry it is. Empty: entry `i` is number `i`'s.
    owners: Box<[u32]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    /// 1 to [`K`], which the greatest one has.
    weight: u16,
    /// How far it is ahead, modulo [`K`].
    phase: u16,
}

impl Entry {
    fn new(index: usize, step: u32, relative: f64) -> Self {
        Self {
            // Never 0, which would never be picked.
            weight: (relative * f64::from(K)).round().max(1.0) as u16,
            phase: (index as u64 * u64::from(step) % u64::from(K)) as u16,
        }
    }

    /// Whether it is picked in this generation, a number below [`K`].
    #[inline]
    fn is_picked(self, generation: u32) -> bool {
        let weight = u32::from(self.weight);
        (weight * generation + u32::from(self.phase)) % K >= K - weight
    }
}

impl StaticStride {
    /// The order of `weights`. One that is not a positive finite number is unknown and counts as the
    /// mean of the known ones; with fewer than two known ones all are equal, which is plain round
    /// robin (gRFC A58).
    ///
    /// A weight is told apart down to 1/65,535 of the greatest, and what is less counts as that. The
    /// cost of a pick grows with the greatest weight over the mean, so one of over 10 times the mean,
    /// which takes more than ten numbers, gets several entries over the round instead of one: the
    /// shares stay what they are, and the cost is bounded.
    pub fn new(weights: &[f64]) -> Self {
        let Some(weights) = fill(weights) else {
            return Self::equal(weights.len());
        };
        let greatest = weights.iter().copied().fold(0.0, f64::max);
        let relative = || weights.iter().map(|w| w / greatest);
        let limit = relative().sum::<f64>() / weights.len() as f64 * MAX_OVER_MEAN;
        if limit < 1.0 {
            return Self::split(relative(), limit);
        }
        let entry = |(index, relative)| Entry::new(index, HALF_A_ROUND, relative);
        Self {
            entries: relative().enumerate().map(entry).collect(),
            ..Self::equal(weights.len())
        }
    }

    /// The numbers `0..count` in turn: plain round robin.
    pub fn equal(count: usize) -> Self {
        Self {
            count: u32::try_from(count).unwrap_or(u32::MAX),
            entries: Box::default(),
            owners: Box::default(),
        }
    }

    /// Gives each of the `weights` as many entries as it takes for none to be over `limit`.
    fn split(weights: impl ExactSizeIterator<Item = f64>, limit: f64) -> Self {
        let numbers = weights.len() as f64;
        // The place in the round, from 0 to 1; whose; weight.
        let mut parts: Vec<(f64, u32, f64)> = Vec::with_capacity(weights.len());
        for (owner, weight) in (0_u32..).zip(weights) {
            let count = (weight / limit).ceil().max(1.0);
            let first = f64::from(owner) / numbers;
            for part in 0..count as u32 {
                let place = (first + f64::from(part) / count).fract();
                parts.push((place, owner, weight / count));
            }
        }
        parts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let greatest = parts.iter().map(|part| part.2).fold(0.0, f64::max);
        let entry =
            |(index, part): (usize, &(f64, u32, f64))| Entry::new(index, GOLDEN, part.2 / greatest);
        Self {
            entries: parts.iter().enumerate().map(entry).collect(),
            owners: parts.iter().map(|part| part.1).collect(),
            ..Self::equal(parts.len())
        }
    }

    /// The next number, whose turn no other caller gets; `None` if there are no numbers. `start` is
    /// asked for a tick to start at if the sequence has not started; 0 is the first of all.
    #[inline]
    pub fn next(&self, sequence: &Sequence, mut start: impl FnMut() -> u64) -> Option<usize> {
        if self.count == 0 {
            return None;
        }
        let mut seen = sequence.0.load(Ordering::Relaxed);
        loop {
            let from = if seen == UNSTARTED {
                Place::at(start(), self.count)
            } else {
                Place::from_word(seen)
            };
            let (number, after) = self.find(from);
            // One step over all ticks that are passed over, and not one for each of them: on a word
            // that threads share, that is the whole cost.
            match sequence.0.compare_exchange(
                seen,
                after.to_word(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return Some(number),
                Err(now) => seen = now,
            }
        }
    }

    /// The first number picked from `place` on, and the place after. There are entries.
    #[inline]
    fn find(&self, mut place: Place) -> (usize, Place) {
        if place.index >= self.count {
            // There were more, when it was put there.
            place.index %= self.count;
        }
        if self.entries.is_empty() {
            let number = place.index as usize;
            place.step(self.count);
            return (number, place);
        }
        loop {
            let index = place.index as usize;
            let generation = place.generation;
            place.step(self.count);
            // Comes true: an entry of weight K is picked in every generation.
            if self.entries[index].is_picked(generation) {
                let owner = self.owners.get(index);
                return (owner.map_or(index, |&owner| owner as usize), place);
            }
        }
    }
}

#[cfg(test)]
mod tests;
