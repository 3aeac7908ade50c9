use std::sync::Arc;

use crate::retry::timers::Timers;

/// What all handles of one service share; `R` is what all calls of its layer go by.
pub(super) struct Shared<S, E, R> {
    /// The service that later attempts are cloned from.
    pub(super) again: S,
    pub(super) read: E,
    pub(super) rules: Arc<R>,
    pub(super) timers: Timers,
}

impl<S: Clone, E: Clone, R> Shared<S, E, R> {
    /// For the handles of `service`, with the timers of the runtime that is current now.
    pub(super) fn of(service: &S, read: &E, rules: &Arc<R>) -> Arc<Self> {
        Arc::new(Self {
            again: service.clone(),
            read: read.clone(),
            rules: rules.clone(),
            timers: Timers::here(),
        })
    }
}
