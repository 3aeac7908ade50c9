//! The lookup table of Maglev, as Envoy builds it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use xxhash_rust::xxh64::xxh64;

use crate::math::rng::splitmix64;

/// A table of slots, each with a key as its owner; a hash belongs to slot `hash % size`.
///
/// Each key has an order of its own in which it would like the slots; the keys take turns, and each
/// takes the first slot in its order that is free. So all have equally many, to within one, and a key
/// that comes or goes changes the owners of few slots but its own.
///
/// Eisenbud et al., *Maglev: A Fast and Reliable Software Network Load Balancer*, 2016, section 3.4, with
/// the weights of Envoy. 2 bytes per slot up to 65,536 keys, 4 beyond.
#[derive(Debug)]
pub struct MaglevTable {
    slots: Slots,
    size: Divisor,
}

#[derive(Debug)]
enum Slots {
    /// Half the memory, so that more of it is near.
    Narrow(Box<[u16]>),
    Wide(Box<[u32]>),
}

impl MaglevTable {
    /// The table of keys with weights, `size` slots large; `None` if `size` is not prime, since then
    /// a key's order would not come by all slots. A weight of 0 counts as 1. With more keys than
    /// slots, some have none.
    ///
    /// Key `k` begins at slot `xxh64(k, seed 0) % size` and goes on by steps of
    /// `xxh64(k, seed 1) % (size - 1) + 1`. Give the keys in ascending order, as Envoy does, for the
    /// same table as Envoy and on all clients.
    ///
    /// Takes about `size * ln(size)` steps; where one key has over 16 times the mean weight, times
    /// `log(keys)`.
    pub fn new<'k>(keys: impl IntoIterator<Item = (&'k str, u32)>, size: u32) -> Option<Self> {
        if !is_prime(size) {
            return None;
        }
        let (mut orders, weights): (Vec<Order>, Vec<u32>) = keys
            .into_iter()
            .map(|(key, weight)| (Order::new(key.as_bytes(), size), weight.max(1)))
            .unzip();
        let shares = Shares::new(&weights);
        let slots = if orders.is_empty() {
            Vec::new()
        } else if shares.keys_per_turn() < MANY_KEYS_PER_TURN {
            fill(&mut orders, size, shares.by_rounds())
        } else {
            fill(&mut orders, size, shares.by_queue())
        };
        let narrow = weights.len() <= usize::from(u16::MAX) + 1;
        Some(Self {
            slots: if narrow {
                Slots::Narrow(slots.iter().map(|&owner| owner as u16).collect())
            } else {
                Slots::Wide(slots.into())
            },
            size: Divisor::new(size),
        })
    }

    /// How many slots there are.
    pub fn len(&self) -> usize {
        match &self.slots {
            Slots::Narrow(slots) => slots.len(),
            Slots::Wide(slots) => slots.len(),
        }
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key that `hash` belongs to, by its number in the order given to [`new`](Self::new).
    #[inline]
    pub fn owner(&self, hash: u64) -> Option<usize> {
        let slot = self.size.remainder(hash) as usize;
        match &self.slots {
            Slots::Narrow(slots) => slots.get(slot).map(|&owner| usize::from(owner)),
            Slots::Wide(slots) => slots.get(slot).map(|&owner| owner as usize),
        }
    }

    /// The key that `hash` belongs to, and then, without end, the owners of slots drawn at random from
    /// `hash`: those it may go to instead. Not the next slots: keys take theirs at regular
    /// distances, so what stands at one distance from all slots of a key is often one other key.
    #[inline]
    pub fn draws(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let draws = std::iter::successors(Some(hash), |&hash| Some(splitmix64(hash)));
        draws.map_while(|hash| self.owner(hash))
    }

    /// The owners of all slots, from that of `hash` on, once round.
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let start = self.size.remainder(hash);
        let slots = (0..self.len() as u64).map(move |step| start + step);
        slots.filter_map(|slot| self.owner(slot))
    }
}

/// Divides by multiplying (Barrett): a division of 64 bits takes longer than the rest of a look-up.
#[derive(Debug)]
struct Divisor {
    size: u64,
    /// 2^64 over the size, rounded down.
    inverse: u64,
}

impl Divisor {
    /// `size` is over 1.
    fn new(size: u32) -> Self {
        let size = u64::from(size);
        Self {
            size,
            // `size` is no power of 2, or is 2: then (2^64 - 1) / 2 is one under, which does no harm.
            inverse: u64::MAX / size,
        }
    }

    /// `hash % size`.
    #[inline]
    fn remainder(&self, hash: u64) -> u64 {
        let product = u128::from(hash) * u128::from(self.inverse);
        // The quotient, or one under it.
        let quotient = (product >> 64) as u64;
        let remainder = hash - quotient * self.size;
        if remainder < self.size {
            remainder
        } else {
            remainder - self.size
        }
    }
}

