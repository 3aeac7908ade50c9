//! Seeded random numbers, split per handle.
//!
//! A shared generator would need a lock or an atomic on every pick, and a thread-local one could
//! not be replayed. So each handle owns one; a clone gets its own, derived from the seed and a
//! counter.

/// A small, fast, seeded generator (wyrand). Not for secrets.
#[derive(Debug, Clone)]
pub struct Rng(fastrand::Rng);

impl Rng {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// The `stream`-th generator of this seed: streams of one seed are independent of each other.
    pub fn stream(seed: u64, stream: u64) -> Self {
        // One step of SplitMix64 per input keeps neighbouring streams apart.
        Self::new(splitmix64(splitmix64(seed).wrapping_add(stream)))
    }

    /// 64 random bits.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number in `0..n`, uniform; 0 if `n` is 0.
    #[inline]
    pub fn below(&mut self, n: usize) -> usize {
        if n == 0 { 0 } else { self.0.usize(..n) }
    }

    /// A number in `0.0..1.0`.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        self.0.f64()
    }

    /// Two different numbers in `0..n`, each pair equally likely; `None` if `n` is under 2.
    #[inline]
    pub fn two_below(&mut self, n: usize) -> Option<(usize, usize)> {
        if n < 2 {
            return None;
        }
        let first = self.below(n);
        let second = self.below(n - 1);
        Some((first, second + usize::from(second >= first)))
    }
}

pub(super) fn splitmix64(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers_other_stream_other_numbers() {
        let take = |mut rng: Rng| [rng.next_u64(), rng.next_u64(), rng.next_u64()];
        assert_eq!(take(Rng::stream(7, 1)), take(Rng::stream(7, 1)));
        assert_ne!(take(Rng::stream(7, 1)), take(Rng::stream(7, 2)));
        assert_ne!(take(Rng::stream(7, 1)), take(Rng::stream(8, 1)));
    }

    #[test]
    fn pairs_are_distinct_and_every_pair_comes() {
        let mut rng = Rng::new(3);
        let mut seen = [[0_u32; 4]; 4];
        for _ in 0..12_000 {
            let (a, b) = rng.two_below(4).unwrap();
            assert_ne!(a, b, "a pair names two endpoints");
            seen[a][b] += 1;
        }
        // 12 ordered pairs, 1,000 each expected; six standard deviations are about 180.
        for (a, row) in seen.iter().enumerate() {
            for (b, &count) in row.iter().enumerate() {
                assert!(
                    a == b || count.abs_diff(1000) < 190,
                    "pair {a},{b} came {count} times"
                );
            }
        }
        assert_eq!(rng.two_below(1), None);
        assert_eq!(rng.below(0), 0);
    }
}
