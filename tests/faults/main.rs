//! What a `Channel` does when servers fail: real servers, 64 callers in a closed loop, no retries,
//! and a count for each row.
//!
//! The rows run one at a time, since each is a load of its own and some measure time or memory.
#![cfg(feature = "grpc")]

#[path = "../support/mod.rs"]
pub mod support;

pub mod load;

mod all_down;
mod dead_endpoint;
mod failing_server;
mod killed_server;
mod last_handle;
mod many_endpoints;
mod removed_endpoint;
mod restarts;
