//! One call, from its first attempt to the response that it keeps.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::error::{BoxError, Error};
use crate::retry::bounds::Verdict;
use crate::retry::read::Pushback;
use crate::retry::repeat::{Repeat, past_deadline};
use crate::retry::service::Shared;
use crate::retry::timers::Timer;
use crate::retry::{ReadError, ResponseBody, RetryBody};

/// The response to come; see [`Retry`](crate::retry::Retry). Dropping it cancels the call.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<F, S, B, E> {
    #[pin]
    state: State<F, S>,
    /// `None` for a call that is not tried again.
    call: Option<Call<S, B, E>>,
}

#[pin_project(project = StateProjection)]
enum State<F, S> {
    Attempt(#[pin] F),
    /// Until the call's timer says that it is time.
    Waiting,
    /// The service for the next attempt, maybe not ready.
    Preparing(S),
    Done,
}

/// What stays through all attempts of one call.
pub(super) struct Call<S, B, E> {
    shared: Arc<Shared<S, E>>,
    repeat: Repeat<B>,
    /// How often it waited without the server's word on how long.
    backoffs: u32,
    /// Of the attempt, or of the wait for the next.
    timer: Option<Timer>,
    /// No timer could be made. Each try would print tokio's panic again.
    timeless: bool,
}

impl<F, S, B, E> ResponseFuture<F, S, B, E> {
    pub(super) fn new(attempt: F, call: Option<Call<S, B, E>>) -> Self {
        Self {
            state: State::Attempt(attempt),
            call,
        }
    }

    /// The call is ended at this moment by whoever holds this, and no later than at its deadline.
    #[cfg(feature = "grpc")]
    pub(crate) fn end_by(mut self, end: Instant) -> Self {
        if let Some(call) = &mut self.call {
            call.repeat.end = Some(end);
        }
        self
    }

    /// Whether an earlier attempt went to an endpoint.
    #[cfg(feature = "grpc")]
    pub(crate) fn was_sent(&self) -> bool {
        (self.call.as_ref()).is_some_and(|call| call.repeat.was_sent())
    }

    /// The attempt under way, if there is one.
    #[cfg(feature = "grpc")]
    pub(crate) fn attempt(self: Pin<&mut Self>) -> Option<Pin<&mut F>> {
        match self.project().state.project() {
            StateProjection::Attempt(attempt) => Some(attempt),
            _ => None,
        }
    }
}

impl<F, S, B, E, R> Future for ResponseFuture<F, S, B, E>
where
    F: Future<Output = Result<Response<R>, S::Error>>,
    S: Service<Request<RetryBody<B>>, Response = Response<R>, Future = F> + Clone,
    S::Error: From<Error>,
    E: ReadError<S::Error>,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    R: Body,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Attempt(attempt) => {
                    let polled = attempt.poll(cx);
                    let Some(call) = this.call else {
                        let result = ready!(polled);
                        this.state.set(State::Done);
                        return Poll::Ready(result.map(|head| head.map(ResponseBody::plain)));
                    };
                    let result = match polled {
                        Poll::Ready(result) => Some(result),
                        Poll::Pending if call.is_late(cx) => None,
                        Poll::Pending => return Poll::Pending,
                    };
                    call.timer = None;
                    let delay = match &result {
                        Some(result) => call.judge(result),
                        None => call.again_after_limit(),
                    };
                    // An attempt that is dropped for its time is its endpoint's failure.
                    call.repeat.previous.set_timed_out(result.is_none());
                    this.state.set(State::Waiting);
                    call.repeat.previous.set_timed_out(false);
                    // After the attempt, so that a stream is cancelled and not broken off; and before the
                    // response, which is the answer if its request has just outgrown its room.
                    let Some(delay) = delay.filter(|_| call.repeat.body.take_back()) else {
                        this.state.set(State::Done);
                        call.repeat.body.commit();
                        let result = result.unwrap_or_else(|| Err(too_late()));
                        let result =
                            result.map(|response| call.shared.rules.bounds.answer(response));
                        *this.call = None;
                        return Poll::Ready(result);
                    };
                    call.timer = delay.timer;
                }
                StateProjection::Waiting => {
                    let call = this.call.as_mut().expect("only a kept call waits");
                    if let Some(timer) = &mut call.timer {
                        ready!(timer.as_mut().poll(cx));
                        call.timer = None;
                    }
                    let service = call.shared.again.clone();
                    this.state.set(State::Preparing(service));
                }
                StateProjection::Preparing(service) => {
                    let call = this.call.as_mut().expect("only a kept call is sent again");
                    let ready = match service.poll_ready(cx) {
                        Poll::Ready(ready) => ready,
                        // As the wait for an endpoint that is a part of the attempt itself.
                        Poll::Pending if call.is_late(cx) => {
                            call.timer = None;
                            call.repeat.attempts += 1;
                            let Some(delay) = call.again_after_limit() else {
                                this.state.set(State::Done);
                                return Poll::Ready(Err(too_late()));
                            };
                            call.timer = delay.timer;
                            this.state.set(State::Waiting);
                            continue;
                        }
                        Poll::Pending => return Poll::Pending,
                    };
                    let request = ready.and_then(|()| call.request());
                    let attempt = request.map(|request| service.call(request));
                    match attempt {
                        Ok(attempt) => this.state.set(State::Attempt(attempt)),
                        Err(error) => {
                            this.state.set(State::Done);
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                StateProjection::Done => panic!("polled after completion"),
            }
        }
    }
}

