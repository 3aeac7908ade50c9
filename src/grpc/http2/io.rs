//! The transport under hyper, watched.
//!
//! hyper keeps three things to itself that a balancer must know at once: that the server's SETTINGS
//! arrived, that a GOAWAY did, and that an idle connection ended. All three are plain in the bytes
//! that come in, so [`ObservedIo`] reads the nine-byte frame headers as they pass and skips the
//! rest.
//!
//! It also holds write errors back until the reading side has ended. A server that closes sends its
//! GOAWAY and then resets what still arrives; a client that stops at the failed write never reads
//! that GOAWAY, and cannot know which of its calls were not processed. For the same reason it keeps
//! a server's first GOAWAY back for a moment ([`Farewell`]).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::connection::ConnectionEvents;

use super::farewell::Farewell;
use super::frames::{FrameHeaders, Seen};
use super::gauge::GaugeGuard;
use super::pool::Left;
use super::stall::Stall;
use super::streams::Streams;

/// How long the reading side may stay silent after a failed write. A socket whose write failed ends
/// its reads at once; this is for transports that do not.
const WRITE_ERROR_GRACE: Duration = Duration::from_secs(1);

/// Whether the connection takes new calls. Shared by the transport and the services above it.
#[derive(Debug, Clone, Default)]
pub(in crate::grpc) struct Refusing(Arc<AtomicBool>);

impl Refusing {
    pub(in crate::grpc) fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Resolves when the server's SETTINGS arrived, or with why they never will.
pub(in crate::grpc) type SettingsSeen = oneshot::Receiver<io::Result<()>>;

/// A transport that tells [`ConnectionEvents`] what passes through it.
pub(in crate::grpc) struct ObservedIo<T> {
    io: T,
    /// `None` where there is nothing to read in the bytes.
    frames: Option<FrameHeaders>,
    settings: Option<oneshot::Sender<io::Result<()>>>,
    events: ConnectionEvents,
    refusing: Refusing,
    write_error: Option<WriteError>,
    farewell: Option<Farewell>,
    farewell_said: bool,
    read_ended: bool,
    stall: Stall,
    /// Where the streams are counted, if they are.
    streams: Option<Arc<Streams>>,
    _counted: GaugeGuard,
}

struct WriteError {
    error: io::Error,
    grace: Pin<Box<Sleep>>,
}

impl<T> ObservedIo<T> {
    pub(in crate::grpc) fn new(
        io: T,
        events: ConnectionEvents,
        refusing: Refusing,
        stall: Stall,
        counted: GaugeGuard,
    ) -> (Self, SettingsSeen) {
        let (settings, settings_seen) = oneshot::channel();
        let observed = Self {
            io,
            frames: Some(FrameHeaders::default()),
            settings: Some(settings),
            events,
            refusing,
            write_error: None,
            farewell: None,
            farewell_said: false,
            read_ended: false,
            stall,
            streams: None,
            _counted: counted,
        };
        (observed, settings_seen)
    }

    /// For a transport below TLS: only its end is seen. Encrypted bytes look like a GOAWAY now and
    /// then.
    pub(in crate::grpc) fn encrypted(mut self) -> Self {
        self.frames = None;
        self
    }

    /// Tells how many streams the server allows, and their pool of the end.
    pub(super) fn counting(mut self, streams: Arc<Streams>) -> Self {
        self.streams = Some(streams);
        self
    }

    /// Takes the connection out of its pool, and has `tell` say so to the balancer if no other is left.
    fn leave(
        streams: Option<&Arc<Streams>>,
        events: &ConnectionEvents,
        calm: bool,
        tell: impl FnOnce(&ConnectionEvents),
    ) {
        let pool = streams.and_then(|streams| Some((streams.pool()?, streams)));
        match pool.map(|(pool, streams)| pool.leave(streams, calm)) {
            None => tell(events),
            Some(Left::Last(hearers)) => {
                tell(events);
                drop(hearers);
            }
            Some(Left::Others) => events.moved(),
            Some(Left::Before) => {}
        }
    }

