//! The demo service with its unary call only.

use tonic::{Request, Response, Status, Streaming};

use super::proto::demo_server::{Demo, DemoServer};
use super::proto::{EchoReply, EchoRequest};

/// What a unary call is answered with.
#[tonic::async_trait]
pub trait Answers: Send + Sync + 'static {
    /// Answers a call.
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status>;
}

/// The service; streams are UNIMPLEMENTED.
pub struct Unary<T>(T);

/// A server of the service.
pub fn unary<T: Answers>(answers: T) -> DemoServer<Unary<T>> {
    DemoServer::new(Unary(answers))
}

type Never = futures::stream::Empty<Result<EchoReply, Status>>;

#[tonic::async_trait]
impl<T: Answers> Demo for Unary<T> {
    type ServerStreamStream = Never;
    type BidiStreamStream = Never;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        self.0.echo(request).await
    }

    async fn server_stream(&self, _: Request<EchoRequest>) -> Result<Response<Never>, Status> {
        Err(Status::unimplemented("no streams"))
    }

    async fn client_stream(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoReply>, Status> {
        Err(Status::unimplemented("no streams"))
    }

    async fn bidi_stream(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Never>, Status> {
        Err(Status::unimplemented("no streams"))
    }
}
