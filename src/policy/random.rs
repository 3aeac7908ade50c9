use std::sync::Arc;

use crate::policy::draw::draw;
use crate::policy::{Candidates, Pick, PickContext, Picker, Policy};

/// Any endpoint, each equally likely. Weights are not looked at:
/// [`WeightedRandom`](crate::policy::WeightedRandom) does.
///
/// | | |
/// |---|---|
/// | pick | O(1): one random number, nothing shared is written |
/// | build | O(1) |
/// | memory | none |
///
/// **Wins** where there are very many clients with few calls each, or many threads: nothing that
/// callers share is touched, and clients cannot fall into step.
/// **Loses** everywhere else: shares are even only on average (after `m` calls on `n` endpoints one
/// of them is off by about `sqrt(m / n)`), and a slow server keeps its full share. Two looks at the load
/// instead of none ([`LeastRequest`](crate::policy::LeastRequest)) cost about as much.
///
/// Envoy's `random` is the same.
///
/// ```
/// use evenkeel::math::Rng;
/// use evenkeel::policy::{Candidates, Pick, PickContext, Policy, Random};
///
/// let picker = Random::default().build(&Candidates::connected(["a:1", "b:1"]), None);
/// let mut rng = Rng::new(7);
/// assert_ne!(picker.pick(&mut PickContext::new(&mut rng)), Pick::Nothing);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Random {}

impl Policy for Random {
    fn name(&self) -> &'static str {
        "random"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        Arc::new(RandomPicker(candidates.clone()))
    }
}

#[derive(Debug)]
struct RandomPicker(Candidates);

impl Picker for RandomPicker {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        draw(self.0.usable(), context).map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}
