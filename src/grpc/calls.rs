//! What stands between a channel and its balancer: nothing, retries or hedging, for all calls or by their methods.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::Instant;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::balance::{self, Balance};
use crate::error::Error;
use crate::grpc::channel::Tracking;
use crate::grpc::status;
use crate::retry::{
    self, ErrorKind, Hedge, HedgeFuture, HedgeLayer, HedgePolicy, HedgedCalls, OtherPolicy,
    ReadError, ResponseBody, Retry, RetryBody, RetryLayer, RetryPolicy, ThrottleSettings,
};

/// How a channel makes its calls.
pub(super) enum Calls<S> {
    Once(Balance<S, Tracking>),
    Retrying(Retrying<S>),
    Hedging(Hedging<S>),
    /// Some by one of these policies, the others once.
    ByMethod(Retrying<S>, Arc<[Policy<S>]>),
}

type Retrying<S> = Retry<Attempts<Balance<S, Tracking>>, ByAttempt>;

type Hedging<S> = Hedge<Attempts<Balance<S, Tracking>>, ByAttempt>;

/// How the calls of a method are repeated.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(feature = "service-config"),
    expect(dead_code, reason = "only a service config tells methods apart")
)]
pub(super) enum Repeats {
    Retries(RetryPolicy),
    Hedges(HedgePolicy),
}

/// The same, put to use.
pub(super) enum Policy<S> {
    Retries(OtherPolicy<Attempts<Balance<S, Tracking>>, ByAttempt>),
    Hedges(HedgedCalls<Attempts<Balance<S, Tracking>>, ByAttempt>),
}

impl<S: Clone + Send + Sync + 'static> Calls<S> {
    /// All by one of these policies, if there is one; else each by that of these which its method has, within
    /// this throttle.
    pub(super) fn new(
        balance: Balance<S, Tracking>,
        retry: Option<RetryLayer>,
        hedge: Option<HedgeLayer>,
        by_method: &[Repeats],
        throttle: Option<ThrottleSettings>,
    ) -> Result<Self, Error> {
        match (retry, hedge) {
            (Some(retry), _) => {
                let retry = retry.reading_errors(ByAttempt).layer(Attempts(balance));
                return Ok(Self::Retrying(retry));
            }
            (None, Some(hedge)) => {
                let hedge = hedge.reading_errors(ByAttempt).layer(Attempts(balance));
                return Ok(Self::Hedging(hedge));
            }
            (None, None) if by_method.is_empty() => return Ok(Self::Once(balance)),
            (None, None) => {}
        }
        let bounds = RetryPolicy::default()
            .with_budget(None)
            .with_throttle(throttle);
        let bounds = RetryLayer::new(bounds)?;
        let retry = bounds.clone().reading_errors(ByAttempt);
        let retry = retry.layer(Attempts(balance));
        let policies = by_method.iter().map(|repeats| match repeats {
            Repeats::Retries(policy) => retry.other_policy(*policy).map(Policy::Retries),
            Repeats::Hedges(policy) => {
                let layer = HedgeLayer::new(*policy)?.within_bounds_of(&bounds);
                let layer = layer.reading_errors(ByAttempt);
                Ok(Policy::Hedges(layer.calls_of(retry.get_ref())))
            }
        });
        let policies = policies.collect::<Result<_, _>>()?;
        Ok(Self::ByMethod(retry, policies))
    }
}

impl<S> Calls<S> {
    pub(super) fn balance(&self) -> &Balance<S, Tracking> {
        match self {
            Self::Once(balance) => balance,
            Self::Retrying(retry) | Self::ByMethod(retry, _) => &retry.get_ref().0,
            Self::Hedging(hedge) => &hedge.get_ref().0,
        }
    }
}

impl<S> Clone for Calls<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Once(balance) => Self::Once(balance.clone()),
            Self::Retrying(retry) => Self::Retrying(retry.clone()),
            Self::ByMethod(retry, policies) => Self::ByMethod(retry.clone(), policies.clone()),
            Self::Hedging(hedge) => Self::Hedging(hedge.clone()),
        }
    }
}

/// What makes the attempts, with tonic's type of body around the one that is kept.
#[derive(Clone)]
pub(super) struct Attempts<T>(pub(super) T);

/// Reads why an attempt got no response.
#[derive(Clone, Copy)]
pub(super) struct ByAttempt;

