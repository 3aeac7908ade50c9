use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use crate::balance::TrackedBody;
use crate::grpc::classify::ByGrpcStatus;
use crate::grpc::http2::AttemptError;
use crate::grpc::status;
use crate::outcome::Outcome;
use crate::retry;

/// As a channel's balancer gives it.
pub(super) type Tracked<B> = TrackedBody<B, ByGrpcStatus, AttemptError>;

type Inner<B> = retry::ResponseBody<Tracked<B>>;

/// The body of a [`Channel`](crate::grpc::Channel)'s response: its errors are statuses, the caller's
/// deadline holds to its end, and the endpoint counts as busy until then.
#[pin_project]
pub struct ResponseBody<B> {
    #[pin]
    inner: Inner<B>,
    deadline: Option<Pin<Box<Sleep>>>,
    expired: bool,
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: Inner<B>, deadline: Option<Pin<Box<Sleep>>>) -> Self {
        Self {
            inner,
            deadline,
            expired: false,
        }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body<Data = Bytes>,
    B::Error: StdError + Send + Sync + 'static,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut this = self.project();
        if *this.expired {
            return Poll::Ready(None);
        }
        let polled = this.inner.as_mut().poll_frame(cx);
        let outcome = this.deadline.as_mut().and_then(|deadline| match &polled {
            Poll::Pending => deadline
                .as_mut()
                .poll(cx)
                .is_ready()
                .then_some(Outcome::Failure),
            // The clock and not the timer: a stream that always has a frame must not outrun it. The
            // endpoint did its part; it is the caller who reads slowly.
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                (deadline.deadline() <= Instant::now()).then_some(Outcome::Ignored)
            }
            Poll::Ready(_) => None,
        });
        let Some(outcome) = outcome else {
            return polled.map(|frame| frame.map(|frame| frame.map_err(status::from_body_error)));
        };
        this.inner.inner().expire(outcome);
        *this.expired = true;
        Poll::Ready(Some(Err(status::deadline_exceeded(None))))
    }

    fn is_end_stream(&self) -> bool {
        self.expired || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: fmt::Debug> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
