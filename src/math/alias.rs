//! Drawing at random by weight, in constant time.
//!
//! Walker's alias method with Vose's construction ("A Linear Algorithm for Generating Random Numbers
//! with a Given Distribution", 1991): the weights are cut up and laid into `n` columns of equal
//! height, each with pieces of at most two numbers. A draw chooses a column, then one of the two.

use std::hint::select_unpredictable;

use crate::math::Rng;

/// Numbers `0..n` drawn at random, each in proportion to its weight.
///
/// Built in integers, so that the only error is that of the 32 bits a column is cut at: 2^-32 of a
/// column.
///
/// | | |
/// |---|---|
/// | draw | one random number, one entry of 8 bytes |
/// | build | O(n) |
/// | memory | 8 bytes per number |
#[derive(Debug, Clone)]
pub struct Alias {
    columns: Box<[Column]>,
}

/// Below `cut` of 2^32 the column's own number, above it the other one.
#[derive(Debug, Clone, Copy)]
struct Column {
    cut: u32,
    other: u32,
}

impl Alias {
    /// The table of these weights. A number of weight 0 is never drawn, unless all are: then each is
    /// as likely as any other.
    pub fn new(weights: &[u32]) -> Self {
        let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
        let count = weights.len() as u64;
        let mut columns: Vec<Column> = (0..)
            .take(weights.len())
            .map(|own| Column { cut: 0, other: own })
            .collect();
        if total == 0 {
            return Self {
                columns: columns.into(),
            };
        }
        // A weight in units in which a column is `total` high, so that all of it is whole numbers.
        let mut heights: Vec<u64> = weights.iter().map(|&w| u64::from(w) * count).collect();
        let (mut low, mut high): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|&index| heights[index] < total);
        // While a column is not full, another one is over it.
        while let (Some(filled), Some(&from)) = (low.pop(), high.last()) {
            let height = heights[filled];
            columns[filled] = Column {
                cut: ((u128::from(height) << 32) / u128::from(total)) as u32,
                other: columns[from].other,
            };
            heights[from] -= total - height;
            if heights[from] < total {
                high.pop();
                low.push(from);
            }
        }
        Self {
            columns: columns.into(),
        }
    }

    /// A number at random; `None` if there are none.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> Option<usize> {
        self.at(rng.next_u64())
    }

    /// The number that these 64 random bits fall on: their product with `n` has the column in its high
    /// half and the place in the column in its low half.
    #[inline]
    pub fn at(&self, random: u64) -> Option<usize> {
        let product = u128::from(random) * self.columns.len() as u128;
        let own = (product >> 64) as usize;
        let column = self.columns.get(own)?;
        let place = (product >> 32) as u32;
        // Either way at random, so a branch would be mispredicted half of the time.
        Some(select_unpredictable(
            place < column.cut,
            own,
            column.other as usize,
        ))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::math::Rng;
    use crate::math::testing::seeded;

    /// The probability of each number, in 2^-32 of a column.
    fn shares(alias: &Alias) -> Vec<u64> {
        let mut shares = vec![0; alias.columns.len()];
        for (own, column) in alias.columns.iter().enumerate() {
            shares[own] += u64::from(column.cut);
            shares[column.other as usize] += (1 << 32) - u64::from(column.cut);
        }
        shares
    }

    fn assert_right(weights: &[u32]) {
        let shares = shares(&Alias::new(weights));
        let total: f64 = weights.iter().map(|&w| f64::from(w)).sum();
        let count = weights.len() as f64;
        for (number, (&weight, &share)) in weights.iter().zip(&shares).enumerate() {
            let expected = f64::from(weight) / total * count * 2_f64.powi(32);
            // A cut is rounded down once for each column that the number is in.
            assert!(
                (share as f64 - expected).abs() <= count + expected * 1e-12,
                "{number} of {weights:?}: {share}, expected {expected}"
            );
            assert!(weight > 0 || share == 0, "weight 0 is never drawn");
        }
    }

    #[test]
    fn probabilities_are_in_proportion_to_weights() {
        assert_right(&[1, 2, 3]);
        assert_right(&[7]);
        assert_right(&[0, 1, 0]);
        assert_right(&[u32::MAX, 1]);
        assert_right(&[u32::MAX; 5]);
        assert_right(&(1..1000).collect::<Vec<_>>());
    }

    #[test]
    fn without_any_weight_all_are_equally_likely() {
        assert_eq!(shares(&Alias::new(&[0, 0, 0])), [1 << 32; 3]);
        assert_eq!(Alias::new(&[]).at(7), None, "of nothing, nothing");
    }

    #[test]
    fn draws_come_as_often_as_the_table_says() {
        let alias = Alias::new(&[1, 2, 3, 4]);
        let mut rng = Rng::new(5);
        let mut counts = [0_i32; 4];
        for _ in 0..100_000 {
            counts[alias.draw(&mut rng).unwrap()] += 1;
        }
        for (number, (count, expected)) in counts
            .into_iter()
            .zip([10_000, 20_000, 30_000, 40_000])
            .enumerate()
        {
            // Standard deviation at most sqrt(100,000 * 0.4 * 0.6) = 155; six of them.
            assert!((count - expected).abs() < 930, "{number}: {counts:?}");
        }
    }

    proptest! {
        #![proptest_config(seeded(256, 13))]

        #[test]
        fn any_weights_give_their_probabilities(
            weights in prop::collection::vec(prop_oneof![Just(0), 1..100_u32, any::<u32>()], 1..200),
        ) {
            prop_assume!(weights.iter().any(|&w| w > 0));
            assert_right(&weights);
        }

        #[test]
        fn draws_are_in_bounds(
            weights in prop::collection::vec(any::<u32>(), 1..50),
            random in prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
        ) {
            prop_assert!(Alias::new(&weights).at(random).unwrap() < weights.len());
        }
    }
}
