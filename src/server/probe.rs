use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;

use crate::outcome::{LoadReport, PROBE_PATH};

/// Whether a request for this path is a probe.
pub(super) fn is_probe(path: &str) -> bool {
    path == PROBE_PATH
}

/// What is left to send of the answer to a probe: a unary response of gRPC.
#[derive(Debug)]
pub(super) struct Reply {
    message: Option<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Reply {
    pub(super) fn new(report: &LoadReport) -> Box<Self> {
        let status = HeaderName::from_static("grpc-status");
        let mut trailers = HeaderMap::with_capacity(2);
        trailers.insert(status, HeaderValue::from_static("0"));
        trailers.insert(LoadReport::HEADER, report.to_header_value());
        Box::new(Self {
            message: Some(report.to_probe_reply().into()),
            trailers: Some(trailers),
        })
    }

    pub(super) fn next<D: From<Bytes>>(&mut self) -> Option<Frame<D>> {
        if let Some(message) = self.message.take() {
            return Some(Frame::data(message.into()));
        }
        self.trailers.take().map(Frame::trailers)
    }

    pub(super) fn is_over(&self) -> bool {
        self.trailers.is_none()
    }
}
