use std::error::Error as StdError;
use std::time::Duration;

use http::{HeaderMap, Response, StatusCode};
use tonic::Code;

use crate::grpc::http2::{AttemptError, is_connection_lost};
use crate::outcome::{Classify, LoadReport, Outcome};

/// Reads the outcome of a call off its gRPC status, which is in the trailers, or in the head of a
/// response that has nothing else.
///
/// | outcome | status |
/// |---|---|
/// | failure | `UNAVAILABLE`, `UNKNOWN`, `INTERNAL`, `DATA_LOSS`, `DEADLINE_EXCEEDED`, no status at all, a transport error |
/// | overload | `RESOURCE_EXHAUSTED`, with the delay of `grpc-retry-pushback-ms` |
/// | ignored | `CANCELLED` |
/// | lost with its connection | an error that ended the connection |
/// | success | every other: the endpoint did its work, the request was at fault |
///
/// An HTTP status other than 200 without a gRPC status is read by gRPC's table of HTTP codes: 4xx
/// but 408 and 429 are not the endpoint's fault, the rest is.
///
/// Load reports are read by [`LoadReport::from_headers`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ByGrpcStatus;

impl<B> Classify<Response<B>, AttemptError> for ByGrpcStatus {
    fn response(&self, response: &Response<B>) -> Option<Outcome> {
        let headers = response.headers();
        if let Some(code) = grpc_code(headers) {
            return Some(by_code(code, headers));
        }
        match response.status() {
            StatusCode::OK => None,
            StatusCode::TOO_MANY_REQUESTS => Some(Outcome::Overload { retry_after: None }),
            StatusCode::REQUEST_TIMEOUT => Some(Outcome::Failure),
            status if status.is_client_error() => Some(Outcome::Success),
            _ => Some(Outcome::Failure),
        }
    }

    fn trailers(&self, trailers: Option<&HeaderMap>) -> Outcome {
        trailers
            .and_then(|trailers| Some(by_code(grpc_code(trailers)?, trailers)))
            .unwrap_or(Outcome::Failure)
    }

    fn error(&self, error: &AttemptError) -> Outcome {
        if error.is_connection_lost() {
            Outcome::ConnectionLost
        } else {
            Outcome::Failure
        }
    }

    fn body_error(&self, error: &(dyn StdError + 'static)) -> Outcome {
        if is_connection_lost(error) {
            Outcome::ConnectionLost
        } else {
            Outcome::Failure
        }
    }

    fn load_report(&self, headers: &HeaderMap) -> Option<LoadReport> {
        LoadReport::from_headers(headers)
    }
}

/// The status in these headers or trailers, if there is one.
pub(super) fn grpc_code(headers: &HeaderMap) -> Option<Code> {
    headers
        .get("grpc-status")
        .map(|value| Code::from_bytes(value.as_bytes()))
}

fn by_code(code: Code, headers: &HeaderMap) -> Outcome {
    match code {
        Code::Unavailable
        | Code::Unknown
        | Code::Internal
        | Code::DataLoss
        | Code::DeadlineExceeded => Outcome::Failure,
        Code::ResourceExhausted => Outcome::Overload {
            retry_after: pushback(headers),
        },
        Code::Cancelled => Outcome::Ignored,
        _ => Outcome::Success,
    }
}

/// gRFC A6: a delay in milliseconds; anything else, and a negative one, is no delay.
fn pushback(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get("grpc-retry-pushback-ms")?.to_str().ok()?;
    value.parse().ok().map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(status: u16, headers: &[(&'static str, &'static str)]) -> Option<Outcome> {
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        ByGrpcStatus.response(&response.body(()).unwrap())
    }

    fn trailers(pairs: &[(&'static str, &'static str)]) -> Outcome {
        let map: HeaderMap = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        Classify::<Response<()>, AttemptError>::trailers(&ByGrpcStatus, Some(&map))
    }

    #[test]
    fn the_servers_fault_and_the_callers_fault_are_told_apart() {
        for code in ["2", "4", "13", "14", "15"] {
            assert_eq!(
                trailers(&[("grpc-status", code)]),
                Outcome::Failure,
                "{code}"
            );
        }
        for code in ["0", "3", "5", "6", "7", "9", "10", "11", "12", "16"] {
            assert_eq!(
                trailers(&[("grpc-status", code)]),
                Outcome::Success,
                "{code}"
            );
        }
        assert_eq!(
            trailers(&[("grpc-status", "1")]),
            Outcome::Ignored,
            "CANCELLED"
        );
        assert_eq!(
            trailers(&[("grpc-status", "rubbish")]),
            Outcome::Failure,
            "no code is UNKNOWN"
        );
        assert_eq!(trailers(&[]), Outcome::Failure, "no status is UNKNOWN");
    }

    #[test]
    fn overload_carries_the_servers_pushback() {
        let with = |ms| trailers(&[("grpc-status", "8"), ("grpc-retry-pushback-ms", ms)]);
        let overload = |retry_after| Outcome::Overload { retry_after };
        assert_eq!(
            with("250"),
            overload(Some(Duration::from_millis(250))),
            "milliseconds"
        );
        assert_eq!(with("-1"), overload(None), "negative: no delay");
        assert_eq!(with("soon"), overload(None), "no number: no delay");
    }

    #[test]
    fn the_head_decides_only_when_nothing_follows() {
        assert_eq!(head(200, &[]), None, "trailers follow");
        assert_eq!(
            head(200, &[("grpc-status", "14")]),
            Some(Outcome::Failure),
            "a status alone"
        );
        assert_eq!(head(503, &[]), Some(Outcome::Failure), "UNAVAILABLE");
        assert_eq!(head(404, &[]), Some(Outcome::Success), "UNIMPLEMENTED");
        assert_eq!(
            head(429, &[]),
            Some(Outcome::Overload { retry_after: None }),
            "too many requests"
        );
        assert_eq!(
            head(302, &[]),
            Some(Outcome::Failure),
            "a redirect is no gRPC answer"
        );
    }
}