/// The time until the next attempt; without a timer it begins at once.
struct Delay {
    timer: Option<Timer>,
}

impl<S, B, E> Call<S, B, E>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Of which the first attempt is about to be made.
    pub(super) fn new(shared: Arc<Shared<S, E>>, repeat: Repeat<B>) -> Self {
        Self {
            shared,
            repeat,
            backoffs: 0,
            timer: None,
            timeless: false,
        }
    }

    /// The request of the next attempt.
    fn request<E2: From<Error>>(&mut self) -> Result<Request<RetryBody<B>>, E2> {
        let body = self.repeat.body.next().ok_or_else(gone)?;
        // The wait took longer than it should have.
        let previous = self.repeat.previous.clone();
        let head = self.repeat.head(self.repeat.attempts, previous);
        let head = head.ok_or_else(past_deadline)?;
        self.repeat.attempts += 1;
        Ok(Request::from_parts(head, body))
    }

    /// Whether the attempt has had its time.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(limit) = self.shared.rules.policy.attempt_timeout else {
            return false;
        };
        if self.timer.is_none() {
            self.timer = self.new_timer(limit);
        }
        (self.timer.as_mut()).is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }

    fn new_timer(&mut self, time: Duration) -> Option<Timer> {
        if self.timeless {
            return None;
        }
        let timer = self.shared.timers.after(time);
        self.timeless = timer.is_none();
        timer
    }

    /// When to try again after this, if at all.
    fn judge<R, Error>(&mut self, result: &Result<Response<R>, Error>) -> Option<Delay>
    where
        E: ReadError<Error>,
    {
        let shared = &self.shared;
        match (self.repeat).judge(result, &shared.rules.bounds, &shared.read) {
            Verdict::Failed(Some(Pushback::Never)) => None,
            Verdict::Failed(Some(Pushback::After(delay))) => self.again_after(Some(delay)),
            Verdict::Failed(None) | Verdict::Unserved => self.again_after(None),
            Verdict::Good | Verdict::Fatal | Verdict::NotSent => None,
        }
    }

    /// When to try again after an attempt that was cut off at its limit.
    fn again_after_limit(&mut self) -> Option<Delay> {
        self.shared.rules.bounds.failed();
        self.again_after(None)
    }

    /// When to try again after a failure that is worth it, if that is allowed. `asked` is the server's
    /// own word on the delay.
    fn again_after(&mut self, asked: Option<Duration>) -> Option<Delay> {
        let rules = self.shared.rules.clone();
        if !rules.bounds.allow() || !self.repeat.may_repeat(rules.policy.attempts.most()) {
            return None;
        }
        let delay = match asked {
            Some(delay) => {
                self.backoffs = 0;
                delay
            }
            None => {
                let delay = rules.policy.backoff.delay(self.backoffs, &mut rules.rng());
                self.backoffs += 1;
                delay
            }
        };
        // An answer now is better than a deadline that passes while nothing is done.
        if self.repeat.ends_by(Instant::now().checked_add(delay)) {
            return None;
        }
        let timer = match delay {
            Duration::ZERO => None,
            _ => Some(self.new_timer(delay)?),
        };
        rules.bounds.withdraw().then_some(Delay { timer })
    }
}

#[cold]
fn too_late<E: From<Error>>() -> E {
    Error::timeout("the attempt took longer than its limit").into()
}

/// The caller's own body panicked while it was read.
#[cold]
fn gone<E: From<Error>>() -> E {
    Error::unavailable("the request's body cannot be read any more", None).into()
}

impl<F, S, B, E> fmt::Debug for ResponseFuture<F, S, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.call.as_ref().map(|call| call.repeat.attempts);
        f.debug_struct("ResponseFuture")
            .field("attempts", &attempts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
