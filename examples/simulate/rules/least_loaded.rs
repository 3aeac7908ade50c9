//! Least loaded, by a scan that begins at the same endpoint for every call, so that of equals the same one is
//! taken again. Prequal's paper does not say how its least loaded chooses among equals; the crate's full scan
//! draws one at random.

use std::sync::Arc;

use evenkeel::math::Rng;
use evenkeel::policy::{Candidates, Pick, PickContext, Picker, Policy};

#[derive(Debug)]
pub(super) struct LeastLoaded;

impl Policy for LeastLoaded {
    fn name(&self) -> &'static str {
        "least_loaded"
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let before = previous.and_then(|picker| picker.downcast_ref::<LeastLoadedPicker>());
        Arc::new(LeastLoadedPicker {
            candidates: candidates.clone(),
            order: before.map_or_else(Arc::default, |before| before.order.clone()),
        })
    }
}

#[derive(Debug)]
struct LeastLoadedPicker {
    candidates: Candidates,
    /// What slots are sorted by, drawn at the first call: another order in each client.
    order: Arc<std::sync::OnceLock<u64>>,
}

impl Picker for LeastLoadedPicker {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let seed = *self.order.get_or_init(|| context.rng().next_u64());
        let place = |slot: usize| Rng::stream(seed, slot as u64).next_u64();
        let usable = self.candidates.usable().iter();
        usable
            .filter(|candidate| context.is_usable(candidate))
            .min_by_key(|candidate| (candidate.in_flight(), place(candidate.slot())))
            .map_or(Pick::Nothing, |candidate| Pick::Endpoint(candidate.slot()))
    }
}
