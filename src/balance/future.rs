//! One call, from the pick to the response.
//!
//! The request stays here until an endpoint's service is ready to take it, so that everything which
//! goes wrong before that costs another pick and nothing else. The first pick, claim and dispatch
//! need no allocation; what waits does.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use crate::balance::service::Own;
use crate::balance::{Track, clock};
use crate::call::{PreviousEndpoints, RequestInfo};
use crate::cluster::Snapshot;
use crate::endpoint::{ConnectivityState, EndpointId};
use crate::error::{BoxError, Error};
use crate::math::Rng;
use crate::outcome::Outcome;
use crate::policy::{Candidate, Claim, Pick, PickContext, ProbeRequests, Tried};

/// How often a request that came back unprocessed is sent again.
const MAX_REDISPATCHES: u8 = 3;

/// How many endpoints a call asks for readiness before it waits for them.
const MAX_HELD: usize = 3;

/// How many picks may be lost to a race with an ejection or the end of a connection.
const MAX_RACES: usize = 8;

/// The response to come; see [`Balance`](crate::Balance). Dropping it cancels the call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, Req, T>
where
    S: Service<Req>,
{
    #[pin]
    state: State<S, S::Future>,
    call: Call<S, Req, T>,
}

#[pin_project(project = StateProjection)]
enum State<S, F> {
    /// No endpoint chosen, or not the last word: the services asked so far, not yet ready.
    Choosing(Option<Box<Waiting<S>>>),
    /// The endpoint has the request.
    Called(#[pin] F),
    Done,
}

/// What stays through all tries of one call. Its parts are made where they stay: a claim or a
/// service that is handed up by value is copied at each step, and that costs more than the pick.
struct Call<S, Req, T> {
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
    /// Apart, as `note` is: most calls are no attempts of several, and pay for it else.
    #[cold]
    #[inline(never)]
    fn given_up(&mut self) {
        if let Some(previous) = &self.previous
            && previous.has_timed_out()
            && let Some(claim) = self.claim.take()
        {
            clock::finish(claim, Outcome::Failure);
        }
    }

