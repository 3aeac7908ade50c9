use std::error::Error as StdError;
use std::fmt;
use std::sync::Mutex;

use http::Request;
use tonic::body::Body;

use crate::call::Reclaim;
use crate::error::{BoxError, causes};
use crate::grpc::wrap::NoSecondDial;

/// Why a call got no response head.
///
/// [`reclaim`](Reclaim::reclaim) returns the request if the server certainly did not process it.
/// [`source`](StdError::source) is the error of hyper, or of tonic's channel.
pub struct AttemptError {
    inner: Box<Inner>,
}

struct Inner {
    /// `None`: the connection took no call.
    error: Option<BoxError>,
    // A request's body need not be `Sync`, an error must.
    request: Mutex<Option<Request<Body>>>,
}

impl AttemptError {
    /// hyper's error, with the request if it was not processed.
    #[cold]
    pub(super) fn new(error: hyper::Error, request: Option<Request<Body>>) -> Self {
        Self {
            inner: Box::new(Inner {
                error: Some(error.into()),
                request: Mutex::new(request),
            }),
        }
    }

    /// An error of a connection that is not ours; the request is gone with it.
    #[cold]
    pub(in crate::grpc) fn foreign(error: impl Into<BoxError>) -> Self {
        Self {
            inner: Box::new(Inner {
                error: Some(error.into()),
                request: Mutex::new(None),
            }),
        }
    }

    /// The connection takes no more calls; `request` was not sent.
    #[cold]
    pub(in crate::grpc) fn refusing(request: Option<Request<Body>>) -> Self {
        Self {
            inner: Box::new(Inner {
                error: None,
                request: Mutex::new(request),
            }),
        }
    }

    /// Whether the call died with its connection, as opposed to an error of its own stream.
    pub fn is_connection_lost(&self) -> bool {
        match &self.inner.error {
            Some(error) => is_connection_lost(&**error),
            None => true,
        }
    }
}

impl Reclaim<Request<Body>> for AttemptError {
    fn reclaim(mut self) -> Result<Request<Body>, Self> {
        let request = self.inner.request.get_mut();
        match request.ok().and_then(Option::take) {
            Some(request) => Ok(request),
            None => Err(self),
        }
    }
}

impl fmt::Debug for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttemptError")
            .field("error", &self.inner.error)
            .field("connection_lost", &self.is_connection_lost())
            .finish_non_exhaustive()
    }
}

impl fmt::Display for AttemptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.inner.error {
            None => "the connection takes no more calls",
            Some(_) if self.is_connection_lost() => "the connection was lost",
            Some(_) => "the call failed",
        })
    }
}

impl StdError for AttemptError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.error.as_deref().map(|error| error as _)
    }
}

/// Whether `error`, or a cause of it, says that the connection under the call ended: closed, a
/// transport error, GOAWAY, or a keep-alive ping without an answer. A reset of the one stream does
/// not count.
///
/// For the errors of calls and of response bodies alike, also inside a `tonic::Status`.
pub fn is_connection_lost(error: &(dyn StdError + 'static)) -> bool {
    let mut under_hyper = false;
    for cause in causes(error) {
        if let Some(h2) = cause.downcast_ref::<h2::Error>() {
            return h2.is_go_away() || h2.is_io();
        }
        if cause.is::<NoSecondDial>() {
            return true;
        }
        if let Some(attempt) = cause.downcast_ref::<AttemptError>() {
            if attempt.inner.error.is_none() {
                return true;
            }
        } else if let Some(hyper) = cause.downcast_ref::<hyper::Error>() {
            under_hyper = true;
            if hyper.is_canceled()
                || hyper.is_closed()
                || hyper.is_timeout()
                || is_dispatch_gone(hyper)
            {
                return true;
            }
        } else if under_hyper && cause.is::<std::io::Error>() {
            // hyper takes a transport's error out of h2's.
            return true;
        }
    }
    false
}

/// hyper's task dropped the call without an answer, which it does to a call that waits for its turn
/// when the connection ends. hyper has no question for it; of its user errors, only this one has a
/// cause when the request is not CONNECT.
fn is_dispatch_gone(error: &hyper::Error) -> bool {
    error.is_user() && error.source().is_some()
}

/// Whether the server certainly did not process the call.
///
/// `untouched` is whether hyper never asked for the request's body. The stream can then have been
/// opened, but no part of a message and no end of the request was sent.
///
/// h2 fails a stream with a *remote* GOAWAY only if its id is above the last one that the server
/// names (or if the stream was never opened); streams at or below it that die when the connection
/// then ends get an I/O error. There is one exception, a stream that is being opened at the moment
/// when the GOAWAY is read: its body is untouched.
pub(super) fn is_unprocessed(error: &hyper::Error, untouched: bool) -> bool {
    let h2 = causes(error).find_map(|cause| cause.downcast_ref::<h2::Error>());
    let refused = h2.is_some_and(|h2| {
        h2.is_remote()
            && (h2.is_go_away()
                || (h2.is_reset() && h2.reason() == Some(h2::Reason::REFUSED_STREAM)))
    });
    refused || (untouched && is_connection_lost(error))
}
