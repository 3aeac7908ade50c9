use crate::math::atomic::{AtomicU64, Ordering};

/// Counts the calls of one endpoint: those under way, those started and those that failed.
///
/// A call is under way from the pick to the *end* of its response, trailers included, so that a
/// stream weighs as long as it lives. But for [`drain`](Self::drain), nothing here orders other memory, so
/// accesses are relaxed.
///
/// Every call writes here, and an atomic write costs as much as a pick. So calls under way and calls
/// started share a word: room for 2^23 - 1 at once, and for 2^40 before the count starts over. Whether the end of the
/// last call is waited for is a bit of the same word: an end that brings the count to zero sees it or comes
/// before it, and no end costs another access.
#[derive(Debug, Default)]
pub struct InFlight {
    /// Under way in the low bits, then [`DRAINING`], started in the high ones.
    calls: AtomicU64,
    failed: AtomicU64,
}

const CURRENT_BITS: u32 = 23;
const CURRENT: u64 = 1;
const DRAINING: u64 = 1 << CURRENT_BITS;
const STARTED: u64 = DRAINING << 1;

#[inline]
fn under_way(calls: u64) -> u32 {
    (calls & (DRAINING - 1)) as u32
}

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
        while under_way(calls) < most {
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

    /// A call that began ends. Whether it was the last one, and that is [waited for](Self::drain).
    #[inline]
    pub fn end(&self, failed: bool) -> bool {
        let before = self.calls.fetch_sub(CURRENT, Ordering::Relaxed);
        if failed {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        was_last(before)
    }

    /// Takes back a call that never reached the endpoint: it no longer counts as started. Says what
    /// [`end`](Self::end) says.
    #[inline]
    pub fn take_back(&self) -> bool {
        was_last(self.calls.fetch_sub(STARTED + CURRENT, Ordering::Relaxed))
    }

    /// From now on each end that leaves no call under way is told to who ends it. Returns how many are under way:
    /// none, or the last end among them will be told. What was written before is seen by who then asks
    /// [`is_draining`](Self::is_draining).
    pub fn drain(&self) -> u32 {
        under_way(self.calls.fetch_or(DRAINING, Ordering::AcqRel))
    }

    /// Whether the end of the last call is waited for.
    pub fn is_draining(&self) -> bool {
        self.calls.load(Ordering::Acquire) & DRAINING != 0
    }

    /// Calls under way.
    #[inline]
    pub fn current(&self) -> u32 {
        under_way(self.calls.load(Ordering::Relaxed))
    }

    /// Calls that were ever sent here.
    pub fn started(&self) -> u64 {
        self.calls.load(Ordering::Relaxed) >> (CURRENT_BITS + 1)
    }

    /// Calls that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }
}

/// Whether the end of one call, of which there was this before, is the end that is waited for.
#[inline]
fn was_last(before: u64) -> bool {
    before & (DRAINING | (DRAINING - 1)) == DRAINING | CURRENT
}
