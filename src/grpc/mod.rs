//! The tonic face: HTTP/2 connections to endpoints.

pub mod http2;
#[cfg(feature = "tls")]
mod tls;

#[cfg(feature = "tls")]
pub use tls::Tls;
