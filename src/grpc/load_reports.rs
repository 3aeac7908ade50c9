use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::{StreamExt, TryFutureExt};
use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{BufferSettings, Codec};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tonic_prost::{ProstDecoder, ProstEncoder};
use tower_service::Service;

use crate::error::BoxError;
use crate::grpc::builder;
use crate::outcome::{LoadReport, MOST_MESSAGE_BYTES, OUT_OF_BAND_PATH, request_for};
use crate::probe::{Watch, WatchError};
use crate::proto::orca::OrcaLoadReport;
use crate::proto::orca_service::OrcaLoadReportRequest;

/// There is a stream for each endpoint, so its buffers begin small.
const BUFFER_BYTES: usize = 512;

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

    fn request(&self, every: Duration) -> tonic::Request<OrcaLoadReportRequest> {
        let headers = HeaderMap::from_iter([(USER_AGENT, self.user_agent.clone())]);
        let mut request = tonic::Request::new(request_for(every));
        *request.metadata_mut() = MetadataMap::from_headers(headers);
        request
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
    type Stream = Pin<Box<dyn Stream<Item = Result<LoadReport, WatchError>> + Send>>;

    fn watch(&self, service: S, every: &Duration) -> Self::Stream {
        let request = self.request(*every);
        let reports = async move {
            let mut client = Grpc::new(service).max_decoding_message_size(MOST_MESSAGE_BYTES);
            client
                .ready()
                .await
                .map_err(|error| Status::unavailable(error.into().to_string()))?;
            let path = PathAndQuery::from_static(OUT_OF_BAND_PATH);
            let response = client.server_streaming(request, path, Reports).await?;
            // The client goes here: a stream must not keep a connection open that nobody else wants.
            Ok(response.into_inner())
        };
        let reports = reports.try_flatten_stream();
        Box::pin(reports.map(|report| match report {
            Ok(report) => Ok(LoadReport::from_orca(report)),
            Err(status) if status.code() == Code::Unimplemented => Err(WatchError::Unsupported),
            Err(status) => Err(WatchError::Ended(status.into())),
        }))
    }
}

/// What is asked for and what comes, in small buffers.
struct Reports;

impl Reports {
    fn buffers() -> BufferSettings {
        BufferSettings::new(BUFFER_BYTES, MOST_MESSAGE_BYTES)
    }
}

impl Codec for Reports {
    type Encode = OrcaLoadReportRequest;
    type Decode = OrcaLoadReport;
    type Encoder = ProstEncoder<OrcaLoadReportRequest>;
    type Decoder = ProstDecoder<OrcaLoadReport>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(Self::buffers())
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(Self::buffers())
    }
}

#[cfg(test)]
mod tests;
