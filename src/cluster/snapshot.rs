use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::cluster::Settings;
use crate::cluster::lifecycle::{Answer, Control, Ending};
use crate::connection::{End, Ended, Inbox};
use crate::endpoint::{ConnectivityState, Endpoint, EndpointId, Locality};
use crate::error::BoxError;
use crate::health::Cause;
use crate::health::limits::Limiter;
use crate::math::Rng;
use crate::math::atomic::{AtomicU64, Ordering};
use crate::observe::{DrainStage, Drained};
use crate::policy::{Candidate, Candidates, Claim, Pick, PickContext, Picker};
use crate::probe::Prober;
use crate::topology::MetadataSubsets;

/// Everything that a call needs to choose an endpoint, frozen at one moment.
pub(crate) struct Snapshot<S> {
    /// The service of each slot that is connected.
    pub(crate) services: Vec<Option<S>>,
    pub(crate) candidates: Candidates,
    pub(crate) picker: Arc<dyn Picker>,
    /// What else is known of each slot; nothing of most.
    pub(crate) details: Vec<Option<Arc<Detail>>>,
    pub(crate) summary: Summary,
}

impl<S> Snapshot<S> {
    /// The service in this slot, if it is connected.
    pub(crate) fn service(&self, slot: usize) -> Option<&S> {
        self.services.get(slot)?.as_ref()
    }
}

/// What is known of an endpoint beside its candidate, where there is something to say.
#[derive(Debug, Clone)]
pub(crate) struct Detail {
    pub(crate) last_error: Option<Arc<str>>,
    pub(crate) ejection: Option<EjectionDetail>,
    /// Why its health check fails, if it does.
    pub(crate) unhealthy: Option<Arc<str>>,
    /// How far that is, if it gets no calls by order.
    pub(crate) drain: Option<DrainStage>,
}

#[derive(Debug, Clone)]
pub(crate) struct EjectionDetail {
    pub(crate) since: Instant,
    pub(crate) until: Instant,
    pub(crate) times: u32,
    pub(crate) cause: Cause,
}

/// Endpoints among which the policy chooses.
#[derive(Debug, Clone)]
pub(crate) struct GroupState {
    pub(crate) subset: Option<Arc<str>>,
    pub(crate) priority: u32,
    pub(crate) localities: Vec<Locality>,
    pub(crate) usable: usize,
    pub(crate) total: usize,
    /// Of all calls, 0 to 1.
    pub(crate) share: f64,
    pub(crate) panic: bool,
}

/// The set as a whole.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summary {
    pub(crate) total: usize,
    pub(crate) idle: usize,
    pub(crate) connecting: usize,
    pub(crate) ready: usize,
    pub(crate) failing: usize,
    /// How many of those that fail do so by their health check.
    pub(crate) unhealthy: usize,
    pub(crate) ejected: usize,
    /// How many get no calls by order.
    pub(crate) drained: usize,
    pub(crate) panic: bool,
    /// Calls go to ejected endpoints too: what a panic of all comes to, unless calls are to fail in it.
    pub(crate) ignores_ejections: bool,
    /// There is a panic of all, and calls are to fail in it.
    pub(crate) halted: bool,
    /// What calls are spread over, if that is more than one group.
    pub(crate) groups: Arc<[GroupState]>,
    /// How endpoints are told apart by what a call wants.
    pub(crate) subsets: Option<Arc<MetadataSubsets>>,
    /// The endpoints that are not in the subset.
    pub(crate) left_out: Arc<[Endpoint]>,
    /// One is connected, and the policy wants no more: those that are idle stay so.
    pub(crate) one_is_enough: bool,
    /// The source of endpoints has named a state.
    pub(crate) resolved: bool,
    pub(crate) discovery_error: Option<Arc<str>>,
    /// The most recent reason for a failed dial.
    pub(crate) last_error: Option<Arc<str>>,
    /// Why one of them fails its health check.
    pub(crate) unhealthy_because: Option<Arc<str>>,
    /// No call will ever find an endpoint: the task behind this is gone, or about to.
    pub(crate) closed: bool,
    /// Because it was told to.
    pub(crate) shut_down: bool,
}

