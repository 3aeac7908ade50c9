//! The body of a response that has begun.
//!
//! It is the caller's, whatever comes in it. But gRPC says at its end how the call went, and that is
//! what gRPC's throttle counts (gRFC A6): a server that begins its responses and then fails them would
//! else pay back what its failures take.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::retry::bounds::Bounds;

/// A response's body, as it is. With a throttle, that is told how the call ends: by the trailers; by an
/// error, which is a failure where transport errors are tried again; or by an end that says nothing,
/// which is a success. One that is dropped before its end counts for neither.
#[pin_project]
pub struct ResponseBody<R> {
    #[pin]
    inner: R,
    /// Until the end; `None` where nobody wants to know.
    bounds: Option<Arc<Bounds>>,
}

impl<R> ResponseBody<R> {
    #[inline]
    pub(crate) fn plain(inner: R) -> Self {
        Self {
            inner,
            bounds: None,
        }
    }

    #[cfg(feature = "grpc")]
    pub(crate) fn inner(self: Pin<&mut Self>) -> Pin<&mut R> {
        self.project().inner
    }
}

impl<R: Body> ResponseBody<R> {
    pub(super) fn told(inner: R, bounds: Arc<Bounds>) -> Self {
        // Nobody needs to poll a body that has ended.
        if inner.is_end_stream() {
            bounds.ended(None);
            return Self::plain(inner);
        }
        Self {
            inner,
            bounds: Some(bounds),
        }
    }
}

impl<R: Body> Body for ResponseBody<R> {
    type Data = R::Data;
    type Error = R::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.inner.as_mut().poll_frame(cx));
        let is_over = || match &frame {
            Some(Ok(frame)) => frame.is_trailers() || this.inner.is_end_stream(),
            _ => true,
        };
        if this.bounds.is_some()
            && is_over()
            && let Some(bounds) = this.bounds.take()
        {
            match &frame {
                Some(Ok(frame)) => bounds.ended(frame.trailers_ref()),
                Some(Err(_)) => bounds.broke(),
                None => bounds.ended(None),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<R: fmt::Debug> fmt::Debug for ResponseBody<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;
    use http_body_util::{Empty, Full, StreamBody};

    use super::*;
    use crate::retry::service::Rules;
    use crate::retry::{RetryPolicy, ThrottleSettings};

    type Frames = Vec<Result<Frame<Bytes>, std::io::Error>>;

    fn data() -> Result<Frame<Bytes>, std::io::Error> {
        Ok(Frame::data(Bytes::from("pong")))
    }

    fn trailers(pairs: &[(&'static str, &'static str)]) -> Frames {
        let mut trailers = HeaderMap::new();
        for (name, value) in pairs {
            trailers.insert(*name, value.parse().unwrap());
        }
        vec![data(), Ok(Frame::trailers(trailers))]
    }

    fn status(code: &'static str) -> Frames {
        trailers(&[("grpc-status", code)])
    }

    /// The tokens, from 4 and this many failures on, after `use_body`.
    fn still_allows<R: Body>(
        policy: RetryPolicy,
        failures: usize,
        body: R,
        use_body: impl FnOnce(ResponseBody<R>),
    ) -> bool {
        let policy = policy.with_throttle(ThrottleSettings::new(4, 1.0));
        let bounds = Rules::new(policy).unwrap().bounds;
        for _ in 0..failures {
            bounds.failed();
        }
        use_body(ResponseBody::told(body, bounds.clone()));
        assert_eq!(Arc::strong_count(&bounds), 1, "what has ended is told once");
        bounds.allow()
    }

    /// By how many tokens the throttle is fuller after this use of a body.
    fn change<R: Body>(
        policy: RetryPolicy,
        body: impl Fn() -> R,
        use_body: impl Fn(ResponseBody<R>),
    ) -> i32 {
        // 2 of 4 tokens allow nothing, 3 do.
        match [2, 1].map(|failures| still_allows(policy, failures, body(), &use_body)) {
            [true, true] => 1,
            [false, true] => 0,
            [false, false] => -1,
            [true, false] => panic!("more with fewer tokens"),
        }
    }

    fn read<R: Body + Unpin>(mut body: ResponseBody<R>) {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(Some(_)) = Pin::new(&mut body).poll_frame(&mut cx) {}
        assert!(body.bounds.is_none(), "its end was seen");
    }

    #[test]
    fn the_throttle_counts_what_the_end_of_a_response_says() {
        let of = |frames: fn() -> Frames| {
            let body = || StreamBody::new(futures::stream::iter(frames()));
            change(RetryPolicy::default(), body, read)
        };
        assert_eq!(of(|| status("0")), 1, "OK");
        assert_eq!(of(|| status("14")), -1, "a code that is tried again");
        assert_eq!(of(|| status("3")), 0, "A6: malformed requests say nothing");
        assert_eq!(of(|| status("much")), 0, "UNKNOWN");
        let refusal = || trailers(&[("grpc-status", "3"), ("grpc-retry-pushback-ms", "-1")]);
        assert_eq!(of(refusal), -1, "A6: a pushback that says not to retry");
        let delay = || trailers(&[("grpc-status", "3"), ("grpc-retry-pushback-ms", "5")]);
        assert_eq!(of(delay), 0, "one that says when");
        assert_eq!(of(|| vec![data()]), 1, "not gRPC's, and whole");
        assert_eq!(of(|| trailers(&[("x-sum", "1")])), 1, "neither");
        let broken = || vec![data(), Err(std::io::Error::other("lost"))];
        assert_eq!(of(broken), -1, "UNAVAILABLE, as it is before the head");
    }

    #[test]
    fn an_error_is_no_failure_where_transport_errors_are_not_tried_again() {
        let policy = RetryPolicy::default().with_transport_errors(false);
        let broken = || {
            let error = std::io::Error::other("lost");
            StreamBody::new(futures::stream::iter([data(), Err(error)]))
        };
        assert_eq!(change(policy, broken, read), 0);
    }

    #[test]
    fn a_body_need_not_be_polled_beyond_its_end() {
        let policy = RetryPolicy::default();
        assert_eq!(change(policy, Empty::<Bytes>::new, drop), 1, "empty");
        let one_frame = |mut body: ResponseBody<Full<Bytes>>| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(Pin::new(&mut body).poll_frame(&mut cx).is_ready());
        };
        let body = || Full::new(Bytes::from("pong"));
        assert_eq!(change(policy, body, one_frame), 1, "its only frame");
        assert_eq!(change(policy, body, drop), 0, "given up before it");
    }
}
