//! The tonic face: a [`Channel`] over many endpoints for generated clients.
//!
//! Its connections are hyper's HTTP/2 client, made and watched here ([`http2`]), because a
//! `tonic::transport::Channel` tells nobody when it is connected, keeps a dead endpoint in use, and
//! puts a queue and a task between a call and its connection.

mod body;
mod builder;
mod calls;
mod channel;
mod classify;
mod configured;
mod deadline;
#[cfg(feature = "etcd")]
pub mod etcd;
mod health_check;
pub mod http2;
mod load_reports;
mod methods;
mod probe;
mod server_stream;
mod shutdown;
mod source;
mod status;
mod target;
#[cfg(feature = "tls")]
mod tls;
pub mod wrap;

pub use body::ResponseBody;
pub use builder::Builder;
pub use channel::{Channel, ResponseFuture};
pub use classify::ByGrpcStatus;
pub use health_check::HealthCheck;
pub use load_reports::LoadReports;
pub use probe::LoadProbe;
pub use source::{Own, Source};
#[cfg(feature = "tls")]
pub use tls::Tls;
