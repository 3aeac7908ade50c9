use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use tonic::Code;
use tonic::body::Body;
use tower_service::Service;

use crate::grpc::builder;
use crate::grpc::classify::grpc_code;
use crate::outcome::{LoadReport, PROBE_PATH, probe_request};
use crate::probe::{Answer, Probe};

/// What is read of an answer's messages; theirs have under 20 bytes.
const MOST_BYTES: usize = 512;

/// Asks gRPC servers for their load by `evenkeel.load.v1.LoadProbe/Probe`, as those behind
/// `server::LoadReportLayer` answer it; the proto is in the repository. [`Channel`](crate::grpc::Channel)
/// has it by itself; it is for a [`Balance`](crate::Balance) over connections of one's own.
///
/// The answer is the message, or an ORCA report in the trailers; what both say, the message says. A
/// server that says UNIMPLEMENTED, or 404, without telling how many requests it has under way, is not asked
/// again over this connection. Any other status, and a body that is none, is no answer.
///
/// A probe that is given up resets its stream, and leaves the connection alone.
#[derive(Clone)]
pub struct LoadProbe {
    user_agent: HeaderValue,
}

impl LoadProbe {
    /// A probe with evenkeel's user agent.
    pub fn new() -> Self {
        Self::by(HeaderValue::from_static(builder::USER_AGENT))
    }

    pub(super) fn by(user_agent: HeaderValue) -> Self {
        Self { user_agent }
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(Body::new(probe_request()));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = http::Uri::from_static(PROBE_PATH);
        let headers = request.headers_mut();
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(USER_AGENT, self.user_agent.clone());
        request
    }
}

impl Default for LoadProbe {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for LoadProbe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadProbe").finish_non_exhaustive()
    }
}

impl<S, B> Probe<S> for LoadProbe
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send,
{
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn probe(&self, mut service: S) -> Self::Future {
        let request = self.request();
        Box::pin(async move {
            if poll_fn(|cx| service.poll_ready(cx)).await.is_err() {
                return Answer::Silent;
            }
            let response = service.call(request);
            // A probe must not keep a connection open that nobody else wants.
            drop(service);
            let Ok(response) = response.await else {
                return Answer::Silent;
            };
            read(response).await
        })
    }
}

async fn read<B: http_body::Body<Data = Bytes>>(response: Response<B>) -> Answer {
    let (head, body) = response.into_parts();
    // Nothing follows: what trailers would say is in the head.
    if grpc_code(&head.headers).is_some() {
        return judge(&head.headers, &[]);
    }
    match head.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return unsupported(&head.headers),
        _ => return Answer::Silent,
    }
    let mut message = Vec::new();
    let mut body = pin!(body);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(frame) = frame else {
            return Answer::Silent;
        };
        match frame.into_data() {
            Ok(data) if message.len() + data.len() > MOST_BYTES => return Answer::Silent,
            Ok(data) => message.extend_from_slice(&data),
            Err(frame) => {
                if let Some(trailers) = frame.trailers_ref() {
                    return judge(trailers, &message);
                }
            }
        }
    }
    Answer::Silent
}

/// `headers` have the status.
fn judge(headers: &HeaderMap, message: &[u8]) -> Answer {
    match grpc_code(headers) {
        Some(Code::Ok) => {}
        Some(Code::Unimplemented) => return unsupported(headers),
        _ => return Answer::Silent,
    }
    let beside = LoadReport::from_headers(headers);
    let report = match (LoadReport::from_probe_reply(message), beside) {
        (Some(reply), Some(beside)) => Some(reply.or(&beside)),
        (reply, beside) => reply.or(beside),
    };
    report.map_or(Answer::Silent, Answer::Load)
}

/// The server does not know the method; but it may be one that tells its load with whatever it answers.
fn unsupported(headers: &HeaderMap) -> Answer {
    LoadReport::from_headers(headers)
        .filter(|report| report.in_flight().is_some())
        .map_or(Answer::Unsupported, Answer::Load)
}

#[cfg(test)]
mod tests;
