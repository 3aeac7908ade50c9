//! What a call goes through until an endpoint has it, and what its end says of that endpoint.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use crate::balance::future::nothing::{full, handed_back, last_resort, may_help, unavailable};
use crate::balance::service::Own;
use crate::balance::{Track, clock};
use crate::call::PreviousEndpoints;
use crate::cluster::Snapshot;
use crate::error::{BoxError, Error};
use crate::health::Limit;
use crate::health::limits::Limiter;
use crate::math::Rng;
use crate::outcome::Outcome;
use crate::policy::{Candidate, Claim, Pick, PickContext, ProbeRequests, Subchannel, Tried};

/// How often a request that came back unprocessed is sent again.
pub(super) const MAX_REDISPATCHES: u8 = 3;

/// How many endpoints a call asks for readiness before it waits for them.
const MAX_HELD: usize = 3;

/// How many picks may be lost to a race with an ejection or the end of a connection.
const MAX_RACES: usize = 8;

/// What stays through all tries of one call. Its parts are made where they stay: a claim or a
/// service that is handed up by value is copied at each step, and that costs more than the pick.
pub(super) struct Call<S, Req, T> {
    shared: Arc<Own<S>>,
    track: T,
    rng: Rng,
    /// Here until an endpoint has it.
    request: Option<Req>,
    /// On the endpoint that has the request.
    claim: Option<Claim>,
    hash: Option<u64>,
    /// Boxed, since most calls never have one.
    misses: Option<Box<Misses>>,
    /// The services asked so far and not yet ready.
    waiting: Option<Box<Waiting<S>>>,
    /// Where the endpoints of all attempts are noted, if this is one of several.
    previous: Option<PreviousEndpoints>,
}

impl<S, Req, T> Drop for Call<S, Req, T> {
    #[inline]
    fn drop(&mut self) {
        if self.previous.is_some() {
            self.given_up();
        }
    }
}

impl<S, Req, T> Call<S, Req, T> {
    #[inline]
    pub(super) fn new(shared: Arc<Own<S>>, track: T, rng: Rng, request: Req) -> Self {
        Self {
            shared,
            track,
            rng,
            request: Some(request),
            claim: None,
            hash: None,
            misses: None,
            waiting: None,
            previous: None,
        }
    }

    /// What a call without an endpoint is waiting for.
    #[cfg(feature = "grpc")]
    pub(super) fn waits_for(&self) -> String {
        self.shared.load().summary.to_string()
    }

    /// The endpoint that has the request took too long.
    #[cold]
    pub(super) fn failed(&mut self) {
        if let Some(claim) = self.claim.take() {
            clock::finish(claim, Outcome::Failure);
        }
    }

    /// Apart, as `note` is: most calls are no attempts of several, and pay for it else.
    #[cold]
    #[inline(never)]
    fn given_up(&mut self) {
        if (self.previous.as_ref()).is_some_and(PreviousEndpoints::has_timed_out) {
            self.failed();
        }
    }

    #[cold]
    #[inline(never)]
    fn note(&self) {
        if let (Some(previous), Some(claim)) = (&self.previous, &self.claim) {
            previous.insert(claim.endpoint().clone());
        }
    }
}

/// What went wrong with a call so far.
#[derive(Debug, Default)]
struct Misses {
    /// The connections that were asked for readiness or handed the request back.
    tried: Tried,
    /// Those that handed it back.
    returned: Tried,
    redispatches: u8,
}

struct Waiting<S> {
    /// What it waits against, if that is limited.
    limiter: Option<Arc<Limiter>>,
    held: Vec<Held<S>>,
    changed: Option<Changed>,
}

/// A service that was asked for readiness and is not ready yet. It is kept, since its waker, and
/// maybe a permit, belong to this very clone.
struct Held<S> {
    service: S,
    claim: Claim,
    _place: Option<Place>,
}

