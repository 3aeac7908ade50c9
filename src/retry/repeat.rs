//! A request that can be made again: its head, its body, where it went, and until when it is of use.

use http::request::Parts;
use http::{HeaderName, HeaderValue, Request};
use http_body::Body;
use tokio::time::Instant;

use crate::call::{PreviousEndpoints, grpc_timeout, set_grpc_timeout};
use crate::error::BoxError;
use crate::retry::RetryBody;
use crate::retry::body::Kept;

/// gRFC A6: how many attempts were made before this one.
pub(super) const PREVIOUS_ATTEMPTS: HeaderName =
    HeaderName::from_static("grpc-previous-rpc-attempts");

/// What later attempts of a call are made of.
pub(super) struct Repeat<B> {
    head: Parts,
    pub(super) body: Kept<B>,
    pub(super) previous: PreviousEndpoints,
    deadline: Option<Instant>,
    /// When the call ends at the latest, at the deadline or before: no attempt begins then.
    pub(super) end: Option<Instant>,
}

impl<B> Repeat<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Keeps what a later attempt needs, and up to `limit` bytes of the body; gives the request of the first.
    pub(super) fn begin(request: Request<B>, limit: usize) -> (Self, Request<RetryBody<B>>) {
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
            deadline,
            end: deadline,
        };
        (repeat, Request::from_parts(head, first))
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
}
