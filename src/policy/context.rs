use std::fmt;

use crate::call::{PreviousEndpoints, RequestInfo};
use crate::math::{Moment, Rng};
use crate::policy::Candidate;

/// A picker's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Pick {
    /// The endpoint in this [slot](Candidate::slot).
    Endpoint(usize),
    /// None that can be used. The balancer decides whether to wait or to fail.
    Nothing,
}

/// What a pick may look at: the request, the endpoints that this call has tried, and randomness.
#[derive(Debug)]
pub struct PickContext<'a> {
    rng: &'a mut Rng,
    request: RequestInfo<'a>,
    tried: Option<&'a Tried>,
    previous: Option<&'a PreviousEndpoints>,
    /// Whether one of the two above may name an endpoint, or one may be full: for most calls the one thing to
    /// look at.
    avoids: bool,
    ignore_ejections: bool,
    hash: Option<u64>,
    now: Moment,
    probes: Option<&'a mut ProbeRequests>,
}

impl<'a> PickContext<'a> {
    /// A first try of a request that says nothing.
    #[inline]
    pub fn new(rng: &'a mut Rng) -> Self {
        Self {
            rng,
            request: RequestInfo::new(),
            tried: None,
            previous: None,
            avoids: false,
            ignore_ejections: false,
            hash: None,
            now: Moment::default(),
            probes: None,
        }
    }

    /// Adds what the request says.
    #[inline]
    #[must_use]
    pub fn with_request(mut self, request: RequestInfo<'a>) -> Self {
        self.request = request;
        self
    }

    /// Adds the connections that this call has tried.
    #[inline]
    #[must_use]
    pub fn with_tried(mut self, tried: &'a Tried) -> Self {
        self.tried = Some(tried);
        self.avoids |= !tried.is_empty();
        self
    }

    /// Adds the endpoints that earlier attempts of the call went to.
    #[inline]
    #[must_use]
    pub fn with_previous(mut self, previous: &'a PreviousEndpoints) -> Self {
        self.previous = Some(previous);
        self.avoids = true;
        self
    }

    /// Has endpoints that are [full](Candidate::is_full) passed over.
    #[inline]
    #[must_use]
    pub fn with_limits(mut self) -> Self {
        self.avoids = true;
        self
    }

    /// Whether ejected endpoints count as usable: the panic mode of
    /// [`health::panic_mode`](crate::health::panic_mode).
    #[inline]
    #[must_use]
    pub fn with_ejections_ignored(mut self, ignored: bool) -> Self {
        self.ignore_ejections = ignored;
        self
    }

    /// Whether ejected endpoints count as usable.
    #[inline]
    pub fn ignores_ejections(&self) -> bool {
        self.ignore_ejections
    }

    /// Sets whether they do, for the group of endpoints at hand.
    #[inline]
    pub(crate) fn set_ejections_ignored(&mut self, ignored: bool) {
        self.ignore_ejections = ignored;
    }

    /// Adds the time.
    #[inline]
    #[must_use]
    pub fn with_now(mut self, now: Moment) -> Self {
        self.now = now;
        self
    }

    /// The time of the pick, if the policy [measures](crate::policy::Policy::measures) something; else
    /// the origin, since no clock was read.
    #[inline]
    pub fn now(&self) -> Moment {
        self.now
    }

    /// Adds where to put the endpoints that are to be [asked](Self::probe) for their load.
    #[inline]
    #[must_use]
    pub fn with_probes(mut self, probes: &'a mut ProbeRequests) -> Self {
        self.probes = Some(probes);
        self
    }

    /// Has the server of `candidate` asked for its load; the answer comes by
    /// [`Policy::reported`](crate::policy::Policy::reported), or never. Only for a policy that
    /// [names rules](crate::load::Measures::probes) for it; at most eight at one pick, and what cannot
    /// be sent at once is not sent.
    #[inline]
    pub fn probe(&mut self, candidate: &Candidate) {
        if let Some(probes) = &mut self.probes {
            probes.push(candidate.slot());
        }
    }

    /// The generator of the handle that makes the call.
    #[inline]
    pub fn rng(&mut self) -> &mut Rng {
        self.rng
    }

    /// The request.
    #[inline]
    pub fn request(&self) -> &RequestInfo<'a> {
        &self.request
    }

    /// Whether this call may go to `candidate`: connected still, not ejected since, not full, not tried yet, and
    /// not by an earlier attempt.
    #[inline]
    pub fn is_usable(&self, candidate: &Candidate) -> bool {
        candidate.is_connected()
            && (self.ignore_ejections || candidate.subchannel().health().admits())
            && !(self.avoids && self.is_avoided(candidate))
    }

    /// Apart: this is part of every pick, and few calls are tried a second time.
    #[cold]
    #[inline(never)]
    fn is_avoided(&self, candidate: &Candidate) -> bool {
        candidate.is_full()
            || self
                .tried
                .is_some_and(|tried| tried.contains(candidate.connection()))
            || self
                .previous
                .is_some_and(|previous| previous.contains(candidate.endpoint().id()))
    }

    /// The hash of this call: computed by `read` the first time, then remembered for later tries.
    pub fn hash_with(&mut self, read: impl FnOnce(&RequestInfo<'a>) -> u64) -> u64 {
        *self.hash.get_or_insert_with(|| read(&self.request))
    }

    /// The hash that [`hash_with`](Self::hash_with) found, to carry it to the call's next try.
    #[inline]
    pub fn hash(&self) -> Option<u64> {
        self.hash
    }

    /// Sets the hash that an earlier try found.
    #[inline]
    #[must_use]
    pub fn with_hash(mut self, hash: Option<u64>) -> Self {
        self.hash = hash;
        self
    }
}

/// The endpoints whose servers are to be asked for their load, by their slots. Holds eight.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProbeRequests {
    slots: [u32; 8],
    count: usize,
}

impl ProbeRequests {
    /// Nobody.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    #[inline]
    fn push(&mut self, slot: usize) {
        if let Some(place) = self.slots.get_mut(self.count) {
            *place = slot as u32;
            self.count += 1;
        }
    }

    /// The slots.
    #[inline]
    pub fn slots(&self) -> impl Iterator<Item = usize> {
        self.slots[..self.count].iter().map(|&slot| slot as usize)
    }
}

/// The connections that one call has tried. Holds the last 8; a call has fewer tries than that.
///
/// It names connections, not endpoints: an endpoint that was dialled anew is worth another try.
#[derive(Clone, Copy, Default)]
pub struct Tried {
    connections: [u64; 8],
    count: u32,
}

impl Tried {
    /// Nothing tried.
    #[inline]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a connection.
    pub fn insert(&mut self, connection: u64) {
        self.connections[self.count as usize % 8] = connection;
        self.count = self.count.wrapping_add(1);
    }

    /// Whether the connection was tried.
    #[inline]
    pub fn contains(&self, connection: u64) -> bool {
        self.count != 0 && self.as_slice().contains(&connection)
    }

    /// Whether nothing was tried.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn as_slice(&self) -> &[u64] {
        &self.connections[..(self.count as usize).min(8)]
    }
}

impl fmt::Debug for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.as_slice()).finish()
    }
}
