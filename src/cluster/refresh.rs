//! When a policy that goes by time has its picker built anew: every so often, though nothing happened; and not
//! while it rests, so that the driver of an idle balancer sleeps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::cluster::clock;
use crate::load::{ReportSource, ServerQueue};
use crate::policy::{Candidates, Picker, Policy, Subchannel};

/// The runtime's timer knows no shorter time.
const SHORTEST: Duration = Duration::from_millis(1);

pub(super) struct Refresh {
    listener: Arc<Listener>,
    period: Option<Duration>,
    due: Option<Instant>,
}

impl Refresh {
    pub(super) fn new(policy: Arc<dyn Policy>) -> Self {
        Self {
            period: policy.refresh().map(|period| period.max(SHORTEST)),
            listener: Arc::new(Listener {
                policy,
                rests: AtomicBool::new(false),
                woken: Notify::new(),
            }),
            due: None,
        }
    }

    /// The policy, as endpoints are to report to it.
    pub(super) fn listener(&self) -> Arc<dyn Policy> {
        match self.period {
            Some(_) => self.listener.clone(),
            None => self.listener.policy.clone(),
        }
    }

    /// When the next picker is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The next picker is due in a period, if none is due before.
    pub(super) fn begin(&mut self, now: Instant) {
        // A period that no clock reaches is none.
        let next = || self.period.and_then(|period| now.checked_add(period));
        self.due = self.due.or_else(next);
    }

    /// Whether a picker is due.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let is_due = self.due.is_some_and(|due| due <= now);
        if is_due {
            self.due = None;
            self.begin(now);
        }
        is_due
    }

    /// No picker is due any more.
    pub(super) fn end(&mut self) {
        self.period = None;
        self.due = None;
    }

    /// A picker was built.
    pub(super) fn built(&mut self, now: Instant) {
        if self.period.is_none() {
            return;
        }
        // Before the policy is asked: what comes in after it answered is to be noticed. What comes in at this
        // very moment may not be, and then the next report is.
        self.listener.rests.store(true, Ordering::SeqCst);
        if self.listener.policy.rests(clock::now()) {
            self.due = None;
        } else {
            self.listener.rests.store(false, Ordering::Relaxed);
            self.begin(now);
        }
    }

    /// A server reported while the policy was at rest.
    pub(super) async fn woken(&self) {
        self.listener.woken.notified().await;
    }
}

/// The policy, and who is to be woken by the first report after a rest.
#[derive(Debug)]
struct Listener {
    policy: Arc<dyn Policy>,
    rests: AtomicBool,
    woken: Notify,
}

impl Policy for Listener {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        self.policy.build(candidates, previous)
    }

    fn reported(&self, endpoint: &Subchannel, queue: ServerQueue, source: ReportSource) {
        self.policy.reported(endpoint, queue, source);
        // A plain load keeps the line shared while reports come in.
        if self.rests.load(Ordering::Relaxed) && self.rests.swap(false, Ordering::Relaxed) {
            self.woken.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::OrcaWeightedRoundRobin;

    #[test]
    fn nothing_is_due_after_the_end() {
        let mut refresh = Refresh::new(Arc::new(OrcaWeightedRoundRobin::default()));
        let now = Instant::now();
        refresh.begin(now);
        let due = refresh.due().expect("the policy goes by time");
        refresh.end();
        refresh.begin(now);
        assert_eq!(refresh.due(), None, "no timer is set for it");
        assert!(!refresh.take_due(due), "nor is it taken");
    }
}
