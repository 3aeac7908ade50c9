use std::sync::Arc;

use crate::policy::draw::draw;
use crate::policy::weighted::Weighted;
use crate::policy::{Candidates, Pick, PickContext, Picker, Policy};

/// Any endpoint, each in proportion to its [weight](crate::Endpoint::weight).
///
/// A weight that is missing (0, which builders refuse) counts as the mean of the others. When all
/// weights are equal it is [`Random`](crate::policy::Random). An endpoint that was lost since the set
/// was made is drawn again, so its share goes to all others by their weights.
///
/// | | |
/// |---|---|
/// | pick | O(1): one random number and 8 bytes of a table; nothing shared is written. O(n) once in a while as long as more than half of all weight was just lost |
/// | build | O(n) |
/// | memory | 12 bytes per endpoint; none if all weights are equal |
///
/// **Wins** where servers differ in size, and there are very many clients with few calls each, or many
/// threads: nothing that callers share is touched, and clients cannot fall into step.
/// **Loses** where exact shares matter ([`WeightedRoundRobin`](crate::policy::WeightedRoundRobin) has
/// them; here, an endpoint that should have got `k` of many calls is off by about `sqrt(k)`), and
/// where a server is slower than its weight says: it keeps its share.
/// [`LeastRequest`](crate::policy::LeastRequest) looks at weights and load.
///
/// Walker's alias method, in the form of Vose, *A Linear Algorithm for Generating Random Numbers with a
/// Given Distribution* (1991).
///
/// ```
/// use evenkeel::Endpoint;
/// use evenkeel::math::Rng;
/// use evenkeel::policy::{Candidates, Pick, PickContext, Policy, WeightedRandom};
///
/// let endpoints = [Endpoint::new("a:1"), Endpoint::new("b:1").with_weight(3)];
/// let picker = WeightedRandom::default().build(&Candidates::connected(endpoints), None);
/// let mut rng = Rng::new(7);
/// let mut calls = [0; 2];
/// for _ in 0..4000 {
///     if let Pick::Endpoint(slot) = picker.pick(&mut PickContext::new(&mut rng)) {
///         calls[slot] += 1;
///     }
/// }
/// assert!((2800..3200).contains(&calls[1]));
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WeightedRandom {}

impl Policy for WeightedRandom {
    fn name(&self) -> &'static str {
        "weighted_random"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        Arc::new(WeightedRandomPicker {
            weighted: Weighted::new(candidates.usable()),
            candidates: candidates.clone(),
        })
    }
}

#[derive(Debug)]
struct WeightedRandomPicker {
    candidates: Candidates,
    /// `None`: all weights are equal.
    weighted: Option<Weighted>,
}

impl Picker for WeightedRandomPicker {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = &**self.candidates.usable();
        match &self.weighted {
            Some(weighted) => weighted.draw(usable, context),
            None => draw(usable, context),
        }
        .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}
