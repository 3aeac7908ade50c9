//! Where the calls and the task that probes meet: both look at the current snapshot.

use std::sync::{Arc, Weak};

use tokio::runtime::Handle as Runtime;

use crate::cluster::clock;
use crate::cluster::snapshot::{Shared, Snapshot};
use crate::cluster::watches::AbortOnDrop;
use crate::math::Rng;
use crate::policy::{Candidate, ProbeRequests};
use crate::probe::{Probe, Request, Schedule, can_be_asked};

/// The stream of random numbers that idle probes go by; the handles count theirs from 0.
const STREAM: u64 = u64::MAX;

impl<S: Clone> Shared<S> {
    /// Hands on whom a pick on this snapshot wants asked. Does not wait: what finds no room is not asked.
    // Out of the way of the calls that ask nobody.
    #[cold]
    pub(crate) fn ask(&self, snapshot: &Snapshot<S>, requests: &ProbeRequests) {
        let Some(prober) = self.prober() else {
            return;
        };
        for slot in requests.slots() {
            let candidate = snapshot.candidates.all().get(slot);
            if let (Some(candidate), Some(service)) = (candidate, snapshot.service(slot))
                && !prober.ask(candidate, service)
            {
                return;
            }
        }
    }
}

/// Starts the task that asks. It ends with the last owner of `shared`, or with what is returned.
pub(super) fn start<S, P>(
    schedule: Schedule<S, P>,
    shared: &Arc<Shared<S>>,
    seed: u64,
    runtime: &Runtime,
) -> AbortOnDrop
where
    S: Clone + Send + Sync + 'static,
    P: Probe<S>,
{
    let shared = Arc::downgrade(shared);
    let mut rng = Rng::stream(seed, STREAM);
    let task = runtime.spawn(schedule.run(move || anyone(&shared, &mut rng), clock::now));
    AbortOnDrop(task.abort_handle())
}

/// An endpoint at random that can take calls and be asked.
fn anyone<S: Clone>(shared: &Weak<Shared<S>>, rng: &mut Rng) -> Option<Request<S>> {
    let shared = shared.upgrade()?;
    let snapshot = shared.load();
    let usable = snapshot.candidates.usable();
    let start = rng.below(usable.len());
    let admitted =
        |c: &&Candidate| snapshot.summary.ignores_ejections || c.subchannel().health().admits();
    let candidate = usable[start..]
        .iter()
        .chain(&usable[..start])
        .filter(admitted)
        .find(|candidate| can_be_asked(candidate))?;
    let service = snapshot.service(candidate.slot())?;
    Some(Request::new(candidate, service))
}
