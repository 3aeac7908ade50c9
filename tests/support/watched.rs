//! A look at what a policy is built over.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use evenkeel::load::{Measures, ReportSource, ServerQueue};
use evenkeel::math::Moment;
use evenkeel::policy::{Candidates, Connects, Picker, Policy, Subchannel};
use tokio::sync::watch;

use super::within;

/// A policy that does what `P` does, and shows the candidates of its latest picker. Clones are the same.
#[derive(Debug, Clone)]
pub struct Watched<P> {
    policy: P,
    last: Arc<ArcSwap<Candidates>>,
    builds: Arc<watch::Sender<usize>>,
}

impl<P: Policy> Watched<P> {
    /// Nothing is built yet.
    pub fn new(policy: P) -> Self {
        Self {
            policy,
            last: Arc::new(ArcSwap::from_pointee(Candidates::new([], false))),
            builds: Arc::default(),
        }
    }

    /// Waits until `seen` says true of the latest candidates; asked now, and each time that a picker is
    /// built.
    ///
    /// # Panics
    /// After [`PATIENCE`](super::PATIENCE), with `what` in the message.
    pub async fn until(&self, what: &str, mut seen: impl FnMut(&Candidates) -> bool) {
        let mut builds = self.builds.subscribe();
        let built = builds.wait_for(|_| seen(&self.last.load()));
        within(what, built).await.expect("the sender is in `self`");
    }

    /// Waits for a picker that was begun after now.
    ///
    /// # Panics
    /// After [`PATIENCE`](super::PATIENCE).
    pub async fn rebuilt(&self) {
        let mut builds = self.builds.subscribe();
        let seen = *builds.borrow();
        let twice = builds.wait_for(|builds| *builds >= seen + 2);
        let twice = within("the picker is built anew, twice", twice).await;
        twice.expect("the sender is in `self`");
    }
}

impl<P: Policy> Policy for Watched<P> {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let picker = self.policy.build(candidates, previous);
        self.last.store(Arc::new(candidates.clone()));
        self.builds.send_modify(|builds| *builds += 1);
        picker
    }

    fn measures(&self) -> Measures {
        self.policy.measures()
    }

    fn refresh(&self) -> Option<Duration> {
        self.policy.refresh()
    }

    fn rests(&self, now: Moment) -> bool {
        self.policy.rests(now)
    }

    fn connects(&self) -> Connects {
        self.policy.connects()
    }

    fn reported(&self, endpoint: &Subchannel, queue: ServerQueue, source: ReportSource) {
        self.policy.reported(endpoint, queue, source);
    }
}
