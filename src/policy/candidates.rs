use std::sync::Arc;

use crate::endpoint::{ConnectivityState, Endpoint};
use crate::health::{Ejection, Ejections};
use crate::load::Measures;
use crate::math::Moment;
use crate::policy::{Candidate, Subchannel};

/// The endpoints that a policy chooses from. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Candidates {
    all: Arc<[Candidate]>,
    usable: Arc<[Candidate]>,
    fleet: usize,
    now: Moment,
}

impl Candidates {
    /// These endpoints, in the order of their slots. In a panic, `ignore_ejections`, the ejected ones
    /// are usable too.
    pub fn new(all: impl Into<Arc<[Candidate]>>, ignore_ejections: bool) -> Self {
        let all = all.into();
        let usable = |c: &Candidate| {
            c.is_connected() && (ignore_ejections || c.subchannel().health().admits())
        };
        let usable = if all.iter().all(usable) {
            all.clone()
        } else {
            all.iter().filter(|c| usable(c)).cloned().collect()
        };
        Self {
            all,
            fleet: usable.len(),
            usable,
            now: Moment::default(),
        }
    }

    /// Sets how many endpoints can be picked in this and all other groups of the set; by default as many as in
    /// this.
    #[must_use]
    pub(crate) fn with_fleet(mut self, usable: usize) -> Self {
        self.fleet = usable;
        self
    }

    /// How many endpoints could be picked when the set was made, those of other
    /// [groups](crate::topology::Topology) among them.
    pub(crate) fn fleet(&self) -> usize {
        self.fleet
    }

    /// Sets when the set was made; by default at the origin of the clock.
    #[must_use]
    pub fn with_now(mut self, now: Moment) -> Self {
        self.now = now;
        self
    }

    /// When the set was made.
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Endpoints that are all connected, with ids in the order given: for tests and simulations of a
    /// policy, without a balancer around it.
    pub fn connected<E: Into<Endpoint>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self::connected_for(endpoints, Measures::NOTHING)
    }

    /// As [`connected`](Self::connected), for a policy that has its calls
    /// [measured](crate::policy::Policy::measures).
    pub fn connected_for<E: Into<Endpoint>>(
        endpoints: impl IntoIterator<Item = E>,
        measures: Measures,
    ) -> Self {
        let endpoints: Vec<Endpoint> = endpoints.into_iter().map(Into::into).collect();
        let rules = Arc::new(Ejections::new(Ejection::default()));
        rules.set_endpoints(endpoints.len());
        let all: Arc<[Candidate]> = endpoints
            .into_iter()
            .enumerate()
            .map(|(slot, endpoint)| {
                let connection = slot as u64 + 1;
                let id = endpoint.id().clone();
                let subchannel =
                    Arc::new(Subchannel::new(connection, id, rules.clone()).measuring(measures));
                subchannel.connected(connection);
                Candidate::new(
                    slot,
                    endpoint,
                    subchannel,
                    connection,
                    ConnectivityState::Ready,
                )
            })
            .collect();
        Self::new(all, false)
    }

    /// Every endpoint, usable or not, in the order of slots. Tables that must not change when an
    /// endpoint flaps are built over these.
    ///
    /// Where calls are spread over [groups](crate::topology::Topology) these are the endpoints of one group, so an
    /// endpoint's place here need not be its [slot](Candidate::slot).
    pub fn all(&self) -> &Arc<[Candidate]> {
        &self.all
    }

    /// Those that could be picked when the set was made. One may have been lost since; ask
    /// [`PickContext::is_usable`](crate::policy::PickContext::is_usable).
    pub fn usable(&self) -> &Arc<[Candidate]> {
        &self.usable
    }
}
