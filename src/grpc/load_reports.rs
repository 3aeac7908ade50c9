use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tower_service::Service;

use crate::error::BoxError;
use crate::grpc::builder;
use crate::grpc::server_stream::{self, Method, Words};
use crate::outcome::{LoadReport, MOST_MESSAGE_BYTES, OUT_OF_BAND_PATH, request_for};
use crate::probe::{Target, Watch};
use crate::proto::orca::OrcaLoadReport;

const STREAM: Method = Method {
    path: OUT_OF_BAND_PATH,
    most_message_bytes: MOST_MESSAGE_BYTES,
};

/// Has gRPC servers report their load beside the calls, by
/// `xds.service.orca.v3.OpenRcaService/StreamCoreMetrics` (gRFC A51), as `server::LoadReportLayer` and gRPC's
/// own servers serve it. [`Channel`](crate::grpc::Channel) has it by itself; it is for a
/// [`Balance`](crate::Balance) over connections of one's own.
///
/// A server that says UNIMPLEMENTED, or 404, is not asked again over this connection. After any other
/// status, a message that is no report, or one of more than 64 KiB, the stream is begun anew, later.
/// A stream that is open and brings no report is left open: the server's own interval may be a long one. Until
/// the first report its endpoint has no weight of its own, and is called as those that do not report.
///
/// A stream takes one of those that the server's `MAX_CONCURRENT_STREAMS` allows. When it is given up it is
/// reset, and the connection left alone.
#[derive(Clone)]
pub struct LoadReports {
    user_agent: HeaderValue,
}

impl LoadReports {
    /// Asks with evenkeel's user agent.
    pub fn new() -> Self {
        Self::by(HeaderValue::from_static(builder::USER_AGENT))
    }

    pub(super) fn by(user_agent: HeaderValue) -> Self {
        Self { user_agent }
    }
}

impl Default for LoadReports {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LoadReports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadReports").finish_non_exhaustive()
    }
}

impl<S, B> Watch<S> for LoadReports
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Terms = Duration;
    type Word = LoadReport;
    type Stream = Words<LoadReport>;

    fn watch(&self, target: Target<S>, every: &Duration) -> Self::Stream {
        let request = request_for(*every);
        let read: fn(OrcaLoadReport) -> LoadReport = LoadReport::from_orca;
        server_stream::open(target, &self.user_agent, STREAM, request, read)
    }
}

#[cfg(test)]
mod tests;
