//! What an endpoint is: its identity, its address and what its owner said of it.
//!
//! Identity is apart from everything that may change. An update that names the same
//! [`EndpointId`] with another weight keeps the connection, the load counts and the health record;
//! one that names the same id with another set of *addresses*, or another [`Authority`], is another server and is
//! dialled anew.

mod authority;
mod locality;
mod locality_weight;
mod metadata;
mod refresh_hint;

pub use authority::Authority;
pub use locality::Locality;
pub use locality_weight::LocalityWeight;
pub use metadata::Metadata;
pub use refresh_hint::RefreshHint;

use std::borrow::Borrow;
use std::collections::BTreeSet;
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
    /// After `address`.
    more_addresses: Arc<[Arc<str>]>,
    weight: u32,
    priority: u32,
    locality: Locality,
    metadata: Metadata,
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
                more_addresses: Arc::new([]),
                weight: 1,
                priority: 0,
                locality: Locality::default(),
                metadata: Metadata::default(),
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

    /// Sets the further addresses of the same server, such as that of its other network or of the other
    /// address family; by default there are none. They come after the address that it was made with.
    ///
    /// There is one connection, to whichever address answers first: `grpc::Channel` tries them as gRFC
    /// A61 says.
    ///
    /// ```
    /// use evenkeel::Endpoint;
    ///
    /// let endpoint = Endpoint::new("http://10.0.0.1:50051").with_addresses(["http://[fd00::1]:50051"]);
    /// let addresses: Vec<&str> = endpoint.addresses().collect();
    /// assert_eq!(addresses, ["http://10.0.0.1:50051", "http://[fd00::1]:50051"]);
    /// assert_eq!(endpoint.id().as_str(), "http://10.0.0.1:50051");
    /// ```
    #[must_use]
    pub fn with_addresses<A: Into<Arc<str>>>(
        mut self,
        further: impl IntoIterator<Item = A>,
    ) -> Self {
        let further = further.into_iter().map(Into::into).collect();
        Arc::make_mut(&mut self.inner).more_addresses = further;
        self
    }

    /// Its weight relative to the others, at least 1; the default is 1. Builders and
    /// [`Handle`](crate::discovery::Handle) refuse 0.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        Arc::make_mut(&mut self.inner).weight = weight;
        self
    }

    /// Sets its priority: 0, the default, is the highest. Those of a lower one (a greater number) get calls as far as
    /// the ones above cannot carry them, if the balancer is told to look at
    /// [priorities](crate::topology).
    #[must_use]
    pub fn with_priority(mut self, priority: u32) -> Self {
        Arc::make_mut(&mut self.inner).priority = priority;
        self
    }

    /// Sets where it runs; by default that is not known.
    #[must_use]
    pub fn with_locality(mut self, locality: Locality) -> Self {
        Arc::make_mut(&mut self.inner).locality = locality;
        self
    }

    /// Sets what else its owner says of it, in place of what was said before; by default nothing.
    #[must_use]
    pub fn with_metadata<N: Into<Box<str>>, V: Into<Box<str>>>(
        mut self,
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Self {
        Arc::make_mut(&mut self.inner).metadata = pairs.into_iter().collect();
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

    /// Where it is, as the connector reads it: the first of its [`addresses`](Self::addresses).
    pub fn address(&self) -> &str {
        &self.inner.address
    }

    /// All its addresses, at least one, in the order of preference.
    pub fn addresses(&self) -> impl Iterator<Item = &str> + Clone {
        std::iter::once(self.address()).chain(self.inner.more_addresses.iter().map(|a| &**a))
    }

    /// Whether both have the same addresses, in any order: a source may name them in another one each time. And
    /// the same authority, by which a connection is made too.
    pub(crate) fn is_at_the_addresses_of(&self, other: &Self) -> bool {
        let set = |endpoint: &Self| -> BTreeSet<Arc<str>> {
            let more = endpoint.inner.more_addresses.iter();
            more.chain([&endpoint.inner.address]).cloned().collect()
        };
        self.get::<Authority>() == other.get::<Authority>()
            && (self.addresses().eq(other.addresses()) || set(self) == set(other))
    }

    /// Its weight relative to the others.
    pub fn weight(&self) -> u32 {
        self.inner.weight
    }

    /// Its priority; 0 is the highest.
    pub fn priority(&self) -> u32 {
        self.inner.priority
    }

    /// Where it runs.
    pub fn locality(&self) -> &Locality {
        &self.inner.locality
    }

    /// What else its owner says of it.
    pub fn metadata(&self) -> &Metadata {
        &self.inner.metadata
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
            .field("addresses", &self.addresses().collect::<Vec<_>>())
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
        let b = a.clone().with_weight(9).with_id("b").with_priority(1);
        let zone = Locality::new("r").with_zone("z");
        let c = b
            .clone()
            .with_locality(zone.clone())
            .with_metadata([("k", "v")]);
        assert_eq!((a.weight(), a.id().as_str(), a.priority()), (1, "a:1", 0));
        assert_eq!((b.weight(), b.id().as_str(), b.priority()), (9, "b", 1));
        assert_eq!((c.locality(), c.metadata().get("k")), (&zone, Some("v")));
        assert!(b.locality().is_unknown() && b.metadata().is_empty());
        assert_eq!(
            b.get::<u8>(),
            Some(&7),
            "attached values travel with a copy"
        );
        assert!(a.ptr_eq(&a.clone()) && !a.ptr_eq(&b));
    }

    #[test]
    fn addresses_are_a_set_with_a_first_one() {
        let one = Endpoint::new("a:1");
        let two = one.clone().with_addresses(["b:1", "c:1"]);
        assert_eq!(one.addresses().collect::<Vec<_>>(), ["a:1"]);
        assert_eq!(two.addresses().collect::<Vec<_>>(), ["a:1", "b:1", "c:1"]);
        assert_eq!(
            (two.address(), two.id()),
            ("a:1", one.id()),
            "the first one"
        );
        assert!(!one.is_at_the_addresses_of(&two) && !two.is_at_the_addresses_of(&one));
        let turned = Endpoint::new("c:1").with_addresses(["a:1", "b:1", "a:1"]);
        assert!(
            two.is_at_the_addresses_of(&turned),
            "their order is no matter"
        );
        let none: [&str; 0] = [];
        assert!(two.with_addresses(none).is_at_the_addresses_of(&one));
    }

    #[test]
    fn another_authority_is_another_server() {
        let one = Endpoint::new("a:1");
        let named = |name| one.clone().with(Authority::new(name).unwrap());
        assert!(!one.is_at_the_addresses_of(&named("x")), "it was given one");
        assert!(
            !named("y").is_at_the_addresses_of(&named("x")),
            "or another"
        );
        assert!(
            named("x").is_at_the_addresses_of(&named("x")),
            "the same is no change"
        );
    }

    #[test]
    fn zero_weights_and_empty_ids_are_refused_by_name() {
        for bad in [Endpoint::new("a").with_weight(0), Endpoint::new("")] {
            let error = bad.validate().unwrap_err();
            assert_eq!(error.field(), Some("endpoints"), "{error}");
        }
    }
}
