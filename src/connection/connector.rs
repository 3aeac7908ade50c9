use std::future::Future;

use crate::connection::ConnectionEvents;
use crate::endpoint::Endpoint;
use crate::error::BoxError;

/// Turns an endpoint into a service.
///
/// The balancer calls it once for each attempt, waits at most the connect timeout, and dials again
/// with backoff after a failure. Dropping the future gives the attempt up.
pub trait Connector: Send + Sync + 'static {
    /// What the calls go to. Each call gets a clone of its own.
    type Service: Clone + Send + Sync + 'static;
    /// Why an attempt failed.
    type Error: Into<BoxError>;
    /// An attempt.
    type Future: Future<Output = Result<Self::Service, Self::Error>> + Send + 'static;

    /// Begins to connect. The future ends when the service can take calls.
    ///
    /// `events` is how the connection tells that it ended or is about to; a connector that cannot
    /// know may drop it, and the balancer finds out by errors from the service's `poll_ready`.
    fn connect(&self, endpoint: &Endpoint, events: ConnectionEvents) -> Self::Future;
}

/// A [`Connector`] from a function.
///
/// ```
/// use evenkeel::connection::connector_fn;
/// use tower::service_fn;
///
/// let connector = connector_fn(|endpoint, _events| {
///     let name = endpoint.id().clone();
///     async move {
///         Ok::<_, std::io::Error>(service_fn(move |request: String| {
///             let answer = format!("{name} got {request}");
///             async move { Ok::<_, std::io::Error>(answer) }
///         }))
///     }
/// });
/// # let _ = connector;
/// ```
pub fn connector_fn<F, Fut, S, E>(connect: F) -> ConnectorFn<F>
where
    F: Fn(&Endpoint, ConnectionEvents) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<S, E>> + Send + 'static,
    S: Clone + Send + Sync + 'static,
    E: Into<BoxError>,
{
    ConnectorFn(connect)
}

/// See [`connector_fn`].
#[derive(Debug, Clone, Copy)]
pub struct ConnectorFn<F>(F);

impl<F, Fut, S, E> Connector for ConnectorFn<F>
where
    F: Fn(&Endpoint, ConnectionEvents) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<S, E>> + Send + 'static,
    S: Clone + Send + Sync + 'static,
    E: Into<BoxError>,
{
    type Service = S;
    type Error = E;
    type Future = Fut;

    fn connect(&self, endpoint: &Endpoint, events: ConnectionEvents) -> Fut {
        (self.0)(endpoint, events)
    }
}
