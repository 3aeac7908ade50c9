//! Endpoints in turn, each as often as its weight says: what the weighted round robins share.

use std::sync::Arc;

use crate::math::StaticStride;
use crate::math::stride::Sequence;
use crate::policy::weighted::scan;
use crate::policy::{Candidates, Pick, PickContext, Picker};

#[derive(Debug)]
pub(super) struct InTurn {
    candidates: Candidates,
    stride: StaticStride,
    /// Over the greatest of them, and above 0. Empty: all are equal.
    weights: Box<[f32]>,
    sequence: Arc<Sequence>,
}

impl InTurn {
    /// The usable candidates by these weights, which are as many, or `None` if all are equal. Goes on
    /// where `previous` was.
    pub(super) fn build(
        candidates: &Candidates,
        weights: Option<Vec<f64>>,
        previous: Option<&dyn Picker>,
    ) -> Arc<dyn Picker> {
        let sequence = previous
            .and_then(|picker| picker.downcast_ref::<Self>())
            .map(|picker| picker.sequence.clone())
            .unwrap_or_default();
        let (stride, weights) = match weights {
            Some(weights) => (StaticStride::new(&weights), relative(&weights)),
            None => (
                StaticStride::equal(candidates.usable().len()),
                Box::default(),
            ),
        };
        Arc::new(Self {
            candidates: candidates.clone(),
            stride,
            weights,
            sequence,
        })
    }
}

/// The weights as parts of the greatest one: their sum cannot overflow, and half the bytes will do.
fn relative(weights: &[f64]) -> Box<[f32]> {
    let greatest = weights.iter().copied().fold(0.0, f64::max);
    let relative = |weight: &f64| ((weight / greatest) as f32).max(f32::MIN_POSITIVE);
    weights.iter().map(relative).collect()
}

impl Picker for InTurn {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = &**self.candidates.usable();
        // As many as there are, and not a few: what one call passes over, the next ones need not.
        for _ in 0..usable.len() {
            // Within 2^32, so that the sum of all ticks stays far from the end of 64 bits.
            let start = || context.rng().next_u64() >> 32;
            let Some(index) = self.stride.next(&self.sequence, start) else {
                break;
            };
            if context.is_usable(&usable[index]) {
                return Pick::Endpoint(usable[index].slot());
            }
        }
        let weight = |index| self.weights.get(index).map_or(1.0, |&w| f64::from(w));
        scan(usable, weight, context).map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}