impl ReadError<Error> for ByAttempt {
    fn read(&self, error: &Error) -> ErrorKind {
        if error.is_closed() {
            return ErrorKind::Final;
        }
        if error.is_no_other() {
            return ErrorKind::NotSent;
        }
        match status::attempt_of(error) {
            Some(attempt) if attempt.is_connection_lost() => ErrorKind::Transport,
            _ => ErrorKind::Code(status::code(error) as u32),
        }
    }
}

type Attempt<S> = balance::ResponseFuture<S, Request<Body>, Tracking>;

// Boxed, so that channels without these do not move their sizes about.
type Retried<S> =
    Pin<Box<retry::ResponseFuture<Attempt<S>, Attempts<Balance<S, Tracking>>, Body, ByAttempt>>>;

type Hedged<S, R> = Pin<Box<HedgedCall<S, R>>>;

type HedgedCall<S, R> = HedgeFuture<
    Attempt<S>,
    Attempts<Balance<S, Tracking>>,
    Body,
    ByAttempt,
    Result<Response<R>, Error>,
>;

/// A response to come, by any of the ways. `R` is its body, as the balancer gives it.
#[pin_project(project = CallProjection)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, which is to allocate nothing"
)]
pub(super) enum Call<S: Service<Request<Body>>, R> {
    Once(#[pin] Attempt<S>),
    Retrying(Retried<S>),
    Hedging(Hedged<S, R>),
}

impl<S: Service<Request<Body>>, R> Call<S, R> {
    /// Ends the call for its deadline. If no endpoint had it, says before what that was, and what the call
    /// was waiting for.
    pub(super) fn expire(self: Pin<&mut Self>) -> Option<String> {
        let (waited_for, again) = match self.project() {
            CallProjection::Once(attempt) => (attempt.expire()?, ""),
            CallProjection::Retrying(call) => {
                let again = if call.was_sent() { " again" } else { "" };
                (call.as_mut().attempt()?.expire()?, again)
            }
            CallProjection::Hedging(call) => {
                let again = if call.was_sent() { " again" } else { "" };
                (call.as_mut().expire(|attempt| attempt.expire())?, again)
            }
        };
        Some(format!("the call was sent{again}: {waited_for}"))
    }
}

impl<T: Service<Request<Body>>> Service<Request<RetryBody<Body>>> for Attempts<T> {
    type Response = T::Response;
    type Error = T::Error;
    type Future = T::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), T::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<RetryBody<Body>>) -> T::Future {
        self.0
            .call(request.map(|body| body.into_once().unwrap_or_else(Body::new)))
    }
}

impl<S, R> Calls<S>
where
    S: Service<Request<Body>>,
    Balance<S, Tracking>:
        Service<Request<Body>, Response = Response<R>, Error = Error, Future = Attempt<S>>,
    R: http_body::Body,
{
    fn hedged(call: HedgedCall<S, R>, end: Option<Instant>) -> Call<S, R> {
        Call::Hedging(Box::pin(match end {
            Some(end) => call.end_by(end),
            None => call,
        }))
    }

    /// All are always ready: a channel's balancer does not wait in `poll_ready`.
    /// `end` is when the caller is answered at the latest, `policy` the place of the method's policy among
    /// those by method.
    pub(super) fn call(
        &mut self,
        request: Request<Body>,
        end: Option<Instant>,
        policy: Option<usize>,
    ) -> Call<S, R> {
        let call = match self {
            Self::Once(balance) => return Call::Once(balance.call(request)),
            Self::Retrying(retry) => retry.call(request),
            Self::Hedging(hedge) => return Self::hedged(hedge.call(request), end),
            Self::ByMethod(retry, policies) => match policy.and_then(|place| policies.get(place)) {
                Some(Policy::Retries(policy)) => retry.call_by(policy, request),
                Some(Policy::Hedges(hedge)) => {
                    return Self::hedged(hedge.call(retry.get_mut(), request), end);
                }
                None => return Call::Once(retry.get_mut().0.call(request)),
            },
        };
        Call::Retrying(Box::pin(match end {
            Some(end) => call.end_by(end),
            None => call,
        }))
    }
}

impl<S, R> Future for Call<S, R>
where
    S: Service<Request<Body>>,
    Attempt<S>: Future<Output = Result<Response<R>, Error>>,
    Retried<S>: Future<Output = Result<Response<ResponseBody<R>>, Error>>,
    Hedged<S, R>: Future<Output = Result<Response<ResponseBody<R>>, Error>>,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CallProjection::Once(attempt) => attempt
                .poll(cx)
                .map_ok(|response| response.map(ResponseBody::plain)),
            CallProjection::Retrying(call) => Pin::new(call).poll(cx),
            CallProjection::Hedging(call) => Pin::new(call).poll(cx),
        }
    }
}
