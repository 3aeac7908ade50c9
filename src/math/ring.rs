//! A consistent hash ring, as Envoy and gRFC A42 build it.

use std::fmt::Write;

use xxhash_rust::xxh64::xxh64;

/// Places on a circle of 64-bit hashes, in order. A hash belongs to the first place at or after it.
///
/// The places of a key depend on nothing but the key, so a key that goes leaves its share to the next
/// places round the ring, and nothing else moves. (How *many* places it has depends on the others'
/// weights; see [`new`](Self::new).)
///
/// 14 to 16 bytes per place. Finding the place of a hash takes O(1) steps on average: hashes are
/// spread evenly, so an index by their first bits leads to within a place or two.
#[derive(Debug)]
pub struct Ring {
    hashes: Box<[u64]>,
    owners: Box<[u32]>,
    /// For each value of the first bits, the first place that has them or more.
    starts: Box<[u32]>,
    /// What a hash is shifted by for its first bits.
    shift: u32,
}

impl Ring {
    /// A ring of keys with weights. The number of places is the least, up to `max`, at which the
    /// lightest key has a whole number of them and the ring has no fewer than `min`; each key gets
    /// its share of them by weight. Place `i` of a key is at `xxh64(key + "_" + i)`, seed 0.
    ///
    /// This is the algorithm of gRFC A42 in integers, so that no rounding adds or loses a place; for
    /// the very same places as gRPC and Envoy see [`a42`](Self::a42). Where it would leave a light key
    /// without any (more keys than `max`, or weights further apart than `max` can tell), the key gets
    /// one: `max` may be exceeded by up to the number of keys. A weight of 0 counts as 1.
    ///
    /// Rounding goes by the order of the keys: give them in one order that all clients share.
    pub fn new<'k>(keys: impl IntoIterator<Item = (&'k str, u32)>, min: u32, max: u32) -> Self {
        let keys: Vec<(&str, u32)> = keys.into_iter().collect();
        let weights = || keys.iter().map(|&(_, weight)| u128::from(weight.max(1)));
        let total: u128 = weights().sum();
        let lightest = weights().min().unwrap_or(1);
        // Places per weight, as a fraction.
        let of_lightest = (lightest * u128::from(min)).div_ceil(total.max(1));
        let (places, weight) = if of_lightest * total > u128::from(max) * lightest {
            (u128::from(max), total)
        } else {
            (of_lightest, lightest)
        };
        let mut before = 0;
        let mut sum = 0;
        Self::with_counts(
            keys.iter()
                .zip(weights())
                .map(|(&(key, _), weight_of_key)| {
                    sum += weight_of_key;
                    let upto = (sum * places).div_ceil(weight);
                    let count = (upto - before).max(1);
                    before = upto;
                    (key, count as u64)
                }),
        )
    }

    /// The ring that gRPC (A42) and Envoy build of these keys in this order: place for place, for their
    /// sums are done here in the same floating point and the same order. Those give a key a place more
    /// or less than its share now and then; and where there are more keys than `max`, or weights are
    /// further apart than `max` can tell, a key may have no place at all. A weight of 0 counts as 1.
    pub fn a42<'k>(keys: impl IntoIterator<Item = (&'k str, u32)>, min: u32, max: u32) -> Self {
        let keys: Vec<(&str, u32)> = keys.into_iter().collect();
        let total: u64 = keys.iter().map(|&(_, w)| u64::from(w.max(1))).sum();
        let share = |weight: u32| f64::from(weight.max(1)) / total as f64;
        let least = keys.iter().map(|&(_, w)| share(w)).fold(1.0, f64::min);
        let scale = f64::min((least * f64::from(min)).ceil() / least, f64::from(max));
        let mut placed = 0.0;
        let mut target = 0.0;
        Self::with_counts(keys.iter().map(|&(key, weight)| {
            target += scale * share(weight);
            let count = f64::max((target - placed).ceil(), 0.0);
            placed += count;
            (key, count as u64)
        }))
    }

    fn with_counts<'k>(keys: impl Iterator<Item = (&'k str, u64)>) -> Self {
        let mut ring = Vec::new();
        let mut text = String::new();
        for (owner, (key, count)) in (0_u32..).zip(keys) {
            text.clear();
            text.push_str(key);
            text.push('_');
            for i in 0..count {
                text.truncate(key.len() + 1);
                write!(text, "{i}").expect("a string takes any text");
                ring.push((xxh64(text.as_bytes(), 0), owner));
            }
        }
        ring.sort_unstable();
        let (hashes, owners): (Vec<_>, Vec<_>) = ring.into_iter().unzip();
        // One or two places for each entry of the index.
        let bits = hashes.len().next_power_of_two().ilog2().clamp(2, 32) - 1;
        let shift = u64::BITS - bits;
        let mut starts = Vec::with_capacity(1 << bits);
        for (place, &hash) in (0_u32..).zip(&hashes) {
            while starts.len() as u64 <= hash >> shift {
                starts.push(place);
            }
        }
        starts.resize(1 << bits, hashes.len() as u32);
        Self {
            hashes: hashes.into(),
            owners: owners.into(),
            starts: starts.into(),
            shift,
        }
    }

    /// How many places the ring has.
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The keys that `hash` belongs to, by their number in the order given to [`new`](Self::new): the
    /// owner of its place, then of the next places, once round. Keys come more than once. Each costs
    /// a step.
    #[inline]
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let near = self.starts[(hash >> self.shift) as usize] as usize;
        let further = self.hashes[near..]
            .iter()
            .take_while(|&&place| place < hash);
        let (before, from) = self.owners.split_at(near + further.count());
        from.iter().chain(before).map(|&owner| owner as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORTS: [&str; 6] = [
        "127.0.0.1:90",
        "127.0.0.1:91",
        "127.0.0.1:92",
        "127.0.0.1:93",
        "127.0.0.1:94",
        "127.0.0.1:95",
    ];

    fn sizes(weights: &[u32], min: u32, max: u32) -> Vec<usize> {
        let keys = ["a", "b", "c", "d"];
        let ring = Ring::new(keys.into_iter().zip(weights.iter().copied()), min, max);
        (0..weights.len())
            .map(|key| ring.owners.iter().filter(|&&o| o as usize == key).count())
            .collect()
    }

    #[test]
    fn hashes_are_xxh64_with_seed_0() {
        assert_eq!(xxh64(b"", 0), 17241709254077376921);
        assert_eq!(xxh64(b"abc", 0), 0x44bc_2cf5_ad77_0999);
        assert_eq!(xxh64(b"127.0.0.1:441_0", 0), 16393646475137000357);
    }

    #[test]
    fn places_are_those_of_envoy() {
        let ring = Ring::new(PORTS.map(|key| (key, 1)), 12, 8192);
        let places: Vec<(usize, u64)> = ring
            .owners
            .iter()
            .zip(&ring.hashes)
            .map(|(&owner, &hash)| (90 + owner as usize, hash))
            .collect();
        assert_eq!(
            places,
            [
                (94, 833437586790550860),
                (92, 928266305478181108),
                (90, 1033482794131418490),
                (95, 3551244743356806947),
                (93, 3851675632748031481),
                (91, 5583722120771150861),
                (91, 6311230543546372928),
                (93, 7700377290971790572),
                (95, 13144177310400110813),
                (92, 13444792449719432967),
                (94, 15516499411664133160),
                (90, 16117243373044804889),
            ]
        );
        let first = |hash| ring.walk(hash).next().map(|owner| owner + 90);
        for (hash, port) in [
            (0, 94),
            (u64::MAX, 94),
            (3551244743356806947, 95),
            (3551244743356806948, 93),
            (16117243373044804880, 90),
        ] {
            assert_eq!(first(hash), Some(port), "{hash}");
        }
        assert_eq!(
            ring.walk(0).find(|&owner| owner != 4).map(|o| o + 90),
            Some(92),
            "past 94 comes 92"
        );
        assert_eq!(ring.walk(7).count(), ring.len(), "once round, no more");
    }

    #[test]
    fn sizes_are_those_of_a42() {
        assert_eq!(sizes(&[3, 3, 4], 3, 8), [1, 1, 2]);
        assert_eq!(sizes(&[3, 3, 4], 8, 20), [3, 3, 4]);
        assert_eq!(sizes(&[1, 1, 1], 1024, 4096), [342; 3]);
        assert_eq!(sizes(&[1], 1024, 4096), [1024]);
    }

    fn a42_sizes(weights: &[u32], min: u32, max: u32) -> Vec<usize> {
        let names: Vec<String> = (0..weights.len()).map(|i| format!("k{i}")).collect();
        let keys = names.iter().map(|name| &**name);
        let ring = Ring::a42(keys.zip(weights.iter().copied()), min, max);
        let mut sizes = vec![0; weights.len()];
        ring.walk(0).for_each(|owner| sizes[owner] += 1);
        sizes
    }

    #[test]
    fn a_ring_as_in_a42_rounds_as_its_floating_point_does() {
        let exact = Ring::new(PORTS.map(|key| (key, 1)), 12, 8192);
        let a42 = Ring::a42(PORTS.map(|key| (key, 1)), 12, 8192);
        assert_eq!((exact.hashes, exact.owners), (a42.hashes, a42.owners));
        assert_eq!(a42_sizes(&[3, 3, 4], 3, 8), [1, 1, 2]);
        assert_eq!(a42_sizes(&[3, 3, 4], 8, 20), [3, 3, 4]);
        assert_eq!(a42_sizes(&[1, 1, 1], 1024, 4096), [342; 3]);
        // 1024 / 75 is 13.65, so each should have 14; but 14 / (1 / 75) / 75 is a little over 14.
        let of_75 = a42_sizes(&[1; 75], 1024, 4096);
        assert_eq!((of_75[0], of_75[1]), (15, 14), "one of 75 has 15");
        assert_eq!(
            a42_sizes(&[u32::MAX, 1], 1, 4),
            [4, 0],
            "too light for a place"
        );
        assert_eq!(
            a42_sizes(&[1; 8], 1, 4),
            [1, 0, 1, 0, 1, 0, 1, 0],
            "more keys than places"
        );
        assert!(a42_sizes(&[], 1024, 4096).is_empty(), "no keys");
        assert_eq!(
            a42_sizes(&[0, 0], 4, 8),
            [2, 2],
            "a weight of 0 counts as 1"
        );
    }

    #[test]
    fn the_index_leads_to_the_first_place_at_or_after_a_hash() {
        for places in [1, 2, 3, 4, 5, 63, 64, 65, 1000] {
            let ring = Ring::new([("k", 1)], places, places);
            let around = |&hash: &u64| [hash.wrapping_sub(1), hash, hash.wrapping_add(1)];
            for hash in ring.hashes.iter().flat_map(around).chain([0, u64::MAX]) {
                let steps = ring.walk(hash).count();
                assert_eq!(steps, places as usize, "once round");
                let near = ring.starts[(hash >> ring.shift) as usize] as usize;
                let first = ring.hashes.partition_point(|&place| place < hash);
                let skipped = ring.hashes[near..].iter().take_while(|&&p| p < hash);
                assert_eq!(near + skipped.count(), first, "{hash} of {places} places");
            }
        }
    }

    #[test]
    fn every_key_has_a_place_whatever_the_bounds_and_weights() {
        assert_eq!(sizes(&[1, 1, 1, 1], 0, 0), [1; 4], "no places asked for");
        assert_eq!(sizes(&[1, 1, 1, 1], 1, 2), [1; 4], "more keys than places");
        assert_eq!(sizes(&[u32::MAX, 1], 1, 4), [4, 1], "lost by rounding");
        assert_eq!(sizes(&[0, 0], 4, 8), [2, 2], "a weight of 0 counts as 1");
        assert_eq!(sizes(&[u32::MAX; 4], u32::MAX >> 24, u32::MAX), [64; 4]);
        assert!(sizes(&[], 1, 1).is_empty(), "no keys");
        assert!(Ring::new([], 1024, 4096).walk(1).next().is_none());
    }
}
