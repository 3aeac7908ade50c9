//! The balancer: one tower service in front of many.
//!
//! [`Balance`] is cheap to clone, and every clone works on the same endpoints. A call reads the
//! current snapshot, lets the policy pick, claims the endpoint and polls a clone of its service
//! ready; only then does the request leave the caller's hands. Until then a bad endpoint costs
//! nothing but the next pick.
//!
//! `tower::balance::p2c::Balance` is one owner of its endpoints, so that sharing it takes a
//! `Buffer`: a worker task, a queue and two wake-ups for every call. Here what changes
//! is apart from what calls read, so nothing is shared but an atomic pointer.
//!
//! # Services that are not `Clone`
//!
//! Wrap each in a `tower::buffer::Buffer` of its own: its queue is then as short as one endpoint's
//! load, and a worker that dies takes one endpoint out, not all.
//!
//! ```
//! # use evenkeel::Balance;
//! # use tower::{BoxError, Service, ServiceExt, buffer::Buffer};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! # fn single_owner(name: &'static str) -> impl Service<u32, Response = String, Error = BoxError, Future: Send> + Send {
//! #     tower::service_fn(move |n: u32| async move { Ok(format!("{name}: {n}")) })
//! # }
//! let services = ["a", "b"].map(|name| (name, Buffer::new(single_owner(name), 64)));
//! let mut balance = Balance::builder().services(services).build()?;
//! let answer = balance.ready().await?.call(7).await?;
//! assert!(answer.ends_with(": 7"));
//! # Ok(())
//! # }
//! ```

mod body;
mod builder;
mod clock;
mod drain;
mod future;
mod layer;
mod service;
mod shutdown;
mod track;

pub use body::TrackedBody;
pub use builder::Builder;
pub use drain::Order;
pub use future::ResponseFuture;
pub use layer::BalanceLayer;
pub use service::{Balance, StateWatch};
pub use shutdown::Shutdown;
pub use track::{Http, Plain, ReadRequest, Reclaiming, Silent, Track};
