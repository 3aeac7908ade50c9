//! What the policies' unit tests share.

use crate::endpoint::Endpoint;
use crate::math::Rng;
use crate::policy::{Candidates, Pick, PickContext, Picker};

/// Connected endpoints `e0`, `e1` and so on, of these weights.
pub(super) fn weighted(weights: impl IntoIterator<Item = u32>) -> Candidates {
    let endpoint = |(n, weight)| Endpoint::new(format!("e{n}")).with_weight(weight);
    Candidates::connected((0_usize..).zip(weights).map(endpoint))
}

/// The slot that is picked.
pub(super) fn pick(picker: &dyn Picker, rng: &mut Rng) -> usize {
    match picker.pick(&mut PickContext::new(rng)) {
        Pick::Endpoint(slot) => slot,
        Pick::Nothing => panic!("some are usable, so one is picked"),
    }
}
