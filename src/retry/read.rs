//! What a response head or an error says to the rules of retries.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::error::Error;

const UNKNOWN: u32 = 2;
const DEADLINE_EXCEEDED: u32 = 4;
pub(super) const UNAVAILABLE: u32 = 14;

/// What kind of error ended an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// As good as this gRPC status.
    Code(u32),
    /// The connection was lost under the attempt, or its service failed for a reason that says no more.
    Transport,
    /// Another attempt could not help.
    Final,
    /// Nobody has had the attempt: it was to go to an endpoint that no other attempt had gone to, and there
    /// was none. [`Hedge`](crate::retry::Hedge) makes such ones, and a [`Balance`](crate::Balance) says so by
    /// [`is_no_other`](Error::is_no_other). Taken for a failure, it would end or repeat a call that is well under
    /// way elsewhere.
    NotSent,
}

/// Tells what kind of error ended an attempt. Implemented for functions from `&E` to [`ErrorKind`].
///
/// ```
/// use evenkeel::Error;
/// use evenkeel::retry::{ErrorKind, HedgeLayer, HedgePolicy};
///
/// // A lost connection is of no matter, and all else ends the call.
/// let read = |error: &Error| {
///     if error.is_no_other() {
///         ErrorKind::NotSent
///     } else if error.is_endpoint() {
///         ErrorKind::Transport
///     } else {
///         ErrorKind::Final
///     }
/// };
/// let layer = HedgeLayer::new(HedgePolicy::default())?.reading_errors(read);
/// # let _ = layer;
/// # Ok::<_, Error>(())
/// ```
pub trait ReadError<E>: Send + Sync + 'static {
    /// The kind of `error`.
    fn read(&self, error: &E) -> ErrorKind;
}

impl<E, F: Fn(&E) -> ErrorKind + Send + Sync + 'static> ReadError<E> for F {
    fn read(&self, error: &E) -> ErrorKind {
        self(error)
    }
}

/// Reads the errors of a [`Balance`](crate::Balance): no endpoint to take the call is `UNAVAILABLE`, a
/// time limit `DEADLINE_EXCEEDED`, and an error of the endpoint's own service a
/// [transport error](ErrorKind::Transport).
#[derive(Debug, Clone, Copy, Default)]
pub struct ByError;

impl ReadError<Error> for ByError {
    fn read(&self, error: &Error) -> ErrorKind {
        if error.is_closed() || error.is_config() {
            ErrorKind::Final
        } else if error.is_no_other() {
            ErrorKind::NotSent
        } else if error.is_unavailable() || error.is_connect() {
            ErrorKind::Code(UNAVAILABLE)
        } else if error.is_timeout() {
            ErrorKind::Code(DEADLINE_EXCEEDED)
        } else {
            ErrorKind::Transport
        }
    }
}

/// The gRPC status of a response that is over with its head; `None` if it goes on. One that is not
/// gRPC's has the status that gRPC's table of HTTP codes gives it.
pub(super) fn code_of_head(status: StatusCode, headers: &HeaderMap) -> Option<u32> {
    if let Some(value) = headers.get("grpc-status") {
        let code = value.to_str().ok().and_then(|text| text.parse().ok());
        return Some(code.filter(|code| *code <= 16).unwrap_or(UNKNOWN));
    }
    match status.as_u16() {
        // "http-grpc-status-mapping" of gRPC.
        200 => None,
        400 => Some(13),
        401 => Some(16),
        403 => Some(7),
        404 => Some(12),
        429 | 502..=504 => Some(UNAVAILABLE),
        // Not gRPC's, and no failure.
        201..=399 => None,
        _ => Some(UNKNOWN),
    }
}

/// What the server says about another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushback {
    /// After exactly this time.
    After(Duration),
    /// None, please.
    Never,
}

/// gRFC A6, `grpc-retry-pushback-ms`: milliseconds; negative, unreadable or said twice is no retry.
pub(super) fn pushback(headers: &HeaderMap) -> Option<Pushback> {
    let mut values = headers.get_all("grpc-retry-pushback-ms").iter();
    let value = values.next()?;
    let millis: Option<u32> = value.to_str().ok().and_then(|text| text.parse().ok());
    Some(match millis {
        Some(millis) if values.next().is_none() => {
            Pushback::After(Duration::from_millis(millis.into()))
        }
        _ => Pushback::Never,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn a_head_with_a_status_is_the_end_of_a_response() {
        let grpc = |status| code_of_head(StatusCode::OK, &headers(&[("grpc-status", status)]));
        assert_eq!(grpc("14"), Some(14));
        assert_eq!(grpc("0"), Some(0));
        assert_eq!(grpc("17"), Some(2), "no such code is UNKNOWN");
        assert_eq!(grpc("much"), Some(2), "no code at all is UNKNOWN");
        assert_eq!(
            code_of_head(StatusCode::OK, &HeaderMap::new()),
            None,
            "the response goes on"
        );
    }

    #[test]
    fn heads_that_are_not_grpcs_are_read_by_its_table() {
        let http = |status| {
            let status = StatusCode::from_u16(status).unwrap();
            code_of_head(status, &HeaderMap::new())
        };
        for status in [429, 502, 503, 504] {
            assert_eq!(http(status), Some(14), "{status} is UNAVAILABLE");
        }
        let others = [400, 401, 403, 404, 500, 418].map(http);
        assert_eq!(others.map(Option::unwrap), [13, 16, 7, 12, 2, 2]);
        assert_eq!(http(204), None, "no failure");
    }

    #[test]
    fn pushback_is_a_delay_or_a_refusal() {
        let said = |value| pushback(&headers(&[("grpc-retry-pushback-ms", value)]));
        let after = |millis| Some(Pushback::After(Duration::from_millis(millis)));
        assert_eq!(pushback(&HeaderMap::new()), None, "nothing was said");
        assert_eq!(said("0"), after(0), "at once");
        assert_eq!(said("1500"), after(1500));
        for refusal in ["-1", "soon", "", "1.5", "99999999999"] {
            assert_eq!(said(refusal), Some(Pushback::Never), "{refusal:?}");
        }
        let name = "grpc-retry-pushback-ms";
        assert_eq!(
            pushback(&headers(&[(name, "1"), (name, "2")])),
            Some(Pushback::Never),
            "two delays are none"
        );
    }

    #[test]
    fn errors_of_a_balancer_have_their_kinds() {
        let kind = |error| ByError.read(&error);
        assert_eq!(kind(Error::closed()), ErrorKind::Final);
        assert_eq!(kind(Error::unavailable("", None)), ErrorKind::Code(14));
        assert_eq!(kind(Error::no_other()), ErrorKind::NotSent);
        assert_eq!(kind(Error::timeout("")), ErrorKind::Code(4));
        assert_eq!(kind(Error::endpoint("lost")), ErrorKind::Transport);
    }
}
