//! What a request says about how it wants to be balanced.
//!
//! HTTP requests say it in their extensions and headers; other requests through a function given to
//! the builder. Nothing is looked up until a policy or a waiting call asks, so that a call that
//! needs none of it pays nothing.

mod grpc_timeout;
mod previous_endpoints;

pub(crate) use grpc_timeout::{grpc_timeout, set_grpc_timeout};
#[cfg(feature = "service-config")]
pub(crate) use grpc_timeout::{grpc_timeout_value, insert_grpc_timeout};
pub use previous_endpoints::PreviousEndpoints;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::{Extensions, HeaderMap};

use crate::endpoint::EndpointId;

/// Request extension: the key that hashing policies use in place of what they would read
/// themselves. Calls with equal keys go to the same endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HashKey(pub u64);

/// Request extension: the address of the caller on whose behalf the call is made, for
/// [`IpHash`](crate::policy::IpHash).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceIp(pub IpAddr);

/// Request extension: wait for an endpoint instead of failing when all are known to be bad. The
/// caller's deadline is then the only bound. gRPC's `wait_for_ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitForReady(pub bool);

/// Request extension: a failed call is not tried again, whatever the retry policy says, and a slow one is
/// not [hedged](crate::retry::Hedge). For calls that must not reach a server twice.
///
/// Nothing else of the policy holds for such a call: not its
/// [time limit for an attempt](crate::retry::RetryPolicy::with_attempt_timeout) either, and it counts for
/// neither the budget nor the throttle. A request that the server surely did not process still goes to
/// another endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRetry;

/// Request extension: the call goes to endpoints with this value of the metadata name by which
/// [`MetadataSubsets`](crate::topology::MetadataSubsets) tells them apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointSubset(pub Arc<str>);

impl<T: Into<Arc<str>>> From<T> for EndpointSubset {
    fn from(value: T) -> Self {
        Self(value.into())
    }
}

/// Response extension: the endpoint that answered. Set only where the builder was told so, because
/// an extension costs an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChosenEndpoint(pub EndpointId);

/// A request, as policies see it: what was set on it by hand, and the parts of HTTP.
#[derive(Clone, Copy, Default)]
pub struct RequestInfo<'a> {
    hash_key: Option<u64>,
    source_ip: Option<IpAddr>,
    wait_for_ready: Option<bool>,
    headers: Option<&'a HeaderMap>,
    extensions: Option<&'a Extensions>,
    path: Option<&'a str>,
}

impl<'a> RequestInfo<'a> {
    /// A request that says nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything that an HTTP request says.
    pub fn http<B>(request: &'a http::Request<B>) -> Self {
        Self {
            headers: Some(request.headers()),
            extensions: Some(request.extensions()),
            path: Some(request.uri().path()),
            ..Self::default()
        }
    }

    /// Sets the key that hashing policies use.
    #[must_use]
    pub fn with_hash_key(mut self, key: u64) -> Self {
        self.hash_key = Some(key);
        self
    }

    /// Sets the address of the caller.
    #[must_use]
    pub fn with_source_ip(mut self, ip: IpAddr) -> Self {
        self.source_ip = Some(ip);
        self
    }

    /// Sets whether to wait when all endpoints are known to be bad.
    #[must_use]
    pub fn with_wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = Some(wait);
        self
    }

    /// Sets the path, in place of that of an HTTP request.
    #[must_use]
    pub fn with_path(mut self, path: &'a str) -> Self {
        self.path = Some(path);
        self
    }

    /// The key for hashing policies: set by hand, or the extension [`HashKey`].
    pub fn hash_key(&self) -> Option<u64> {
        self.hash_key
            .or_else(|| self.extension::<HashKey>().map(|key| key.0))
    }

    /// The caller's address: set by hand, or the extension [`SourceIp`]. Headers are not read here,
    /// since how far to trust them is the policy's setting.
    pub fn source_ip(&self) -> Option<IpAddr> {
        self.source_ip
            .or_else(|| self.extension::<SourceIp>().map(|ip| ip.0))
    }

    /// Whether to wait when all endpoints are known to be bad: set by hand, or the extension
    /// [`WaitForReady`].
    pub fn wait_for_ready(&self) -> Option<bool> {
        self.wait_for_ready
            .or_else(|| self.extension::<WaitForReady>().map(|wait| wait.0))
    }

    /// The headers, for gRPC the metadata.
    pub fn headers(&self) -> Option<&'a HeaderMap> {
        self.headers
    }

    /// The request extension of type `T`.
    pub fn extension<T: Send + Sync + 'static>(&self) -> Option<&'a T> {
        self.extensions?.get()
    }

    /// The path, for gRPC `/package.Service/Method`.
    pub fn path(&self) -> Option<&'a str> {
        self.path
    }
}

impl fmt::Debug for RequestInfo<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestInfo")
            .field("hash_key", &self.hash_key())
            .field("source_ip", &self.source_ip())
            .field("wait_for_ready", &self.wait_for_ready())
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// An error that may hold the request that caused it, untouched by the server.
///
/// A service whose errors implement this can have its requests moved to another endpoint; see
/// [`Reclaiming`](crate::balance::Reclaiming).
pub trait Reclaim<Req>: Sized {
    /// The request, if the server certainly did not process it; else the error itself.
    fn reclaim(self) -> Result<Req, Self>;
}
