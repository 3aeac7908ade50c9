//! A request's body that can be sent again.
//!
//! It streams on while it is kept: each attempt reads first what earlier ones have read, then the
//! body itself. Only the latest attempt reads; an older one that is still asked says that the request
//! went elsewhere, so that its stream cannot end as if it were whole.

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project::pin_project;

use crate::error::BoxError;

/// The body of an attempt's request: that of the caller's, from its beginning.
#[pin_project]
pub struct RetryBody<B>(#[pin] Source<B>);

#[pin_project(project = SourceProjection)]
enum Source<B> {
    /// Of a call that is not tried again.
    Once(#[pin] B),
    Kept {
        shared: Arc<Mutex<State<B>>>,
        attempt: u32,
    },
}

/// The call's end of its body.
pub(super) struct Kept<B>(Arc<Mutex<State<B>>>);

struct State<B> {
    body: B,
    /// The only one that may read.
    attempt: u32,
    /// Frames of `taken` that this attempt has had.
    position: usize,
    taken: Taken,
    /// Whether what is read is kept for the next attempt.
    keeping: bool,
    /// The body has nothing more.
    ended: bool,
    /// By an error of its own.
    failed: bool,
    /// Who waits for the body.
    reader: Option<Waker>,
}

#[derive(Default)]
struct Taken {
    /// A unary call has one frame: no list is allocated for it.
    first: Option<Bytes>,
    more: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    room: usize,
}

impl<B> RetryBody<B> {
    pub(super) fn once(body: B) -> Self {
        Self(Source::Once(body))
    }

    /// The caller's body itself, if nothing is kept of it.
    #[cfg(feature = "grpc")]
    pub(crate) fn into_once(self) -> Result<B, Self> {
        match self.0 {
            Source::Once(body) => Ok(body),
            kept => Err(Self(kept)),
        }
    }
}

impl<B: Body + Unpin> Kept<B> {
    /// The body of the first attempt, of which at most `limit` bytes are kept.
    pub(super) fn new(body: B, limit: usize) -> (Self, RetryBody<B>) {
        let shared = Arc::new(Mutex::new(State {
            ended: body.is_end_stream(),
            failed: false,
            body,
            attempt: 0,
            position: 0,
            taken: Taken {
                room: limit,
                ..Taken::default()
            },
            keeping: true,
            reader: None,
        }));
        let first = RetryBody(Source::Kept {
            shared: shared.clone(),
            attempt: 0,
        });
        (Self(shared), first)
    }

    /// The body for the next attempt. `None` if not all of it is there any more.
    pub(super) fn next(&self) -> Option<RetryBody<B>> {
        let attempt = self.take_back()?;
        Some(RetryBody(Source::Kept {
            shared: self.0.clone(),
            attempt,
        }))
    }

    /// Lets no attempt so far read any more: one that failed, and is sent still, would use up what room
    /// there is while the next one waits. `None` if not all of it is there any more.
    pub(super) fn take_back(&self) -> Option<u32> {
        let mut state = lock(&self.0)?;
        if !state.keeping {
            return None;
        }
        state.attempt += 1;
        state.position = 0;
        let attempt = state.attempt;
        // An older attempt may still wait here: it has to see that it is over.
        let older = state.reader.take();
        drop(state);
        if let Some(older) = older {
            older.wake();
        }
        Some(attempt)
    }

    /// Whether another attempt could send all of it.
    pub(super) fn is_whole(&self) -> bool {
        lock(&self.0).is_some_and(|state| state.keeping)
    }

    /// Whether the caller's body has failed by itself, which is nobody's fault but the caller's.
    pub(super) fn has_failed(&self) -> bool {
        lock(&self.0).is_none_or(|state| state.failed)
    }

    /// There will be no other attempt. What this one has still to read stays.
    pub(super) fn commit(&self) {
        if let Some(mut state) = lock(&self.0) {
            state.keeping = false;
            state.forget();
        }
    }
}

/// `None`: the caller's own body has panicked, and is in doubt.
fn lock<B>(shared: &Mutex<State<B>>) -> Option<MutexGuard<'_, State<B>>> {
    shared.lock().ok()
}

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

impl<B> State<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Some(data) = self.taken.get(self.position) {
            let data = data.clone();
            self.position += 1;
            self.forget();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.position == self.taken.len()
            && let Some(trailers) = &self.taken.trailers
        {
            let trailers = trailers.clone();
            self.position += 1;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(polled) => polled,
            Poll::Pending => {
                self.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
        };
        Poll::Ready(match polled {
            None => {
                self.ended = true;
                None
            }
            Some(Err(error)) => {
                self.ended = true;
                self.failed = true;
                self.give_up();
                Some(Err(error.into()))
            }
            Some(Ok(frame)) => {
                let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
                if self.keeping {
                    match self.taken.keep(&frame) {
                        true => self.position = self.taken.frames(),
                        false => self.give_up(),
                    }
                }
                self.ended = frame.is_trailers() || self.body.is_end_stream();
                Some(Ok(frame))
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.ended && self.position >= self.taken.frames()
    }

    fn size_hint(&self) -> SizeHint {
        let kept = (self.position..self.taken.len()).filter_map(|index| self.taken.get(index));
        let kept: u64 = kept.map(|data| data.len() as u64).sum();
        let rest = match self.ended {
            true => SizeHint::with_exact(0),
            false => self.body.size_hint(),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper().and_then(|upper| upper.checked_add(kept)) {
            hint.set_upper(upper);
        }
        hint
    }
}

impl<B> State<B> {
    /// The body is not kept any more, and all that was kept has been read.
    fn give_up(&mut self) {
        self.keeping = false;
        self.taken = Taken::default();
        self.position = 0;
    }

    /// Drops what was kept once nobody will read it again.
    fn forget(&mut self) {
        if !self.keeping && self.position >= self.taken.len() && self.taken.trailers.is_none() {
            self.taken = Taken::default();
            self.position = 0;
        }
    }
}

impl Taken {
    /// Of data.
    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.more.len()
    }

    /// The trailers, too.
    fn frames(&self) -> usize {
        self.len() + usize::from(self.trailers.is_some())
    }

    fn get(&self, index: usize) -> Option<&Bytes> {
        match index {
            0 => self.first.as_ref(),
            _ => self.more.get(index - 1),
        }
    }

    /// `false` when there is no room.
    fn keep(&mut self, frame: &Frame<Bytes>) -> bool {
        let Some(data) = frame.data_ref() else {
            self.trailers = frame.trailers_ref().cloned();
            return self.trailers.is_some();
        };
        // The limit, which is of data, would not bound these. They say nothing that is to be said again.
        if data.is_empty() {
            return true;
        }
        let Some(room) = self.room.checked_sub(data.len()) else {
            return false;
        };
        self.room = room;
        match self.first {
            None => self.first = Some(data.clone()),
            Some(_) => self.more.push(data.clone()),
        }
        true
    }
}

impl<B> Body for RetryBody<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.project().0.project() {
            SourceProjection::Once(body) => {
                let frame = ready!(body.poll_frame(cx));
                Poll::Ready(frame.map(|frame| match frame {
                    Ok(frame) => {
                        Ok(frame.map_data(|mut data| data.copy_to_bytes(data.remaining())))
                    }
                    Err(error) => Err(error.into()),
                }))
            }
            // Held while the caller's body is polled. The other side only looks and leaves.
            SourceProjection::Kept { shared, attempt } => match lock(shared) {
                Some(mut state) if state.attempt == *attempt => state.poll_frame(cx),
                _ => Poll::Ready(Some(Err(SentElsewhere.into()))),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Once(body) => body.is_end_stream(),
            Source::Kept { shared, attempt } => {
                lock(shared).is_some_and(|state| state.attempt == *attempt && state.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Once(body) => body.size_hint(),
            Source::Kept { shared, attempt } => match lock(shared) {
                Some(state) if state.attempt == *attempt => state.size_hint(),
                _ => SizeHint::default(),
            },
        }
    }
}

/// Said by the body of an attempt that another one has taken the place of.
#[derive(Debug)]
struct SentElsewhere;

impl fmt::Display for SentElsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request was sent again elsewhere")
    }
}

impl StdError for SentElsewhere {}

impl<B> fmt::Debug for RetryBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = matches!(self.0, Source::Kept { .. });
        f.debug_struct("RetryBody")
            .field("kept", &kept)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
