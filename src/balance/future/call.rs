//! What a call goes through until an endpoint has it, and what its end says of that endpoint.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::balance::future::nothing::handed_back;
use crate::balance::future::pick::Choice;
use crate::balance::future::waiting::Waiting;
use crate::balance::service::Own;
use crate::balance::{Track, clock};
use crate::call::PreviousEndpoints;
use crate::error::{BoxError, Error};
use crate::math::Rng;
use crate::outcome::Outcome;
use crate::policy::{Claim, Tried};

/// How often a request that came back unprocessed is sent again.
pub(super) const MAX_REDISPATCHES: u8 = 3;

/// What stays through all tries of one call. Its parts are made where they stay: a claim or a
/// service that is handed up by value is copied at each step, and that costs more than the pick.
pub(super) struct Call<S, Req, T> {
    pub(super) shared: Arc<Own<S>>,
    pub(super) track: T,
    pub(super) rng: Rng,
    /// Here until an endpoint has it.
    pub(super) request: Option<Req>,
    /// On the endpoint that has the request.
    pub(super) claim: Option<Claim>,
    pub(super) hash: Option<u64>,
    /// Boxed, since most calls never have one.
    pub(super) misses: Option<Box<Misses>>,
    /// The services asked so far and not yet ready.
    pub(super) waiting: Option<Box<Waiting<S>>>,
    /// Where the endpoints of all attempts are noted, if this is one of several.
    pub(super) previous: Option<PreviousEndpoints>,
}

impl<S, Req, T> Drop for Call<S, Req, T> {
    #[inline]
    fn drop(&mut self) {
        if self.claim.is_some() {
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
        let summary = self.shared.load().summary.to_string();
        match self.waiting.as_ref().map_or(0, |waiting| waiting.asked()) {
            0 => summary,
            1 => format!("the endpoint that was asked had no room for it ({summary})"),
            asked => format!("{asked} endpoints that were asked had no room for it ({summary})"),
        }
    }

    /// The endpoint that has the request took too long.
    #[cold]
    pub(super) fn failed(&mut self) {
        if let Some(claim) = self.claim.take() {
            clock::finish(claim, Outcome::Failure);
        }
    }

    /// Apart, as `note` is: most calls are not given up, and pay for it else.
    #[cold]
    #[inline(never)]
    fn given_up(&mut self) {
        if (self.previous.as_ref()).is_some_and(PreviousEndpoints::has_timed_out) {
            self.failed();
        } else if let Some(claim) = self.claim.take() {
            clock::given_up(claim);
        }
    }

    /// Whether the request is to go to an endpoint that no other attempt went to, or nowhere.
    #[inline]
    pub(super) fn wants_only_others(&self) -> bool {
        (self.previous.as_ref()).is_some_and(PreviousEndpoints::wants_only_others)
    }

    /// Whether the request is to go elsewhere, since another attempt went there.
    #[cold]
    pub(super) fn has_had(&self, claim: &Claim) -> bool {
        self.wants_only_others()
            && (self.previous.as_ref()).is_some_and(|previous| previous.contains(claim.endpoint()))
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
pub(super) struct Misses {
    /// The connections that were asked for readiness or handed the request back.
    pub(super) tried: Tried,
    /// Those that handed it back.
    pub(super) returned: Tried,
    pub(super) redispatches: u8,
    /// As many waited for one of them as may.
    pub(super) crowded: bool,
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

    /// Gives the request to the service that was claimed and is ready for it.
    #[inline]
    pub(super) fn dispatch(&mut self, service: &mut S) -> S::Future {
        if let Some(claim) = &mut self.claim {
            claim.sent();
        }
        if self.previous.is_some() {
            self.note();
        }
        service.call(self.request.take().expect("polled after completion"))
    }

    /// `connection` is not ready to be called.
    #[cold]
    pub(super) fn missed(&mut self, connection: u64) {
        self.misses.get_or_insert_default().tried.insert(connection);
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
