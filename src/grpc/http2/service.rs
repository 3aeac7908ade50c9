use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use arc_swap::ArcSwapOption;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::client::conn::http2::SendRequest;
use tonic::body::Body;
use tower_service::Service;

use super::body::Http2Body;
use super::error::{AttemptError, is_unprocessed};
use super::io::Refusing;
use super::replay::{Replay, ReplayBody};
use super::stall::Caller;

/// One connection. Cheap to clone; the connection lives until the last clone is dropped and the
/// calls under way have ended.
///
/// A request gets the endpoint's scheme and authority; nothing else of it is changed.
///
/// Dropping a call's future or the response's body resets its stream with CANCEL and leaves the
/// connection alone. A request that waits for the server's window is reset when it may go on.
#[derive(Clone)]
pub struct Http2 {
    connection: Arc<Connection>,
}

pub(super) struct Connection {
    // Ahead of the sender, whose drop wakes the connection's task.
    _caller: Caller,
    /// The one lasting way into hyper's queue, emptied when hyper's side of it has ended.
    ///
    /// A request that is queued in the very moment in which hyper drops the queue's other end may
    /// be missed there, and is freed only with the last sender: its call would hang for as long as
    /// anybody keeps one.
    sender: ArcSwapOption<SendRequest<ReplayBody>>,
    scheme: Scheme,
    authority: Authority,
    refusing: Refusing,
    replay_limit_bytes: usize,
}

impl Connection {
    pub(super) fn new(
        caller: Caller,
        sender: SendRequest<ReplayBody>,
        scheme: Scheme,
        authority: Authority,
        refusing: Refusing,
        replay_limit_bytes: usize,
    ) -> Self {
        Self {
            _caller: caller,
            sender: ArcSwapOption::from_pointee(sender),
            scheme,
            authority,
            refusing,
            replay_limit_bytes,
        }
    }

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
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Self { connection }
    }
}

/// Held by hyper's side of a connection: when it is dropped, the queue goes too. It does not keep
/// the connection open.
pub(super) struct Retire(Weak<Connection>);

impl Retire {
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        Self(Arc::downgrade(connection))
    }
}

impl Drop for Retire {
    fn drop(&mut self) {
        if let Some(connection) = self.0.upgrade() {
            connection.refusing.set();
            connection.sender.store(None);
        }
    }
}

impl Service<Request<Body>> for Http2 {
    type Response = Response<Http2Body>;
    type Error = AttemptError;
    type Future = Http2Future;

    /// `Ok` while the connection takes calls; never `Pending`. A call beyond the server's
    /// `MAX_CONCURRENT_STREAMS` waits inside its future.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        Poll::Ready(if self.connection.refusing.get() {
            Err(AttemptError::refusing(None))
        } else {
            Ok(())
        })
    }

    fn call(&mut self, request: Request<Body>) -> Http2Future {
        let connection = &*self.connection;
        let Some(sender) = &*connection.sender.load() else {
            let error = AttemptError::refusing(Some(request));
            return Http2Future {
                inner: Box::pin(std::future::ready(Err(error))),
            };
        };
        let (request, kept) = Replay::split(
            request,
            |uri| connection.target(uri),
            connection.replay_limit_bytes,
        );
        // The clone is gone again when this returns.
        let sent = SendRequest::clone(sender).try_send_request(request);
        Http2Future {
            inner: Box::pin(async move {
                match sent.await {
                    Ok(response) => {
                        let answered = kept.answered();
                        Ok(response.map(|body| Http2Body::new(body, answered)))
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
    inner: Pin<Box<dyn Future<Output = Result<Response<Http2Body>, AttemptError>> + Send>>,
}

impl Future for Http2Future {
    type Output = Result<Response<Http2Body>, AttemptError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl fmt::Debug for Http2Future {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Future").finish_non_exhaustive()
    }
}
