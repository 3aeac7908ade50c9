//! One call, from its first attempt to the response that it keeps.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tower_service::Service;

use crate::call::{PreviousEndpoints, grpc_timeout, set_grpc_timeout};
use crate::cluster::now;
use crate::error::{BoxError, Error};
use crate::retry::body::Kept;
use crate::retry::read::{Pushback, code_of_head, pushback};
use crate::retry::service::Shared;
use crate::retry::{ErrorKind, ReadError, ResponseBody, RetryBody};

/// gRFC A6: how many attempts were made before this one.
pub(super) const PREVIOUS_ATTEMPTS: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");

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
    head: Parts,
    body: Kept<B>,
    previous: PreviousEndpoints,
    attempts: u32,
    /// How often it waited without the server's word on how long.
    backoffs: u32,
    deadline: Option<Instant>,
    /// When the call ends at the latest, at the deadline or before: no attempt begins then.
    end: Option<Instant>,
    /// Of the attempt, or of the wait for the next.
    timer: Option<Pin<Box<Sleep>>>,
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
            call.end = Some(end);
        }
        self
    }

    /// Whether an earlier attempt went to an endpoint.
    #[cfg(feature = "grpc")]
    pub(crate) fn was_sent(&self) -> bool {
        (self.call.as_ref()).is_some_and(|call| call.attempts > 1 && !call.previous.is_empty())
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
                        None => call.again_after(None),
                    };
                    // An attempt that is dropped for its time is its endpoint's failure.
                    call.previous.set_timed_out(result.is_none());
                    this.state.set(State::Waiting);
                    call.previous.set_timed_out(false);
                    // After the attempt, so that a stream is cancelled and not broken off; and before the
                    // response, which is the answer if its request has just outgrown its room.
                    let Some(delay) = delay.filter(|_| call.body.take_back().is_some()) else {
                        this.state.set(State::Done);
                        call.body.commit();
                        let result = result.unwrap_or_else(|| Err(too_late()));
                        let result = result.map(|response| call.answer(response));
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
                            call.attempts += 1;
                            let Some(delay) = call.again_after(None) else {
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
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S, B, E> Call<S, B, E>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Keeps what a later attempt needs, and gives the request of the first.
    pub(super) fn begin(
        shared: Arc<Shared<S, E>>,
        request: Request<B>,
    ) -> (Self, Request<RetryBody<B>>) {
        let (mut head, body) = request.into_parts();
        // Ahead of the record's own place among the extensions, which would be copied too.
        let kept = head.clone();
        let previous = head.extensions.get::<PreviousEndpoints>().cloned();
        let previous = previous.unwrap_or_else(|| {
            let previous = PreviousEndpoints::new();
            head.extensions.insert(previous.clone());
            previous
        });
        let timeout = grpc_timeout(&head.headers);
        let (body, first) = Kept::new(body, shared.rules.policy.buffer_limit_bytes);
        // A limit beyond the end of the clock is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let call = Self {
            shared,
            head: kept,
            body,
            previous,
            attempts: 1,
            backoffs: 0,
            deadline,
            end: deadline,
            timer: None,
            timeless: false,
        };
        (call, Request::from_parts(head, first))
    }

    /// The request of the next attempt.
    fn request<E2: From<Error>>(&mut self) -> Result<Request<RetryBody<B>>, E2> {
        let body = self.body.next().ok_or_else(gone)?;
        let mut head = self.head.clone();
        head.extensions.insert(self.previous.clone());
        head.headers
            .insert(PREVIOUS_ATTEMPTS, HeaderValue::from(self.attempts));
        let now = Instant::now();
        // The wait took longer than it should have. An endpoint would be blamed for no answer.
        if self.end.is_some_and(|end| end <= now) {
            return Err(past_deadline());
        }
        // The same moment, since gRPC's timeouts are never zero.
        if let Some(deadline) = self.deadline {
            set_grpc_timeout(&mut head.headers, deadline.saturating_duration_since(now));
        }
        self.attempts += 1;
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

    fn new_timer(&mut self, time: Duration) -> Option<Pin<Box<Sleep>>> {
        if self.timeless {
            return None;
        }
        let timer = self.shared.timer(time);
        self.timeless = timer.is_none();
        timer
    }

    /// When to try again after this, if at all. The order of the rules is that of gRFC A6.
    fn judge<R, Error>(&mut self, result: &Result<Response<R>, Error>) -> Option<Delay>
    where
        E: ReadError<Error>,
    {
        let rules = &self.shared.rules;
        match result {
            Ok(response) => {
                let headers = response.headers();
                let code = code_of_head(response.status(), headers)?;
                if code == 0 {
                    rules.succeeded();
                    return None;
                }
                let asked = match pushback(headers) {
                    Some(Pushback::Never) => {
                        rules.failed();
                        return None;
                    }
                    Some(Pushback::After(delay)) => Some(delay),
                    None => None,
                };
                rules
                    .policy
                    .retries_code(code)
                    .then(|| self.again_after(asked))?
            }
            // No more a server's failure than a malformed request is, which A6 does not count.
            Err(_) if self.body.has_failed() => None,
            Err(error) => {
                let retried = match self.shared.read.read(error) {
                    ErrorKind::Code(code) => rules.policy.retries_code(code),
                    ErrorKind::Transport => rules.policy.transport_errors,
                    ErrorKind::Final => false,
                };
                retried.then(|| self.again_after(None))?
            }
        }
    }

    /// The caller's response. What has begun tells the throttle by its end how the call went.
    fn answer<R: Body>(&self, response: Response<R>) -> Response<ResponseBody<R>> {
        let rules = &self.shared.rules;
        let told = rules.throttle.is_some()
            && code_of_head(response.status(), response.headers()).is_none();
        response.map(|body| match told {
            true => ResponseBody::told(body, rules.clone()),
            false => ResponseBody::plain(body),
        })
    }

    /// When to try again after a failure that is worth it, if that is allowed. `asked` is the server's
    /// own word on the delay.
    fn again_after(&mut self, asked: Option<Duration>) -> Option<Delay> {
        let rules = self.shared.rules.clone();
        if rules.throttle.as_ref().is_some_and(|t| !t.failed())
            || self.attempts >= rules.policy.attempts()
            || !self.body.is_whole()
        {
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
        let is_over =
            |end: Instant| (Instant::now().checked_add(delay)).is_none_or(|begin| begin >= end);
        if self.end.is_some_and(is_over) {
            return None;
        }
        let timer = match delay {
            Duration::ZERO => None,
            _ => Some(self.new_timer(delay)?),
        };
        // Last, so that nothing is taken out for a retry that is not made.
        if rules.budget.as_ref().is_some_and(|b| !b.withdraw(now())) {
            return None;
        }
        Some(Delay { timer })
    }
}

#[cold]
fn too_late<E: From<Error>>() -> E {
    Error::timeout("the attempt took longer than its limit").into()
}

#[cold]
fn past_deadline<E: From<Error>>() -> E {
    Error::timeout("the deadline passed before the next attempt").into()
}

/// The caller's own body panicked while it was read.
#[cold]
fn gone<E: From<Error>>() -> E {
    Error::unavailable("the request's body cannot be read any more", None).into()
}

impl<F, S, B, E> fmt::Debug for ResponseFuture<F, S, B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.call.as_ref().map(|call| call.attempts);
        f.debug_struct("ResponseFuture")
            .field("attempts", &attempts)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
