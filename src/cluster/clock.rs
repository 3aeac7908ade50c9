//! The one clock of all balancers.

use std::sync::OnceLock;

use tokio::time::Instant;

use crate::math::Moment;

/// The first time that any balancer asked.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// The time, as policies count it. Tokio's clock, so that tests may pause it.
#[inline]
pub(crate) fn now() -> Moment {
    let now = Instant::now();
    Moment::from_origin(now.saturating_duration_since(*ORIGIN.get_or_init(|| now)))
}
