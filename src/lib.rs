//! Client-side load balancing for gRPC and any `tower::Service`.

pub mod balance;
pub mod call;
mod cluster;
pub mod connection;
pub mod discovery;
pub mod endpoint;
mod error;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod health;
pub mod load;
pub mod math;
pub mod observe;
pub mod outcome;
pub mod policy;

pub use balance::Balance;
pub use endpoint::{ConnectivityState, Endpoint, EndpointId};
pub use error::{BoxError, Error};
