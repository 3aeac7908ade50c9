//! One call, from its first attempt to the response that it keeps.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use http_body::Body;
use pin_project::pin_project;
#[cfg(feature = "grpc")]
use tokio::time::Instant;
use tower_service::Service;

use crate::error::{BoxError, Error};
use crate::retry::body::ReaderId;
use crate::retry::bounds::Verdict;
use crate::retry::hedge::attempt::Attempt;
use crate::retry::hedge::call::{Call, Due};
use crate::retry::repeat::past_deadline;
use crate::retry::{ReadError, ResponseBody, RetryBody};

/// The response to come; see [`Hedge`](crate::retry::Hedge). Dropping it cancels all attempts. `O` is what an
/// attempt ends with.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct HedgeFuture<F, S, B, E, O> {
    #[pin]
    first: Option<F>,
    others: Vec<Pin<Box<Attempt<F, S, B>>>>,
    /// How the last attempt that failed and is over did so: those under way, or to come, may find nobody to go to,
    /// and then this is the answer.
    failed: Option<Failed<O>>,
    /// `None` for a call that is not hedged. Dropped last, so that streams are cancelled and not broken off.
    call: Option<Call<S, B, E>>,
}

struct Failed<O> {
    result: O,
    /// A server has had the attempt, as far as is known.
    was_served: bool,
}

impl<F, S, B, E, O> HedgeFuture<F, S, B, E, O> {
    pub(super) fn new(first: F, call: Option<Call<S, B, E>>) -> Self {
        Self {
            first: Some(first),
            others: Vec::new(),
            failed: None,
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

    /// Whether an attempt went to an endpoint beside or before those that are under way.
    #[cfg(feature = "grpc")]
    pub(crate) fn was_sent(&self) -> bool {
        (self.call.as_ref()).is_some_and(|call| call.repeat.was_sent())
    }

    /// Ends by `end` the attempts that have had their time, of which the oldest is one in any case. What `end`
    /// says of one that no endpoint has is said if it is so of all.
    #[cfg(feature = "grpc")]
    pub(crate) fn expire<T>(
        self: Pin<&mut Self>,
        mut end: impl FnMut(Pin<&mut F>) -> Option<T>,
    ) -> Option<T> {
        let mut this = self.project();
        let mut ended = Vec::new();
        ended.extend(this.first.as_mut().as_pin_mut().map(&mut end));
        for attempt in this.others.iter_mut() {
            let overdue = (this.call.as_ref()).is_none_or(|call| call.is_overdue(attempt.made));
            if (ended.is_empty() || overdue)
                && let Some(attempt) = attempt.as_mut().called()
            {
                ended.push(end(attempt));
            }
        }
        let all: Option<Vec<T>> = ended.into_iter().collect();
        all?.into_iter().next()
    }
}

impl<F, S, B, E, R> Future for HedgeFuture<F, S, B, E, Result<Response<R>, S::Error>>
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

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            let mut this = self.as_mut().project();
            let Some(call) = this.call else {
                let first = this.first.as_mut().as_pin_mut();
                let result = ready!(first.expect("polled after completion").poll(cx));
                this.first.set(None);
                return Poll::Ready(result.map(|head| head.map(ResponseBody::plain)));
            };
            if !this.others.is_empty()
                && let Some(ahead) = call.repeat.body.ahead(cx.waker())
            {
                // Nobody else can have the rest of the request.
                if ahead != ReaderId::FIRST {
                    this.first.set(None);
                }
                this.others.retain(|attempt| attempt.reader == ahead);
                call.repeat.body.commit_to(ahead);
            }
            let first = this.first.as_mut().as_pin_mut();
            if let Some(Poll::Ready(result)) = first.map(|first| first.poll(cx)) {
                this.first.set(None);
                if let Some(answer) = self.as_mut().ended(ReaderId::FIRST, false, result) {
                    return Poll::Ready(answer);
                }
                continue;
            }
            let mut attempts = this.others.iter_mut().enumerate();
            let ended =
                attempts.find_map(
                    |(at, attempt)| match attempt.as_mut().poll(&call.repeat, cx) {
                        Poll::Ready(result) => Some((at, result)),
                        Poll::Pending => None,
                    },
                );
            if let Some((at, result)) = ended {
                // In the order of their age: the oldest is to blame if time runs out.
                let attempt = this.others.remove(at);
                let (reader, beside) = (attempt.reader, attempt.beside);
                // Ahead of what follows, so that a stream is cancelled and not broken off.
                drop(attempt);
                let Some(result) = result else {
                    call.repeat.body.release(reader);
                    call.stop();
                    continue;
                };
                if let Some(answer) = self.as_mut().ended(reader, beside, result) {
                    return Poll::Ready(answer);
                }
                continue;
            }
            let beside = this.first.is_some() || !this.others.is_empty();
            match call.due(beside, cx) {
                Due::Wait => return Poll::Pending,
                Due::Attempt => match call.repeat.body.beside() {
                    Some(body) => {
                        let service = call.shared.again.clone();
                        let attempt = Attempt::new(service, body, call.repeat.attempts, beside);
                        this.others.push(Box::pin(attempt));
                        call.repeat.attempts += 1;
                    }
                    // Outgrown at this moment.
                    None => call.stop(),
                },
                // The attempt that was left could not be made in time.
                Due::Over => {
                    call.done(false);
                    *this.failed = None;
                    *this.call = None;
                    return Poll::Ready(Err(past_deadline()));
                }
            }
        }
    }
}

