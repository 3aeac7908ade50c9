//! Highest random weight: each key draws a number for each hash, and the best draw wins.

use xxhash_rust::xxh64::xxh64;

use crate::math::rng::splitmix64;

/// Keys that each draw, for every hash, a number that depends on nothing but key and hash; the best draw
/// owns the hash.
///
/// A key that goes leaves its hashes to the second best of each, a key that comes takes those that it
/// draws best on, and nothing else ever moves: the least that is possible. The same holds for a
/// weight that changes.
///
/// Thaler and Ravishankar, *Using Name-Based Mappings to Increase Hit Rates*, 1998; the weights as in
/// Schindelhauer and Schomaker, *Weighted Distributed Hash Tables*, 2005 (their logarithmic method). 8
/// bytes per key, 16 if weights differ.
#[derive(Debug)]
pub struct RendezvousTable {
    seeds: Box<[u64]>,
    /// Empty if all are equal.
    weights: Box<[f64]>,
}

impl RendezvousTable {
    /// A table of keys with weights. A weight of 0 counts as 1.
    pub fn new<'k>(keys: impl IntoIterator<Item = (&'k str, u32)>) -> Self {
        let (seeds, weights): (Vec<u64>, Vec<u32>) = keys
            .into_iter()
            .map(|(key, weight)| (xxh64(key.as_bytes(), 0), weight.max(1)))
            .unzip();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let weights = if equal { Vec::new() } else { weights };
        Self {
            seeds: seeds.into(),
            weights: weights.into_iter().map(f64::from).collect(),
        }
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.seeds.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.seeds.is_empty()
    }

    /// Of the keys that `accept` takes, the one with the best draw on `hash`, by its number in the order
    /// given to [`new`](Self::new); of equals the first.
    ///
    /// O(n). `accept` is asked only about a key that is better than all before: of `n`, about
    /// `ln(n)` times if it always says yes.
    #[inline]
    pub fn best(&self, hash: u64, accept: impl FnMut(usize) -> bool) -> Option<usize> {
        if self.weights.is_empty() {
            self.highest(hash, accept)
        } else {
            self.soonest(hash, accept)
        }
    }

    fn highest(&self, hash: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut best = None;
        let mut highest = 0;
        for (number, &seed) in self.seeds.iter().enumerate() {
            let draw = splitmix64(seed ^ hash);
            if draw > highest && accept(number) {
                highest = draw;
                best = Some(number);
            }
        }
        best
    }

    /// Draws are times that a key waits for, exponential with its weight as the rate; the first to
    /// come wins, with a probability of its weight in all weights.
    fn soonest(&self, hash: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut best = None;
        let mut soonest = f64::INFINITY;
        for (number, (&seed, &weight)) in self.seeds.iter().zip(&self.weights).enumerate() {
            let draw = unit(splitmix64(seed ^ hash));
            // ln(x) <= x - 1: most keys are out without a logarithm.
            if 1.0 - draw >= soonest * weight {
                continue;
            }
            let time = -draw.ln() / weight;
            if time < soonest && accept(number) {
                soonest = time;
                best = Some(number);
            }
        }
        best
    }
}

/// Between 0 and 1, neither of them.
fn unit(bits: u64) -> f64 {
    const SCALE: f64 = 1.0 / (1_u64 << 52) as f64;
    ((bits >> 12) as f64 + 0.5) * SCALE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rng;

    const NAMES: [&str; 5] = ["a:1", "b:1", "c:1", "d:1", "e:1"];

    fn owners(keys: &[(&str, u32)], hashes: usize) -> Vec<usize> {
        let table = RendezvousTable::new(keys.iter().copied());
        let mut rng = Rng::new(71);
        (0..hashes)
            .map(|_| {
                table
                    .best(rng.next_u64(), |_| true)
                    .expect("there are keys")
            })
            .collect()
    }

    #[test]
    fn shares_go_by_weight() {
        for weights in [[1; 5], [1, 2, 3, 4, 5], [1, 1, 1, 1, 1000]] {
            let keys: Vec<_> = NAMES.into_iter().zip(weights).collect();
            let owners = owners(&keys, 50_000);
            let total: u32 = weights.iter().sum();
            for (number, weight) in weights.into_iter().enumerate() {
                let got = owners.iter().filter(|&&owner| owner == number).count() as f64;
                let share = f64::from(weight) / f64::from(total);
                // Binomial; five standard deviations.
                let deviation = (50_000.0 * share * (1.0 - share)).sqrt();
                assert!(
                    (got - 50_000.0 * share).abs() < 5.0 * deviation,
                    "{weights:?}: {number} owns {got}"
                );
            }
        }
    }

    #[test]
    fn a_weight_that_changes_moves_hashes_only_to_or_from_its_key() {
        let with = |weight| {
            let mut keys = NAMES.map(|name| (name, 2));
            keys[3].1 = weight;
            owners(&keys, 10_000)
        };
        let (two, one, five) = (with(2), with(1), with(5));
        for ((&two, &one), &five) in two.iter().zip(&one).zip(&five) {
            assert!(two == one || two == 3, "less weight only gives away");
            assert!(two == five || five == 3, "more weight only takes");
        }
    }

    #[test]
    fn equal_weights_give_the_same_with_and_without_logarithms() {
        let table = RendezvousTable::new(NAMES.map(|name| (name, 1)));
        let mut rng = Rng::new(73);
        let weighted = RendezvousTable {
            seeds: table.seeds.clone(),
            weights: [3.0; 5].into(),
        };
        for _ in 0..10_000 {
            let hash = rng.next_u64();
            assert_eq!(
                table.best(hash, |number| number != 2),
                weighted.best(hash, |number| number != 2),
                "a set of equals is the same set when one of another weight has left it"
            );
        }
    }

    #[test]
    fn nothing_is_taken_that_is_not_accepted() {
        let table = RendezvousTable::new(NAMES.into_iter().zip(1..));
        for hash in 0..100 {
            for only in 0..5 {
                assert_eq!(table.best(hash, |number| number == only), Some(only));
            }
            assert_eq!(table.best(hash, |_| false), None);
        }
        assert_eq!(RendezvousTable::new([]).best(1, |_| true), None);
    }
}
