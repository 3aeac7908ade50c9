//! A request that can be taken back.
//!
//! hyper returns a request only while it is still in hyper's own queue. Once h2 has it, a GOAWAY or
//! REFUSED_STREAM says that the server did not process it, but the request is gone. So what hyper
//! gets is a [`ReplayBody`], which remembers what it has passed on; the call keeps the head and the
//! other end ([`Replay`]) and puts the request together again if it must. When the response begins,
//! the copy is dropped.
//!
//! The response then holds an [`Answered`]. hyper resets a stream whose response is dropped only once
//! it has sent the request too, and for that it would wait as long as the request's body does.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LockResult, Mutex, MutexGuard, OnceLock, Weak};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::task::AtomicWaker;
use http::{Extensions, HeaderMap, Method, Request, Uri, Version};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::body::Body;

use crate::error::BoxError;

use super::streams::OpenStream;

/// The kept side of a request that hyper works on.
pub(super) struct Replay {
    shared: Arc<Shared>,
    stream: Share,
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    extensions: Extensions,
}

/// The body as hyper gets it.
#[derive(Debug)]
pub(super) struct ReplayBody {
    shared: Arc<Shared>,
    hint: SizeHint,
    ended: bool,
}

/// The response's part in its request: nobody wants the rest when this is dropped.
#[derive(Debug)]
pub(super) struct Answered(Share);

impl Answered {
    /// The server has said all that it will say.
    #[inline]
    pub(super) fn ended(&mut self) {
        self.0.end();
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        // Without a lock: the request's own body may be what drops its response.
        if let Some(shared) = self.0.shared.upgrade() {
            shared.over.store(true, Ordering::Release);
            shared.sender.wake();
            self.0.leave_to(&shared);
        }
    }
}

/// The response's share in the stream, which is open until the request has ended too.
#[derive(Debug)]
struct Share {
    shared: Weak<Shared>,
    stream: Option<OpenStream>,
}

impl Share {
    /// The response has ended.
    #[inline]
    fn end(&mut self) {
        if self.stream.is_some() {
            if let Some(shared) = self.shared.upgrade() {
                self.leave_to(&shared);
            }
            // The request has ended before.
            self.stream = None;
        }
    }

    /// The request is what the stream is open for now.
    fn leave_to(&mut self, shared: &Shared) {
        if let Some(stream) = self.stream.take() {
            // There is one stream, and it comes once.
            let _ = shared.stream.set(stream);
        }
    }
}

impl Drop for Share {
    #[inline]
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Nobody reads the response any more.
    over: AtomicBool,
    /// Who sends the body, when that has no frame.
    sender: AtomicWaker,
    /// The stream, when its response has ended before its request.
    stream: OnceLock<OpenStream>,
}

impl Shared {
    fn lock(&self) -> LockResult<MutexGuard<'_, State>> {
        self.state.lock()
    }
}

struct State {
    /// Taken out when the request goes back; a `ReplayBody` that is left without it is dead.
    body: Option<Body>,
    /// The frames that hyper has taken, or `None` when the copy is not kept any more.
    taken: Option<Taken>,
    /// What was asked for ahead of hyper: the frame after the one it has, or the end.
    ahead: Option<NextFrame>,
    touched: bool,
}

/// What a body says when it is asked: `None` is its end.
type NextFrame = Option<Result<Frame<Bytes>, tonic::Status>>;

#[derive(Default)]
struct Taken {
    // A unary call has one data frame: no list is allocated for it.
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    room: usize,
    ended: bool,
}

impl Replay {
    /// Splits a request in two: what goes to hyper, with `uri`, and what is kept. At most `limit`
    /// bytes of its body are copied. `stream` is open until both request and response have ended.
    pub(super) fn split(
        request: Request<Body>,
        uri: impl FnOnce(&Uri) -> Uri,
        limit: usize,
        stream: OpenStream,
    ) -> (Request<ReplayBody>, Self) {
        let (mut parts, body) = request.into_parts();
        let hint = body.size_hint();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                body: Some(body),
                taken: Some(Taken {
                    room: limit,
                    ..Taken::default()
                }),
                ahead: None,
                touched: false,
            }),
            over: AtomicBool::new(false),
            sender: AtomicWaker::new(),
            stream: OnceLock::new(),
        });
        let stream = Share {
            shared: Arc::downgrade(&shared),
            stream: Some(stream),
        };
        let target = uri(&parts.uri);
        let kept = Self {
            shared: shared.clone(),
            stream,
            method: parts.method.clone(),
            uri: std::mem::replace(&mut parts.uri, target),
            version: parts.version,
            headers: parts.headers.clone(),
            extensions: std::mem::take(&mut parts.extensions),
        };
        let body = ReplayBody {
            shared,
            hint,
            ended: false,
        };
        (Request::from_parts(parts, body), kept)
    }

    /// The response has begun: no copy is needed any more.
    pub(super) fn answered(self) -> Answered {
        if let Ok(mut state) = self.shared.lock() {
            state.taken = None;
        }
        Answered(self.stream)
    }

    /// Whether hyper never asked for the body.
    pub(super) fn is_untouched(&self) -> bool {
        self.shared.lock().is_ok_and(|state| !state.touched)
    }

    /// The whole request, if all of it is still there. What hyper holds of it is dead from then on.
    pub(super) fn rebuild(self) -> Option<Request<Body>> {
        // A panic in the caller's own body leaves the lock poisoned and the body in doubt.
        let mut state = self.shared.lock().ok()?;
        let taken = state.taken.take()?;
        let rest = state.body.take()?;
        drop(state);
        let body = taken.followed_by(rest);
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        *request.extensions_mut() = self.extensions;
        Some(request)
    }
}

