//! Which endpoint takes a call.
//!
//! A [`Policy`] is a recipe: for each new set of endpoints it builds a [`Picker`], which then
//! answers call after call without a lock, an allocation or a wait. All that costs time, such as a
//! hash ring, is paid in [`Policy::build`], off the path of the calls. A picker sees the live load and
//! health of its [`Candidate`]s, so it need not be rebuilt for those.
//!
//! | policy | cost of a pick | use it when |
//! |---|---|---|
//! | [`Adaptive`] (default) | O(1), O(16) | as `PeakEwma`, and by the servers' queues where they tell them |
//! | [`LeastRequest`] | O(1) | calls differ in cost, or servers in speed |
//! | [`LeastRequest::full_scan`] | O(n) | a few endpoints, long calls |
//! | [`RoundRobin`] | O(1) | calls cost the same and exact shares matter |
//! | [`WeightedRoundRobin`] | O(1) | the same, and servers differ in size |
//! | [`OrcaWeightedRoundRobin`] | O(1) | servers report how busy they are |
//! | [`PeakEwma`] | O(1) | servers differ in speed, or one may turn slow |
//! | [`C3`] | O(n) | the same, a few endpoints, and a bad one must show at once |
//! | [`Prequal`] | O(16) | large fleets at high load; servers answer probes |
//! | [`Random`] | O(1) | many clients, nothing to tell endpoints apart |
//! | [`WeightedRandom`] | O(1) | the same, and servers differ in size |
//! | [`IpHash`] | O(1) | the same caller should reach the same endpoint |
//! | [`RingHash`] | O(1) | as gRPC and Envoy clients of the same service choose |
//! | [`Maglev`] | O(1) | the same key to the same endpoint, with even shares |
//! | [`Rendezvous`] | O(n) | the same, few endpoints, and nothing may move that need not |
//! | [`PickFirst`] | O(1) | the list is one of preference, and one connection is enough |
//!
//! The policies that look at [weights](crate::Endpoint::weight), those that hash excepted, multiply them by what is
//! due by an endpoint's [slow start](crate::health::SlowStart), if the balancer has one.
//!
//! # A policy of one's own
//!
//! ```
//! use std::sync::Arc;
//! use evenkeel::policy::{Candidates, Pick, PickContext, Picker, Policy};
//!
//! /// Always the first endpoint that can be used, in the order of their ids.
//! #[derive(Debug)]
//! struct First;
//!
//! #[derive(Debug)]
//! struct FirstPicker(Candidates);
//!
//! impl Policy for First {
//!     fn name(&self) -> &'static str {
//!         "first"
//!     }
//!     fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
//!         Arc::new(FirstPicker(candidates.clone()))
//!     }
//! }
//!
//! impl Picker for FirstPicker {
//!     fn pick(&self, context: &mut PickContext<'_>) -> Pick {
//!         let usable = self.0.usable().iter().find(|c| context.is_usable(c));
//!         usable.map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
//!     }
//! }
//!
//! let candidates = Candidates::connected(["a:1", "b:1"]);
//! let picker = First.build(&candidates, None);
//! let mut rng = evenkeel::math::Rng::new(1);
//! assert_eq!(picker.pick(&mut PickContext::new(&mut rng)), Pick::Endpoint(0));
//! ```

mod adaptive;
mod bounded_load;
mod c3;
mod candidate;
mod candidates;
mod claim;
mod config;
mod connects;
mod context;
mod draw;
mod endpoint_key;
mod forwarded;
mod groups;
mod halted;
mod hash_source;
mod hashing;
mod in_turn;
mod ip_hash;
mod least_request;
mod maglev;
mod orca_weighted_round_robin;
mod peak_ewma;
mod pick_first;
mod pooled;
mod prequal;
mod quiet;
mod random;
mod rendezvous;
mod ring_hash;
mod round_robin;
mod subsets;
#[cfg(test)]
mod testing;
mod weighted;
mod weighted_random;
mod weighted_round_robin;

pub use adaptive::Adaptive;
pub use bounded_load::BoundedLoad;
pub use c3::C3;
pub(crate) use candidate::OnChange;
pub use candidate::{Candidate, Subchannel};
pub use candidates::Candidates;
pub use claim::Claim;
pub use config::{
    AdaptiveConfig, C3Config, HashSourceConfig, IpHashConfig, LeastRequestConfig, MaglevConfig,
    NoSettings, OrcaWeightedRoundRobinConfig, PeakEwmaConfig, PickFirstConfig, PolicyConfig,
    PrequalConfig, RendezvousConfig, RingHashConfig,
};
#[cfg(feature = "grpc")]
pub(crate) use connects::ATTEMPT_DELAY;
pub(crate) use connects::ATTEMPT_DELAYS;
pub use connects::Connects;
pub use context::{Pick, PickContext, ProbeRequests, Tried};
pub use endpoint_key::EndpointHashKey;
pub(crate) use groups::{Group, Groups};
pub(crate) use halted::Halted;
pub use hash_source::HashSource;
pub use ip_hash::IpHash;
pub use least_request::LeastRequest;
pub use maglev::Maglev;
pub use orca_weighted_round_robin::OrcaWeightedRoundRobin;
pub use peak_ewma::PeakEwma;
pub use pick_first::PickFirst;
pub use prequal::Prequal;
pub use random::Random;
pub use rendezvous::Rendezvous;
pub use ring_hash::RingHash;
pub use round_robin::RoundRobin;
pub(crate) use subsets::{Plan, SubsetPlan};
pub use weighted_random::WeightedRandom;
pub use weighted_round_robin::WeightedRoundRobin;

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::call::RequestInfo;
use crate::load::{Measures, ReportSource, ServerQueue};
use crate::math::Moment;

