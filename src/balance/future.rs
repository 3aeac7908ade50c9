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
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, Req, T>
where
    S: Service<Req>,
{
    call: Call<S, Req, T>,
    #[pin]
    state: State<S, S::Future>,
}

/// What stays through all tries of one call.
struct Call<S, Req, T> {
    shared: Arc<Shared<S>>,
    track: T,
    rng: Rng,
    request: Option<Req>,
    tried: Tried,
    hash: Option<u64>,
    redispatches: u8,
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
            call: Call {
                shared,
                track,
                rng,
                request: Some(request),
                tried: Tried::new(),
                hash: None,
                redispatches: 0,
            },
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

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let call = this.call;
        loop {
            match this.state.as_mut().project() {
                StateProjection::Choosing(waiting) => {
                    let chosen = ready!(call.choose(waiting, cx));
                    // Who was asked too, and not chosen, is free before the request goes.
                    *waiting = None;
                    match chosen {
                        Ok((mut service, mut claim)) => {
                            claim.sent();
                            let request = call.request.take().expect("polled after completion");
                            let response = service.call(request);
                            this.state.set(State::Called {
                                response,
                                claim: Some(claim),
                            });
                        }
                        Err(error) => {
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
                            let response = call.track.response(response, claim);
                            this.state.set(State::Done);
                            return Poll::Ready(Ok(response));
                        }
                        Err(error) => error,
                    };
                    match call.track.reclaim(error) {
                        Ok(request) => {
                            call.tried.insert(claim.connection());
                            claim.take_back();
                            if call.redispatches == MAX_REDISPATCHES {
                                this.state.set(State::Done);
                                return Poll::Ready(Err(handed_back()));
                            }
                            call.redispatches += 1;
                            call.request = Some(request);
                            this.state.set(State::Choosing(None));
                        }
                        Err(error) => {
                            claim.finish(call.track.error(&error));
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

impl<S, Req, T> Call<S, Req, T>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    T: Track<Req, S>,
{
    /// An endpoint's service that is ready, and the claim on it. `waiting` is what earlier polls
    /// have asked and not got yet.
    #[inline]
    fn choose(
        &mut self,
        waiting: &mut Option<Box<Waiting<S>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(S, Claim), Error>> {
        if let Some(waiting) = waiting
            && let Some(chosen) = self.poll_held(waiting, cx)
        {
            return Poll::Ready(Ok(chosen));
        }
        loop {
            let held = waiting.as_ref().map_or(0, |waiting| waiting.held.len());
            let may_wait = if held < MAX_HELD {
                match self.pick(held == 0, cx) {
                    Choice::Ready(service, claim) => return Poll::Ready(Ok((service, claim))),
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
                return Poll::Ready(Err(unavailable(&self.shared.load())));
            }
            ready!(self.poll_changed(waiting.get_or_insert_default(), cx));
        }
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

    /// Polls the services that were asked before.
    #[cold]
    fn poll_held(&self, waiting: &mut Waiting<S>, cx: &mut Context<'_>) -> Option<(S, Claim)> {
        let mut index = 0;
        while index < waiting.held.len() {
            match waiting.held[index].service.poll_ready(cx) {
                Poll::Pending => index += 1,
                Poll::Ready(Ok(())) => {
                    let held = waiting.held.swap_remove(index);
                    return Some((held.service, held.claim));
                }
                Poll::Ready(Err(error)) => {
                    let held = waiting.held.swap_remove(index);
                    self.shared.not_ready(held.claim, error.into());
                }
            }
        }
        None
    }

    /// Picks endpoints until one is ready, one is not ready yet, or none is left. `alone`: no other
    /// endpoint is about to become ready for this call.
    #[inline]
    fn pick(&mut self, alone: bool, cx: &mut Context<'_>) -> Choice<S> {
        let snapshot = self.shared.load();
        let request = self.request.as_ref().expect("polled after completion");
        let info = self.track.request(request);
        let mut races = 0;
        loop {
            let mut context = PickContext::new(&mut self.rng)
                .with_request(info)
                .with_tried(&self.tried)
                .with_ejections_ignored(snapshot.summary.panic)
                .with_hash(self.hash);
            let pick = snapshot.picker.pick(&mut context);
            self.hash = context.hash();
            let (candidate, ignore_ejections) = match pick {
                Pick::Endpoint(slot) => {
                    (snapshot.candidates.all().get(slot), snapshot.summary.panic)
                }
                Pick::Nothing if alone && self.shared.panic_enabled() => {
                    (last_resort(&snapshot, &self.tried, &mut self.rng), true)
                }
                _ => (None, false),
            };
            let Some(candidate) = candidate else {
                let wait = info.wait_for_ready().unwrap_or(false);
                return if may_help(&snapshot, wait) {
                    Choice::Later
                } else {
                    Choice::Never
                };
            };
            let service = snapshot
                .services
                .get(candidate.slot())
                .and_then(Option::as_ref);
            let (Some(service), Some(claim)) = (service, candidate.claim(ignore_ejections)) else {
                races += 1;
                if races > MAX_RACES {
                    // A picker that names endpoints which cannot be used would be asked for ever.
                    return Choice::Later;
                }
                continue;
            };
            let mut service = service.clone();
            match service.poll_ready(cx) {
                Poll::Ready(Ok(())) => return Choice::Ready(service, claim),
                Poll::Ready(Err(error)) => {
                    self.tried.insert(candidate.connection());
                    self.shared.not_ready(claim, error.into());
                }
                Poll::Pending => {
                    self.tried.insert(candidate.connection());
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

/// Whether a later snapshot may have an endpoint for a call that found none in this one.
#[cold]
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
            .field("tried", &self.call.tried)
            .field("redispatches", &self.call.redispatches)
            .finish_non_exhaustive()
    }
}
