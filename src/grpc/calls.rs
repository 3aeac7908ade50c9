//! What stands between a channel and its balancer: nothing, or retries, for all calls or by their methods.

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
    self, ErrorKind, OtherPolicy, ReadError, ResponseBody, Retry, RetryBody, RetryLayer,
    RetryPolicy,
};

/// How a channel makes its calls.
pub(super) enum Calls<S> {
    Once(Balance<S, Tracking>),
    Retrying(Retrying<S>),
    /// Some by one of these policies, the others once.
    ByMethod(Retrying<S>, Arc<[Policy<S>]>),
}

type Retrying<S> = Retry<Attempts<Balance<S, Tracking>>, ByAttempt>;

type Policy<S> = OtherPolicy<Attempts<Balance<S, Tracking>>, ByAttempt>;

impl<S: Clone + Send + Sync + 'static> Calls<S> {
    /// All by this policy, if there is one; else each by that of these which its method has.
    pub(super) fn new(
        balance: Balance<S, Tracking>,
        all: Option<RetryLayer>,
        by_method: &[RetryPolicy],
    ) -> Result<Self, Error> {
        let retrying =
            |layer: RetryLayer, balance| layer.reading_errors(ByAttempt).layer(Attempts(balance));
        match (all, by_method) {
            (Some(all), _) => Ok(Self::Retrying(retrying(all, balance))),
            (None, []) => Ok(Self::Once(balance)),
            (None, [first, ..]) => {
                let retry = retrying(RetryLayer::new(*first)?, balance);
                let policies = by_method.iter().map(|policy| retry.other_policy(*policy));
                let policies = policies.collect::<Result<_, _>>()?;
                Ok(Self::ByMethod(retry, policies))
            }
        }
    }
}

impl<S> Calls<S> {
    pub(super) fn balance(&self) -> &Balance<S, Tracking> {
        match self {
            Self::Once(balance) => balance,
            Self::Retrying(retry) | Self::ByMethod(retry, _) => &retry.get_ref().0,
        }
    }
}

impl<S> Clone for Calls<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Once(balance) => Self::Once(balance.clone()),
            Self::Retrying(retry) => Self::Retrying(retry.clone()),
            Self::ByMethod(retry, policies) => Self::ByMethod(retry.clone(), policies.clone()),
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
        match status::attempt_of(error) {
            Some(attempt) if attempt.is_connection_lost() => ErrorKind::Transport,
            _ => ErrorKind::Code(status::code(error) as u32),
        }
    }
}

type Attempt<S> = balance::ResponseFuture<S, Request<Body>, Tracking>;

// Boxed, so that channels without retries do not move its size about.
type Retried<S> =
    Pin<Box<retry::ResponseFuture<Attempt<S>, Attempts<Balance<S, Tracking>>, Body, ByAttempt>>>;

/// A response to come, by either way.
#[pin_project(project = CallProjection)]
#[expect(
    clippy::large_enum_variant,
    reason = "the large one is the usual one, which is to allocate nothing"
)]
pub(super) enum Call<S: Service<Request<Body>>> {
    Once(#[pin] Attempt<S>),
    Retrying(Retried<S>),
}

impl<S: Service<Request<Body>>> Call<S> {
    /// Ends the call for its deadline. If no endpoint had it, says before what that was, and what the call
    /// was waiting for.
    pub(super) fn expire(self: Pin<&mut Self>) -> Option<String> {
        let (waited_for, again) = match self.project() {
            CallProjection::Once(attempt) => (attempt.expire()?, ""),
            CallProjection::Retrying(call) => {
                let again = if call.was_sent() { " again" } else { "" };
                (call.as_mut().attempt()?.expire()?, again)
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
    /// Both are always ready: a channel's balancer does not wait in `poll_ready`.
    /// `end` is when the caller is answered at the latest, `policy` the place of the method's policy among
    /// those by method.
    pub(super) fn call(
        &mut self,
        request: Request<Body>,
        end: Option<Instant>,
        policy: Option<usize>,
    ) -> Call<S> {
        let call = match self {
            Self::Once(balance) => return Call::Once(balance.call(request)),
            Self::Retrying(retry) => retry.call(request),
            Self::ByMethod(retry, policies) => match policy.and_then(|place| policies.get(place)) {
                Some(policy) => retry.call_by(policy, request),
                None => return Call::Once(retry.get_mut().0.call(request)),
            },
        };
        Call::Retrying(Box::pin(match end {
            Some(end) => call.end_by(end),
            None => call,
        }))
    }
}

impl<S, R> Future for Call<S>
where
    S: Service<Request<Body>>,
    Attempt<S>: Future<Output = Result<Response<R>, Error>>,
    Retried<S>: Future<Output = Result<Response<ResponseBody<R>>, Error>>,
{
    type Output = Result<Response<ResponseBody<R>>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CallProjection::Once(attempt) => attempt
                .poll(cx)
                .map_ok(|response| response.map(ResponseBody::plain)),
            CallProjection::Retrying(call) => Pin::new(call).poll(cx),
        }
    }
}
