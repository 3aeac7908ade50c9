use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use arc_swap::ArcSwapOption;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Response, Uri};
use hyper::client::conn::http2::SendRequest;
use tonic::body::Body;
use tower_service::Service;

use super::body::Http2Body;
use super::error::{AttemptError, is_unprocessed};
use super::io::Refusing;
use super::pool::{Place, Pool, Turn, Waiter};
use super::replay::{Replay, ReplayBody};
use super::stall::Caller;
use super::streams::{OpenStream, Streams};

/// One endpoint, by one connection or several. Cheap to clone; the connections live until the last clone is dropped
/// and the calls under way have ended.
///
/// A request gets the endpoint's scheme and authority; nothing else of it is changed.
///
/// Dropping a call's future or the response's body resets its stream with CANCEL and leaves the
/// connection alone. A request that waits for the server's window is reset when it may go on.
pub struct Http2 {
    pool: Arc<Pool>,
    ready: Readiness,
}

/// What `poll_ready` has come to. A clone begins anew.
enum Readiness {
    Unasked,
    Waiting(Box<Waiter>),
    Ready(Place),
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
    streams: Arc<Streams>,
    replay_limit_bytes: usize,
}

/// A call that a connection has, until its response head. hyper's future has no name, so it is boxed.
pub(super) type Sent =
    Pin<Box<dyn Future<Output = Result<Response<Http2Body>, AttemptError>> + Send>>;

impl Connection {
    pub(super) fn new(
        caller: Caller,
        sender: SendRequest<ReplayBody>,
        scheme: Scheme,
        authority: Authority,
        refusing: Refusing,
        streams: Arc<Streams>,
        replay_limit_bytes: usize,
    ) -> Self {
        Self {
            _caller: caller,
            sender: ArcSwapOption::from_pointee(sender),
            scheme,
            authority,
            refusing,
            streams,
            replay_limit_bytes,
        }
    }

    #[inline]
    pub(super) fn takes_calls(&self) -> bool {
        !self.refusing.get()
    }

    #[inline]
    pub(super) fn streams(&self) -> &Arc<Streams> {
        &self.streams
    }

    /// Sends `request` on `stream`, which is one of this connection's.
    pub(super) fn send(&self, request: Request<Body>, stream: OpenStream) -> Sent {
        let Some(sender) = &*self.sender.load() else {
            let error = AttemptError::refusing(Some(request));
            return Box::pin(std::future::ready(Err(error)));
        };
        let (request, kept) = Replay::split(
            request,
            |uri| self.target(uri),
            self.replay_limit_bytes,
            stream,
        );
        // The clone is gone again when this returns.
        let sent = SendRequest::clone(sender).try_send_request(request);
        Box::pin(async move {
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
        })
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
    pub(super) fn new(pool: Arc<Pool>) -> Self {
        let ready = Readiness::Unasked;
        Self { pool, ready }
    }

    /// What there is beside a place that is free at once.
    #[cold]
    #[inline(never)]
    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        let place = loop {
            match &mut self.ready {
                Readiness::Waiting(waiter) => {
                    let place = ready!(Pin::new(&mut **waiter).poll(cx));
                    self.ready = Readiness::Unasked;
                    match place {
                        None => break None,
                        Some(place) if place.is_good(&self.pool) => break Some(place),
                        Some(_) => {}
                    }
                }
                Readiness::Unasked | Readiness::Ready(_) => {
                    // A place that is held would be waited for in vain.
                    self.ready = Readiness::Unasked;
                    match self.pool.turn() {
                        Turn::Now(place) => break Some(place),
                        Turn::Later(waiter) => self.ready = Readiness::Waiting(Box::new(waiter)),
                        Turn::Never => break None,
                    }
                }
            }
        };
        Poll::Ready(match place {
            Some(place) => {
                self.ready = Readiness::Ready(place);
                Ok(())
            }
            None => Err(AttemptError::refusing(None)),
        })
    }
}

impl Clone for Http2 {
    #[inline]
    fn clone(&self) -> Self {
        Self::new(self.pool.clone())
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

    /// `Ok` when a connection has room for one more stream, which is then this clone's. `Pending` while all
    /// connections have as many streams open as their server allows (`MAX_CONCURRENT_STREAMS`): the clones that wait
    /// get theirs in the order in which they came. An error when no connection takes calls any more.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AttemptError>> {
        match &self.ready {
            Readiness::Unasked => {
                if let Some(place) = self.pool.place() {
                    self.ready = Readiness::Ready(place);
                    return Poll::Ready(Ok(()));
                }
            }
            Readiness::Ready(place) if place.is_good(&self.pool) => return Poll::Ready(Ok(())),
            Readiness::Ready(_) | Readiness::Waiting(_) => {}
        }
        self.poll_turn(cx)
    }

    /// Without the `poll_ready` that should come before, a call beyond the server's limit waits inside its future.
    #[inline]
    fn call(&mut self, request: Request<Body>) -> Http2Future {
        let place = match std::mem::replace(&mut self.ready, Readiness::Unasked) {
            Readiness::Ready(place) => Some(place),
            Readiness::Unasked | Readiness::Waiting(_) => self.pool.place_anyway(),
        };
        let inner = match place {
            Some(place) => place.send(&self.pool, request),
            None => Box::pin(std::future::ready(Err(AttemptError::refusing(Some(
                request,
            ))))),
        };
        Http2Future { inner }
    }
}

impl fmt::Debug for Http2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2")
            .field("connections", &self.pool)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("authority", &self.authority)
            .field("refusing", &self.refusing.get())
            .field("streams", self.streams.count())
            .finish_non_exhaustive()
    }
}

/// A call on an [`Http2`], until its response head.
pub struct Http2Future {
    inner: Sent,
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
