//! Waits of any length. "No limit" is written as a time that no clock reaches, and adding that to an instant would
//! panic.

use std::ops::Add;
use std::time::Duration;

/// As far ahead as any wait goes: thirty years. The runtime's timer adds to what it is given.
pub(crate) const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// So long after `start`.
pub(crate) fn after<I: Add<Duration, Output = I>>(start: I, wait: Duration) -> I {
    start + wait.min(FAR)
}
