use std::fmt;
use std::future::Future;
use std::task::{Context, Poll};

use tower_layer::Layer;
use tower_service::Service;

use crate::balance::Balance;
use crate::balance::builder::Parts;
use crate::connection::{ConnectionEvents, Connector};
use crate::endpoint::Endpoint;
use crate::error::BoxError;

/// A layer that puts a [`Balance`] on top of a service that makes services: something that turns an
/// [`Endpoint`] into the service of that endpoint. From [`Builder::layer`](crate::balance::Builder::layer).
///
/// Each [`layer`](Layer::layer) starts a balancer of its own over the same endpoints.
///
/// ```
/// use evenkeel::{Balance, Endpoint};
/// use tower::{BoxError, Layer, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let connect = service_fn(|endpoint: Endpoint| async move {
///     let id = endpoint.id().clone();
///     Ok::<_, BoxError>(service_fn(move |n: u32| {
///         let answer = format!("{id}: {n}");
///         async move { Ok::<_, BoxError>(answer) }
///     }))
/// });
/// let layer = Balance::builder().endpoints(["a", "b"]).layer()?;
/// let balance = layer.layer(connect);
/// assert!(balance.oneshot(7).await?.ends_with(": 7"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct BalanceLayer<T> {
    parts: Parts<T>,
}

impl<T> BalanceLayer<T> {
    pub(super) fn new(parts: Parts<T>) -> Self {
        Self { parts }
    }
}

impl<T> fmt::Debug for BalanceLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BalanceLayer").finish_non_exhaustive()
    }
}

impl<M, T> Layer<M> for BalanceLayer<T>
where
    M: Service<Endpoint> + Clone + Send + Sync + 'static,
    M::Response: Clone + Send + Sync + 'static,
    M::Error: Into<BoxError> + Send + 'static,
    M::Future: Send + 'static,
    T: Clone,
{
    type Service = Balance<M::Response, T>;

    fn layer(&self, make: M) -> Self::Service {
        self.parts.clone().start(Make(make))
    }
}

/// A connector out of a service that makes services.
pub(super) struct Make<M>(pub(super) M);

impl<M> Connector for Make<M>
where
    M: Service<Endpoint> + Clone + Send + Sync + 'static,
    M::Response: Clone + Send + Sync + 'static,
    M::Error: Into<BoxError> + Send + 'static,
    M::Future: Send + 'static,
{
    type Service = M::Response;
    type Error = M::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<M::Response, M::Error>> + Send>>;

    fn connect(&self, endpoint: &Endpoint, _: ConnectionEvents) -> Self::Future {
        let mut make = self.0.clone();
        let endpoint = endpoint.clone();
        Box::pin(async move {
            std::future::poll_fn(|cx: &mut Context<'_>| -> Poll<Result<(), M::Error>> {
                make.poll_ready(cx)
            })
            .await?;
            make.call(endpoint).await
        })
    }
}
