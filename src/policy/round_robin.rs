use std::sync::Arc;

use crate::math::atomic::{AtomicU64, Ordering};
use crate::policy::draw::first_from;
use crate::policy::{Candidates, Pick, PickContext, Picker, Policy};

/// One endpoint after the other, in the order of the set.
///
/// All handles of a balancer share one sequence, so shares are exact: on a set of `n` endpoints that
/// does not change, any `n * k` picks in a row give each endpoint `k`, from however many threads they
/// come. An endpoint that was lost since the set was made is passed over by going on in the
/// sequence, so its share is spread over all others instead of doubling its neighbour's. Weights are
/// not looked at: [`WeightedRoundRobin`](crate::policy::WeightedRoundRobin) does.
///
/// The sequence starts where the random generator of the first call says, so that many clients that
/// start together do not all begin with the first endpoint (grpc-go's `roundrobin` does so too). It
/// goes on where it was when the set changes: starting over would favour the first endpoints of a
/// set that changes often.
///
/// | | |
/// |---|---|
/// | pick | O(1): one atomic addition on a cache line that all callers share; `n` over the number of usable endpoints of them while some were just lost |
/// | build | O(1) |
/// | memory | 16 bytes in all |
///
/// **Wins** where calls cost the same and servers are alike, and where exact shares matter: a warm-up,
/// a test, few calls.
/// **Loses** where calls differ in cost or servers in speed: it goes on giving a slow server its full
/// share, and calls pile up there. [`LeastRequest`](crate::policy::LeastRequest) does not.
///
/// ```
/// use evenkeel::math::Rng;
/// use evenkeel::policy::{Candidates, Pick, PickContext, Policy, RoundRobin};
///
/// let picker = RoundRobin::default().build(&Candidates::connected(["a:1", "b:1", "c:1"]), None);
/// let mut rng = Rng::new(7);
/// let mut calls = [0; 3];
/// for _ in 0..300 {
///     if let Pick::Endpoint(slot) = picker.pick(&mut PickContext::new(&mut rng)) {
///         calls[slot] += 1;
///     }
/// }
/// assert_eq!(calls, [100, 100, 100]);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoundRobin {}

impl Policy for RoundRobin {
    fn name(&self) -> &'static str {
        "round_robin"
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let sequence = previous
            .and_then(|picker| picker.downcast_ref::<RoundRobinPicker>())
            .map(|picker| picker.sequence.clone())
            .unwrap_or_default();
        Arc::new(RoundRobinPicker {
            candidates: candidates.clone(),
            sequence,
        })
    }
}

#[derive(Debug)]
struct RoundRobinPicker {
    candidates: Candidates,
    sequence: Arc<Sequence>,
}

impl Picker for RoundRobinPicker {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = self.candidates.usable();
        let count = usable.len() as u64;
        if count == 0 {
            return Pick::Nothing;
        }
        let offset = self.sequence.offset(context);
        let mut index = 0;
        // A whole round, and not a few steps: what one call skips, the next ones need not, so that
        // the mean is `n` over the number of usable ones even in a long run of lost endpoints.
        for _ in 0..count {
            index = (self.sequence.next(offset) % count) as usize;
            if context.is_usable(&usable[index]) {
                return Pick::Endpoint(usable[index].slot());
            }
        }
        // Others took the ticks between ours, so a round of ours need not have seen every endpoint.
        first_from(usable, index, context).map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

/// Numbers in a row from a random start, each given out once. 64 bits, so that they do not wrap in
/// centuries: a wrap would bend the shares once, where the set's size does not divide 2^64.
#[derive(Debug, Default)]
struct Sequence {
    /// 1 to 2^32; 0 until the first pick.
    offset: AtomicU64,
    ticks: AtomicU64,
}

impl Sequence {
    #[inline]
    fn offset(&self, context: &mut PickContext<'_>) -> u64 {
        match self.offset.load(Ordering::Relaxed) {
            0 => self.choose_offset(context),
            offset => offset,
        }
    }

    /// All of the first callers agree on one offset, else two of them could take the same place.
    #[cold]
    fn choose_offset(&self, context: &mut PickContext<'_>) -> u64 {
        let mine = (context.rng().next_u64() >> 32) + 1;
        match self
            .offset
            .compare_exchange(0, mine, Ordering::Relaxed, Ordering::Relaxed)
        {
            Ok(_) => mine,
            Err(theirs) => theirs,
        }
    }

    #[inline]
    fn next(&self, offset: u64) -> u64 {
        offset.wrapping_add(self.ticks.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rng;
    use crate::policy::testing::pick;

    #[test]
    fn a_new_set_goes_on_where_the_old_one_was() {
        let mut rng = Rng::new(1);
        let candidates = Candidates::connected(["a", "b", "c", "d"]);
        let mut picker = RoundRobin::default().build(&candidates, None);
        let first = pick(&*picker, &mut rng);
        for step in 1..20 {
            picker = RoundRobin::default().build(&candidates, Some(&*picker));
            assert_eq!(
                pick(&*picker, &mut rng),
                (first + step) % 4,
                "a rebuild between any two picks changes nothing"
            );
        }
    }

    #[test]
    fn clients_that_start_together_start_apart() {
        let candidates = Candidates::connected(["a", "b", "c", "d"]);
        let mut first = [0_i32; 4];
        for client in 0..4000 {
            let picker = RoundRobin::default().build(&candidates, None);
            first[pick(&*picker, &mut Rng::stream(5, client))] += 1;
        }
        // 1,000 each expected, standard deviation sqrt(4000 * 1/4 * 3/4) = 27; five of them.
        assert!(
            first.iter().all(|n| (n - 1000).abs() < 137),
            "first picks of 4,000 clients fall evenly: {first:?}"
        );
    }

    #[test]
    fn the_share_of_a_lost_endpoint_is_spread_over_all_others() {
        let mut rng = Rng::new(3);
        let candidates = Candidates::connected(["a", "b", "c", "d", "e"]);
        let picker = RoundRobin::default().build(&candidates, None);
        for lost in [1, 2] {
            candidates.all()[lost]
                .subchannel()
                .disconnected(lost as u64 + 1);
        }
        let mut calls = [0; 5];
        for _ in 0..300 {
            calls[pick(&*picker, &mut rng)] += 1;
        }
        assert_eq!(
            calls,
            [100, 0, 0, 100, 100],
            "the neighbour of a run of lost endpoints gets no more than the others"
        );
    }
}
