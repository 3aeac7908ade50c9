use crate::policy::{Candidates, Pick, PickContext, Picker};

/// Gives calls to nobody but the endpoints on their way back: the picker of a panic in which calls fail. Without
/// those calls nothing would ever show that an endpoint works again.
#[derive(Debug)]
pub(crate) struct Halted(Candidates);

impl Halted {
    pub(crate) fn new(candidates: &Candidates) -> Self {
        Self(candidates.clone())
    }
}

impl Picker for Halted {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let mut usable = self.0.usable().iter();
        let probed = usable.find(|candidate| {
            !candidate.subchannel().health().gate().is_open() && context.is_usable(candidate)
        });
        probed.map_or(Pick::Nothing, |candidate| Pick::Endpoint(candidate.slot()))
    }
}