/// Whether `n` is prime. At most 2^15 divisions.
pub fn is_prime(n: u32) -> bool {
    let factors = || (3..).step_by(2).take_while(|f: &u64| f * f <= u64::from(n));
    n == 2 || (n > 2 && n % 2 == 1 && factors().all(|factor| u64::from(n) % factor != 0))
}

/// The order in which a key would like the slots, from the next one on.
struct Order {
    slot: u32,
    step: u32,
}

impl Order {
    fn new(key: &[u8], size: u32) -> Self {
        let below = |seed, limit: u32| (xxh64(key, seed) % u64::from(limit)) as u32;
        Self {
            slot: below(0, size),
            step: below(1, size - 1) + 1,
        }
    }

    fn next(&mut self, size: u32) -> u32 {
        let slot = self.slot;
        // Both are less than `size`, and that is at most 2^32 - 5.
        let next = u64::from(slot) + u64::from(self.step);
        self.slot = (if next < u64::from(size) {
            next
        } else {
            next - u64::from(size)
        }) as u32;
        slot
    }
}

/// Lets the keys take slots, in turns, until all are taken.
fn fill(orders: &mut [Order], size: u32, turns: impl Iterator<Item = usize>) -> Vec<u32> {
    let mut slots = vec![0; size as usize];
    // Apart from the owners: a bit for each slot stays in the nearest cache.
    let mut taken = vec![0_u64; size.div_ceil(64) as usize];
    for owner in turns.take(size as usize) {
        let order = &mut orders[owner];
        let slot = loop {
            let slot = order.next(size);
            let word = &mut taken[slot as usize / 64];
            let bit = 1 << (slot % 64);
            if *word & bit == 0 {
                *word |= bit;
                break slot;
            }
        };
        slots[slot as usize] = owner as u32;
    }
    slots
}

/// Whose turn it is, by weight: in round `k` = 1, 2, … each key in order whose `k * weight` is not
/// under its target, which then grows by the largest weight.
#[derive(Clone)]
struct Shares {
    weights: Vec<f64>,
    targets: Vec<f64>,
    heaviest: f64,
}

impl Shares {
    fn new(weights: &[u32]) -> Self {
        // As Envoy, which has weights that sum up to 1: a tie is broken by the same rounding.
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let weights: Vec<f64> = weights
            .iter()
            .map(|&weight| f64::from(weight) / total as f64)
            .collect();
        Self {
            targets: vec![0.0; weights.len()],
            heaviest: weights.iter().copied().fold(0.0, f64::max),
            weights,
        }
    }

    /// How many keys there are for each that has its turn, in the long run.
    fn keys_per_turn(&self) -> f64 {
        self.heaviest * self.weights.len() as f64
    }

    fn waits(&self, key: usize, round: u64) -> bool {
        round as f64 * self.weights[key] < self.targets[key]
    }

    fn take_turn(&mut self, key: usize) {
        self.targets[key] += self.heaviest;
    }

    /// The turns, found by looking at all keys in each round.
    fn by_rounds(mut self) -> impl Iterator<Item = usize> {
        let mut round = 1;
        let mut next = 0;
        std::iter::from_fn(move || {
            loop {
                if next == self.weights.len() {
                    next = 0;
                    round += 1;
                }
                let key = next;
                next += 1;
                if !self.waits(key, round) {
                    self.take_turn(key);
                    return Some(key);
                }
            }
        })
    }

    /// The same turns, where one key is so much heavier than the others that there would be thousands of
    /// rounds with hardly a turn: each key waits in a queue for its next round.
    fn by_queue(mut self) -> impl Iterator<Item = usize> {
        let mut queue: BinaryHeap<Reverse<(u64, usize)>> = (0..self.weights.len())
            .map(|key| Reverse((1, key)))
            .collect();
        std::iter::from_fn(move || {
            let mut first = queue.peek_mut()?;
            let Reverse((round, key)) = *first;
            self.take_turn(key);
            // The quotient may be rounded to the neighbour.
            let quotient = (self.targets[key] / self.weights[key]) as u64;
            let mut next = quotient.saturating_sub(1).max(round + 1);
            while self.waits(key, next) {
                next += 1;
            }
            *first = Reverse((next, key));
            Some(key)
        })
    }
}

