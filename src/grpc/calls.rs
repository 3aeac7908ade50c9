//! What stands between a channel and its balancer: nothing, or retries.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::Instant;
use tonic::body::Body;
use tower_service::Service;

use crate::balance::{self, Balance, TrackedBody};
use crate::error::Error;
use crate::grpc::channel::Tracking;
use crate::grpc::classify::ByGrpcStatus;
use crate::grpc::http2::AttemptError;
use crate::grpc::status;
use crate::retry::{self, ErrorKind, ReadError, Retry, RetryBody};

/// How a channel makes its calls.
pub(super) enum Calls<S> {
    Once(Balance<S, Tracking>),
    Retrying(Retry<Attempts<S>, ByAttempt>),
}

impl<S> Calls<S> {
    pub(super) fn balance(&self) -> &Balance<S, Tracking> {
        match self {
            Self::Once(balance) => balance,
            Self::Retrying(retry) => &retry.get_ref().0,
        }
    }
}

impl<S> Clone for Calls<S> {
    fn clone(&self) -> Self {
        match self {
            Self::Once(balance) => Self::Once(balance.clone()),
            Self::Retrying(retry) => Self::Retrying(retry.clone()),
        }
    }
}

/// One attempt: the balancer, with tonic's type of body around the one that is kept.
pub(super) struct Attempts<S>(pub(super) Balance<S, Tracking>);

impl<S> Clone for Attempts<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

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

type Responses<B> = Response<TrackedBody<B, ByGrpcStatus, AttemptError>>;
type Attempt<S> = balance::ResponseFuture<S, Request<Body>, Tracking>;

// Boxed, so that channels without retries do not move its size about.
type Retried<S> = Pin<Box<retry::ResponseFuture<Attempt<S>, Attempts<S>, Body, ByAttempt>>>;

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

impl<S, B> Service<Request<RetryBody<Body>>> for Attempts<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = AttemptError>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Response = Responses<B>;
    type Error = Error;
    type Future = Attempt<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<RetryBody<Body>>) -> Attempt<S> {
        self.0
            .call(request.map(|body| body.into_once().unwrap_or_else(Body::new)))
    }
}

impl<S, B> Calls<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = AttemptError>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    /// Both are always ready: a channel's balancer does not wait in `poll_ready`.
    /// `end` is when the caller is answered at the latest.
    pub(super) fn call(&mut self, request: Request<Body>, end: Option<Instant>) -> Call<S> {
        match self {
            Self::Once(balance) => Call::Once(balance.call(request)),
            Self::Retrying(retry) => {
                let call = retry.call(request);
                Call::Retrying(Box::pin(match end {
                    Some(end) => call.end_by(end),
                    None => call,
                }))
            }
        }
    }
}

impl<S, B> Future for Call<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = AttemptError>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: std::error::Error + Send + Sync + 'static,
{
    type Output = Result<Responses<B>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            CallProjection::Once(attempt) => attempt.poll(cx),
            CallProjection::Retrying(call) => call.as_mut().poll(cx),
        }
    }
}
