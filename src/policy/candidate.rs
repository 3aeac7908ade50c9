use std::fmt;
use std::sync::Arc;

use crate::endpoint::{ConnectivityState, Endpoint, EndpointId};
use crate::health::limits::{Limiter, Places};
use crate::health::{Change, Ejections, Entry, Health, Limit};
use crate::load::{InFlight, Measures, PeakEwma, ReportSource, Reports};
use crate::math::Moment;
use crate::math::atomic::{AtomicU64, Ordering};
use crate::outcome::{LoadReport, Outcome};
use crate::policy::quiet::OnQuiet;
use crate::policy::{Claim, Policy};

/// Called when a call's end changes the health of the endpoint with this key.
pub(crate) type OnChange = Arc<dyn Fn(u64, Change) + Send + Sync>;

/// The live record of one endpoint: its load, its health and which connection is up. It stays the
/// same through all sets of candidates for as long as the endpoint is known.
///
/// What a call touches is at the front, next to the counts of the `Arc` around this; what it does not
/// touch comes after, enough of it that the fronts of two endpoints are never on one cache line. Aligned
/// to a line it would take two for each call and twice the room, and ten thousand endpoints would not
/// fit into a core's own cache.
#[repr(C)]
pub struct Subchannel {
    connection: AtomicU64,
    load: InFlight,
    health: Health,
    latency: PeakEwma,
    key: u64,
    id: EndpointId,
    rules: Arc<Ejections>,
    on_change: Option<OnChange>,
    measures: Measures,
    reports: Reports,
    listener: Option<Arc<dyn Policy>>,
    /// The last connection whose server knew no probes.
    unprobed: AtomicU64,
    limiter: Option<Arc<Limiter>>,
    /// Calls that wait for its service.
    pending: Places,
    pub(super) on_quiet: OnQuiet,
}

impl Subchannel {
    /// A new endpoint, not connected, whose ejections follow `rules`.
    pub fn new(key: u64, id: EndpointId, rules: Arc<Ejections>) -> Self {
        Self {
            connection: AtomicU64::new(0),
            load: InFlight::new(),
            health: Health::new(),
            latency: PeakEwma::new(),
            key,
            id,
            rules,
            on_change: None,
            measures: Measures::NOTHING,
            reports: Reports::new(),
            listener: None,
            unprobed: AtomicU64::new(0),
            limiter: None,
            pending: Places::new(),
            on_quiet: OnQuiet::new(),
        }
    }

    /// Sets what is measured of its calls; nothing by default.
    #[must_use]
    pub fn measuring(mut self, measures: Measures) -> Self {
        self.measures = measures;
        self
    }

    /// Sets the policy that [hears](Policy::reported) of the reports that are
    /// [measured](Self::measuring); none by default.
    #[must_use]
    pub fn reporting_to(mut self, policy: Arc<dyn Policy>) -> Self {
        self.listener = Some(policy);
        self
    }

    /// Sets what its calls are counted against; nothing by default.
    #[must_use]
    pub fn limited_by(mut self, limiter: Arc<Limiter>) -> Self {
        self.limiter = Some(limiter);
        self
    }

    /// Sets who hears of changes to the health.
    #[must_use]
    pub(crate) fn on_change(mut self, on_change: OnChange) -> Self {
        self.on_change = Some(on_change);
        self
    }

    /// Which rules its calls are judged by, and how many are out by them.
    pub(crate) fn ejections(&self) -> &Arc<Ejections> {
        &self.rules
    }

    /// Takes it out; `false` if it is out, or too many are.
    pub(crate) fn eject(&self) -> bool {
        self.health.eject(&self.rules)
    }

    /// The number that the balancer knows the endpoint by.
    pub fn key(&self) -> u64 {
        self.key
    }

    /// The endpoint's id.
    pub fn id(&self) -> &EndpointId {
        &self.id
    }

    /// Its load.
    #[inline]
    pub fn load(&self) -> &InFlight {
        &self.load
    }

    /// Its health.
    #[inline]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// The latency of its calls, if the policy has it [measured](Measures).
    #[inline]
    pub fn latency(&self) -> &PeakEwma {
        &self.latency
    }

    /// What its servers reported of their load, if the policy has it [measured](Measures).
    #[inline]
    pub fn reports(&self) -> &Reports {
        &self.reports
    }

    /// What is measured of its calls.
    #[inline]
    pub fn measures(&self) -> &Measures {
        &self.measures
    }

