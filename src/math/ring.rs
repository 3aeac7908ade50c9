//! A consistent hash ring, as Envoy and gRFC A42 build it.

use std::fmt::Write;

use xxhash_rust::xxh64::xxh64;

/// Places on a circle of 64-bit hashes, in order. A hash belongs to the first place at or after it.
///
/// The places of a key depend on nothing but the key, so a key that goes leaves its share to the next
/// places round the ring, and nothing else moves. (How *many* places it has depends on the others'
/// weights; see [`new`](Self::new).)
///
/// 12 bytes per place.
#[derive(Debug)]
pub struct Ring {
    hashes: Box<[u64]>,
    owners: Box<[u32]>,
}

impl Ring {
    /// A ring of keys with weights. The number of places is the least, up to `max`, at which the
    /// lightest key has a whole number of them and the ring has no fewer than `min`; each key gets
    /// its share of them by weight. Place `i` of a key is at `xxh64(key + "_" + i)`, seed 0.
    ///
    /// This is the algorithm of gRFC A42 in integers, so that no rounding adds or loses a place. Where
    /// that would leave a light key without any (more keys than `max`, or weights further apart
    /// than `max` can tell), the key gets one: `max` may be exceeded by up to the number of keys. A
    /// weight of 0 counts as 1.
    ///
    /// Rounding goes by the order of the keys: give them in one order that all clients share.
    pub fn new<'k>(keys: impl IntoIterator<Item = (&'k str, u32)>, min: u32, max: u32) -> Self {
        let keys: Vec<(&str, u128)> = keys
            .into_iter()
            .map(|(key, weight)| (key, u128::from(weight.max(1))))
            .collect();
        let total: u128 = keys.iter().map(|&(_, weight)| weight).sum();
        let Some(lightest) = keys.iter().map(|&(_, weight)| weight).min() else {
            return Self {
                hashes: Box::default(),
                owners: Box::default(),
            };
        };
        // Places per weight, as a fraction.
        let of_lightest = (lightest * u128::from(min)).div_ceil(total);
        let (places, weight) = if of_lightest * total > u128::from(max) * lightest {
            (u128::from(max), total)
        } else {
            (of_lightest, lightest)
        };

        let mut ring = Vec::new();
        let mut text = String::new();
        let mut before = 0;
        let mut sum = 0;
        for (owner, &(key, key_weight)) in (0_u32..).zip(&keys) {
            sum += key_weight;
            let upto = (sum * places).div_ceil(weight);
            for i in 0..(upto - before).max(1) {
                text.clear();
                write!(text, "{key}_{i}").expect("a string takes any text");
                ring.push((xxh64(text.as_bytes(), 0), owner));
            }
            before = upto;
        }
        ring.sort_unstable();
        let (hashes, owners): (Vec<_>, Vec<_>) = ring.into_iter().unzip();
        Self {
            hashes: hashes.into(),
            owners: owners.into(),
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
    /// owner of its place, then of the next places, once round. Keys come more than once. The
    /// first costs a binary search, each further one a step.
    #[inline]
    pub fn walk(&self, hash: u64) -> impl Iterator<Item = usize> + '_ {
        let start = self.hashes.partition_point(|&place| place < hash);
        let (before, from) = self.owners.split_at(start);
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

    #[test]
    fn every_key_has_a_place_whatever_the_bounds_and_weights() {
        assert_eq!(sizes(&[1, 1, 1, 1], 0, 0), [1; 4], "no places asked for");
        assert_eq!(sizes(&[1, 1, 1, 1], 1, 2), [1; 4], "more keys than places");
        assert_eq!(sizes(&[u32::MAX, 1], 1, 4), [4, 1], "lost by rounding");
        assert_eq!(sizes(&[0, 0], 4, 8), [2, 2], "a weight of 0 counts as 1");
        assert_eq!(sizes(&[u32::MAX; 4], u32::MAX >> 24, u32::MAX), [64; 4]);
        assert_eq!(sizes(&[], 1, 1), []);
        assert!(Ring::new([], 1024, 4096).walk(1).next().is_none());
    }
}
