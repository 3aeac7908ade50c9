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
    picked(picker, PickContext::new(rng))
}

/// The slot that a call of this hash goes to.
pub(super) fn pick_by(picker: &dyn Picker, hash: u64) -> usize {
    picked(
        picker,
        PickContext::new(&mut Rng::new(1)).with_hash(Some(hash)),
    )
}

/// The slot that is picked for this call.
pub(super) fn picked(picker: &dyn Picker, mut context: PickContext<'_>) -> usize {
    match picker.pick(&mut context) {
        Pick::Endpoint(slot) => slot,
        Pick::Nothing => panic!("some are usable, so one is picked"),
    }
}
