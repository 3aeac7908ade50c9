use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use pin_project::pin_project;
use tokio::runtime::Handle as Runtime;
use tokio::time::{Instant, Sleep};
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use crate::balance::{Http, Reclaiming, StateWatch};
use crate::endpoint::ConnectivityState;
use crate::grpc::body::{ResponseBody, Tracked};
use crate::grpc::builder::Builder;
use crate::grpc::calls::{Call, Calls};
use crate::grpc::classify::{ByGrpcStatus, grpc_code};
use crate::grpc::deadline::Limits;
use crate::grpc::http2::{AttemptError, Http2};
use crate::grpc::methods::Methods;
use crate::grpc::status;
use crate::observe::Report;

/// How a channel reads requests and responses.
pub(super) type Tracking = Reclaiming<Http<ByGrpcStatus>>;

/// A gRPC channel over many endpoints, to put straight into a generated tonic client. Cheap to
/// clone; clones share the connections.
///
/// `S` is the connection to one endpoint: [`Http2`], or tonic's own channel where the builder was
/// given [tonic endpoints](Builder::tonic_endpoints) or [tonic channels](Builder::tonic_channels).
///
/// # Waiting and deadlines
/// It is always ready: generated clients await readiness before the deadline of the call begins. A
/// call waits for an endpoint inside its own future, as long as one may still connect: no longer
/// than the connect timeout, or the caller's deadline if that is shorter. The caller's
/// `grpc-timeout` covers the call to its end; the channel's [timeout](Builder::timeout) to the
/// response head.
///
/// # Errors
/// A [`Status`], also in the middle of a response:
///
/// | code | why |
/// |---|---|
/// | `UNAVAILABLE` | no endpoint could take the call (the message counts them by state and quotes the last connect error), or the connection under the call was lost |
/// | `DEADLINE_EXCEEDED` | a deadline or timeout passed |
/// | as gRPC maps HTTP/2 errors | the server reset the call's stream |
///
/// Dropping a call cancels it at the server and says nothing about the endpoint.
///
/// With [retries](Builder::retry) the deadline and the timeout hold for all attempts together: a failure
/// is the answer where the wait for the next attempt would end after them. With [hedging](Builder::hedge),
/// too; a call that ends by them counts against the endpoint that had it first, and against others that had it
/// for as long as the delay between attempts.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::Error> {
/// let channel = evenkeel::grpc::Channel::builder()
///     .endpoints(["http://10.0.0.1:50051", "http://10.0.0.2:50051"])
///     .policy(evenkeel::policy::RoundRobin::default())
///     .build()?;
/// // let mut client = GreeterClient::new(channel);
/// # let _ = channel;
/// # Ok(())
/// # }
/// ```
pub struct Channel<S = Http2> {
    calls: Calls<S>,
    methods: Methods,
    user_agent: HeaderValue,
    timeout: Option<Duration>,
    runtime: Runtime,
}

impl Channel {
    /// Begins to build a channel.
    pub fn builder() -> Builder {
        Builder::new()
    }
}

impl<S> Channel<S> {
    pub(super) fn new(
        calls: Calls<S>,
        methods: Methods,
        user_agent: HeaderValue,
        timeout: Option<Duration>,
        runtime: Runtime,
    ) -> Self {
        Self {
            calls,
            methods,
            user_agent,
            timeout,
            runtime,
        }
    }

    /// The state of the whole; see [`Balance::state`](crate::Balance::state).
    pub fn state(&self) -> ConnectivityState {
        self.calls.balance().state()
    }

    /// The state and every change of it; see [`Balance::watch_state`](crate::Balance::watch_state).
    pub fn watch_state(&self) -> StateWatch {
        self.calls.balance().watch_state()
    }

    /// Every endpoint at this moment; see [`Balance::report`](crate::Balance::report).
    pub fn report(&self) -> Report {
        self.calls.balance().report()
    }

    pub(super) fn calls(&self) -> &Calls<S> {
        &self.calls
    }

    /// A timer on the current runtime, or on the one that the channel was built in. `None` if
    /// neither is there: then nothing else of the call can move either.
    fn timer(&self, limit: Duration) -> Option<Pin<Box<Sleep>>> {
        let _context = match Runtime::try_current() {
            Ok(_) => None,
            Err(_) if self.state() == ConnectivityState::Shutdown => return None,
            Err(_) => Some(self.runtime.enter()),
        };
        Some(Box::pin(tokio::time::sleep(limit)))
    }
}

impl<S> Clone for Channel<S> {
    fn clone(&self) -> Self {
        Self {
            calls: self.calls.clone(),
            methods: self.methods.clone(),
            user_agent: self.user_agent.clone(),
            timeout: self.timeout,
            runtime: self.runtime.clone(),
        }
    }
}

impl<S> fmt::Debug for Channel<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl<S, B> Service<Request<Body>> for Channel<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = AttemptError>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: StdError + Send + Sync + 'static,
{
    type Response = Response<ResponseBody<B>>;
    type Error = Status;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let policy = self.methods.apply(&mut request);
        let headers = request.headers_mut();
        headers
            .entry(USER_AGENT)
            .or_insert_with(|| self.user_agent.clone());
        let limits = Limits::of(headers, self.timeout);
        let head = limits.head.and_then(|limit| self.timer(limit));
        let end = head.as_ref().map(|head| head.deadline());
        ResponseFuture {
            // The caller's deadline runs from the same moment as the head's timer.
            deadline: limits.whole.zip(head.as_ref()).map(|(whole, head)| {
                head.deadline() + whole.saturating_sub(limits.head.unwrap_or(whole))
            }),
            head,
            inner: self.calls.call(request, end, policy),
        }
    }
}

/// The response to come; see [`Channel`]. Dropping it cancels the call. `B` is the body that the connection gives.
#[pin_project]
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture<S, B>
where
    S: Service<Request<Body>>,
{
    #[pin]
    inner: Call<S, Tracked<B>>,
    head: Option<Pin<Box<Sleep>>>,
    /// The caller's, for the whole call.
    deadline: Option<Instant>,
}

impl<S, B> Future for ResponseFuture<S, B>
where
    S: Service<Request<Body>, Response = Response<B>, Error = AttemptError>
        + Clone
        + Send
        + Sync
        + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: StdError + Send + Sync + 'static,
{
    type Output = Result<Response<ResponseBody<B>>, Status>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(result) = this.inner.as_mut().poll(cx) {
            let response = match result {
                Ok(response) => response,
                Err(error) => return Poll::Ready(Err(status::from_error(error))),
            };
            let Some(deadline) = this.deadline.take() else {
                return Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, None))));
            };
            // The server keeps the same deadline, and may cancel the call a moment before we do.
            if deadline <= Instant::now() && grpc_code(response.headers()) == Some(Code::Cancelled)
            {
                return Poll::Ready(Err(status::deadline_exceeded(None)));
            }
            let mut timer = this.head.take();
            if let Some(timer) = &mut timer
                && timer.deadline() != deadline
            {
                timer.as_mut().reset(deadline);
            }
            return Poll::Ready(Ok(response.map(|body| ResponseBody::new(body, timer))));
        }
        if let Some(head) = this.head
            && head.as_mut().poll(cx).is_ready()
        {
            let before = this.inner.expire();
            *this.head = None;
            return Poll::Ready(Err(status::deadline_exceeded(before)));
        }
        Poll::Pending
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<Body>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture")
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}
