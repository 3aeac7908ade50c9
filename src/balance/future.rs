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

use crate::balance::Track;
use crate::call::RequestInfo;
use crate::cluster::{Shared, Snapshot};
use crate::endpoint::ConnectivityState;
use crate::error::{BoxError, Error};
use crate::math::Rng;
use crate::outcome::Outcome;
use crate::policy::{Candidate, Claim, Pick, PickContext, Tried};

/// How often a request that came back unprocessed is sent again.
const MAX_REDISPATCHES: u8 = 3;

/// How many endpoints a call asks for readiness before it waits for them.
const MAX_HELD: usize = 3;

/// How many picks may be lost to a race with an ejection or the end of a connection.
const MAX_RACES: usize = 8;

/// The response to come; see [`Balance`](crate::Balance). Dropping it cancels the call.
#[pin_project(project = CallProjection)]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, Req, T>
where
    S: Service<Req>,
{
    shared: Arc<Shared<S>>,
    track: T,
    rng: Rng,
    request: Option<Req>,
    /// Asked for readiness, or in `returned`.
    tried: Tried,
    /// Had the request, and handed it back.
    returned: Tried,
    hash: Option<u64>,
    redispatches: u8,
    #[pin]
    state: State<S, S::Future>,
}

#[pin_project(project = StateProjection)]
enum State<S, F> {
    /// No endpoint chosen, or not the last word: the services asked so far, not yet ready.
    Choosing(Option<Box<Waiting<S>>>),
    /// The endpoint has the request.
    Called {
        #[pin]
        response: F,
        claim: Option<Claim>,
    },
    Done,
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
enum Choice<S> {
    /// Ready to be called.
    Ready(S, Claim),
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
    pub(super) fn new(shared: Arc<Shared<S>>, track: T, rng: Rng, request: Req) -> Self {
        Self {
            shared,
            track,
            rng,
            request: Some(request),
            tried: Tried::new(),
            returned: Tried::new(),
            hash: None,
            redispatches: 0,
            state: State::Choosing(None),
        }
    }

    /// Ends the call for its deadline: an endpoint that has the request is at fault, one that does
    /// not have it is not.
    #[cfg_attr(
        not(feature = "grpc"),
        expect(dead_code, reason = "the gRPC channel has deadlines")
    )]
    pub(crate) fn expire(self: Pin<&mut Self>) {
        let mut state = self.project().state;
        if let StateProjection::Called { claim, .. } = state.as_mut().project()
            && let Some(claim) = claim.take()
        {
            claim.finish(Outcome::Failure);
        }
        state.set(State::Done);
    }
}

impl<S, Req, T> Future for ResponseFuture<S, Req, T>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    T: Track<Req, S>,
{
    type Output = Result<T::Response, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Choosing(waiting) => {
                    let waiting = waiting.take();
                    match choose(&mut this, waiting, cx) {
                        Chosen::Ready(mut service, mut claim) => {
                            claim.sent();
                            let request = this.request.take().expect("polled after completion");
                            let response = service.call(request);
                            this.state.set(State::Called {
                                response,
                                claim: Some(claim),
                            });
                        }
                        Chosen::Wait(waiting) => {
                            this.state.set(State::Choosing(Some(waiting)));
                            return Poll::Pending;
                        }
                        Chosen::Failed(error) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                StateProjection::Called { response, claim } => {
                    let result = ready!(response.poll(cx));
                    let claim = claim.take().expect("polled after completion");
                    let error = match result {
                        Ok(response) => {
                            let response = this.track.response(response, claim);
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(response));
                        }
                        Err(error) => error,
                    };
                    match this.track.reclaim(error) {
                        Ok(request) => {
                            this.returned.insert(claim.connection());
                            // An endpoint that was only busy may take it yet.
                            *this.tried = *this.returned;
                            claim.take_back();
                            if *this.redispatches == MAX_REDISPATCHES {
                                this.state.set(State::Done);
                                return Poll::Ready(Err(handed_back()));
                            }
                            *this.redispatches += 1;
                            *this.request = Some(request);
                            this.state.set(State::Choosing(None));
                        }
                        Err(error) => {
                            claim.finish(this.track.error(&error));
                            this.state.set(State::Done);
                            return Poll::Ready(Err(Error::endpoint(error)));
                        }
                    }
                }
                StateProjection::Done => panic!("polled after completion"),
            }
        }
    }
}

/// The end of choosing, for now.
enum Chosen<S> {
    Ready(S, Claim),
    Wait(Box<Waiting<S>>),
    Failed(Error),
}

