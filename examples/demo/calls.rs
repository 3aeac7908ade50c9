//! One call of each kind, and whom it reached.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use evenkeel::EndpointId;
use evenkeel::call::{ChosenEndpoint, SourceIp};
use evenkeel::grpc::Channel;
use evenkeel::grpc::http2::is_connection_lost;
use futures::future::BoxFuture;
use futures::{Stream, stream};
use tonic::body::Body;
use tonic::{Code, Request, Status, Streaming};
use tower::Service;

use crate::support::proto::demo_client::DemoClient;
use crate::support::proto::{EchoReply, EchoRequest};

/// No call may take longer. One that does was lost without a word.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// How many requests or replies a stream has.
const MESSAGES: u64 = 3;

/// A finished call.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    /// The endpoint whose response head arrived.
    pub(crate) endpoint: Option<EndpointId>,
    pub(crate) result: Result<Answer, Failure>,
}

/// What a good answer was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Reply,
    /// Somebody else's server does not have the demo's service, and said so.
    Unimplemented,
}

/// Why a call failed.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// It was lost with its connection.
    pub(crate) lost: bool,
}

impl Failure {
    /// The call succeeded, with the wrong answer.
    fn wrong(message: impl Into<String>) -> Self {
        Self {
            code: Code::Ok,
            message: message.into(),
            lost: false,
        }
    }
}

/// Makes calls through the one channel.
#[derive(Clone)]
pub(crate) struct Caller {
    channel: Channel,
    /// The servers are the demo's own: they are known by name and answer all kinds of calls.
    own_servers: bool,
}

impl Caller {
    pub(crate) fn new(channel: Channel, own_servers: bool) -> Self {
        Self {
            channel,
            own_servers,
        }
    }

    /// Makes the `number`-th call, for the caller at `source` if it has one.
    pub(crate) async fn call(self, number: u64, source: Option<IpAddr>) -> Finished {
        let started = Instant::now();
        let seen = Arc::new(OnceLock::new());
        let client = DemoClient::new(Seeing {
            channel: self.channel,
            seen: seen.clone(),
        });
        let call = Call {
            number,
            source,
            client,
        };
        // Seven of ten calls are unary.
        let server = match number % 10 {
            3 if self.own_servers => call.server_stream().await,
            6 if self.own_servers => call.client_stream().await,
            9 if self.own_servers => call.bidi_stream().await,
            _ => call.echo().await,
        };
        let endpoint = seen.get().cloned();
        let result = match (server, &endpoint) {
            (Ok(server), Some(id)) if self.own_servers && server != id.as_str() => Err(
                Failure::wrong(format!("{server} answered a call that was given to {id}")),
            ),
            (Ok(_), _) => Ok(Answer::Reply),
            (Err(failure), Some(_)) if !self.own_servers && failure.code == Code::Unimplemented => {
                Ok(Answer::Unimplemented)
            }
            (Err(failure), _) => Err(failure),
        };
        Finished {
            started,
            ended: Instant::now(),
            endpoint,
            result,
        }
    }
}

struct Call {
    number: u64,
    source: Option<IpAddr>,
    client: DemoClient<Seeing>,
}

impl Call {
    async fn echo(mut self) -> Result<String, Failure> {
        let reply = self.client.echo(self.request(self.message())).await;
        self.check(reply.map_err(of)?.into_inner(), 1)
    }

    async fn server_stream(mut self) -> Result<String, Failure> {
        let replies = self
            .client
            .server_stream(self.request(self.message()))
            .await;
        self.read(replies.map_err(of)?.into_inner()).await
    }

    async fn client_stream(mut self) -> Result<String, Failure> {
        let reply = self
            .client
            .client_stream(self.request(self.messages()))
            .await;
        self.check(reply.map_err(of)?.into_inner(), MESSAGES)
    }

    async fn bidi_stream(mut self) -> Result<String, Failure> {
        let replies = self.client.bidi_stream(self.request(self.messages())).await;
        self.read(replies.map_err(of)?.into_inner()).await
    }

    fn message(&self) -> EchoRequest {
        EchoRequest {
            message: self.number.to_string(),
            payload: Default::default(),
            replies: MESSAGES,
        }
    }

    fn messages(&self) -> impl Stream<Item = EchoRequest> + Send + 'static {
        stream::iter(std::iter::repeat_n(self.message(), MESSAGES as usize))
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(DEADLINE);
        if let Some(source) = self.source {
            request.extensions_mut().insert(SourceIp(source));
        }
        request
    }

    /// Reads a stream of replies to its end, the status.
    async fn read(&self, mut replies: Streaming<EchoReply>) -> Result<String, Failure> {
        let mut server = String::new();
        let mut count = 0;
        while let Some(reply) = replies.message().await.map_err(of)? {
            count += 1;
            server = self.check(reply, count)?;
        }
        if count == MESSAGES {
            Ok(server)
        } else {
            Err(Failure::wrong(format!("{count} replies of {MESSAGES}")))
        }
    }

    /// The server that sent this reply, if it is what was asked for.
    fn check(&self, reply: EchoReply, count: u64) -> Result<String, Failure> {
        if reply.message == self.number.to_string() && reply.count == count {
            Ok(reply.server)
        } else {
            Err(Failure::wrong("a reply to another request"))
        }
    }
}

fn of(status: Status) -> Failure {
    Failure {
        code: status.code(),
        message: status.message().to_owned(),
        lost: is_connection_lost(&status),
    }
}

/// The channel, for one call. It notes whose response head arrived, since a generated client shows
/// the extensions of good responses only.
#[derive(Clone)]
struct Seeing {
    channel: Channel,
    seen: Arc<OnceLock<EndpointId>>,
}

impl Service<http::Request<Body>> for Seeing {
    type Response = <Channel as Service<http::Request<Body>>>::Response;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Self::Response, Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let seen = self.seen.clone();
        let response = self.channel.call(request);
        Box::pin(async move {
            let response = response.await?;
            if let Some(ChosenEndpoint(id)) = response.extensions().get() {
                // It is set once: one call has one response.
                let _ = seen.set(id.clone());
            }
            Ok(response)
        })
    }
}
