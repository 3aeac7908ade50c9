use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::replay::Answered;

/// The body of an [`Http2`](super::Http2)'s response. Dropping it cancels the call, also when its
/// request is still being sent.
#[derive(Debug)]
pub struct Http2Body {
    inner: Incoming,
    answered: Answered,
}

impl Http2Body {
    pub(super) fn new(inner: Incoming, mut answered: Answered) -> Self {
        // Nobody need poll a body that has ended, as that of a failure often has.
        if inner.is_end_stream() {
            answered.ended();
        }
        Self { inner, answered }
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {}
            // Who holds on to the body for longer keeps no other call waiting.
            Poll::Ready(_) => self.answered.ended(),
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
