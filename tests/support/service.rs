//! The four methods, done as the server's behaviour says.

use std::pin::Pin;
use std::sync::Arc;

use futures::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};

use super::behaviour::Control;
use super::counts::{Call, Counts, Method};
use super::proto::demo_server::Demo;
use super::proto::{EchoReply, EchoRequest};

type Replies = Pin<Box<dyn Stream<Item = Result<EchoReply, Status>> + Send>>;

/// The service of one server.
#[derive(Debug, Clone)]
pub struct Handler {
    control: Control,
    counts: Arc<Counts>,
}

impl Handler {
    pub(super) fn new(control: Control, counts: Arc<Counts>) -> Self {
        Self { control, counts }
    }

    async fn enter(&self, method: Method) -> Result<Call, Status> {
        let call = self.counts.enter(method);
        match self.control.admit().await {
            Ok(()) => Ok(call),
            Err(status) => {
                call.finish();
                Err(status)
            }
        }
    }

    /// The reply to `request`, when its time has come.
    async fn reply(&self, request: EchoRequest, count: u64) -> EchoReply {
        self.control.pause().await;
        EchoReply {
            server: self.control.name().to_owned(),
            message: request.message,
            payload: request.payload,
            count,
        }
    }
}

#[tonic::async_trait]
impl Demo for Handler {
    type ServerStreamStream = Replies;
    type BidiStreamStream = Replies;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        let call = self.enter(Method::Echo).await?;
        let reply = self.reply(request.into_inner(), 1).await;
        call.finish();
        Ok(Response::new(reply))
    }

    async fn server_stream(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<Replies>, Status> {
        let call = self.enter(Method::ServerStream).await?;
        let handler = self.clone();
        let request = request.into_inner();
        let replies = stream::unfold((call, 0), move |(call, sent)| {
            let handler = handler.clone();
            let request = request.clone();
            async move {
                if sent == request.replies {
                    call.finish();
                    return None;
                }
                let reply = handler.reply(request, sent + 1).await;
                Some((Ok(reply), (call, sent + 1)))
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoReply>, Status> {
        let call = self.enter(Method::ClientStream).await?;
        let mut requests = request.into_inner();
        let mut last = EchoRequest::default();
        let mut read = 0;
        while let Some(request) = requests.message().await? {
            last = request;
            read += 1;
        }
        let reply = self.reply(last, read).await;
        call.finish();
        Ok(Response::new(reply))
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let call = self.enter(Method::BidiStream).await?;
        let handler = self.clone();
        let state = (call, request.into_inner(), 0);
        let replies = stream::try_unfold(state, move |(call, mut requests, sent)| {
            let handler = handler.clone();
            async move {
                let Some(request) = requests.message().await? else {
                    call.finish();
                    return Ok(None);
                };
                let reply = handler.reply(request, sent + 1).await;
                Ok(Some((reply, (call, requests, sent + 1))))
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }
}
