use crate::math::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts the calls of one endpoint: those under way, those started and those that failed.
///
/// A call is under way from the pick to the *end* of its response, trailers included, so that a
/// stream weighs as long as it lives. Nothing here orders other memory, so all accesses are relaxed.
#[derive(Debug, Default)]
pub struct InFlight {
    current: AtomicU32,
    started: AtomicU64,
    failed: AtomicU64,
}

impl InFlight {
    /// Nothing under way.
    pub fn new() -> Self {
        Self::default()
    }

    /// A call begins.
    #[inline]
    pub fn begin(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Relaxed);
    }

    /// A call that began ends.
    #[inline]
    pub fn end(&self, failed: bool) {
        self.current.fetch_sub(1, Ordering::Relaxed);
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes back a call that never reached the endpoint: it no longer counts as started.
    #[inline]
    pub fn take_back(&self) {
        self.current.fetch_sub(1, Ordering::Relaxed);
        self.started.fetch_sub(1, Ordering::Relaxed);
    }

    /// Calls under way.
    #[inline]
    pub fn current(&self) -> u32 {
        self.current.load(Ordering::Relaxed)
    }

    /// Calls that were ever sent here.
    pub fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// Calls that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}