impl State {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.touched = true;
        let frame = match self.ahead.take() {
            Some(frame) => frame,
            None => ready!(self.poll_body(cx))?,
        };
        // A unary call's body knows only when asked once more that its one frame was the last. Asked
        // now, the frame can carry the end of the stream, and no empty frame has to follow it.
        if let Some(Ok(data)) = &frame
            && data.is_data()
            && let Poll::Ready(next) = self.poll_body(cx)?
        {
            self.ahead = Some(next);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    /// The body's next frame, of which a copy is kept.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<NextFrame, TakenBack>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(Err(TakenBack));
        };
        let polled = ready!(Pin::new(body).poll_frame(cx));
        if let Some(taken) = &mut self.taken {
            let kept = match &polled {
                Some(Ok(frame)) => taken.keep(frame),
                Some(Err(_)) => false,
                None => {
                    taken.ended = true;
                    true
                }
            };
            if !kept {
                self.taken = None;
            }
        }
        Poll::Ready(Ok(polled))
    }

    /// Whether hyper has all of the body, if it was not asked for more yet.
    fn has_ended(&self) -> bool {
        match &self.ahead {
            Some(frame) => frame.is_none(),
            None => self.body.as_ref().is_some_and(HttpBody::is_end_stream),
        }
    }
}

impl Taken {
    /// `false` when there is no room.
    fn keep(&mut self, frame: &Frame<Bytes>) -> bool {
        if let Some(data) = frame.data_ref() {
            let Some(room) = self.room.checked_sub(data.remaining()) else {
                return false;
            };
            self.room = room;
            if self.first.is_none() {
                self.first = Some(data.clone());
            } else {
                self.more.push_back(data.clone());
            }
            true
        } else {
            self.trailers = frame.trailers_ref().cloned();
            self.trailers.is_some()
        }
    }

    fn followed_by(self, rest: Body) -> Body {
        if self.first.is_none() && self.trailers.is_none() && !self.ended {
            return rest;
        }
        Body::new(Resumed {
            first: self.first,
            more: self.more,
            trailers: self.trailers,
            rest: (!self.ended).then_some(rest),
        })
    }
}

impl HttpBody for ReplayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        // Held while the caller's body is polled. The other side only ever looks and leaves.
        let Ok(mut state) = this.shared.lock() else {
            return Poll::Ready(Some(Err(TakenBack.into())));
        };
        let polled = state.poll_frame(cx);
        if polled.is_pending() {
            // Ahead of the look at `over`.
            this.shared.sender.register(cx.waker());
        }
        if this.shared.over.load(Ordering::Acquire) {
            this.ended = true;
            // hyper resets the stream for this reason.
            let cancelled = h2::Error::from(h2::Reason::CANCEL);
            return Poll::Ready(Some(Err(cancelled.into())));
        }
        let polled = ready!(polled);
        this.hint = SizeHint::default();
        this.ended = match &polled {
            Some(Ok(_)) => state.has_ended(),
            _ => true,
        };
        Poll::Ready(polled)
    }

    /// Never true before the first frame, even for an empty body: so the end of a request is sent
    /// only after hyper has asked for the body, and an untouched body proves that it was not.
    fn is_end_stream(&self) -> bool {
        self.ended
    }

    /// What the body said before it was first polled; after that, nothing.
    fn size_hint(&self) -> SizeHint {
        // `Copy` only in newer versions of http-body.
        Clone::clone(&self.hint)
    }
}

/// What was taken, and then the rest.
struct Resumed {
    first: Option<Bytes>,
    more: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    rest: Option<Body>,
}

impl HttpBody for Resumed {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = self.get_mut();
        if let Some(data) = this.first.take().or_else(|| this.more.pop_front()) {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some(trailers) = this.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match &mut this.rest {
            Some(rest) => Pin::new(rest).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none()
            && self.more.is_empty()
            && self.trailers.is_none()
            && self.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.first.iter().chain(&self.more);
        let kept = kept.map(|data| data.len() as u64).sum::<u64>();
        let rest = match &self.rest {
            Some(rest) => rest.size_hint(),
            None => SizeHint::with_exact(0),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(kept)) {
            hint.set_upper(upper);
        }
        hint
    }
}

/// Said to hyper by a body whose request went elsewhere, so that the old stream cannot end as if it
/// were whole.
#[derive(Debug)]
struct TakenBack;

impl fmt::Display for TakenBack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was taken back")
    }
}

impl StdError for TakenBack {}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("copied", &self.taken.is_some())
            .field("touched", &self.touched)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
