//! What a finished call taught us about the endpoint that served it.
//!
//! Not every error is the endpoint's fault, and not every fault shows in the response head: gRPC
//! puts its status into the trailers. A [`Classify`] looks at each part as it comes and says which
//! [`Outcome`] it was; ejection and load balancing act on that alone.

mod load_report;
#[cfg(feature = "grpc")]
mod out_of_band;
#[cfg(feature = "grpc")]
mod probe_reply;
#[cfg(feature = "grpc")]
mod wire;

pub use load_report::LoadReport;
#[cfg(feature = "grpc")]
pub(crate) use out_of_band::{MOST_MESSAGE_BYTES, OUT_OF_BAND_PATH, interval_of, request_for};
#[cfg(feature = "grpc")]
pub(crate) use probe_reply::{PROBE_PATH, probe_request};

use std::error::Error as StdError;
use std::time::Duration;

use http::HeaderMap;

/// What one attempt said about its endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// The endpoint did its work, even if the answer was an error of the caller's making
    /// (`NOT_FOUND`, `INVALID_ARGUMENT`, a 404).
    Success,
    /// The endpoint is at fault. Enough of these in a row eject it.
    Failure,
    /// The endpoint is there but has no room. Counted as a failed call, and no reason to eject unless
    /// [that is asked for](crate::health::Ejection::with_consecutive_overloads).
    Overload {
        /// How long the endpoint asked to be left alone, if it said so.
        retry_after: Option<Duration>,
    },
    /// The connection under the call ended. The connection's state machine deals with that, so the
    /// ejector does not count it.
    ConnectionLost,
    /// It says nothing: the caller gave up, or the endpoint never saw the call.
    Ignored,
}

impl Outcome {
    /// Whether the call counts as failed in the endpoint's report.
    pub fn is_failed(self) -> bool {
        !matches!(self, Self::Success | Self::Ignored)
    }
}

/// Reads an [`Outcome`] off the parts of a response.
///
/// `Res` is the response of the endpoint's service, `Err` its error.
///
/// ```
/// use evenkeel::outcome::{Classify, Outcome};
///
/// /// Answers that start with '!' are the endpoint's fault.
/// struct Bang;
///
/// impl<E> Classify<String, E> for Bang {
///     fn response(&self, response: &String) -> Option<Outcome> {
///         Some(if response.starts_with('!') { Outcome::Failure } else { Outcome::Success })
///     }
///     fn error(&self, _: &E) -> Outcome {
///         Outcome::Failure
///     }
/// }
/// ```
pub trait Classify<Res, Err>: Send + Sync + 'static {
    /// The verdict on a response head, or `None` when only the end of the response tells. For a
    /// response without a body there is no later: `None` then counts as success.
    fn response(&self, response: &Res) -> Option<Outcome>;

    /// The verdict at the regular end of a response whose head left it open. `None` is a body that
    /// ended without trailers.
    fn trailers(&self, trailers: Option<&HeaderMap>) -> Outcome {
        let _ = trailers;
        Outcome::Success
    }

    /// The verdict on an error in place of a response.
    fn error(&self, error: &Err) -> Outcome;

    /// The verdict on an error in the middle of a response body.
    fn body_error(&self, error: &(dyn StdError + 'static)) -> Outcome {
        let _ = error;
        Outcome::Failure
    }

    /// What the server says of its load in the head or the trailers of a response; by default
    /// nothing. Only asked if the policy has reports measured.
    fn load_report(&self, headers: &HeaderMap) -> Option<LoadReport> {
        let _ = headers;
        None
    }
}

/// `Ok` is a success, `Err` a failure. The default for services that do not speak HTTP.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByResult;

impl<Res, Err> Classify<Res, Err> for ByResult {
    fn response(&self, _: &Res) -> Option<Outcome> {
        Some(Outcome::Success)
    }

    fn error(&self, _: &Err) -> Outcome {
        Outcome::Failure
    }
}

/// HTTP status 500 and above is a failure, 429 an overload, everything else under 500 a success.
/// An error, also in the body, is a failure. The default for HTTP services that are not gRPC.
#[derive(Debug, Clone, Copy, Default)]
pub struct ByStatusCode;

impl<B, Err> Classify<http::Response<B>, Err> for ByStatusCode {
    fn response(&self, response: &http::Response<B>) -> Option<Outcome> {
        match response.status().as_u16() {
            429 => Some(Outcome::Overload {
                retry_after: retry_after_seconds(response.headers()),
            }),
            500.. => Some(Outcome::Failure),
            _ => None,
        }
    }

    fn error(&self, _: &Err) -> Outcome {
        Outcome::Failure
    }
}

/// The delay form of `retry-after`; the date form is not read.
fn retry_after_seconds(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    seconds.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by_status(status: u16) -> Option<Outcome> {
        let response = http::Response::builder()
            .status(status)
            .header("retry-after", "3")
            .body(())
            .unwrap();
        Classify::<_, std::io::Error>::response(&ByStatusCode, &response)
    }

    #[test]
    fn status_codes_from_500_on_are_the_endpoints_fault() {
        assert_eq!(by_status(200), None, "the body may still fail");
        assert_eq!(by_status(404), None);
        assert_eq!(by_status(500), Some(Outcome::Failure));
        assert_eq!(by_status(503), Some(Outcome::Failure));
        assert_eq!(
            by_status(429),
            Some(Outcome::Overload {
                retry_after: Some(Duration::from_secs(3))
            })
        );
    }
}
