//! A request that can be made again: its head, its body, where it went, and until when it is of use.

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body;
use tokio::time::Instant;

use crate::call::{NoRetry, PreviousEndpoints, grpc_timeout, set_grpc_timeout};
use crate::error::{BoxError, Error};
use crate::retry::attempts::AttemptSettings;
use crate::retry::body::Kept;
use crate::retry::bounds::{Bounds, Verdict};
use crate::retry::{ReadError, RetryBody};

/// gRFC A6: how many attempts were made before this one.
pub(super) const PREVIOUS_ATTEMPTS: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");

/// What later attempts of a call are made of.
pub(super) struct Repeat<B> {
    head: Parts,
    pub(super) body: Kept<B>,
    pub(super) previous: PreviousEndpoints,
    /// How many were made, the first one included.
    pub(super) attempts: u32,
    deadline: Option<Instant>,
    /// When the call ends at the latest, at the deadline or before: no attempt begins then.
    pub(super) end: Option<Instant>,
}

impl<B> Repeat<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// A call begins: the request of its first attempt, and what is kept for later ones, unless the call is to
    /// have none.
    pub(super) fn begin(
        mut request: Request<B>,
        settings: &AttemptSettings,
        bounds: &Bounds,
    ) -> (Option<Self>, Request<RetryBody<B>>) {
        // Said of another call, which this one is made for.
        request.headers_mut().remove(PREVIOUS_ATTEMPTS);
        if request.extensions().get::<NoRetry>().is_some() {
            return (None, request.map(RetryBody::once));
        }
        bounds.begun();
        let (repeat, first) = Self::keep(request, settings.buffer_limit_bytes);
        (Some(repeat), first)
    }

    fn keep(request: Request<B>, limit: usize) -> (Self, Request<RetryBody<B>>) {
        let (mut head, body) = request.into_parts();
        // Ahead of the record's own place among the extensions, which would be copied too.
        let kept = head.clone();
        let previous = head.extensions.get::<PreviousEndpoints>().cloned();
        let previous = previous.unwrap_or_else(|| {
            let previous = PreviousEndpoints::new();
            head.extensions.insert(previous.clone());
            previous
        });
        let timeout = grpc_timeout(&head.headers);
        let (body, first) = Kept::new(body, limit);
        // A limit beyond the end of the clock is none.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let repeat = Self {
            head: kept,
            body,
            previous,
            attempts: 1,
            deadline,
            end: deadline,
        };
        (repeat, Request::from_parts(head, first))
    }

    /// What this end of an attempt means.
    pub(super) fn judge<R, X, E: ReadError<X>>(
        &self,
        result: &Result<Response<R>, X>,
        bounds: &Bounds,
        read: &E,
    ) -> Verdict {
        match result {
            Ok(response) => bounds.judge(response),
            // No server's failure, as a malformed request is none, and no other would get it.
            Err(_) if self.body.has_failed() => Verdict::Fatal,
            Err(error) => bounds.judge_error(read.read(error)),
        }
    }

    /// Whether the request is there yet for another attempt, of so many at most.
    pub(super) fn may_repeat(&self, most: u32) -> bool {
        self.attempts < most && self.body.is_whole()
    }
}

impl<B> Repeat<B> {
    /// The head of an attempt that comes after so many, with this record of where those went. `None` if
    /// the call's end has come: an endpoint would be blamed for no answer.
    pub(super) fn head(&self, attempts: u32, previous: PreviousEndpoints) -> Option<Parts> {
        let now = Instant::now();
        if self.ends_by(now) {
            return None;
        }
        let mut head = self.head.clone();
        head.extensions.insert(previous);
        head.headers
            .insert(PREVIOUS_ATTEMPTS, HeaderValue::from(attempts));
        // The same moment, since gRPC's timeouts are never zero.
        if let Some(deadline) = self.deadline {
            set_grpc_timeout(&mut head.headers, deadline.saturating_duration_since(now));
        }
        Some(head)
    }

    /// Whether the call ends by then. One that never ends may go on beyond the end of the clock.
    pub(super) fn ends_by(&self, moment: impl Into<Option<Instant>>) -> bool {
        (self.end).is_some_and(|end| moment.into().is_none_or(|moment| moment >= end))
    }

    /// Whether an attempt before, or beside, one that is under way went to an endpoint.
    #[cfg(feature = "grpc")]
    pub(super) fn was_sent(&self) -> bool {
        self.attempts > 1 && !self.previous.is_empty()
    }
}

#[cold]
pub(super) fn past_deadline<E: From<Error>>() -> E {
    Error::timeout("the deadline passed before the next attempt").into()
}