    /// A report of its server's load came at `now`; nothing happens if none are measured, or none of those that
    /// come with responses.
    pub fn reported(&self, report: &LoadReport, source: ReportSource, now: Moment) {
        let Some(rules) = &self.measures.reports else {
            return;
        };
        if source == ReportSource::Response && !self.measures.read_responses() {
            return;
        }
        let queue = self.reports.report(report, now, rules);
        if let (Some(queue), Some(listener)) = (queue, &self.listener) {
            listener.reported(self, queue, source);
        }
    }

    /// The server of this connection does not know probes. Nothing happens if that was said of a later one.
    pub(crate) fn set_unprobed(&self, connection: u64) {
        self.unprobed.fetch_max(connection, Ordering::Relaxed);
    }

    /// Whether the server of this connection is known not to know probes.
    pub(crate) fn is_unprobed(&self, connection: u64) -> bool {
        self.unprobed.load(Ordering::Relaxed) == connection
    }

    /// The connection that is up, or 0.
    #[inline]
    pub fn connection(&self) -> u64 {
        self.connection.load(Ordering::Acquire)
    }

    /// Connection `connection` (not 0) is up, in place of any other. A new connection is a new
    /// start: the failures in a row and the latency are forgotten.
    pub fn connected(&self, connection: u64) {
        self.health.clear_failures();
        self.latency.forget();
        self.reports.restart();
        // A swap and not a store, though nobody reads the old value: it costs no more, and loom does
        // not order a plain store against the compare-exchange of `disconnected`.
        self.connection.swap(connection, Ordering::SeqCst);
    }

    /// Connection `connection` has ended: from here on no pick names it. Nothing happens if another
    /// one has taken its place.
    pub fn disconnected(&self, connection: u64) -> bool {
        connection != 0
            && self
                .connection
                .compare_exchange(connection, 0, Ordering::SeqCst, Ordering::Relaxed)
                .is_ok()
    }

    /// A call begins to wait for its service to be ready. `false` if too many do; who may wait owes a
    /// [`go_on`](Self::go_on).
    pub(crate) fn wait(&self) -> bool {
        let limiter = self.limiter.as_ref();
        let most = limiter.and_then(|limiter| limiter.pending_per_endpoint());
        self.pending.take(most.unwrap_or(u32::MAX))
    }

    /// A call waits no more.
    pub(crate) fn go_on(&self) {
        self.pending.free();
    }

    /// A call that was counted with those to all endpoints ends.
    #[cold]
    pub(super) fn uncount(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.end();
        }
    }

    /// Judges the end of a call that came in by `entry`.
    #[inline]
    pub(super) fn record(&self, outcome: Outcome, entry: Entry) {
        if let Some(change) = self.health.record(outcome, entry, &self.rules) {
            self.tell(change);
        }
    }

    /// The probing call has shown that the endpoint works.
    #[cold]
    pub(super) fn pass_probe(&self) {
        if let Some(change) = self.health.pass_probe(&self.rules) {
            self.tell(change);
        }
    }

    #[cold]
    fn tell(&self, change: Change) {
        if change == Change::Readmitted {
            // It was told by the failures that it is out for.
            self.latency.forget();
        }
        if let Some(on_change) = &self.on_change {
            on_change(self.key, change);
        }
    }
}

impl fmt::Debug for Subchannel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subchannel")
            .field("key", &self.key)
            .field("connection", &self.connection())
            .field("load", &self.load)
            .field("health", &self.health)
            .finish_non_exhaustive()
    }
}

/// One endpoint as a policy sees it, in one set of candidates.
#[derive(Debug, Clone)]
pub struct Candidate {
    subchannel: Arc<Subchannel>,
    endpoint: Endpoint,
    connection: u64,
    slot: u32,
    state: ConnectivityState,
    /// In parts of [`WHOLE`], which has room beside the state: a candidate takes half of a cache line.
    slow_start: u16,
}

/// What a weight is multiplied by that stays as it is.
const WHOLE: u16 = u16::MAX;

impl Candidate {
    /// The endpoint of `subchannel` in `slot`, connected by `connection` (0: not connected; under
    /// 2^59).
    pub fn new(
        slot: usize,
        endpoint: Endpoint,
        subchannel: Arc<Subchannel>,
        connection: u64,
        state: ConnectivityState,
    ) -> Self {
        Self {
            subchannel,
            endpoint,
            connection,
            slot: slot_number(slot),
            state,
            slow_start: WHOLE,
        }
    }

