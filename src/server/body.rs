use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::outcome::LoadReport;
use crate::server::out_of_band::Reports;
use crate::server::probe::Reply;
use crate::server::record::Call;

/// A response body that ends its request's time under way, and puts the report into its trailers; or what
/// the layer answers itself.
#[pin_project]
pub struct ReportingBody<B> {
    #[pin]
    content: Content<B>,
}

#[pin_project(project = ContentProjection)]
enum Content<B> {
    Response {
        #[pin]
        inner: B,
        call: Option<Call>,
    },
    Own(Own),
}

/// What the layer answers itself.
pub(super) enum Own {
    // Boxed, so that it costs the other kinds no room.
    Probe(Box<Reply>),
    /// Reports beside the calls.
    Reports(Reports),
}

impl Own {
    pub(super) fn into_response<B>(self) -> Response<ReportingBody<B>> {
        let content = Content::Own(self);
        let mut response = Response::new(ReportingBody { content });
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }
}

impl<B> ReportingBody<B> {
    /// `call` is none if it has ended.
    pub(super) fn new(inner: B, call: Option<Call>) -> Self {
        Self {
            content: Content::Response { inner, call },
        }
    }
}

impl<B: Body> Body for ReportingBody<B>
where
    B::Data: From<Bytes>,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let (mut inner, call) = match self.project().content.project() {
            ContentProjection::Response { inner, call } => (inner, call),
            ContentProjection::Own(Own::Probe(reply)) => {
                return Poll::Ready(reply.next().map(Ok));
            }
            ContentProjection::Own(Own::Reports(reports)) => {
                // It has no errors: they are statuses in its trailers.
                let frame = ready!(reports.as_mut().poll_frame(cx)).and_then(Result::ok);
                return Poll::Ready(frame.map(|frame| Ok(frame.map_data(B::Data::from))));
            }
        };
        let polled = inner.as_mut().poll_frame(cx);
        match polled {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                let frame = match frame.into_trailers() {
                    Ok(mut trailers) => {
                        if let Some(call) = call.take() {
                            finish(call, &mut trailers);
                        }
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                    Err(frame) => frame,
                };
                if let Some(call) = call.as_mut() {
                    call.answered();
                }
                // No trailers will come to carry a report, and nobody need poll again.
                if inner.is_end_stream()
                    && let Some(call) = call.take()
                {
                    call.finish(false);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            end => {
                if let Some(call) = call.take() {
                    call.finish(matches!(end, Poll::Ready(Some(Err(_)))));
                }
                end
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Response { inner, .. } => inner.is_end_stream(),
            Content::Own(Own::Probe(reply)) => reply.is_over(),
            Content::Own(Own::Reports(reports)) => reports.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Response { inner, .. } => inner.size_hint(),
            Content::Own(_) => SizeHint::default(),
        }
    }
}

impl<B: fmt::Debug> fmt::Debug for ReportingBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ReportingBody");
        if let Content::Response { inner, .. } = &self.content {
            debug.field("inner", inner);
        }
        debug.finish_non_exhaustive()
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
