//! The one error type of the crate.
//!
//! Callers rarely match on the details of a failed call; they ask what kind of failure it was and
//! log the rest. So [`Error`] is opaque: predicates name the kinds, [`source`](std::error::Error::source)
//! keeps the cause. It knows nothing of gRPC; `grpc::Channel` turns it into a `tonic::Status`.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// A boxed error that can cross threads, as tower uses it.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// What went wrong in evenkeel: a mistake in a configuration, no endpoint to send a call to, or an
/// error that the endpoint's own service returned.
///
/// [`source`](StdError::source) is the cause where there is one: for an error of an endpoint's
/// service, that service's error itself.
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    kind: Kind,
    message: Cow<'static, str>,
    source: Option<BoxError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Config { field: &'static str },
    NoRuntime,
    Unavailable,
    NoOther,
    Closed,
    ShutDown,
    UnknownEndpoint,
    Connect,
    Timeout,
    Endpoint,
}

impl Error {
    fn new(kind: Kind, message: impl Into<Cow<'static, str>>, source: Option<BoxError>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                source,
            }),
        }
    }

    /// A setting with a value that cannot be used.
    pub(crate) fn config(field: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Config { field }, message, None)
    }

    /// A setting with a value that cannot be used, with the cause.
    pub(crate) fn config_because(
        field: &'static str,
        message: impl Into<Cow<'static, str>>,
        source: impl Into<BoxError>,
    ) -> Self {
        Self::new(Kind::Config { field }, message, Some(source.into()))
    }

    /// `build()` was called where no tokio runtime is.
    pub(crate) fn no_runtime() -> Self {
        Self::new(
            Kind::NoRuntime,
            "no tokio runtime here: build the balancer inside one",
            None,
        )
    }

    /// `build()` was called in a tokio runtime that cannot wait for a time.
    pub(crate) fn no_timers() -> Self {
        Self::new(
            Kind::NoRuntime,
            "the tokio runtime here has no timers: build it with `enable_time` or `enable_all`",
            None,
        )
    }

    /// No endpoint can take the call now.
    pub(crate) fn unavailable(
        message: impl Into<Cow<'static, str>>,
        source: Option<BoxError>,
    ) -> Self {
        Self::new(Kind::Unavailable, message, source)
    }

    /// No endpoint but those that the call went to before can take it now, and it was to go to another.
    pub(crate) fn no_other() -> Self {
        let message = "every endpoint that can take the call has had it";
        Self::new(Kind::NoOther, message, None)
    }

    /// The task behind the balancer is gone.
    pub(crate) fn closed() -> Self {
        Self::new(
            Kind::Closed,
            "the balancer's background task is gone: its runtime was shut down, or a policy or a \
             source of endpoints panicked in it",
            None,
        )
    }

    /// The balancer was told to take no more calls.
    pub(crate) fn shut_down() -> Self {
        let message = "the balancer was shut down and takes no more calls";
        Self::new(Kind::ShutDown, message, None)
    }

    /// No endpoint has this id.
    pub(crate) fn unknown_endpoint(id: &str) -> Self {
        let message = format!("no endpoint has the id {id:?}");
        Self::new(Kind::UnknownEndpoint, message, None)
    }

    /// An attempt to connect to an endpoint failed.
    pub fn connect(source: impl Into<BoxError>) -> Self {
        Self::new(Kind::Connect, "connecting failed", Some(source.into()))
    }

    /// Something took longer than its limit; `what` names it.
    pub(crate) fn timeout(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Timeout, what, None)
    }

    /// The endpoint's service returned `source`.
    pub(crate) fn endpoint(source: impl Into<BoxError>) -> Self {
        Self::new(
            Kind::Endpoint,
            "the endpoint failed the call",
            Some(source.into()),
        )
    }

    /// A setting cannot be used; [`field`](Self::field) names it. Only builders and
    /// [`discovery::Handle`](crate::discovery::Handle) return this.
    pub fn is_config(&self) -> bool {
        matches!(self.inner.kind, Kind::Config { .. } | Kind::NoRuntime)
    }

    /// The setting that cannot be used, as the builder's method is called.
    pub fn field(&self) -> Option<&'static str> {
        match self.inner.kind {
            Kind::Config { field } => Some(field),
            Kind::NoRuntime => Some("runtime"),
            _ => None,
        }
    }

    /// No endpoint could take the call: all of them are known to be bad, or there are none. The
    /// message counts them by state and quotes the last connect error. The call was not sent.
    pub fn is_unavailable(&self) -> bool {
        matches!(
            self.inner.kind,
            Kind::Unavailable | Kind::NoOther | Kind::Closed | Kind::ShutDown
        )
    }

    /// Nobody has had the attempt: it was to go to an endpoint that no other attempt of its call had gone to, and
    /// found none, as a hedge may. It [is unavailable](Self::is_unavailable), too; but a reader of errors for
    /// [hedging](crate::retry::Hedge) says [`NotSent`](crate::retry::ErrorKind::NotSent) of it.
    pub fn is_no_other(&self) -> bool {
        self.inner.kind == Kind::NoOther
    }

    /// The balancer takes no calls any more, for good: it was [shut down](Self::is_shut_down), or its background
    /// task is gone, because the runtime that it was built in was shut down, or a policy or a source of endpoints
    /// panicked in it. The call was not sent.
    pub fn is_closed(&self) -> bool {
        matches!(self.inner.kind, Kind::Closed | Kind::ShutDown)
    }

    /// The balancer was shut down, by [`Balance::shutdown`](crate::Balance::shutdown) or
    /// `grpc::Channel::shutdown`. The call was not sent.
    pub fn is_shut_down(&self) -> bool {
        self.inner.kind == Kind::ShutDown
    }

    /// An order named an endpoint that the source does not name; the message quotes the id. Only
    /// [`Balance::drain`](crate::Balance::drain), [`Balance::undrain`](crate::Balance::undrain) and those of
    /// `grpc::Channel` return this.
    pub fn is_unknown_endpoint(&self) -> bool {
        self.inner.kind == Kind::UnknownEndpoint
    }

    /// An attempt to connect failed.
    pub fn is_connect(&self) -> bool {
        self.inner.kind == Kind::Connect
    }

    /// A time limit passed.
    pub fn is_timeout(&self) -> bool {
        self.inner.kind == Kind::Timeout
    }

    /// The endpoint's own service returned an error; it is the [`source`](StdError::source).
    pub fn is_endpoint(&self) -> bool {
        self.inner.kind == Kind::Endpoint
    }

    /// Takes the cause out, so that it can be downcast by value.
    pub fn into_source(self) -> Option<BoxError> {
        self.inner.source
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.inner.kind)
            .field("message", &self.inner.message)
            .field("source", &self.inner.source)
            .finish()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.inner.kind {
            Kind::Config { field } => write!(f, "{field}: {}", self.inner.message),
            _ => f.write_str(&self.inner.message),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner.source.as_deref().map(|e| e as _)
    }
}

/// An error and its causes, outermost first.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| {
        (*error).source()
    })
}

/// An error and its causes in one line. Many errors quote their cause already; it is not said twice.
pub(crate) fn describe(error: &(dyn StdError + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}