impl<F, S, B, E, R, X> HedgeFuture<F, S, B, E, Result<Response<R>, X>>
where
    E: ReadError<X>,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    R: Body,
{
    /// An attempt has ended with this. The call's answer, if that is one.
    fn ended(
        self: Pin<&mut Self>,
        reader: ReaderId,
        beside: bool,
        mut result: Result<Response<R>, X>,
    ) -> Option<Result<Response<ResponseBody<R>>, X>> {
        let mut this = self.project();
        let call = this.call.as_mut()?;
        let verdict = call.judge(&result);
        let body = &call.repeat.body;
        // Nobody else can have the rest of the request, so who has it has the last word, too.
        if let Verdict::Failed(_) | Verdict::Unserved | Verdict::NotSent = verdict
            && body.release(reader)
        {
            match verdict {
                Verdict::Failed(pushback) => call.failed(pushback),
                Verdict::Unserved => call.failed(None),
                _ => call.not_sent(beside),
            }
            let was_served = matches!(verdict, Verdict::Failed(_));
            // That nobody has had this one says nothing of why the call failed.
            let is_less = |failed: &Failed<_>| failed.was_served && !was_served;
            let says_less =
                verdict == Verdict::NotSent || this.failed.as_ref().is_some_and(is_less);
            if this.first.is_some() || !this.others.is_empty() || call.goes_on() {
                if !says_less && is_over(&result) {
                    *this.failed = Some(Failed { result, was_served });
                }
                return None;
            }
            if says_less && let Some(failed) = this.failed.take() {
                result = failed.result;
            }
        } else if !body.claim(reader) {
            // Who has it is under way. A body with a gap would look whole to this one's server.
            body.release(reader);
            return None;
        }
        // Before the rest of the request is only this attempt's: their streams are cancelled, and not broken
        // off.
        this.first.set(None);
        this.others.clear();
        *this.failed = None;
        call.repeat.body.commit_to(reader);
        call.done(verdict == Verdict::Good);
        let answer = result.map(|response| call.shared.rules.bounds.answer(response));
        *this.call = None;
        Some(answer)
    }
}

/// Whether nothing of an attempt is under way any more. A response whose body goes on has its place at its endpoint,
/// and its stream, until it is read or dropped; nobody reads it as long as others may answer.
fn is_over<R: Body, X>(result: &Result<Response<R>, X>) -> bool {
    match result {
        Ok(response) => response.body().is_end_stream(),
        Err(_) => true,
    }
}

impl<F, S, B, E, O> fmt::Debug for HedgeFuture<F, S, B, E, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.call.as_ref().map(|call| call.repeat.attempts);
        f.debug_struct("HedgeFuture")
            .field("attempts", &attempts)
            .finish_non_exhaustive()
    }
}
