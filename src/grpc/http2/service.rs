use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tonic::body::Body;
use tower_service::Service;

use super::error::{AttemptError, is_unprocessed};
use super::io::Refusing;
use super::replay::{Replay, ReplayBody};

/// One connection. Cheap to clone; the connection lives until the last clone is dropped and the
/// calls under way have ended.
///
/// A request gets the endpoint's scheme and authority; nothing else of it is changed.
///
/// Dropping a call's future resets its stream with CANCEL and leaves the connection alone.
#[derive(Clone)]
pub struct Http2 {
    sender: SendRequest<ReplayBody>,
    connection: Arc<Connection>,
}

pub(super) struct Connection {
    pub(super) scheme: Scheme,
    pub(super) authority: Authority,
    pub(super) refusing: Refusing,
    pub(super) replay_limit_bytes: usize,
}

impl Connection {
    fn target(&self, uri: &Uri) -> Uri {
        let path = uri.path_and_query().cloned();
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
        // With all three parts given this cannot fail.
        Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
    }
}

impl Http2 {
    pub(super) fn new(sender: SendRequest<ReplayBody>, connection: Arc<Connection>) -> Self {
        Self { sender, connection }
    }
}

impl Service<Request<Body>> for Http2 {
    type Response = Response<Incoming>;
    type Error = AttemptError;
    type Future = Http2Future;

    /// `Ok` while the connection takes calls; never `Pending`. A call beyond the server's
    /// `MAX_CONCURRENT_STREAMS` waits inside its future.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        Poll::Ready(
            if self.connection.refusing.get() || self.sender.is_closed() {
                Err(AttemptError::refusing())
            } else {
                Ok(())
            },
        )
    }

    fn call(&mut self, request: Request<Body>) -> Http2Future {
        let connection = &*self.connection;
        let (request, kept) = Replay::split(
            request,
            |uri| connection.target(uri),
            connection.replay_limit_bytes,
        );
        let sent = self.sender.try_send_request(request);
        Http2Future {
            inner: Box::pin(async move {
                match sent.await {
                    Ok(response) => {
                        kept.forget();
                        Ok(response)
                    }
                    Err(mut error) => {
                        let queued = error.take_message().is_some();
                        let error = error.into_error();
                        let returned = queued || is_unprocessed(&error, kept.is_untouched());
                        let request = if returned { kept.rebuild() } else { None };
                        Err(AttemptError::new(error, request))
                    }
                }
            }),
        }
    }
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2")
            .field("authority", &self.connection.authority)
            .field("refusing", &self.connection.refusing.get())
            .finish_non_exhaustive()
    }
}

/// A call on an [`Http2`], until its response head.
pub struct Http2Future {
    // hyper's future has no name, so it is boxed.
    inner: Pin<Box<dyn Future<Output = Result<Response<Incoming>, AttemptError>> + Send>>,
}

impl Future for Http2Future {
    type Output = Result<Response<Incoming>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl fmt::Debug for Http2Future {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Future").finish_non_exhaustive()
    }
}
