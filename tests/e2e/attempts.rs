//! What calls of more than one attempt have in common, be they retries or hedges.

use std::time::Duration;

use evenkeel::grpc::{Builder, Channel};
use evenkeel::health::Ejection;
use evenkeel::policy::RoundRobin;
use futures::channel::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};

use crate::support::proto::{EchoReply, EchoRequest, demo_client::DemoClient};
use crate::support::{TestServer, within};

type Call = JoinHandle<Result<Response<EchoReply>, Status>>;

/// A channel that takes its endpoints in turn and ejects none.
pub fn in_turn(servers: &[TestServer]) -> Builder {
    Channel::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .policy(RoundRobin::default())
        .ejection(Ejection::off())
}

/// So many calls one after the other, all of them answered by the server `good`.
pub async fn answered_by_good(channel: &Channel, calls: usize) {
    let mut client = DemoClient::new(channel.clone());
    for _ in 0..calls {
        let reply = within("a call", client.echo(EchoRequest::default())).await;
        assert_eq!(reply.unwrap().into_inner().server, "good");
    }
}

/// Calls that are under way together.
pub struct Calls(Vec<Call>);

impl Calls {
    /// So many, at once.
    pub fn begin(channel: &Channel, count: usize) -> Self {
        let begin = |_| {
            let mut client = DemoClient::new(channel.clone());
            tokio::spawn(async move { client.echo(EchoRequest::default()).await })
        };
        Self((0..count).map(begin).collect())
    }

    /// Waits for their answers, all of them by the server `good`.
    pub async fn answered_by_good(self) {
        for call in self.0 {
            let reply = within("a call", call).await.unwrap();
            assert_eq!(reply.unwrap().into_inner().server, "good");
        }
    }
}

/// A call whose request streams: its first message is sent, and others are to come.
pub struct Streaming {
    requests: mpsc::UnboundedSender<EchoRequest>,
    call: Call,
}

impl Streaming {
    /// With a first message.
    pub fn begin(channel: &Channel) -> Self {
        let mut client = DemoClient::new(channel.clone());
        let (requests, received) = mpsc::unbounded();
        let call = tokio::spawn(async move { client.client_stream(received).await });
        let streaming = Self { requests, call };
        streaming.send("a");
        streaming
    }

    fn send(&self, text: &str) {
        let message = EchoRequest {
            message: text.into(),
            ..EchoRequest::default()
        };
        self.requests.unbounded_send(message).unwrap();
    }

    /// Sends the rest. The answer is to name all of it, by this rule.
    pub async fn end(self, rule: &str) {
        for text in ["b", "c"] {
            self.send(text);
        }
        drop(self.requests);
        let reply = within("a call", self.call).await.unwrap().unwrap();
        let reply = reply.into_inner();
        assert_eq!((reply.message.as_str(), reply.count), ("c", 3), "{rule}");
    }
}

/// A call with this limit of the caller's, which ends it when it has passed. Of paused time.
pub async fn ends_at_its_deadline(channel: &Channel, limit: Duration) {
    let mut client = DemoClient::new(channel.clone());
    let began = Instant::now();
    let mut request = Request::new(EchoRequest::default());
    request.set_timeout(limit);
    let status = within("a call", client.echo(request)).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    let took = began.elapsed();
    assert!(
        (limit..limit + Duration::from_millis(50)).contains(&took),
        "neither sooner nor later: {took:?}"
    );
}
