//! Whether one endpoint lets calls in.
//!
//! ```text
//!            eject                  its time is over
//!   Open ───────────► Ejected ─────────────────────► ProbeDue ◄──┐ the call says nothing
//!    ▲                   ▲                               │ enter │ (cancelled)
//!    │                   │ the probing call fails        ▼       │
//!    └───────────────────┴──────────────────────────  Probing ───┘
//!      the probing call succeeds
//! ```
//!
//! From `Probing` only the holder of the probe moves on, so each transition is one
//! compare-exchange and nobody waits.

use crate::math::atomic::{AtomicU32, Ordering};

const OPEN: u32 = 0;
const EJECTED: u32 = 1;
const PROBE_DUE: u32 = 2;
const PROBING: u32 = 3;
const RETIRED: u32 = 4;

/// How a call came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// As any other.
    Normal,
    /// As the one call that tells whether an ejected endpoint works again.
    Probe,
}

/// The state of one endpoint's ejection. One word; reading it is one relaxed load.
#[derive(Debug, Default)]
pub struct Gate(AtomicU32);

impl Gate {
    /// Whether a call could enter now.
    #[inline]
    pub fn admits(&self) -> bool {
        matches!(self.0.load(Ordering::Relaxed), OPEN | PROBE_DUE)
    }

    /// Whether the endpoint is in full use.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.0.load(Ordering::Acquire) == OPEN
    }

    /// Lets a call in, or refuses it. At most one call at a time holds [`Entry::Probe`], and it owes
    /// the gate one of `pass_probe`, `fail_probe` and `return_probe`.
    #[inline]
    pub fn enter(&self) -> Option<Entry> {
        match self.0.load(Ordering::Relaxed) {
            OPEN => Some(Entry::Normal),
            PROBE_DUE => self.swap(PROBE_DUE, PROBING).then_some(Entry::Probe),
            _ => None,
        }
    }

    /// Closes an open gate. `false` if it was not open.
    pub fn eject(&self) -> bool {
        self.swap(OPEN, EJECTED)
    }

    /// The time of an ejection is over: the next call probes.
    pub fn offer_probe(&self) -> bool {
        self.swap(EJECTED, PROBE_DUE)
    }

    /// The probing call went well.
    pub fn pass_probe(&self) -> bool {
        self.swap(PROBING, OPEN)
    }

    /// The probing call failed.
    pub fn fail_probe(&self) -> bool {
        self.swap(PROBING, EJECTED)
    }

    /// The probing call said nothing; another one may try.
    pub fn return_probe(&self) -> bool {
        self.swap(PROBING, PROBE_DUE)
    }

    /// Shuts the gate for good. `true` if the endpoint counted as ejected.
    pub fn retire(&self) -> bool {
        !matches!(self.0.swap(RETIRED, Ordering::AcqRel), OPEN | RETIRED)
    }

    fn swap(&self, from: u32, to: u32) -> bool {
        self.0
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }
}
