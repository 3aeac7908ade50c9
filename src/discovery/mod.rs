//! Where endpoints come from.
//!
//! A source is a stream of *full* states: each [`Update`] names every endpoint there is. A source
//! that learns of changes adds them up itself, so that the balancer never has to guess what a
//! lost change was. An error keeps the last good state; an empty state is a real state; the end of
//! the stream keeps the last state for good.
//!
//! - a fixed list: [`Builder::endpoints`](crate::balance::Builder::endpoints);
//! - a [`Handle`], changed by hand from any task;
//! - a [target](Target) in gRPC's syntax, such as `static:///a:1,b:2`: [`Targets`];
//! - a name in DNS: `Dns`, with the feature `dns`;
//! - a file of JSON or YAML: `File`, with the feature `file`;
//! - a service of Kubernetes: `Kubernetes`, with the feature `kubernetes`;
//! - any [`tower::discover::Discover`], by [`from_discover`];
//! - any other stream of updates: [`Discovery`] is implemented for it.

mod discover;
#[cfg(feature = "dns")]
mod dns;
#[cfg(feature = "file")]
mod file;
mod fixed;
mod handle;
mod host;
#[cfg(feature = "kubernetes-unversioned")]
mod kubernetes;
mod target;
mod targets;

pub use discover::{DiscoverUpdates, from_discover};
#[cfg(feature = "dns")]
pub use dns::{Dns, DnsUpdates};
#[cfg(feature = "file")]
pub use file::{File, FileUpdates};
pub use handle::{Handle, Updates};
#[cfg(feature = "kubernetes-unversioned")]
pub use kubernetes::{Kubernetes, KubernetesError, KubernetesUpdates};
pub use target::Target;
pub use targets::Targets;

use std::collections::HashSet;
use std::pin::Pin;

use futures_core::Stream;

use crate::endpoint::Endpoint;
use crate::error::{BoxError, Error};

/// A full state: every endpoint there is.
#[derive(Debug, Clone, Default)]
pub struct Update {
    endpoints: Vec<Endpoint>,
}

impl Update {
    /// These endpoints and no others. Of two with the same id the first counts; an endpoint with an
    /// empty id or a weight of 0 is left out, with a warning in the log.
    pub fn new<E: Into<Endpoint>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
        }
    }

    /// The endpoints.
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The endpoints, by value.
    pub fn into_endpoints(self) -> Vec<Endpoint> {
        self.endpoints
    }
}

/// A source of endpoints: a stream of full states. Implemented for every stream of that shape.
///
/// ```
/// use evenkeel::discovery::{Discovery, Update};
/// use evenkeel::BoxError;
///
/// fn once() -> impl Discovery {
///     futures::stream::iter([Ok::<_, BoxError>(Update::new(["http://10.0.0.1:50051"]))])
/// }
/// # let _ = once();
/// ```
pub trait Discovery: Stream<Item = Result<Update, BoxError>> + Send + 'static {}

impl<T: Stream<Item = Result<Update, BoxError>> + Send + 'static> Discovery for T {}

/// A source whose type is not named.
pub type BoxDiscovery = Pin<Box<dyn Discovery>>;

/// Refuses a list that names an endpoint twice, or one that cannot be used.
pub(crate) fn validate<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Result<(), Error> {
    let mut seen = HashSet::new();
    for endpoint in endpoints {
        endpoint.validate()?;
        if !seen.insert(endpoint.id()) {
            return Err(Error::config(
                "endpoints",
                format!("two endpoints have the id {}", endpoint.id()),
            ));
        }
    }
    Ok(())
}