    /// Reads the frame headers in `bytes`. The number of bytes up to a GOAWAY that another one will
    /// follow, if one ends here.
    fn saw(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut farewell = None;
        let Self {
            frames,
            settings,
            events,
            refusing,
            streams,
            ..
        } = self;
        frames.as_mut()?.feed(bytes, |seen| match seen {
            Seen::Frame {
                kind: FrameHeaders::SETTINGS,
                flags,
            } if flags & FrameHeaders::ACK == 0 => {
                if let Some(settings) = settings.take() {
                    // Nobody listens once the attempt was given up.
                    let _ = settings.send(Ok(()));
                }
            }
            Seen::Frame {
                kind: FrameHeaders::GOAWAY,
                ..
            } => refusing.set(),
            Seen::Frame { .. } => {}
            Seen::MaxStreams(most) => {
                if let Some(streams) = streams {
                    streams.set_most(most);
                }
            }
            Seen::GoAway { reason, .. } if reason == u32::from(h2::Reason::ENHANCE_YOUR_CALM) => {
                Self::leave(streams.as_ref(), events, true, |events| {
                    events.back_off("the server sent GOAWAY with ENHANCE_YOUR_CALM");
                });
            }
            Seen::GoAway {
                last_stream, end, ..
            } => {
                Self::leave(streams.as_ref(), events, false, |events| events.draining());
                if last_stream == FrameHeaders::ANY_STREAM {
                    let len = FrameHeaders::LEN + FrameHeaders::GOAWAY_LEN;
                    farewell.get_or_insert(end.saturating_sub(len));
                }
            }
        });
        farewell
    }

    /// Takes back from `buf` what came from a server's first GOAWAY on. `true` if nothing is left.
    #[cold]
    fn keep_farewell(&mut self, buf: &mut ReadBuf<'_>, before: usize, at: usize) -> bool {
        let kept = buf.filled().get(before + at..).unwrap_or_default();
        let mut farewell = Farewell::new(kept);
        if self.write_error.is_some() {
            farewell.release();
        }
        self.farewell = Some(farewell);
        self.farewell_said = true;
        buf.set_filled(before + at);
        at == 0
    }

    fn poll_farewell(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Option<Poll<()>> {
        let farewell = self.farewell.as_mut()?;
        Some(farewell.poll_read(cx, buf).map(|all| {
            if all {
                self.farewell = None;
            }
        }))
    }

    fn writing(&mut self) {
        if let Some(farewell) = &mut self.farewell {
            farewell.written();
        }
    }

    #[cold]
    fn ended(&mut self, error: io::Error) {
        self.refusing.set();
        if let Some(settings) = self.settings.take() {
            let told = if self.frames.as_ref().is_some_and(FrameHeaders::is_foreign) {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the peer does not speak HTTP/2: its first bytes are no SETTINGS frame",
                )
            } else {
                copy(&error)
            };
            let _ = settings.send(Err(told));
        }
        let tell = |events: &ConnectionEvents| events.closed(Some(error.into()));
        Self::leave(self.streams.as_ref(), &self.events, false, tell);
    }

    #[cold]
    fn read_ended(&mut self, error: Option<&io::Error>) {
        if self.read_ended {
            return;
        }
        self.read_ended = true;
        let cause = match (&self.write_error, error) {
            (Some(write), _) => copy(&write.error),
            (None, Some(read)) => copy(read),
            (None, None) => io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the server closed the connection",
            ),
        };
        self.ended(cause);
    }