/// From here on the queue is quicker, by far with one heavy key among thousands.
const MANY_KEYS_PER_TURN: f64 = 16.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::testing::seeded;

    fn owners(keys: &[(&str, u32)], size: u32) -> Vec<usize> {
        let table = MaglevTable::new(keys.iter().copied(), size).expect("a prime");
        table.walk(0).collect()
    }

    fn counts(owners: &[usize], keys: usize) -> Vec<usize> {
        let mut counts = vec![0; keys];
        owners.iter().for_each(|&owner| counts[owner] += 1);
        counts
    }

    #[test]
    fn tables_are_those_of_envoy() {
        let keys: Vec<String> = (90..96).map(|port| format!("127.0.0.1:{port}")).collect();
        let keys: Vec<(&str, u32)> = keys.iter().map(|key| (&**key, 1)).collect();
        assert_eq!(owners(&keys, 7), [2, 4, 0, 1, 5, 0, 3], "by address");
        let names = ["90", "91", "92", "93", "94", "95"].map(|key| (key, 1));
        assert_eq!(owners(&names, 7), [2, 5, 0, 3, 4, 1, 0], "by name");
        let weighted = [("127.0.0.1:90", 1), ("127.0.0.1:91", 2)];
        assert_eq!(
            owners(&weighted, 17),
            [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1],
            "by weight"
        );
        let table = MaglevTable::new(keys, 7).expect("a prime");
        assert_eq!(table.owner(7 * 1_000_003 + 4), Some(5), "hash % 7 is 4");
    }

    #[test]
    fn only_a_prime_number_of_slots_can_be() {
        for size in [0, 1, 4, 8, 9, 65_536, 65_539 * 11, u32::MAX] {
            assert!(MaglevTable::new([("a", 1)], size).is_none(), "{size}");
        }
        for size in [2, 3, 5, 7, 251, 65_537] {
            assert_eq!(owners(&[("a", 1)], size), vec![0; size as usize]);
        }
        assert!(is_prime(5_000_011) && is_prime(u32::MAX - 4));
    }

    #[test]
    fn without_keys_a_hash_belongs_to_nobody() {
        let table = MaglevTable::new([], 7).expect("a prime");
        assert_eq!(table.owner(3), None);
        assert_eq!(table.walk(3).count(), 0);
        assert_eq!(table.draws(3).count(), 0);
        assert!(table.is_empty());
    }

    proptest::proptest! {
        #![proptest_config(seeded(256, 17))]

        #[test]
        fn turns_from_the_queue_are_those_of_the_rounds(
            weights in proptest::collection::vec(1_u32..50, 1..20),
            heavy in 1_u32..5_000,
        ) {
            let mut weights = weights;
            weights.push(heavy);
            let shares = Shares::new(&weights);
            let queue: Vec<usize> = shares.clone().by_queue().take(3_000).collect();
            let rounds: Vec<usize> = shares.by_rounds().take(3_000).collect();
            proptest::prop_assert_eq!(queue, rounds);
        }

        #[test]
        fn remainders_are_those_of_division(hash: u64, size in 2_u32.., n in 0_u64..3) {
            let divisor = Divisor::new(size);
            let size = u64::from(size);
            for hash in [hash, u64::MAX - n, n, (hash / size) * size, (hash / size).saturating_sub(1) * size + size - 1] {
                proptest::prop_assert_eq!(divisor.remainder(hash), hash % size);
            }
        }
    }

    #[test]
    fn slots_go_by_weight() {
        let names: Vec<String> = (0..100).map(|i| format!("10.0.0.{i}:443")).collect();
        let equal: Vec<(&str, u32)> = names.iter().map(|name| (&**name, 7)).collect();
        let slots = counts(&owners(&equal, 65_537), 100);
        assert!(slots.iter().all(|&n| n == 655 || n == 656), "{slots:?}");
        let by_weight: Vec<(&str, u32)> = names.iter().map(|n| &**n).zip(1..=100).collect();
        let slots = counts(&owners(&by_weight, 65_537), 100);
        for (weight, &slots) in (1..).zip(&slots) {
            let share = 65_537.0 * f64::from(weight) / 5_050.0;
            // A turn at the start or the end may fall to either side.
            assert!(
                (slots as f64 - share).abs() <= 2.0,
                "{weight}: {slots} of {share}"
            );
        }
    }

    #[test]
    fn weights_far_apart_and_more_keys_than_slots_come_to_an_end() {
        assert_eq!(
            counts(&owners(&[("a", u32::MAX), ("b", 1)], 65_537), 2),
            [65_536, 1],
            "each has its turn in the first round"
        );
        let names: Vec<String> = (0..70_000).map(|i| format!("k{i}")).collect();
        let keys = |weight| names.iter().map(move |name| (&**name, weight));
        let table = MaglevTable::new(keys(1), 251).expect("a prime");
        assert_eq!(
            table
                .walk(9)
                .collect::<std::collections::HashSet<_>>()
                .len(),
            251
        );
        let wide = MaglevTable::new(keys(3), 70_001).expect("a prime");
        assert!(
            wide.walk(0).any(|owner| owner > 65_536),
            "numbers over 2^16 fit"
        );
    }
}
