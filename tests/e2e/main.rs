//! Real tonic servers on loopback behind one `Channel`.

#[path = "../support/mod.rs"]
pub mod support;

mod calls;