    #[cold]
    #[inline(never)]
    fn note(&self, endpoint: &EndpointId) {
        if let Some(previous) = &self.previous {
            previous.insert(endpoint.clone());
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
    held: Vec<Held<S>>,
    changed: Option<Changed>,
}

/// A service that was asked for readiness and is not ready yet. It is kept, since its waker, and
/// maybe a permit, belong to this very clone.
struct Held<S> {
    service: S,
    claim: Claim,
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
}

impl<S, Req, T> ResponseFuture<S, Req, T>
where
    S: Service<Req>,
{
    #[inline]
    pub(super) fn new(shared: Arc<Own<S>>, track: T, rng: Rng, request: Req) -> Self {
        Self {
            state: State::Choosing(None),
            call: Call {
                shared,
                track,
                rng,
                request: Some(request),
                claim: None,
                hash: None,
                misses: None,
                previous: None,
            },
        }
    }

    /// Ends the call for its deadline. An endpoint that has the request is at fault, and the answer
    /// is `None`; if none has it, the answer says what the call was waiting for.
    #[cfg(feature = "grpc")]
    pub(crate) fn expire(self: Pin<&mut Self>) -> Option<String> {
        let mut this = self.project();
        let waited_for = match this.state.as_mut().project() {
            StateProjection::Called(_) => {
                if let Some(claim) = this.call.claim.take() {
                    clock::finish(claim, Outcome::Failure);
                }
                None
            }
            StateProjection::Choosing(_) => Some(this.call.shared.load().summary.to_string()),
            StateProjection::Done => None,
        };
        this.state.set(State::Done);
        waited_for
    }
}

impl<S, Req, T> Future for ResponseFuture<S, Req, T>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    T: Track<Req, S>,
{
    type Output = Result<T::Response, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let call = this.call;
        loop {
            match this.state.as_mut().project() {
                StateProjection::Choosing(waiting) => match ready!(call.choose(waiting, cx)) {
                    Ok(response) => this.state.set(State::Called(response)),
                    Err(error) => {
                        this.state.set(State::Done);
                        return Poll::Ready(Err(error));
                    }
                },
                StateProjection::Called(response) => {
                    let result = ready!(response.poll(cx));
                    this.state.set(State::Done);
                    let claim = call.claim.take().expect("polled after completion");
                    let error = match result {
                        Ok(response) => {
                            return Poll::Ready(Ok(call.track.response(response, claim)));
                        }
                        Err(error) => error,
                    };
                    match call.track.reclaim(error) {
                        Ok(request) => {
                            let misses = call.misses.get_or_insert_default();
                            misses.returned.insert(claim.connection());
                            // An endpoint that was only busy may take it yet.
                            misses.tried = misses.returned;
                            claim.take_back();
                            if misses.redispatches == MAX_REDISPATCHES {
                                return Poll::Ready(Err(handed_back()));
                            }
                            misses.redispatches += 1;
                            call.request = Some(request);
                            this.state.set(State::Choosing(None));
                        }
                        Err(error) => {
                            clock::finish(claim, call.track.error(&error));
                            return Poll::Ready(Err(Error::endpoint(error)));
                        }
                    }
                }
                StateProjection::Done => panic!("polled after completion"),
            }
        }
    }
}

impl<S, Req, T> Call<S, Req, T>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    T: Track<Req, S>,
{
    /// Chooses an endpoint that is ready and gives it the request. `waiting` is what earlier polls
    /// have asked and not got yet.
    #[inline]
    fn choose(
        &mut self,
        waiting: &mut Option<Box<Waiting<S>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Future, Error>> {
        if let Some(waiting) = waiting
            && let Some(mut held) = self.poll_held(waiting, cx)
        {
            return Poll::Ready(Ok(self.dispatch(&mut held.service, held.claim)));
        }
        loop {
            let held = waiting.as_ref().map_or(0, |waiting| waiting.held.len());
            let may_wait = if held < MAX_HELD {
                match self.pick(held == 0, cx) {
                    Choice::Called(response) => return Poll::Ready(Ok(response)),
                    Choice::Pending(held) => {
                        waiting.get_or_insert_default().held.push(held);
                        continue;
                    }
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
            ready!(self.poll_changed(waiting.get_or_insert_default(), cx));
        }
    }

    /// Gives the request to a service that is ready for it.
    #[inline]
    fn dispatch(&mut self, service: &mut S, mut claim: Claim) -> S::Future {
        claim.sent();
        if self.previous.is_some() {
            self.note(claim.endpoint());
        }
        self.claim = Some(claim);
        service.call(self.request.take().expect("polled after completion"))
    }

    /// `connection` is not ready to be called.
    #[cold]
    fn missed(&mut self, connection: u64) {
        self.misses.get_or_insert_default().tried.insert(connection);
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
            let tried = self.misses.as_ref().map_or(Tried::NOTHING, |m| &m.tried);
            let mut context = PickContext::new(&mut self.rng)
                .with_request(info)
                .with_tried(tried)
                .with_ejections_ignored(snapshot.summary.panic)
                .with_hash(self.hash);
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
                Pick::Nothing if alone && self.shared.panic_enabled() => {
                    (last_resort(&snapshot, tried, &mut self.rng), true)
                }
                _ => (None, false),
            };
            let Some(candidate) = candidate else {
                return nothing(&snapshot, &info);
            };
            // The clone first: claiming writes, and what is read after that would wait for it.
            let service = snapshot.services.get(candidate.slot()).cloned().flatten();
            let claim = candidate.claim(ignore_ejections);
            let (Some(mut service), Some(mut claim)) = (service, claim) else {
                races += 1;
                if races > MAX_RACES {
                    // A picker that names endpoints which cannot be used would be asked for ever.
                    return nothing(&snapshot, &info);
                }
                continue;
            };
            if let Some(now) = now {
                claim.begun(now);
            }
            match service.poll_ready(cx) {
                Poll::Ready(Ok(())) => {
                    return Choice::Called(self.dispatch(&mut service, claim));
                }
                Poll::Ready(Err(error)) => {
                    self.missed(candidate.connection());
                    self.shared.not_ready(claim, error.into());
                }
                Poll::Pending => {
                    self.missed(candidate.connection());
                    return Choice::Pending(Held { service, claim });
                }
            }
        }
    }
}

/// When the policy has nothing left, an ejected endpoint is better than a failed call: what panic
/// mode says, without waiting for the control plane to say it.
#[cold]
fn last_resort<'a, S>(
    snapshot: &'a Snapshot<S>,
    tried: &Tried,
    rng: &mut Rng,
) -> Option<&'a Candidate> {
    let all = snapshot.candidates.all();
    let start = rng.below(all.len());
    all[start..]
        .iter()
        .chain(&all[..start])
        .find(|c| c.is_connected() && !tried.contains(c.connection()))
}

/// What to do when this snapshot has no endpoint for the call.
#[cold]
fn nothing<S, C, F>(snapshot: &Snapshot<S>, info: &RequestInfo<'_>) -> Choice<C, F> {
    if may_help(snapshot, info.wait_for_ready().unwrap_or(false)) {
        Choice::Later
    } else {
        Choice::Never
    }
}

/// Whether a later snapshot may have an endpoint for a call that found none in this one.
fn may_help<S>(snapshot: &Snapshot<S>, wait_for_ready: bool) -> bool {
    let summary = &snapshot.summary;
    if summary.closed {
        return false;
    }
    if wait_for_ready || (!summary.resolved && summary.discovery_error.is_none()) {
        return true;
    }
    let mut all = snapshot.candidates.all().iter();
    // Those that are idle beside the one connection that the policy wants stay so while it can be used.
    let idle_stay_idle = summary.one_is_enough
        && (all.clone()).any(|c| c.is_connected() && c.subchannel().health().admits());
    // An endpoint that is on its way, or one whose end the snapshot does not show yet.
    all.any(|c| match c.state() {
        ConnectivityState::TransientFailure => false,
        ConnectivityState::Idle if idle_stay_idle => false,
        _ => !c.is_connected(),
    })
}

/// `returned`: how many endpoints handed the call back. They look well in the summary.
#[cold]
fn unavailable<S>(snapshot: &Snapshot<S>, returned: u8) -> Error {
    let summary = &snapshot.summary;
    if summary.closed {
        return Error::closed();
    }
    let message = match returned {
        0 => summary.to_string(),
        _ => format!(
            "the call came back unprocessed from {returned} {}, and no other took it ({summary})",
            if returned == 1 {
                "endpoint"
            } else {
                "endpoints"
            },
        ),
    };
    Error::unavailable(message, None)
}

#[cold]
fn handed_back() -> Error {
    Error::unavailable(
        format!(
            "{} endpoints in a row handed the call back unprocessed",
            MAX_REDISPATCHES + 1
        ),
        None,
    )
}

impl<S> Default for Waiting<S> {
    fn default() -> Self {
        Self {
            held: Vec::new(),
            changed: None,
        }
    }
}

impl<S, Req, T> fmt::Debug for ResponseFuture<S, Req, T>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("misses", &self.call.misses)
            .finish_non_exhaustive()
    }
}
