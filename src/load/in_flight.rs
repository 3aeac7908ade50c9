use crate::math::atomic::{AtomicU64, Ordering};

/// Counts the calls of one endpoint: those under way, those started and those that failed.
///
/// A call is under way from the pick to the *end* of its response, trailers included, so that a
/// stream weighs as long as it lives. Nothing here orders other memory, so all accesses are relaxed.
///
/// Every call writes here, and an atomic write costs as much as a pick. So calls under way and calls
/// started share a word: room for 2^24 at once, and for 2^40 before the count starts over.
#[derive(Debug, Default)]
pub struct InFlight {
    /// Under way in the low bits, started in the high ones.
    calls: AtomicU64,
    failed: AtomicU64,
}

const CURRENT_BITS: u32 = 24;
const CURRENT: u64 = 1;
const STARTED: u64 = 1 << CURRENT_BITS;

impl InFlight {
    /// Nothing under way.
    pub fn new() -> Self {
        Self::default()
    }

    /// A call begins.
    #[inline]
    pub fn begin(&self) {
        self.calls.fetch_add(STARTED + CURRENT, Ordering::Relaxed);
    }

    /// A call begins, if fewer than `most` are under way.
    #[inline]
    pub fn try_begin(&self, most: u32) -> bool {
        let mut calls = self.calls.load(Ordering::Relaxed);
        while ((calls & (STARTED - 1)) as u32) < most {
            let next = calls.wrapping_add(STARTED + CURRENT);
            match (self.calls).compare_exchange_weak(
                calls,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => calls = now,
            }
        }
        false
    }

    /// A call that began ends.
    #[inline]
    pub fn end(&self, failed: bool) {
        self.calls.fetch_sub(CURRENT, Ordering::Relaxed);
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes back a call that never reached the endpoint: it no longer counts as started.
    #[inline]
    pub fn take_back(&self) {
        self.calls.fetch_sub(STARTED + CURRENT, Ordering::Relaxed);
    }

    /// Calls under way.
    #[inline]
    pub fn current(&self) -> u32 {
        (self.calls.load(Ordering::Relaxed) & (STARTED - 1)) as u32
    }

    /// Calls that were ever sent here.
    pub fn started(&self) -> u64 {
        self.calls.load(Ordering::Relaxed) >> CURRENT_BITS
    }

    /// Calls that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}
