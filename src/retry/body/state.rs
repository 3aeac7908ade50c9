//! What all attempts of a call know of its body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;
use crate::retry::body::taken::Taken;
use crate::retry::body::together::Together;

/// How many attempts may read at once: as many as a call may have (gRFC A6).
pub(super) const READERS: usize = 5;

pub(super) type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// One of the attempts that read, or have read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::retry) struct ReaderId(u32);

impl ReaderId {
    /// Of the first attempt.
    pub(in crate::retry) const FIRST: Self = Self(1);
    const NOBODY: Self = Self(0);
}

impl Default for ReaderId {
    fn default() -> Self {
        Self::NOBODY
    }
}

pub(super) struct State<B> {
    pub(super) body: B,
    /// Those that may read.
    pub(super) readers: [Reader; READERS],
    pub(super) last: ReaderId,
    pub(super) taken: Taken,
    /// Whether what is read is kept for other attempts.
    pub(super) keeping: bool,
    /// The body has nothing more.
    pub(super) ended: bool,
    /// By an error of its own.
    pub(super) failed: bool,
    /// Of several readers, the one that has had what no other can have any more.
    pub(super) ahead: Option<ReaderId>,
    /// Once there were several readers.
    pub(super) together: Option<Arc<Together>>,
}

#[derive(Default)]
pub(super) struct Reader {
    pub(super) id: ReaderId,
    /// Frames of `taken` that it has had.
    pub(super) position: usize,
    /// Where it waits for the body, as long as it is the only reader.
    pub(super) waker: Option<Waker>,
}

/// Whom to wake once the lock is given back.
pub(super) struct News {
    alone: [Option<Waker>; READERS],
    together: Option<Arc<Together>>,
}

impl News {
    pub(super) fn wake(self) {
        self.alone.into_iter().flatten().for_each(Waker::wake);
        if let Some(together) = self.together {
            together.wake_readers();
        }
    }
}

impl<B: Body> State<B> {
    /// With the first reader.
    pub(super) fn new(body: B, limit: usize) -> Self {
        let mut state = Self {
            ended: body.is_end_stream(),
            failed: false,
            body,
            readers: Default::default(),
            last: ReaderId::NOBODY,
            taken: Taken::new(limit),
            keeping: true,
            ahead: None,
            together: None,
        };
        state.seat();
        state
    }
}

impl<B> State<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// The next frame for the reader at `place`, and whether others hear of it.
    pub(super) fn poll_frame(&mut self, place: usize, cx: &mut Context<'_>) -> (Polled, bool) {
        let position = self.readers[place].position;
        if let Some(frame) = self.taken.frame(position) {
            self.readers[place].position += 1;
            self.forget();
            return (Poll::Ready(Some(Ok(frame))), false);
        }
        if self.ended {
            return (Poll::Ready(None), false);
        }
        let body = Pin::new(&mut self.body);
        let polled = match &self.together {
            None => body.poll_frame(cx),
            Some(together) => together.poll(place, cx, |cx| body.poll_frame(cx)),
        };
        let polled = match polled {
            Poll::Ready(polled) => polled,
            Poll::Pending => {
                if self.together.is_none() {
                    self.readers[place].waker = Some(cx.waker().clone());
                }
                return (Poll::Pending, false);
            }
        };
        let polled = match polled {
            None => {
                self.ended = true;
                None
            }
            Some(Err(error)) => {
                self.ended = true;
                self.failed = true;
                self.give_up(place);
                Some(Err(error.into()))
            }
            Some(Ok(frame)) => {
                let frame = frame.map_data(|mut data| data.copy_to_bytes(data.remaining()));
                if self.keeping {
                    match self.taken.keep(&frame) {
                        true => self.readers[place].position = self.taken.frames(),
                        false => self.give_up(place),
                    }
                }
                self.ended = frame.is_trailers() || self.body.is_end_stream();
                Some(Ok(frame))
            }
        };
        (Poll::Ready(polled), true)
    }

    pub(super) fn is_end_stream(&self, place: usize) -> bool {
        self.ended && self.readers[place].position >= self.taken.frames()
    }

    pub(super) fn size_hint(&self, place: usize) -> SizeHint {
        let position = self.readers[place].position;
        let kept = (position..self.taken.len()).filter_map(|index| self.taken.get(index));
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
    /// A place for one more reader, if there is one.
    pub(super) fn seat(&mut self) -> Option<ReaderId> {
        let place = self.place(ReaderId::NOBODY)?;
        self.last = ReaderId(self.last.0 + 1);
        self.readers[place] = Reader {
            id: self.last,
            ..Reader::default()
        };
        Some(self.last)
    }

    /// Where this reader is, if it may read.
    pub(super) fn place(&self, id: ReaderId) -> Option<usize> {
        self.readers.iter().position(|reader| reader.id == id)
    }

    /// As `place`, of one that need not wait for its end.
    pub(super) fn reading(&self, id: ReaderId) -> Option<usize> {
        self.place(id)
            .filter(|_| self.ahead.is_none_or(|ahead| ahead == id))
    }

    /// Takes the places of these. They may wait here, and have to see that it is over.
    #[must_use]
    pub(super) fn unseat(&mut self, leaves: impl Fn(ReaderId) -> bool) -> News {
        let alone = self.readers.each_mut().map(|reader| {
            (reader.id != ReaderId::NOBODY && leaves(reader.id))
                .then(|| std::mem::take(reader).waker)
                .flatten()
        });
        News {
            alone,
            together: self.together.clone(),
        }
    }

    /// The body is not kept any more, and the reader at `place` has had all of it so far.
    fn give_up(&mut self, place: usize) {
        let ahead = self.readers[place].id;
        let is_alone = (self.readers.iter()).all(|r| [ahead, ReaderId::NOBODY].contains(&r.id));
        self.ahead = (!is_alone).then_some(ahead);
        self.keeping = false;
        self.taken = Taken::default();
        self.readers[place].position = 0;
    }

    /// Drops what was kept once nobody will read it again.
    pub(super) fn forget(&mut self) {
        if self.keeping || self.taken.trailers.is_some() {
            return;
        }
        let frames = self.taken.len();
        let all_had = |r: &Reader| r.id == ReaderId::NOBODY || r.position >= frames;
        if self.readers.iter().all(all_had) {
            self.taken = Taken::default();
            self.readers.iter_mut().for_each(|r| r.position = 0);
        }
    }
}
