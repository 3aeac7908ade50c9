//! What an endpoint is: its identity, its address and what its owner said of it.
//!
//! Identity is apart from everything that may change. An update that names the same
//! [`EndpointId`] with another weight keeps the connection, the load counts and the health record;
//! one that names the same id with another *address* is another server and is dialled anew.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use http::Extensions;

use crate::error::Error;

/// The stable name of an endpoint. Cheap to clone.
///
/// Two endpoints with equal ids are the same endpoint, whatever their weight.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(Arc<str>);

impl EndpointId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for EndpointId {
    fn from(id: T) -> Self {
        Self(id.into())
    }
}

impl Borrow<str> for EndpointId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// One server that calls can go to. Cheap to clone: a clone shares everything.
///
/// ```
/// use evenkeel::Endpoint;
///
/// let endpoint = Endpoint::new("http://10.0.0.1:50051").with_weight(3);
/// assert_eq!(endpoint.id().as_str(), "http://10.0.0.1:50051");
/// assert_eq!(endpoint.weight(), 3);
/// ```
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

#[derive(Clone)]
struct Inner {
    id: EndpointId,
    address: Arc<str>,
    weight: u32,
    extensions: Extensions,
}

impl Endpoint {
    /// An endpoint at `address`, with the address as its id and a weight of 1.
    ///
    /// What an address must look like is the connector's business: `grpc::Channel` takes
    /// `http://` and `https://` URIs.
    pub fn new(address: impl Into<Arc<str>>) -> Self {
        let address = address.into();
        Self {
            inner: Arc::new(Inner {
                id: EndpointId(address.clone()),
                address,
                weight: 1,
                extensions: Extensions::new(),
            }),
        }
    }

    /// Gives it an id other than its address.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<EndpointId>) -> Self {
        Arc::make_mut(&mut self.inner).id = id.into();
        self
    }

    /// Its weight relative to the others, at least 1; the default is 1. Builders and
    /// [`Handle`](crate::discovery::Handle) refuse 0.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        Arc::make_mut(&mut self.inner).weight = weight;
        self
    }

    /// Attaches a value for the connector, found again by its type with [`get`](Self::get).
    #[must_use]
    pub fn with<T: Clone + Send + Sync + 'static>(mut self, value: T) -> Self {
        Arc::make_mut(&mut self.inner).extensions.insert(value);
        self
    }

    /// The name it is known by.
    pub fn id(&self) -> &EndpointId {
        &self.inner.id
    }

    /// Where it is, as the connector reads it.
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// Its weight relative to the others.
    pub fn weight(&self) -> u32 {
        self.inner.weight
    }

    /// The attached value of type `T`.
    pub fn get<T: Send + Sync + 'static>(&self) -> Option<&T> {
        self.inner.extensions.get()
    }

    /// Whether both are one allocation, hence equal in everything.
    pub(crate) fn ptr_eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Refuses what no policy could use.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        if self.id().as_str().is_empty() {
            return Err(Error::config("endpoints", "an endpoint has an empty id"));
        }
        if self.weight() == 0 {
            return Err(Error::config(
                "endpoints",
                format!("the weight of {} is 0; the least is 1", self.id()),
            ));
        }
        Ok(())
    }
}

impl<T: Into<Arc<str>>> From<T> for Endpoint {
    fn from(address: T) -> Self {
        Self::new(address)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("id", self.id())
            .field("address", &self.address())
            .field("weight", &self.weight())
            .finish_non_exhaustive()
    }
}

/// The state of a connection, in gRPC's words (gRPC connectivity semantics and API).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConnectivityState {
    /// Not connected and not connecting: waiting for its turn to dial.
    Idle,
    /// A dial is under way and the last one did not fail.
    Connecting,
    /// Connected: for HTTP/2, the server's SETTINGS frame has arrived.
    Ready,
    /// The last dial failed. Stays so through later dials, until one succeeds.
    TransientFailure,
    /// The balancer has ended.
    Shutdown,
}

impl ConnectivityState {
    /// The name as gRPC writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "IDLE",
            Self::Connecting => "CONNECTING",
            Self::Ready => "READY",
            Self::TransientFailure => "TRANSIENT_FAILURE",
            Self::Shutdown => "SHUTDOWN",
        }
    }
}

impl fmt::Display for ConnectivityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_copy_leaves_the_original_alone() {
        let a = Endpoint::new("a:1").with(7_u8);
        let b = a.clone().with_weight(9).with_id("b");
        assert_eq!((a.weight(), a.id().as_str()), (1, "a:1"));
        assert_eq!((b.weight(), b.id().as_str()), (9, "b"));
        assert_eq!(
            b.get::<u8>(),
            Some(&7),
            "attached values travel with a copy"
        );
        assert!(a.ptr_eq(&a.clone()) && !a.ptr_eq(&b));
    }

    #[test]
    fn zero_weights_and_empty_ids_are_refused_by_name() {
        for bad in [Endpoint::new("a").with_weight(0), Endpoint::new("")] {
            let error = bad.validate().unwrap_err();
            assert_eq!(error.field(), Some("endpoints"), "{error}");
        }
    }
}