    /// Sets what its weight is multiplied by, because it is new, or back; by default 1. Counts in parts of 65,535:
    /// at least one, at most all of them, and all for what is no number.
    #[must_use]
    pub fn with_slow_start_factor(mut self, factor: f64) -> Self {
        if !factor.is_nan() {
            let parts = (factor * f64::from(WHOLE)).round();
            self.slow_start = parts.clamp(1.0, f64::from(WHOLE)) as u16;
        }
        self
    }

    /// What its weight is to be multiplied by, because it is new, or back; see
    /// [`SlowStart`](crate::health::SlowStart). More than 0, at most 1.
    #[inline]
    pub fn slow_start_factor(&self) -> f64 {
        f64::from(self.slow_start) / f64::from(WHOLE)
    }

    /// Moves it to another place in the set.
    pub(crate) fn set_slot(&mut self, slot: usize) {
        self.slot = slot_number(slot);
    }

    /// Its place in the set, by which a [`Pick`](crate::policy::Pick) names it.
    #[inline]
    pub fn slot(&self) -> usize {
        self.slot as usize
    }

    /// The endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its live record.
    #[inline]
    pub fn subchannel(&self) -> &Arc<Subchannel> {
        &self.subchannel
    }

    /// The connection it had when the set was made; 0 for none.
    #[inline]
    pub fn connection(&self) -> u64 {
        self.connection
    }

    /// Its state when the set was made.
    pub fn state(&self) -> ConnectivityState {
        self.state
    }

    /// Calls under way, streams counted to their end.
    #[inline]
    pub fn in_flight(&self) -> u32 {
        self.subchannel.load.current()
    }

    /// Whether the connection it had when the set was made is still up.
    #[inline]
    pub fn is_connected(&self) -> bool {
        self.connection != 0 && self.subchannel.connection() == self.connection
    }

    /// Takes the endpoint for a call: from now on the call counts as under way. `None` if it was
    /// ejected meanwhile, or another call is probing it; `ignore_ejections` lets it in nevertheless.
    #[inline]
    pub fn claim(&self, ignore_ejections: bool) -> Option<Claim> {
        let entry = match self.subchannel.health.gate().enter() {
            Some(entry) => entry,
            None if ignore_ejections => Entry::Normal,
            None => return None,
        };
        self.subchannel.load.begin();
        Some(Claim::new(self.subchannel.clone(), self.connection, entry))
    }

    /// As [`claim`](Self::claim), if the limits of the endpoint and of all together leave room. `Ok(None)` if it
    /// was ejected meanwhile.
    ///
    /// # Errors
    /// The limit that leaves none.
    pub fn claim_within(&self, ignore_ejections: bool) -> Result<Option<Claim>, Limit> {
        let subchannel = &*self.subchannel;
        let Some(limiter) = &subchannel.limiter else {
            return Ok(self.claim(ignore_ejections));
        };
        // Before a probing call is taken from the endpoint, which would be told of to give it back.
        limiter.has_room()?;
        match limiter.in_flight_per_endpoint() {
            Some(most) if !subchannel.load.try_begin(most) => {
                return Err(Limit::InFlightPerEndpoint(most));
            }
            Some(_) => {}
            None => subchannel.load.begin(),
        }
        let entry = match subchannel.health.gate().enter() {
            Some(entry) => entry,
            None if ignore_ejections => Entry::Normal,
            None => {
                if subchannel.load.take_back() {
                    subchannel.tell_quiet();
                }
                return Ok(None);
            }
        };
        let claim = Claim::new(self.subchannel.clone(), self.connection, entry);
        if !limiter.counts_all() {
            return Ok(Some(claim));
        }
        // Last: held for a moment by a call that has no endpoint, it would have others refused that have one. Without
        // it, the drop of the claim gives the rest back.
        limiter.begin()?;
        Ok(Some(claim.counted()))
    }

    /// Whether as many calls are under way as the limit of one endpoint allows.
    pub fn is_full(&self) -> bool {
        let limiter = self.subchannel.limiter.as_ref();
        let most = limiter.and_then(|limiter| limiter.in_flight_per_endpoint());
        most.is_some_and(|most| self.in_flight() >= most)
    }
}

fn slot_number(slot: usize) -> u32 {
    u32::try_from(slot).expect("fewer than 2^32 endpoints")
}