fn choose<S, Req, T>(
    call: &mut CallProjection<'_, S, Req, T>,
    mut waiting: Option<Box<Waiting<S>>>,
    cx: &mut Context<'_>,
) -> Chosen<S>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    T: Track<Req, S>,
{
    if let Some(waiting) = &mut waiting
        && let Some((service, claim)) = poll_held(call, waiting, cx)
    {
        return Chosen::Ready(service, claim);
    }
    loop {
        let held = waiting.as_ref().map_or(0, |waiting| waiting.held.len());
        let verdict = if held < MAX_HELD {
            match pick(call, held == 0, cx) {
                Choice::Ready(service, claim) => return Chosen::Ready(service, claim),
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
        if !verdict && held == 0 {
            return Chosen::Failed(unavailable(&call.shared.load()));
        }
        let waiting = waiting.get_or_insert_default();
        // Subscribed before one more look: a change between the look above and here is then seen.
        match &mut waiting.changed {
            None => {
                let mut versions = call.shared.subscribe();
                waiting.changed = Some(Box::pin(async move {
                    let _ = versions.changed().await;
                }));
            }
            Some(changed) => match changed.as_mut().poll(cx) {
                Poll::Ready(()) => waiting.changed = None,
                Poll::Pending => {
                    return Chosen::Wait(std::mem::take(waiting));
                }
            },
        }
    }
}

/// Polls the services that were asked before, and lets go of those whose connection has ended.
fn poll_held<S, Req, T>(
    call: &mut CallProjection<'_, S, Req, T>,
    waiting: &mut Waiting<S>,
    cx: &mut Context<'_>,
) -> Option<(S, Claim)>
where
    S: Service<Req>,
    S::Error: Into<BoxError>,
{
    let mut index = 0;
    while index < waiting.held.len() {
        // It may never be ready, and if it were, an endpoint that left gets no new call.
        if !waiting.held[index].claim.is_connected() {
            waiting.held.swap_remove(index);
            continue;
        }
        match waiting.held[index].service.poll_ready(cx) {
            Poll::Pending => index += 1,
            Poll::Ready(Ok(())) => {
                let held = waiting.held.swap_remove(index);
                return Some((held.service, held.claim));
            }
            Poll::Ready(Err(error)) => {
                let held = waiting.held.swap_remove(index);
                call.shared.not_ready(held.claim, error.into());
            }
        }
    }
    None
}

/// Picks endpoints until one is ready, one is not ready yet, or none is left. `alone`: no other
/// endpoint is about to become ready for this call.
fn pick<S, Req, T>(
    call: &mut CallProjection<'_, S, Req, T>,
    alone: bool,
    cx: &mut Context<'_>,
) -> Choice<S>
where
    S: Service<Req> + Clone,
    S::Error: Into<BoxError>,
    T: Track<Req, S>,
{
    let snapshot = call.shared.load();
    let request = call.request.as_ref().expect("polled after completion");
    let info = call.track.request(request);
    let mut races = 0;
    loop {
        let mut context = PickContext::new(call.rng)
            .with_request(info)
            .with_tried(call.tried)
            .with_ejections_ignored(snapshot.summary.panic)
            .with_hash(*call.hash);
        let pick = snapshot.picker.pick(&mut context);
        *call.hash = context.hash();
        let (candidate, ignore_ejections) = match pick {
            Pick::Endpoint(slot) => (snapshot.candidates.all().get(slot), snapshot.summary.panic),
            Pick::Nothing if alone && call.shared.panic_enabled() => {
                (last_resort(&snapshot, call.tried, call.rng), true)
            }
            _ => (None, false),
        };
        let Some(candidate) = candidate else {
            return nothing(&snapshot, &info);
        };
        let service = snapshot
            .services
            .get(candidate.slot())
            .and_then(Option::as_ref);
        let (Some(service), Some(claim)) = (service, candidate.claim(ignore_ejections)) else {
            races += 1;
            if races > MAX_RACES {
                // A picker that names endpoints which cannot be used would be asked for ever.
                return nothing(&snapshot, &info);
            }
            continue;
        };
        let mut service = service.clone();
        match service.poll_ready(cx) {
            Poll::Ready(Ok(())) => return Choice::Ready(service, claim),
            Poll::Ready(Err(error)) => {
                call.tried.insert(candidate.connection());
                call.shared.not_ready(claim, error.into());
            }
            Poll::Pending => {
                call.tried.insert(candidate.connection());
                return Choice::Pending(Held { service, claim });
            }
        }
    }
}

/// When the policy has nothing left, an ejected endpoint is better than a failed call: what panic
/// mode says, without waiting for the control plane to say it.
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
fn nothing<S, C>(snapshot: &Snapshot<S>, info: &RequestInfo<'_>) -> Choice<C> {
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
    // An endpoint that is on its way, or one whose end the snapshot does not show yet.
    snapshot
        .candidates
        .all()
        .iter()
        .any(|c| c.state() != ConnectivityState::TransientFailure && !c.is_connected())
}

#[cold]
fn unavailable<S>(snapshot: &Snapshot<S>) -> Error {
    if snapshot.summary.closed {
        Error::closed()
    } else {
        Error::unavailable(snapshot.summary.to_string(), None)
    }
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
            .field("tried", &self.tried)
            .field("redispatches", &self.redispatches)
            .finish_non_exhaustive()
    }
}