    /// Remembers a failed write; returns the error if it can no longer be held back.
    #[cold]
    fn write_failed(&mut self, cx: &mut Context<'_>, error: io::Error) -> io::Result<()> {
        self.ended(copy(&error));
        if self.read_ended {
            return Err(error);
        }
        if let Some(farewell) = &mut self.farewell {
            farewell.release();
            cx.waker().wake_by_ref();
        }
        let mut grace = Box::pin(tokio::time::sleep(WRITE_ERROR_GRACE));
        // hyper polls reads and writes from one task, so the timer must wake that task even if it
        // never looks at the reading side again by itself.
        if grace.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        self.write_error = Some(WriteError { error, grace });
        Ok(())
    }

    /// The answer to a write when an earlier one has failed: swallowed until the reads have ended.
    fn after_failed_write(&self) -> Option<io::Result<()>> {
        let write = self.write_error.as_ref()?;
        Some(if self.read_ended {
            Err(copy(&write.error))
        } else {
            Ok(())
        })
    }

    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        result: io::Result<usize>,
        len: usize,
    ) -> io::Result<usize> {
        let error = match result {
            Ok(0) if len > 0 => io::ErrorKind::WriteZero.into(),
            Ok(written) => return Ok(written),
            Err(error) => error,
        };
        self.write_failed(cx, error).map(|()| len)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for ObservedIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(polled) = this.poll_farewell(cx, buf) {
            return polled.map(Ok);
        }
        let before = buf.filled().len();
        let room = buf.remaining() > 0;
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                let new = buf.filled().get(before..).unwrap_or_default();
                if !new.is_empty() {
                    if let Some(at) = this.saw(new)
                        && !this.farewell_said
                        && this.keep_farewell(buf, before, at)
                        && let Some(polled) = this.poll_farewell(cx, buf)
                    {
                        return polled.map(Ok);
                    }
                } else if room {
                    this.read_ended(None);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => {
                this.read_ended(Some(&error));
                Poll::Ready(Err(error))
            }
            Poll::Pending => {
                let Some(write) = &mut this.write_error else {
                    return Poll::Pending;
                };
                ready!(write.grace.as_mut().poll(cx));
                let error = copy(&write.error);
                this.read_ended = true;
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for ObservedIo<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(answer) = this.after_failed_write() {
            return Poll::Ready(answer.map(|()| buf.len()));
        }
        this.writing();
        let polled = Pin::new(&mut this.io).poll_write(cx, buf);
        let result = ready!(this.stall.bound(cx, polled));
        Poll::Ready(this.wrote(cx, result, buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let len = || bufs.iter().map(|buf| buf.len()).sum();
        if let Some(answer) = this.after_failed_write() {
            return Poll::Ready(answer.map(|()| len()));
        }
        this.writing();
        let polled = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        let result = ready!(this.stall.bound(cx, polled));
        Poll::Ready(match result {
            Ok(written) if written > 0 => Ok(written),
            other => this.wrote(cx, other, len()),
        })
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(answer) = this.after_failed_write() {
            return Poll::Ready(answer);
        }
        let polled = Pin::new(&mut this.io).poll_flush(cx);
        Poll::Ready(match ready!(this.stall.bound(cx, polled)) {
            Err(error) => this.write_failed(cx, error),
            Ok(()) => {
                if let Some(farewell) = &mut this.farewell {
                    farewell.flushed(cx);
                }
                Ok(())
            }
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(answer) = this.after_failed_write() {
            return Poll::Ready(answer);
        }
        let polled = Pin::new(&mut this.io).poll_shutdown(cx);
        Poll::Ready(match ready!(this.stall.bound(cx, polled)) {
            Err(error) => this.write_failed(cx, error),
            Ok(()) => Ok(()),
        })
    }
}

impl<T> Drop for ObservedIo<T> {
    fn drop(&mut self) {
        // After another word has been said, this one is not heard.
        self.ended(io::Error::new(
            io::ErrorKind::ConnectionAborted,
            "the connection was closed on this side",
        ));
    }
}

/// `io::Error` is not `Clone`; this keeps what can be kept.
fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

#[cfg(test)]
#[path = "io_tests.rs"]
mod tests;
