use std::error::Error as StdError;
use std::fmt;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::balance::clock;
use crate::balance::track::Of;
use crate::outcome::{Classify, Outcome};
use crate::policy::Claim;

/// A response body that ends its call: at its trailers, at its end, at its error, or when dropped.
///
/// `C` judges the end, `E` is the error of the service that the response came from.
#[pin_project]
pub struct TrackedBody<B, C, E> {
    #[pin]
    inner: B,
    claim: Option<Claim>,
    /// What the head said already.
    verdict: Option<Outcome>,
    classify: C,
    error: Of<E>,
}

impl<B, C, E> TrackedBody<B, C, E>
where
    B: Body,
    C: Classify<Response<B>, E>,
{
    pub(super) fn new(inner: B, mut claim: Claim, classify: C, verdict: Option<Outcome>) -> Self {
        if let Some(verdict) = verdict {
            claim.judged(verdict);
        }
        let mut body = Self {
            inner,
            claim: Some(claim),
            verdict,
            classify,
            error: PhantomData,
        };
        // Nobody needs to poll a body that has ended, so its end is now.
        if body.inner.is_end_stream() {
            let outcome = body.verdict.unwrap_or_else(|| body.classify.trailers(None));
            if let Some(claim) = body.claim.take() {
                clock::finish(claim, outcome);
            }
        }
        body
    }
}

#[cfg(feature = "grpc")]
impl<B, C, E> TrackedBody<B, C, E> {
    /// Ends the call for its deadline, which says `outcome` about the endpoint.
    pub(crate) fn expire(self: Pin<&mut Self>, outcome: Outcome) {
        if let Some(claim) = self.project().claim.take() {
            clock::finish(claim, outcome);
        }
    }
}

impl<B, C, E> Body for TrackedBody<B, C, E>
where
    B: Body,
    B::Error: StdError + 'static,
    C: Classify<Response<B>, E>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let polled = this.inner.as_mut().poll_frame(cx);
        let end = match &polled {
            Poll::Pending => None,
            Poll::Ready(Some(Ok(frame))) => match frame.trailers_ref() {
                Some(trailers) => {
                    if let Some(claim) = this.claim.as_ref() {
                        clock::reported(claim, || this.classify.load_report(trailers));
                    }
                    let judged = || this.classify.trailers(Some(trailers));
                    Some(this.verdict.unwrap_or_else(judged))
                }
                None => {
                    if let Some(claim) = this.claim.as_mut() {
                        clock::responded(claim);
                    }
                    this.inner
                        .is_end_stream()
                        .then(|| this.verdict.unwrap_or_else(|| this.classify.trailers(None)))
                }
            },
            Poll::Ready(Some(Err(error))) => Some(this.classify.body_error(error)),
            Poll::Ready(None) => Some(this.verdict.unwrap_or_else(|| this.classify.trailers(None))),
        };
        if let Some(outcome) = end
            && let Some(claim) = this.claim.take()
        {
            clock::finish(claim, outcome);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: fmt::Debug, C, E> fmt::Debug for TrackedBody<B, C, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrackedBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
