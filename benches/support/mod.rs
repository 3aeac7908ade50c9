//! What both gRPC benches share: the service, the clients that are compared, and a caller's loop.

pub mod bare;

use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::StdError;
use tonic::codegen::http::Uri;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

pub mod proto {
    //! `proto/evenkeel/demo/v1/demo.proto`.
    #![allow(unreachable_pub)]
    include!("../../proto/generated/evenkeel.demo.v1.rs");
}

use proto::demo_client::DemoClient;
use proto::demo_server::Demo;
use proto::{EchoReply, EchoRequest};

/// The servers of one arm, as in a small deployment.
pub const SERVERS: usize = 3;

/// Answers a unary call at once.
#[derive(Debug, Clone, Copy)]
pub struct Echo;

type Never = futures::stream::Empty<Result<EchoReply, Status>>;

#[tonic::async_trait]
impl Demo for Echo {
    type ServerStreamStream = Never;
    type BidiStreamStream = Never;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        let EchoRequest {
            message, payload, ..
        } = request.into_inner();
        Ok(Response::new(EchoReply {
            server: String::new(),
            message,
            payload,
            count: 1,
        }))
    }

    async fn server_stream(&self, _: Request<EchoRequest>) -> Result<Response<Never>, Status> {
        Err(Status::unimplemented("unary only"))
    }

    async fn client_stream(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoReply>, Status> {
        Err(Status::unimplemented("unary only"))
    }

    async fn bidi_stream(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Never>, Status> {
        Err(Status::unimplemented("unary only"))
    }
}

/// A client that is being compared.
#[derive(Clone)]
pub enum Arm {
    /// What one writes by hand: a clone of each server's channel for every caller, in turn.
    ByHand([DemoClient<Channel>; SERVERS]),
    /// tonic's own balancer.
    BalanceList(DemoClient<Channel>),
    /// evenkeel.
    Evenkeel(DemoClient<evenkeel::grpc::Channel>),
    /// hyper's senders in turn, with nothing around them: no reconnect, no user agent, no timeout.
    Bare([DemoClient<bare::Sender>; SERVERS]),
}

impl Arm {
    /// A clone of each server's channel for every caller.
    pub fn by_hand(channels: [Channel; SERVERS]) -> Self {
        Self::ByHand(channels.map(DemoClient::new))
    }

    /// A clone of each server's sender for every caller.
    pub fn bare(senders: [bare::Sender; SERVERS]) -> Self {
        Self::Bare(
            senders.map(|s| DemoClient::with_origin(s, Uri::from_static("http://localhost"))),
        )
    }

    /// Calls one after another for as long as `more` says so. `caller` shifts where a rotation
    /// begins, so that callers that start together do not go round in step.
    pub async fn call_while(self, caller: usize, more: impl FnMut() -> bool) {
        match self {
            Self::ByHand(mut clients) => {
                clients.rotate_left(caller % SERVERS);
                call_while(&mut clients, more).await;
            }
            Self::BalanceList(client) => call_while(&mut [client], more).await,
            Self::Evenkeel(client) => call_while(&mut [client], more).await,
            Self::Bare(mut clients) => {
                clients.rotate_left(caller % SERVERS);
                call_while(&mut clients, more).await;
            }
        }
    }
}

async fn call_while<T>(clients: &mut [DemoClient<T>], mut more: impl FnMut() -> bool)
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <T::ResponseBody as tonic::codegen::Body>::Error: Into<StdError> + Send,
{
    let count = clients.len();
    let mut next = 0;
    while more() {
        let client = &mut clients[next];
        next += 1;
        if next == count {
            next = 0;
        }
        let request = EchoRequest {
            message: "hello".to_owned(),
            ..EchoRequest::default()
        };
        let reply = client
            .echo(request)
            .await
            .expect("a healthy server answers");
        assert_eq!(reply.get_ref().count, 1, "the answer is the server's");
    }
}