impl Summary {
    /// The state of the whole, by gRPC's rule of aggregation.
    pub(crate) fn state(&self) -> ConnectivityState {
        if self.closed {
            ConnectivityState::Shutdown
        } else if self.ready > 0 {
            ConnectivityState::Ready
        } else if self.connecting + self.idle > 0
            || (!self.resolved && self.discovery_error.is_none())
        {
            ConnectivityState::Connecting
        } else {
            ConnectivityState::TransientFailure
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.resolved {
            f.write_str("no endpoints known yet")?;
        } else if self.total == 0 {
            f.write_str("there are no endpoints")?;
        } else {
            write!(
                f,
                "no usable endpoint of {}: {} connecting, {} ejected, {} failing",
                self.total,
                if self.one_is_enough { 0 } else { self.idle } + self.connecting,
                self.ejected,
                self.failing
            )?;
        }
        if self.unhealthy > 0 {
            write!(f, ", {} of them by their health check", self.unhealthy)?;
        }
        if self.drained > 0 {
            write!(f, ", {} drained", self.drained)?;
        }
        if self.halted {
            f.write_str("; so few that calls fail until there are more")?;
        }
        if let Some(why) = &self.unhealthy_because {
            write!(f, "; health check: {why}")?;
        }
        if let Some(error) = &self.discovery_error {
            write!(f, "; discovery: {error}")?;
        }
        if let Some(error) = &self.last_error {
            write!(f, "; last connect error: {error}")?;
        }
        Ok(())
    }
}

/// After the end.
#[derive(Debug)]
struct Nobody;

impl Picker for Nobody {
    fn pick(&self, _: &mut PickContext<'_>) -> Pick {
        Pick::Nothing
    }
}

/// Where control plane and calls meet. Owned by the handles and the queued calls; the control plane
/// has a weak reference, and ends when the last owner goes.
pub(crate) struct Shared<S> {
    snapshot: ArcSwap<Snapshot<S>>,
    version: watch::Sender<u64>,
    state: watch::Sender<ConnectivityState>,
    control: Control,
    inbox: Inbox,
    policy: &'static str,
    panic_enabled: bool,
    timed: bool,
    seed: u64,
    streams: AtomicU64,
    limiter: Option<Arc<Limiter>>,
    /// Its drop ends the task that probes.
    prober: Option<Prober<S>>,
    /// Its drop tells the control plane that nobody is left.
    _alive: oneshot::Sender<()>,
}

impl<S> Shared<S> {
    pub(crate) fn new(
        snapshot: Snapshot<S>,
        inbox: Inbox,
        control: Control,
        policy: &'static str,
        settings: &Settings,
    ) -> (Self, oneshot::Receiver<()>) {
        let (alive, gone) = oneshot::channel();
        let state = snapshot.summary.state();
        let shared = Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            version: watch::Sender::new(0),
            state: watch::Sender::new(state),
            control,
            inbox,
            policy,
            panic_enabled: settings.ejection.panic_threshold_percent() > 0
                && !settings.ejection.fails_in_panic(),
            timed: settings.measures.need_clock(),
            seed: settings.seed,
            streams: AtomicU64::new(0),
            limiter: None,
            prober: None,
            _alive: alive,
        };
        (shared, gone)
    }

    /// Has servers asked by `prober`; by default nobody asks.
    pub(crate) fn probed_by(mut self, prober: Option<Prober<S>>) -> Self {
        self.prober = prober;
        self
    }

    /// Counts calls against the limits of `limiter`; by default there are none.
    pub(crate) fn limited_by(mut self, limiter: Option<Arc<Limiter>>) -> Self {
        self.limiter = limiter;
        self
    }

    /// What calls are counted against, if there are limits.
    #[inline]
    pub(crate) fn limiter(&self) -> Option<&Arc<Limiter>> {
        self.limiter.as_ref()
    }

    #[inline]
    pub(crate) fn load(&self) -> Guard<Arc<Snapshot<S>>> {
        self.snapshot.load()
    }

    pub(crate) fn publish(&self, snapshot: Snapshot<S>) {
        self.control.publishing(|| self.set(snapshot));
    }

    fn set(&self, snapshot: Snapshot<S>) {
        let state = snapshot.summary.state();
        self.snapshot.store(Arc::new(snapshot));
        self.version.send_modify(|version| *version += 1);
        self.state
            .send_if_modified(|old| std::mem::replace(old, state) != state);
    }

    /// No call finds an endpoint from now on, and after `limit` those under way are cut. Says how that went.
    pub(crate) fn shut_down(&self, limit: Duration) -> Ending {
        self.control.shut_down(limit, || self.set(self.shut()))
    }

