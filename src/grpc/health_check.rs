use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use tonic::body::Body;
use tower_service::Service;

use crate::error::BoxError;
use crate::grpc::builder;
use crate::grpc::server_stream::{self, Method, Words};
use crate::health::Verdict;
use crate::probe::{Target, Watch};
use crate::proto::health::health_check_response::ServingStatus;
use crate::proto::health::{HealthCheckRequest, HealthCheckResponse};

const WATCH: Method = Method {
    path: "/grpc.health.v1.Health/Watch",
    // The answer is one number.
    most_message_bytes: 1024,
};

/// Has gRPC servers tell of their health, by `grpc.health.v1.Health/Watch` (gRFC A17), as the health services of
/// tonic (`tonic-health`), Python, Node and gRPC's other languages serve it. Give it to
/// [`Builder::health_check`](crate::grpc::Builder::health_check), or to that of a [`Balance`](crate::Balance)
/// over connections of one's own.
///
/// One stream for each endpoint, over the connection of its calls. SERVING lets calls in; NOT_SERVING, UNKNOWN
/// and SERVICE_UNKNOWN keep them out, and so does any status but UNIMPLEMENTED that the stream ends with; it
/// is then begun anew, after the backoff of connections. A server that says UNIMPLEMENTED, or 404, has no such
/// service: it counts as healthy, which is warned of once.
///
/// A stream takes one of those that the server's `MAX_CONCURRENT_STREAMS` allows.
///
/// ```
/// use evenkeel::grpc::{Channel, HealthCheck};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::Error> {
/// let channel = Channel::builder()
///     .endpoints(["http://10.0.0.1:50051", "http://10.0.0.2:50051"])
///     .health_check(HealthCheck::of("shop.Cart"))
///     .build()?;
/// # let _ = channel;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HealthCheck {
    service: Arc<str>,
    user_agent: HeaderValue,
}

impl HealthCheck {
    /// Asks for the health of the whole server: of the service with the empty name, which is gRPC's default.
    pub fn new() -> Self {
        Self::of("")
    }

    /// Asks for the health of this service. A server that does not know the name says SERVICE_UNKNOWN and gets
    /// no calls, so the name is to be one that the servers have registered.
    pub fn of(service: impl Into<Arc<str>>) -> Self {
        Self {
            service: service.into(),
            user_agent: HeaderValue::from_static(builder::USER_AGENT),
        }
    }

    pub(super) fn by(mut self, user_agent: HeaderValue) -> Self {
        self.user_agent = user_agent;
        self
    }
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for HealthCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthCheck")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

impl<S, B> Watch<S> for HealthCheck
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Terms = ();
    type Word = Verdict;
    type Stream = Words<Verdict>;

    fn watch(&self, target: Target<S>, (): &()) -> Self::Stream {
        let request = HealthCheckRequest {
            service: self.service.to_string(),
        };
        server_stream::open(target, &self.user_agent, WATCH, request, verdict)
    }
}

fn verdict(answer: HealthCheckResponse) -> Verdict {
    match ServingStatus::try_from(answer.status) {
        Ok(ServingStatus::Serving) => Verdict::Serving,
        Ok(status) => Verdict::not_serving(status.as_str_name()),
        Err(_) => Verdict::not_serving(format!("the unknown status {}", answer.status)),
    }
}
