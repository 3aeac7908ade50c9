use std::sync::Arc;

use crate::policy::in_turn::InTurn;
use crate::policy::weighted::weights;
use crate::policy::{Candidates, Picker, Policy};

/// One endpoint after the other, each as often as its [weight](crate::Endpoint::weight) says.
///
/// All handles of a balancer share one sequence, so shares are exact, from however many threads the
/// calls come: with weights 1, 2 and 3, any six picks in a row on a set that does not change are one,
/// two and three. A heavy endpoint gets its calls spread over each round and not in one burst of as many
/// as its weight: beside nine of weight 1, one of weight 9 gets at most five in a row.
///
/// The order is gRPC's static stride scheduling ([`StaticStride`](crate::math::StaticStride)). A weight
/// that is missing (0, which builders refuse) counts as the mean of the others, and with fewer than two
/// weights it is plain round robin (gRFC A58). Weights are told apart down to 1/65,535 of the greatest; a lighter one counts
/// as that. gRPC's C++ cuts a weight at 10 times the mean and raises it to a tenth of that; here
/// a weight is what it says.
///
/// An endpoint that was lost since the set was made is passed over by going on in the sequence, so its
/// share goes to all others by their weights. The sequence starts where the random generator of the
/// first call says, so that clients that start together do not all begin with the same endpoint; it
/// goes on where it was when the set or the weights change. A new weight keeps connection, load and
/// health.
///
/// | | |
/// |---|---|
/// | pick | O(1): one atomic compare-exchange on a cache line that all callers share, and a look at as many entries of 4 bytes, one behind the other, as the greatest weight is over the mean (on average; at most 11). While endpoints were just lost, all weight over the usable of these, at most `n` |
/// | build | O(n) |
/// | memory | 8 bytes per endpoint, at most 13; none if all weights are equal |
///
/// **Wins** where servers differ in size and calls cost the same: exact shares, from the first calls on;
/// a canary that is to have one call in a hundred.
/// **Loses** where calls differ in cost, or a server is slower than its weight says: it goes on giving it
/// its share, and calls pile up there. [`LeastRequest`](crate::policy::LeastRequest) looks at weights
/// and load.
///
/// gRFC A58's scheduler, with weights that are set instead of reported.
///
/// ```
/// use evenkeel::Endpoint;
/// use evenkeel::math::Rng;
/// use evenkeel::policy::{Candidates, Pick, PickContext, Policy, WeightedRoundRobin};
///
/// let endpoints = [1, 2, 3].map(|w| Endpoint::new(format!("10.0.0.{w}:1")).with_weight(w));
/// let picker = WeightedRoundRobin::default().build(&Candidates::connected(endpoints), None);
/// let mut rng = Rng::new(7);
/// let mut calls = [0; 3];
/// for _ in 0..600 {
///     if let Pick::Endpoint(slot) = picker.pick(&mut PickContext::new(&mut rng)) {
///         calls[slot] += 1;
///     }
/// }
/// assert_eq!(calls, [100, 200, 300]);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightedRoundRobin {}

impl Policy for WeightedRoundRobin {
    fn name(&self) -> &'static str {
        "static_weighted_round_robin"
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        InTurn::build(candidates, weights(candidates.usable()), previous)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rng;
    use crate::policy::testing::{pick, weighted};

    fn counts(picker: &dyn Picker, rng: &mut Rng, n: usize, picks: usize) -> Vec<usize> {
        let mut counts = vec![0; n];
        for _ in 0..picks {
            counts[pick(picker, rng)] += 1;
        }
        counts
    }

    #[test]
    fn a_new_set_goes_on_where_the_old_one_was() {
        let candidates = weighted([1, 2, 3]);
        let mut picker = WeightedRoundRobin::default().build(&candidates, None);
        let mut rng = Rng::new(1);
        let straight: Vec<_> = (0..30).map(|_| pick(&*picker, &mut rng)).collect();

        let mut rng = Rng::new(1);
        picker = WeightedRoundRobin::default().build(&candidates, None);
        for (step, &expected) in straight.iter().enumerate() {
            assert_eq!(
                pick(&*picker, &mut rng),
                expected,
                "pick {step}: a rebuild between any two picks changes nothing"
            );
            picker = WeightedRoundRobin::default().build(&candidates, Some(&*picker));
        }
    }

    #[test]
    fn clients_that_start_together_start_apart() {
        let candidates = weighted([1, 2, 3]);
        let mut first = [0_i32; 3];
        for client in 0..6000 {
            let picker = WeightedRoundRobin::default().build(&candidates, None);
            first[pick(&*picker, &mut Rng::stream(5, client))] += 1;
        }
        // A start at random within the period of 9 ticks falls before each pick in proportion to the
        // ticks passed over before it. The order from tick 0 is - 1 2 | - - 2 | 0 1 2: endpoint 0
        // after 1 tick, 1 after 3, 2 after 5, of 9. Six standard deviations are at most
        // 6 * sqrt(6000 * 5/9 * 4/9) = 231.
        for (slot, ticks) in [1, 3, 5].into_iter().enumerate() {
            assert!(
                (first[slot] - 6000 * ticks / 9).abs() < 231,
                "first picks of 6,000 clients: {first:?}"
            );
        }
    }

    #[test]
    fn missing_weights_count_as_the_mean_and_one_alone_says_nothing() {
        let shares = |weights: [u32; 3]| {
            let picker = WeightedRoundRobin::default().build(&weighted(weights), None);
            counts(&*picker, &mut Rng::new(2), 3, 60)
        };
        assert_eq!(shares([1, 0, 3]), [10, 20, 30]);
        assert_eq!(shares([0, 7, 0]), [20; 3]);
        assert_eq!(shares([0, 0, 0]), [20; 3]);
    }

    #[test]
    fn the_share_of_a_lost_endpoint_goes_to_the_others_by_their_weights() {
        let candidates = weighted([1, 2, 3, 5]);
        let picker = WeightedRoundRobin::default().build(&candidates, None);
        candidates.all()[3].subchannel().disconnected(4);
        let counts = counts(&*picker, &mut Rng::new(3), 4, 6000);
        // Of a sequence with gaps, so a call more or less at either end.
        for (slot, expected) in [1000, 2000, 3000, 0].into_iter().enumerate() {
            assert!(counts[slot].abs_diff(expected) <= 2, "{counts:?}");
        }
    }

    #[test]
    fn with_nearly_all_weight_lost_the_rest_still_share_by_weight() {
        let candidates = weighted([1, 3, 1_000_000]);
        let picker = WeightedRoundRobin::default().build(&candidates, None);
        candidates.all()[2].subchannel().disconnected(3);
        let counts = counts(&*picker, &mut Rng::new(4), 3, 10_000);
        // Standard deviation sqrt(10,000 * 1/4 * 3/4) = 43; six of them.
        assert!(counts[0].abs_diff(2500) < 260, "{counts:?}");
        assert_eq!(counts[2], 0, "it cannot be used");
    }
}
