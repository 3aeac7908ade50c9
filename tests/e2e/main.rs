//! Real tonic servers on loopback behind one `Channel`.
#![cfg(feature = "grpc")]

#[path = "../support/mod.rs"]
pub mod support;

mod calls;
