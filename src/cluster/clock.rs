//! The one clock of all balancers.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::time::Instant;

use crate::math::Moment;

/// Before any time that any balancer will see. Of the real clock: one that a test has paused and
/// advanced may be hours ahead of all others.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

/// A paused clock stands still at the real time of its start, so it may be behind as long as a test
/// takes.
const MARGIN: Duration = Duration::from_secs(60 * 60);

/// The time, as policies count it. Tokio's clock, so that tests may pause it.
#[inline]
pub(crate) fn now() -> Moment {
    moment(Instant::now())
}

/// The same of another time than now.
#[inline]
pub(crate) fn moment(time: Instant) -> Moment {
    let origin = *ORIGIN.get_or_init(origin);
    Moment::from_origin(time.saturating_duration_since(origin))
}

#[cold]
fn origin() -> Instant {
    let real = std::time::Instant::now();
    real.checked_sub(MARGIN).unwrap_or(real).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paused_clock_that_ran_ahead_stops_no_other() {
        let paused = || {
            tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime")
        };
        let passed = |time: Duration| {
            paused().block_on(async {
                tokio::time::advance(time).await;
                let before = now();
                tokio::time::advance(Duration::from_secs(1)).await;
                now().since(before)
            })
        };
        for ahead in [Duration::from_secs(36_000), Duration::ZERO] {
            assert_eq!(
                passed(ahead),
                Duration::from_secs(1),
                "each clock goes by itself"
            );
        }
    }
}
