//! Client-side load balancing for gRPC and any `tower::Service`: one cheap, cloneable service over a
//! changing set of endpoints.
//!
//! - With a generated tonic client: `grpc::Channel` (feature `grpc`, on by default).
//! - With any other tower service: [`Balance`].
//! - Where endpoints come from: [`discovery`]; how they become services: [`connection`].
//! - Which endpoint takes a call: [`policy`]; which may not: [`health`].
//! - When a failed call is tried again: [`retry`].
//! - How servers are asked for their load and their health: [`probe`].
//! - How servers tell their load: `server` (feature `grpc`).
//!
//! The control plane, one task for each balancer, dials, watches and ejects, and publishes an
//! immutable snapshot. A call reads that, picks, and takes no lock and no allocation on its way to
//! the endpoint's own service. `ARCHITECTURE.md` in the repository tells the rest.
//!
//! | feature | default | what it brings |
//! |---|---|---|
//! | `dns` | no | `discovery::Dns`: endpoints by their name in DNS, and the targets `dns:///host:port` |
//! | `etcd` | no | `grpc::etcd`: endpoints by their keys in etcd, the targets `etcd://host:port/prefix`, and servers' registration |
//! | `grpc` | yes | `grpc::Channel` over hyper's HTTP/2 client |
//! | `service-config` | no | gRPC's service config, as JSON, for `grpc::Channel` |
//! | `tcp` | no | `probe::TcpConnect`: health checks by a TCP connection |
//! | `tls` | no | TLS for it, by rustls |
//! | `tls-native-roots` | no | the operating system's trusted certificates |
//! | `tls-webpki-roots` | no | Mozilla's trusted certificates |

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
pub mod probe;
#[cfg(feature = "grpc")]
mod proto;
pub mod retry;
#[cfg(feature = "grpc")]
pub mod server;
#[cfg(feature = "service-config")]
mod service_config;
pub mod topology;

pub use balance::Balance;
pub use endpoint::{ConnectivityState, Endpoint, EndpointId};
pub use error::{BoxError, Error};
