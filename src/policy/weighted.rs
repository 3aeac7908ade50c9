//! Endpoints by their weights: what the weighted policies share.

use crate::math::weights::fill;
use crate::math::{Alias, Rng};
use crate::policy::{Candidate, PickContext};

/// Draws before the scan, which looks at every endpoint. With half of all weight lost, 1 pick in 2^8
/// gets that far.
const DRAWS: usize = 8;

/// The weights of the candidates, a missing one (0) filled in by the mean of the others as in gRFC
/// A58, each times what is due by its slow start; `None` if they have nothing to say. See [`fill`].
pub(super) fn weights(candidates: &[Candidate]) -> Option<Vec<f64>> {
    let said = |c: &Candidate| (c.endpoint().weight(), c.slow_start_factor());
    let mut all = candidates.iter().map(said);
    let first = all.next()?;
    // The common case, without an allocation.
    if all.all(|other| other == first) {
        return None;
    }
    let weight = |c: &Candidate| f64::from(c.endpoint().weight());
    let weights = fill(&candidates.iter().map(weight).collect::<Vec<_>>());
    slowly_started(candidates, weights)
}

/// These weights, `None` if all are equal, each times what is due by its candidate's slow start.
pub(super) fn slowly_started(
    candidates: &[Candidate],
    weights: Option<Vec<f64>>,
) -> Option<Vec<f64>> {
    if start_alike(candidates) {
        return weights;
    }
    let mut weights = weights.unwrap_or_else(|| vec![1.0; candidates.len()]);
    for (weight, candidate) in weights.iter_mut().zip(candidates) {
        *weight *= candidate.slow_start_factor();
    }
    let differ = weights.iter().any(|weight| *weight != weights[0]);
    differ.then_some(weights)
}

/// Whether slow start changes nothing: a factor that all have in common would only make fractions of weights.
fn start_alike(candidates: &[Candidate]) -> bool {
    let mut factors = candidates.iter().map(Candidate::slow_start_factor);
    let first = factors.next();
    factors.all(|factor| Some(factor) == first)
}

/// The weights of candidates, not all equal, and a table to draw them by.
#[derive(Debug)]
pub(super) struct Weighted {
    alias: Alias,
    weights: Box<[u32]>,
    mean: f32,
}

impl Weighted {
    /// `None` if the weights have nothing to say.
    pub(super) fn new(candidates: &[Candidate]) -> Option<Self> {
        let weights = weights(candidates)?;
        // In whole numbers, which can be compared exactly. Parts of weights are counted in units as small as there
        // is room for: a power of two, so that whole weights keep their ratios.
        let unit = if start_alike(candidates) {
            1.0
        } else {
            let greatest = weights.iter().copied().fold(1.0, f64::max);
            f64::from(1_u32 << (greatest.ceil() as u32).leading_zeros())
        };
        let whole = |weight: &f64| (weight * unit).round().max(1.0) as u32;
        let weights: Box<[u32]> = weights.iter().map(whole).collect();
        let total: u64 = weights.iter().copied().map(u64::from).sum();
        Some(Self {
            alias: Alias::new(&weights),
            mean: total as f32 / weights.len() as f32,
            weights,
        })
    }

    /// The weight of the candidate at `index`; at least 1.
    #[inline]
    pub(super) fn weight(&self, index: usize) -> u64 {
        u64::from(self.weights[index])
    }

    /// The weight of the candidate at `index`, by the mean of all.
    #[inline]
    pub(super) fn of_mean(&self, index: usize) -> f32 {
        self.weights[index] as f32 / self.mean
    }

    /// The index of a candidate, usable or not, in proportion to its weight.
    #[inline]
    pub(super) fn index(&self, rng: &mut Rng) -> usize {
        // There are at least two candidates, else there would be nothing to compare.
        self.alias.draw(rng).unwrap_or(0)
    }

    /// A usable one of the candidates, each in proportion to its weight.
    #[inline]
    pub(super) fn draw<'c>(
        &self,
        candidates: &'c [Candidate],
        context: &mut PickContext<'_>,
    ) -> Option<&'c Candidate> {
        for _ in 0..DRAWS {
            let candidate = &candidates[self.index(context.rng())];
            if context.is_usable(candidate) {
                return Some(candidate);
            }
        }
        let weight = |index: usize| f64::from(self.weights[index]);
        scan(candidates, weight, context)
    }
}

/// A usable one of the candidates, each in proportion to its weight, by a look at all of them.
#[cold]
pub(super) fn scan<'c>(
    candidates: &'c [Candidate],
    weight: impl Fn(usize) -> f64,
    context: &mut PickContext<'_>,
) -> Option<&'c Candidate> {
    let mut picked = None;
    let mut total = 0.0;
    for (index, candidate) in candidates.iter().enumerate() {
        if !context.is_usable(candidate) {
            continue;
        }
        let weight = weight(index);
        total += weight;
        // Each one takes the place of the one held with the probability of its weight over all so
        // far: in the end each is held in proportion, with no list of them kept.
        if context.rng().unit() * total < weight {
            picked = Some(candidate);
        }
    }
    picked
}