/// One of the places for calls that wait for an endpoint.
struct Place(Arc<Subchannel>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

type Changed = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

/// What one look at the snapshot gave.
enum Choice<S, F> {
    /// A service took the request.
    Called(F),
    /// Not ready yet.
    Pending(Held<S>),
    /// Nothing to pick now; a later snapshot may help.
    Later,
    /// Nothing to pick, and no reason to wait.
    Never,
    /// What there is has no room.
    Full(Limit),
}

impl<S> Drop for Waiting<S> {
    fn drop(&mut self) {
        if let Some(limiter) = &self.limiter {
            limiter.go_on();
        }
    }
}

impl<S, Req, T> Call<S, Req, T>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    T: Track<Req, S>,
{
    /// The endpoint has answered. `None` if it handed the request back, which may go to another one.
    #[inline]
    pub(super) fn ended(
        &mut self,
        result: Result<S::Response, S::Error>,
    ) -> Option<Result<T::Response, Error>> {
        let claim = self.claim.take().expect("polled after completion");
        match result {
            Ok(response) => Some(Ok(self.track.response(response, claim))),
            Err(error) => self.erred(error, claim).map(Err),
        }
    }

    #[cold]
    fn erred(&mut self, error: S::Error, claim: Claim) -> Option<Error> {
        let request = match self.track.reclaim(error) {
            Ok(request) => request,
            Err(error) => {
                clock::finish(claim, self.track.error(&error));
                return Some(Error::endpoint(error));
            }
        };
        let misses = self.misses.get_or_insert_default();
        misses.returned.insert(claim.connection());
        // An endpoint that was only busy may take it yet.
        misses.tried = misses.returned;
        claim.take_back();
        if misses.redispatches == MAX_REDISPATCHES {
            return Some(handed_back());
        }
        misses.redispatches += 1;
        self.request = Some(request);
        None
    }

    /// Chooses an endpoint that is ready and gives it the request.
    #[inline]
    pub(super) fn choose(&mut self, cx: &mut Context<'_>) -> Poll<Result<S::Future, Error>> {
        let first = if self.waiting.is_none() {
            match self.pick(true, cx) {
                Choice::Called(response) => return Poll::Ready(Ok(response)),
                choice => Some(choice),
            }
        } else {
            None
        };
        let mut waiting = self.waiting.take();
        let chosen = self.choose_on(&mut waiting, first, cx);
        if chosen.is_pending() {
            self.waiting = waiting;
        }
        chosen
    }

    /// Goes on from the `first` choice, if there was one. `waiting` is what earlier choices have asked and not
    /// got yet.
    #[cold]
    #[inline(never)]
    fn choose_on(
        &mut self,
        waiting: &mut Option<Box<Waiting<S>>>,
        mut first: Option<Choice<S, S::Future>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Future, Error>> {
        if let Some(waiting) = waiting
            && let Some(mut held) = self.poll_held(waiting, cx)
        {
            self.claim = Some(held.claim);
            return Poll::Ready(Ok(self.dispatch(&mut held.service)));
        }
        loop {
            let held = waiting.as_ref().map_or(0, |waiting| waiting.held.len());
            let may_wait = if held < MAX_HELD {
                let choice = first.take();
                match choice.unwrap_or_else(|| self.pick(held == 0, cx)) {
                    Choice::Called(response) => return Poll::Ready(Ok(response)),
                    Choice::Pending(held) => {
                        match self.wait(waiting) {
                            Ok(waiting) => waiting.held.push(held),
                            Err(limit) => return Poll::Ready(Err(full(limit))),
                        }
                        continue;
                    }
                    // One that is held may be ready yet.
                    Choice::Full(_) if held > 0 => true,
                    Choice::Full(limit) => return Poll::Ready(Err(full(limit))),
                    Choice::Later => true,
                    Choice::Never => false,
                }
            } else {
                true
            };
            if !may_wait && held == 0 {
                let returned = self.misses.as_ref().map_or(0, |misses| misses.redispatches);
                return Poll::Ready(Err(unavailable(&self.shared.load(), returned)));
            }
            match self.wait(waiting) {
                Ok(waiting) => ready!(self.poll_changed(waiting, cx)),
                Err(limit) => return Poll::Ready(Err(full(limit))),
            }
        }
    }

    /// Gives the request to the service that was claimed and is ready for it.
    #[inline]
    fn dispatch(&mut self, service: &mut S) -> S::Future {
        if let Some(claim) = &mut self.claim {
            claim.sent();
        }
        if self.previous.is_some() {
            self.note();
        }
        service.call(self.request.take().expect("polled after completion"))
    }

    /// Claims `candidate` if that is within the limits. Returns the one of all calls together, if that was met.
    #[cold]
    #[inline(never)]
    fn claim_within(&mut self, candidate: &Candidate, ignore_ejections: bool) -> Option<Limit> {
        match candidate.claim_within(ignore_ejections) {
            Ok(claim) => {
                self.claim = claim;
                None
            }
            Err(limit) => Some(limit),
        }
    }

    /// `connection` is not ready to be called.
    #[cold]
    fn missed(&mut self, connection: u64) {
        self.misses.get_or_insert_default().tried.insert(connection);
    }

    /// Begins to wait, or goes on.
    ///
    /// # Errors
    /// As many wait as may.
    #[cold]
    fn wait<'w>(
        &self,
        waiting: &'w mut Option<Box<Waiting<S>>>,
    ) -> Result<&'w mut Waiting<S>, Limit> {
        if waiting.is_none() {
            let limiter = self.shared.limiter().cloned();
            if let Some(limiter) = &limiter {
                limiter.wait()?;
            }
            *waiting = Some(Box::new(Waiting {
                limiter,
                held: Vec::new(),
                changed: None,
            }));
        }
        Ok(waiting.as_mut().expect("it was just made"))
    }

    /// What to do when this snapshot has no endpoint for the call.
    #[cold]
    fn nothing(&self, snapshot: &Snapshot<S>) -> Choice<S, S::Future> {
        if let Some(limit) = self.met(snapshot) {
            return Choice::Full(limit);
        }
        let request = self.request.as_ref().expect("polled after completion");
        let wait_for_ready = self.track.request(request).wait_for_ready();
        if may_help(snapshot, wait_for_ready.unwrap_or(false)) {
            Choice::Later
        } else {
            Choice::Never
        }
    }

    /// The limit that keeps the call from an endpoint which could take it otherwise.
    #[cold]
    fn met(&self, snapshot: &Snapshot<S>) -> Option<Limit> {
        let limiter = self.shared.limiter()?;
        let panic = snapshot.summary.panic;
        let mut usable = (snapshot.candidates.all().iter())
            .filter(|c| c.is_connected() && (panic || c.subchannel().health().admits()));
        if let Some(most) = limiter.in_flight_per_endpoint()
            && usable.clone().any(Candidate::is_full)
        {
            return Some(Limit::InFlightPerEndpoint(most));
        }
        let most = limiter.pending_per_endpoint()?;
        let crowded = usable.any(|c| c.subchannel().pending() >= most);
        crowded.then_some(Limit::PendingPerEndpoint(most))
    }

    /// Ready when there may be something new to see, and always the first time: subscribed before
    /// one more look, so that a change between the look before and here is seen.
    #[cold]
    fn poll_changed(&self, waiting: &mut Waiting<S>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut waiting.changed {
            None => {
                let mut versions = self.shared.subscribe();
                waiting.changed = Some(Box::pin(async move {
                    let _ = versions.changed().await;
                }));
            }
            Some(changed) => {
                ready!(changed.as_mut().poll(cx));
                waiting.changed = None;
            }
        }
        Poll::Ready(())
    }

    /// Polls the services that were asked before, and lets go of those whose connection has ended.
    #[cold]
    fn poll_held(&self, waiting: &mut Waiting<S>, cx: &mut Context<'_>) -> Option<Held<S>> {
        let mut index = 0;
        while index < waiting.held.len() {
            // It may never be ready, and if it were, an endpoint that left gets no new call.
            if !waiting.held[index].claim.is_connected() {
                waiting.held.swap_remove(index);
                continue;
            }
            match waiting.held[index].service.poll_ready(cx) {
                Poll::Pending => index += 1,
                Poll::Ready(Ok(())) => return Some(waiting.held.swap_remove(index)),
                Poll::Ready(Err(error)) => {
                    let held = waiting.held.swap_remove(index);
                    self.shared.not_ready(held.claim, error.into());
                }
            }
        }
        None
    }

    /// Picks endpoints until one takes the request, one is not ready yet, or none is left. `alone`:
    /// no other endpoint is about to become ready for this call.
    #[inline]
    fn pick(&mut self, alone: bool, cx: &mut Context<'_>) -> Choice<S, S::Future> {
        let snapshot = self.shared.load();
        let now = self.shared.timed().then(clock::now);
        let limited = self.shared.limiter().is_some();
        let mut races = 0;
        let mut avoid_previous = true;
        loop {
            let request = self.request.as_ref().expect("polled after completion");
            let info = self.track.request(request);
            if self.previous.is_none() {
                self.previous = info.extension::<PreviousEndpoints>().cloned();
            }
            let previous = self.previous.as_ref();
            let previous = previous.filter(|previous| avoid_previous && !previous.is_empty());
            let tried = self.misses.as_ref().map(|misses| &misses.tried);
            let mut context = PickContext::new(&mut self.rng)
                .with_request(info)
                .with_ejections_ignored(snapshot.summary.panic)
                .with_hash(self.hash);
            if let Some(tried) = tried {
                context = context.with_tried(tried);
            }
            if limited {
                context = context.with_limits();
            }
            if let Some(previous) = previous {
                context = context.with_previous(previous);
            }
            if let Some(now) = now {
                context = context.with_now(now);
            }
            let mut probes = self.shared.prober().map(|_| ProbeRequests::new());
            if let Some(probes) = &mut probes {
                context = context.with_probes(probes);
            }
            let pick = snapshot.picker.pick(&mut context);
            self.hash = context.hash();
            if let Some(probes) = &probes {
                self.shared.ask(&snapshot, probes);
            }
            let (candidate, ignore_ejections) = match pick {
                Pick::Endpoint(slot) => {
                    (snapshot.candidates.all().get(slot), snapshot.summary.panic)
                }
                // One that failed this call before is better than none.
                Pick::Nothing if previous.is_some() => {
                    avoid_previous = false;
                    continue;
                }
                // Others that are full are no reason to call one that is out.
                Pick::Nothing if limited && self.met(&snapshot).is_some() => (None, false),
                Pick::Nothing if alone && self.shared.panic_enabled() => {
                    (last_resort(&snapshot, tried, &mut self.rng), true)
                }
                _ => (None, false),
            };
            let Some(candidate) = candidate else {
                return self.nothing(&snapshot);
            };
            // The clone first: claiming writes, and what is read after that would wait for it.
            let service = snapshot.services.get(candidate.slot()).cloned().flatten();
            if limited {
                if let Some(limit) = self.claim_within(candidate, ignore_ejections) {
                    return Choice::Full(limit);
                }
            } else {
                self.claim = candidate.claim(ignore_ejections);
            }
            let (Some(mut service), Some(claim)) = (service, &mut self.claim) else {
                self.claim = None;
                races += 1;
                if races > MAX_RACES {
                    // A picker that names endpoints which cannot be used would be asked for ever.
                    return self.nothing(&snapshot);
                }
                continue;
            };
            if let Some(now) = now {
                claim.begun(now);
            }
            let ready = service.poll_ready(cx);
            if let Poll::Ready(Ok(())) = ready {
                return Choice::Called(self.dispatch(&mut service));
            }
            self.missed(candidate.connection());
            let claim = self.claim.take().expect("claimed above");
            match ready {
                Poll::Ready(Err(error)) => self.shared.not_ready(claim, error.into()),
                _ => {
                    let subchannel = candidate.subchannel();
                    let waits = limited && subchannel.wait();
                    if !limited || waits {
                        let place = waits.then(|| Place(subchannel.clone()));
                        return Choice::Pending(Held {
                            service,
                            claim,
                            _place: place,
                        });
                    }
                    // Too many wait for it; another one may have room.
                }
            }
        }
    }
}

impl<S, Req, T> fmt::Debug for Call<S, Req, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("claim", &self.claim)
            .field("misses", &self.misses)
            .finish_non_exhaustive()
    }
}
