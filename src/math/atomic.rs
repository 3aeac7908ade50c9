//! The atomics of every hand-made protocol in the crate, exchanged for loom's when its models run
//! (`RUSTFLAGS="--cfg evenkeel_loom"`).

#[cfg(evenkeel_loom)]
pub(crate) use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
#[cfg(not(evenkeel_loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
