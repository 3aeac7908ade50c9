use std::sync::Arc;

use crate::policy::{Candidate, Candidates, Pick, PickContext, Picker};

/// Gives calls to nobody but the endpoints on their way back: the picker of a panic in which calls fail. Without
/// those calls nothing would ever show that an endpoint works again.
#[derive(Debug)]
pub(crate) struct Halted {
    /// Who was on its way back when the set was made: each that joins them brings a new set.
    on_their_way: Arc<[Candidate]>,
}

impl Halted {
    pub(crate) fn new(candidates: &Candidates) -> Self {
        let usable = candidates.usable().iter();
        let closed = |candidate: &&Candidate| !candidate.subchannel().health().gate().is_open();
        Self {
            on_their_way: usable.filter(closed).cloned().collect(),
        }
    }
}

impl Picker for Halted {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let mut closed = self.on_their_way.iter();
        let probed = closed.find(|candidate| {
            !candidate.subchannel().health().gate().is_open() && context.is_usable(candidate)
        });
        probed.map_or(Pick::Nothing, |candidate| Pick::Endpoint(candidate.slot()))
    }
}
