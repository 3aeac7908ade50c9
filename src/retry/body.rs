//! A request's body that can be sent again, and to several servers at once.
//!
//! It streams on while it is kept: each attempt reads first what others have read, then the body itself.
//! Of attempts that follow each other only the latest reads; an older one that is still asked says that the
//! request went elsewhere, so that its stream cannot end as if it were whole. Attempts side by side read
//! each at its own pace. What goes beyond the room there is to keep it in belongs to the one that reads it;
//! the others wait for their end.

mod state;
mod taken;
mod together;

use std::error::Error as StdError;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Body, SizeHint};
use pin_project::pin_project;

use crate::error::BoxError;
pub(super) use crate::retry::body::state::ReaderId;
use crate::retry::body::state::{Polled, State};

/// The body of an attempt's request: that of the caller's, from its beginning.
#[pin_project]
pub struct RetryBody<B>(#[pin] Source<B>);

#[pin_project(project = SourceProjection)]
enum Source<B> {
    /// Of a call that is not tried again.
    Once(#[pin] B),
    Kept {
        shared: Arc<Mutex<State<B>>>,
        reader: ReaderId,
    },
}

/// The call's end of its body.
pub(super) struct Kept<B>(Arc<Mutex<State<B>>>);

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
        let state = State::new(body, limit);
        let shared = Arc::new(Mutex::new(state));
        let first = RetryBody(Source::Kept {
            shared: shared.clone(),
            reader: ReaderId::FIRST,
        });
        (Self(shared), first)
    }

    /// The body for the next attempt, in place of all so far. `None` if not all of it is there any more.
    pub(super) fn next(&self) -> Option<RetryBody<B>> {
        if !self.take_back() {
            return None;
        }
        let reader = lock(&self.0)?.seat()?;
        Some(RetryBody(Source::Kept {
            shared: self.0.clone(),
            reader,
        }))
    }

    /// The body for an attempt beside those that read it already, and who that is. `None` if not all of it
    /// is there any more, or if too many read.
    pub(super) fn beside(&self) -> Option<(ReaderId, RetryBody<B>)> {
        let mut state = lock(&self.0)?;
        if !state.keeping {
            return None;
        }
        let reader = state.seat()?;
        state.together.get_or_insert_default();
        // They wait for the body by themselves; from now on each hears of what the others read.
        let alone = state.readers.each_mut().map(|reader| reader.waker.take());
        drop(state);
        alone.into_iter().flatten().for_each(Waker::wake);
        let shared = self.0.clone();
        Some((reader, RetryBody(Source::Kept { shared, reader })))
    }

    /// Lets no attempt so far read any more: one that failed, and is sent still, would use up what room
    /// there is while the next one waits. `false` if not all of it is there any more.
    pub(super) fn take_back(&self) -> bool {
        let Some(mut state) = lock(&self.0) else {
            return false;
        };
        if !state.keeping {
            return false;
        }
        let gone = state.unseat(|_| true);
        drop(state);
        gone.wake();
        true
    }

    /// Lets this attempt not read any more. `false` if it alone can have the rest, which it keeps.
    pub(super) fn release(&self, reader: ReaderId) -> bool {
        let Some(mut state) = lock(&self.0) else {
            return true;
        };
        if state.ahead == Some(reader) {
            return false;
        }
        let gone = state.unseat(|other| other == reader);
        drop(state);
        gone.wake();
        true
    }

    /// Whether another attempt could send all of it.
    pub(super) fn is_whole(&self) -> bool {
        lock(&self.0).is_some_and(|state| state.keeping)
    }

    /// Whether the caller's body has failed by itself, which is nobody's fault but the caller's.
    pub(super) fn has_failed(&self) -> bool {
        lock(&self.0).is_none_or(|state| state.failed)
    }

    /// The attempt that alone can have the rest, if there were several. Wakes `waker` when there is one.
    pub(super) fn ahead(&self, waker: &Waker) -> Option<ReaderId> {
        let state = lock(&self.0)?;
        if let Some(together) = &state.together {
            together.watch(waker);
        }
        state.ahead
    }

    /// From now on this attempt alone can have the rest; the others wait for their end. `false` if another one
    /// can already, since this one will never have what that has had.
    pub(super) fn claim(&self, reader: ReaderId) -> bool {
        let Some(mut state) = lock(&self.0) else {
            return true;
        };
        state.keeping = false;
        *state.ahead.get_or_insert(reader) == reader
    }

    /// There will be no other attempt. What this one has still to read stays.
    pub(super) fn commit(&self) {
        if let Some(mut state) = lock(&self.0) {
            state.keeping = false;
            state.forget();
        }
    }

    /// Only this attempt, which can have the rest, reads on, and there will be no other.
    pub(super) fn commit_to(&self, reader: ReaderId) {
        if let Some(mut state) = lock(&self.0) {
            state.keeping = false;
            state.ahead = None;
            let gone = state.unseat(|other| other != reader);
            state.forget();
            drop(state);
            gone.wake();
        }
    }
}

impl<B> Drop for Kept<B> {
    /// Nobody will say any more that those who wait for their end are over.
    fn drop(&mut self) {
        if let Some(mut state) = lock(&self.0)
            && let Some(ahead) = state.ahead
        {
            let gone = state.unseat(|other| other != ahead);
            drop(state);
            gone.wake();
        }
    }
}

/// `None`: the caller's own body has panicked, and is in doubt.
fn lock<B>(shared: &Mutex<State<B>>) -> Option<MutexGuard<'_, State<B>>> {
    shared.lock().ok()
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
            SourceProjection::Kept { shared, reader } => {
                let Some(mut state) = lock(shared) else {
                    return Poll::Ready(Some(Err(SentElsewhere.into())));
                };
                let Some(place) = state.place(*reader) else {
                    return Poll::Ready(Some(Err(SentElsewhere.into())));
                };
                if state.reading(*reader).is_none() {
                    // Its attempt is about to be given up, which is no fault of its server.
                    if let Some(together) = &state.together {
                        together.wait(place, cx);
                    }
                    return Poll::Pending;
                }
                let (polled, told) = state.poll_frame(place, cx);
                let together = state.together.clone().filter(|_| told);
                let is_ahead = state.ahead.is_some();
                drop(state);
                if let Some(together) = together {
                    together.wake_others(place, is_ahead);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Once(body) => body.is_end_stream(),
            Source::Kept { shared, reader } => lock(shared).is_some_and(|state| {
                (state.reading(*reader)).is_some_and(|place| state.is_end_stream(place))
            }),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Once(body) => body.size_hint(),
            Source::Kept { shared, reader } => lock(shared)
                .and_then(|state| Some(state.size_hint(state.reading(*reader)?)))
                .unwrap_or_default(),
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
