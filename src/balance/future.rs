//! One call, from the pick to the response.
//!
//! The request stays here until an endpoint's service is ready to take it, so that everything which
//! goes wrong before that costs another pick and nothing else. The first pick, claim and dispatch
//! need no allocation; what waits does.

mod call;
mod nothing;
mod pick;
mod waiting;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project::pin_project;
use tower_service::Service;

use crate::balance::Track;
use crate::balance::service::Own;
use crate::error::{BoxError, Error};
use crate::math::Rng;

use call::Call;

/// The response to come; see [`Balance`](crate::Balance). Dropping it cancels the call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, Req, T>
where
    S: Service<Req>,
{
    #[pin]
    state: State<S::Future>,
    call: Call<S, Req, T>,
}

#[pin_project(project = StateProjection)]
enum State<F> {
    /// No endpoint chosen, or not the last word.
    Choosing,
    /// The endpoint has the request.
    Called(#[pin] F),
    Done,
}

impl<S, Req, T> ResponseFuture<S, Req, T>
where
    S: Service<Req>,
{
    #[inline]
    pub(super) fn new(shared: Arc<Own<S>>, track: T, rng: Rng, request: Req) -> Self {
        Self {
            state: State::Choosing,
            call: Call::new(shared, track, rng, request),
        }
    }

    /// Ends the call for its deadline. An endpoint that has the request is at fault, and the answer
    /// is `None`; if none has it, the answer says what the call was waiting for.
    #[cfg(feature = "grpc")]
    pub(crate) fn expire(self: Pin<&mut Self>) -> Option<String> {
        let mut this = self.project();
        let waited_for = match this.state.as_mut().project() {
            StateProjection::Called(_) => {
                this.call.failed();
                None
            }
            StateProjection::Choosing => Some(this.call.waits_for()),
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
                StateProjection::Choosing => match ready!(call.choose(cx)) {
                    Ok(response) => this.state.set(State::Called(response)),
                    Err(error) => {
                        this.state.set(State::Done);
                        return Poll::Ready(Err(error));
                    }
                },
                StateProjection::Called(response) => {
                    let result = ready!(response.poll(cx));
                    this.state.set(State::Done);
                    if let Some(result) = call.ended(result) {
                        return Poll::Ready(result);
                    }
                    this.state.set(State::Choosing);
                }
                StateProjection::Done => panic!("polled after completion"),
            }
        }
    }
}

impl<S, Req, T> fmt::Debug for ResponseFuture<S, Req, T>
where
    S: Service<Req>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}
