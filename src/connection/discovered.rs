use std::fmt;
use std::future::{Ready, ready};
use std::marker::PhantomData;

use crate::connection::{ConnectionEvents, Connector};
use crate::endpoint::{Endpoint, EndpointId};
use crate::error::Error;

/// A [`Connector`] for services that are there already: each endpoint brings its own, as the
/// [attached value](Endpoint::with) of type `S`.
///
/// For the endpoints of [`from_discover`](crate::discovery::from_discover) and of
/// [`Builder::services`](crate::balance::Builder::services).
pub struct Discovered<S> {
    service: PhantomData<fn() -> S>,
}

impl<S: Clone + Send + Sync + 'static> Discovered<S> {
    /// The connector.
    pub fn new() -> Self {
        Self {
            service: PhantomData,
        }
    }

    /// An endpoint that brings `service`.
    pub(crate) fn endpoint(id: impl Into<EndpointId>, service: S) -> Endpoint {
        let id = id.into();
        Endpoint::new(id.as_str()).with(service)
    }
}

impl<S: Clone + Send + Sync + 'static> Default for Discovered<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S: Clone + Send + Sync + 'static> Connector for Discovered<S> {
    type Service = S;
    type Error = Error;
    type Future = Ready<Result<S, Error>>;

    fn connect(&self, endpoint: &Endpoint, _: ConnectionEvents) -> Self::Future {
        ready(endpoint.get::<S>().cloned().ok_or_else(|| {
            Error::connect(format!("endpoint {} came without a service", endpoint.id()))
        }))
    }
}

impl<S> fmt::Debug for Discovered<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Discovered")
    }
}