    /// The endpoint of this id gets no call from now on, and after `limit` those under way are cut. Says how that
    /// went.
    pub(crate) fn drain(&self, id: EndpointId, limit: Duration) -> Answer<Drained> {
        let snapshot = self.load();
        let mut all = snapshot.candidates.all().iter();
        if let Some(candidate) = all.find(|candidate| *candidate.endpoint().id() == id) {
            let subchannel = candidate.subchannel();
            // At once; the control plane is about to learn why.
            subchannel.disconnected(subchannel.connection());
        }
        self.control.drain(id, limit)
    }

    /// The endpoint of this id may get calls again.
    pub(crate) fn undrain(&self, id: EndpointId) -> Answer<()> {
        self.control.undrain(id)
    }

    /// The last snapshot of all: what there was, and nobody to call.
    fn shut(&self) -> Snapshot<S> {
        let last = self.load();
        let all = last.candidates.all().iter().map(|candidate| {
            let subchannel = candidate.subchannel();
            // Picks by older snapshots must not find it, either.
            subchannel.disconnected(subchannel.connection());
            let (endpoint, state) = (candidate.endpoint().clone(), ConnectivityState::Shutdown);
            Candidate::new(candidate.slot(), endpoint, subchannel.clone(), 0, state)
        });
        Snapshot {
            services: Vec::new(),
            candidates: Candidates::new(all.collect::<Arc<[_]>>(), false),
            picker: Arc::new(Nobody),
            details: last.details.clone(),
            summary: Summary {
                total: last.summary.total,
                resolved: last.summary.resolved,
                closed: true,
                shut_down: true,
                ..Summary::default()
            },
        }
    }

    /// Tells of every snapshot published after this call.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn state(&self) -> watch::Receiver<ConnectivityState> {
        self.state.subscribe()
    }

    /// The policy's name.
    pub(crate) fn policy(&self) -> &'static str {
        self.policy
    }

    /// A generator of its own for each handle.
    pub(crate) fn next_rng(&self) -> Rng {
        Rng::stream(self.seed, self.streams.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether ejected endpoints may be used when nothing else is left.
    pub(crate) fn panic_enabled(&self) -> bool {
        self.panic_enabled
    }

    /// Whether the policy wants to know the time of each call.
    #[inline]
    pub(crate) fn timed(&self) -> bool {
        self.timed
    }

    /// By whom servers are asked for their load, if they are.
    #[inline]
    pub(crate) fn prober(&self) -> Option<&Prober<S>> {
        self.prober.as_ref()
    }

    /// A service said that it will not be ready again: takes its connection out of the picks, now.
    pub(crate) fn not_ready(&self, claim: Claim, error: BoxError) {
        let connection = claim.connection();
        let key = claim.not_ready();
        // Also if it was out of the picks before: a health check may have taken it out, which does not say that
        // its service is broken. What is known already the control plane tells by the number.
        let _ = self.inbox.send(Ended {
            key,
            connection,
            end: End::NotReady(error),
        });
    }
}

/// Where the ends of connections arrive.
pub(crate) type Outbox = mpsc::UnboundedReceiver<Ended>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::lifecycle::lifecycle;
    use crate::policy::{Policy, RoundRobin};

    #[test]
    fn a_broken_service_is_told_of_also_where_a_health_check_was_first() {
        let candidates = Candidates::connected(["a"]);
        let claim = |candidates: &Candidates| candidates.all()[0].claim(false).expect("open");
        let (first, second) = (claim(&candidates), claim(&candidates));
        let snapshot = Snapshot::<()> {
            services: vec![Some(())],
            picker: RoundRobin::default().build(&candidates, None),
            candidates: candidates.clone(),
            details: vec![None],
            summary: Summary::default(),
        };
        let (inbox, mut ends) = mpsc::unbounded_channel();
        let (control, _lifecycle, _commands) = lifecycle();
        let (shared, _gone) = Shared::new(snapshot, inbox, control, "test", &Settings::default());
        candidates.all()[0].subchannel().disconnected(1);
        for claim in [first, second] {
            shared.not_ready(claim, "broken".into());
            let ended = ends.try_recv().expect("the control plane hears of it");
            assert_eq!((ended.key, ended.connection), (1, 1), "of this connection");
            assert!(matches!(ended.end, End::NotReady(_)), "{ended:?}");
        }
        let load = candidates.all()[0].subchannel().load();
        assert_eq!(load.current(), 0, "and the calls are given back");
    }
}
