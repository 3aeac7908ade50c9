//! From our errors to the status that a generated client gets.
//!
//! tonic finds a status in an error's chain of sources, and reads hyper's errors there by rules of
//! its own, by which a call lost with its connection is `CANCELLED`. So the right status is put in
//! front, with the error as its source.

use std::error::Error as StdError;
use std::sync::Arc;

use tonic::{Code, Status};

use crate::error::{Error, causes, describe};
use crate::grpc::http2::{AttemptError, is_connection_lost};

/// The status for an error of the balancer.
#[cold]
pub(super) fn from_error(error: Error) -> Status {
    let message = match attempt_of(&error) {
        Some(attempt) => describe(attempt),
        None if code(&error) == Code::Unknown => describe(&error),
        None => error.to_string(),
    };
    let code = code(&error);
    with_source(code, message, error)
}

/// What the endpoint's service said, if the error is of that.
pub(super) fn attempt_of(error: &Error) -> Option<&AttemptError> {
    error.source()?.downcast_ref()
}

/// The code for an error of the balancer.
pub(super) fn code(error: &Error) -> Code {
    match attempt_of(error) {
        Some(attempt) => attempt_code(attempt),
        None if error.is_timeout() => Code::DeadlineExceeded,
        None if error.is_unavailable() || error.is_connect() => Code::Unavailable,
        None => Code::Unknown,
    }
}

/// The status for an error in the middle of a response.
#[cold]
pub(super) fn from_body_error<E: StdError + Send + Sync + 'static>(error: E) -> Status {
    let code = error_code(&error);
    let message = describe(&error);
    with_source(code, message, error)
}

/// The status for a deadline that has passed, maybe before something came to pass.
#[cold]
pub(super) fn deadline_exceeded(before: Option<String>) -> Status {
    Status::deadline_exceeded(match before {
        Some(before) => format!("the deadline passed before {before}"),
        None => "the deadline passed".to_owned(),
    })
}

fn with_source(
    code: Code,
    message: String,
    error: impl StdError + Send + Sync + 'static,
) -> Status {
    let mut status = Status::new(code, message);
    status.set_source(Arc::new(error));
    status
}

fn attempt_code(attempt: &AttemptError) -> Code {
    if attempt.is_connection_lost() {
        Code::Unavailable
    } else {
        error_code(attempt)
    }
}

/// gRPC's table of HTTP/2 error codes (PROTOCOL-HTTP2, "Errors"). A status in the chain is kept.
fn error_code(error: &(dyn StdError + 'static)) -> Code {
    if is_connection_lost(error) {
        return Code::Unavailable;
    }
    for cause in causes(error) {
        if let Some(status) = cause.downcast_ref::<Status>() {
            return status.code();
        }
        // What tonic's own channels say.
        if cause.is::<tonic::ConnectError>() {
            return Code::Unavailable;
        }
        if cause.is::<tonic::TimeoutExpired>() {
            return Code::DeadlineExceeded;
        }
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return match h2.reason() {
                Some(h2::Reason::REFUSED_STREAM) => Code::Unavailable,
                Some(h2::Reason::CANCEL) => Code::Cancelled,
                Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
                Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
                Some(_) => Code::Internal,
                None => Code::Unknown,
            };
        }
    }
    Code::Unknown
}
