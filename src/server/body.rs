use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::outcome::LoadReport;
use crate::server::record::Call;

/// A response body that ends its request's time under way, and puts the report into its trailers.
#[pin_project]
pub struct ReportingBody<B> {
    #[pin]
    inner: B,
    call: Option<Call>,
}

impl<B> ReportingBody<B> {
    /// `call` is none if it has ended.
    pub(super) fn new(inner: B, call: Option<Call>) -> Self {
        Self { inner, call }
    }
}

impl<B: Body> Body for ReportingBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let mut this = self.project();
        let polled = this.inner.as_mut().poll_frame(cx);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                let frame = match frame.into_trailers() {
                    Ok(mut trailers) => {
                        if let Some(call) = this.call.take() {
                            finish(call, &mut trailers);
                        }
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    Err(frame) => frame,
                };
                if let Some(call) = this.call.as_mut() {
                    call.answered();
                }
                // No trailers will come to carry a report, and nobody need poll again.
                if this.inner.is_end_stream()
                    && let Some(call) = this.call.take()
                {
                    call.finish(false);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            end => {
                if let Some(call) = this.call.take() {
                    call.finish(matches!(end, Poll::Ready(Some(Err(_)))));
                }
                end
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl<B: fmt::Debug> fmt::Debug for ReportingBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReportingBody")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// Ends a call whose gRPC status is in `headers`, and puts the report beside it, unless the application
/// has put one there.
pub(super) fn finish(call: Call, headers: &mut HeaderMap) {
    let report = call.finish(is_failure(headers));
    headers
        .entry(LoadReport::HEADER)
        .or_insert_with(|| report.to_header_value());
}

/// The statuses that are the server's fault: UNKNOWN, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, INTERNAL,
/// UNAVAILABLE, DATA_LOSS. A request that was wrong is answered well.
fn is_failure(headers: &HeaderMap) -> bool {
    let status = headers.get("grpc-status").map(|status| status.as_bytes());
    matches!(status, Some(b"2" | b"4" | b"8" | b"13" | b"14" | b"15"))
}