/// A load balancing algorithm: builds a [`Picker`] for each set of endpoints.
pub trait Policy: fmt::Debug + Send + Sync + 'static {
    /// Its name, as gRPC's service config would write it where it has one.
    fn name(&self) -> &'static str;

    /// Builds the picker of a new set. Runs on the control plane, never on the path of a call, and
    /// on every change of the set: an endpoint came or went, connected or was lost, was ejected or
    /// came back.
    ///
    /// `previous` is the picker that this one replaces, if this policy built it: what must carry
    /// over (a position, a table that is still right) can be taken from there by
    /// `downcast_ref`.
    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker>;

    /// What the policy needs to know of calls beside how many are under way. Asked once, when the
    /// balancer is built; nothing by default, and then calls are not timed.
    fn measures(&self) -> Measures {
        Measures::NOTHING
    }

    /// How often a picker is to be built anew though its set is the same, for a policy that goes by
    /// [time](Candidates::now) or by what was measured; by default never. Asked once, when the balancer
    /// is built. At most a thousand times a second.
    fn refresh(&self) -> Option<Duration> {
        None
    }

    /// Whether, as of `now`, every picker built from here on would be as good as the last one until a server
    /// [reports](Self::reported) again. Then there is no [refresh](Self::refresh) before that, and an idle
    /// balancer sleeps; after it the next one is a period away. A report that comes in while this is asked
    /// may go unnoticed until the next one. Asked after each build, where there is a refresh; by default `false`.
    fn rests(&self, now: Moment) -> bool {
        let _ = now;
        false
    }

    /// Which endpoints are to be connected; all of them by default. Asked once, when the balancer is
    /// built. A policy that wants one at a time sees the others as IDLE candidates that nobody dials.
    fn connects(&self) -> Connects {
        Connects::All
    }

    /// The server of an endpoint said how many requests it has under way, if reports are
    /// [measured](Self::measures). For a policy that keeps what it heard in an order of its own; by
    /// default nothing is done, and the last report stays with the endpoint. Called from any thread, on
    /// the path of responses: it must not block.
    fn reported(&self, endpoint: &Subchannel, queue: ServerQueue, source: ReportSource) {
        let _ = (endpoint, queue, source);
    }
}

impl<P: Policy + ?Sized> Policy for Arc<P> {
    fn name(&self) -> &'static str {
        (**self).name()
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        (**self).build(candidates, previous)
    }

    fn measures(&self) -> Measures {
        (**self).measures()
    }

    fn refresh(&self) -> Option<Duration> {
        (**self).refresh()
    }

    fn rests(&self, now: Moment) -> bool {
        (**self).rests(now)
    }

    fn connects(&self) -> Connects {
        (**self).connects()
    }

    fn reported(&self, endpoint: &Subchannel, queue: ServerQueue, source: ReportSource) {
        (**self).reported(endpoint, queue, source);
    }
}

/// Picks an endpoint for each call, from one fixed set.
///
/// Called from many threads at once. A pick must not block, lock or allocate.
pub trait Picker: Any + fmt::Debug + Send + Sync {
    /// The endpoint for this call: one that `context` says [is usable](PickContext::is_usable), or
    /// [`Pick::Nothing`] if there is none. The balancer asks again with that endpoint excluded when
    /// it turns out not to be ready.
    fn pick(&self, context: &mut PickContext<'_>) -> Pick;

    /// Whether a call with this request may go to `candidate` at all, now or later. The balancer asks where it decides
    /// in this picker's place: when a call prefers an endpoint, and when nothing can be picked. By default it may go to
    /// any.
    fn covers(&self, request: &RequestInfo<'_>, candidate: &Candidate) -> bool {
        let _ = (request, candidate);
        true
    }

    /// The hash that this picker goes by for the call, if it goes by one; by default it does not. Where calls are
    /// spread over [groups of endpoints](crate::topology::Topology), each with a picker, those of one hash then go to
    /// one group.
    fn hash(&self, context: &mut PickContext<'_>) -> Option<u64> {
        let _ = context;
        None
    }
}

impl dyn Picker {
    /// This picker as a `T`, if that is what it is.
    pub fn downcast_ref<T: Picker>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}
