//! hyper's HTTP/2 sender as a tower service.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::rt::{Read, Write};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::Service;

/// A connection to one server.
#[derive(Clone)]
pub struct Sender(SendRequest<Body>);

impl Sender {
    /// Begins to speak HTTP/2 over `io`.
    ///
    /// # Panics
    /// If the peer does not speak HTTP/2.
    pub async fn handshake<T>(io: T) -> Self
    where
        T: Read + Write + Unpin + Send + 'static,
    {
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .handshake(io)
            .await
            .expect("the peer speaks HTTP/2");
        tokio::spawn(connection);
        Self(sender)
    }
}

impl Service<Request<Body>> for Sender {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
