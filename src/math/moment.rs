//! A point in time as a plain number, so that a simulation can make its own.

use std::ops::Add;
use std::time::Duration;

/// A point in time, in nanoseconds since an origin that all moments of one clock share. The balancer's
/// clock is monotonic; a simulation's is what it counts.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::math::Moment;
///
/// let start = Moment::from_nanos(5);
/// let later = start + Duration::from_micros(2);
/// assert_eq!(later.since(start), Duration::from_micros(2));
/// assert_eq!(start.since(later), Duration::ZERO, "no time runs backwards");
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// So many nanoseconds after the origin. Enough for 584 years.
    #[inline]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// So long after the origin; the last moment there is, if that is longer.
    #[inline]
    pub fn from_origin(time: Duration) -> Self {
        Self(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
    }

    /// Nanoseconds since the origin.
    #[inline]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time since `earlier`; none, if that is later.
    #[inline]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    /// Stops at the last moment there is.
    #[inline]
    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(Self::from_origin(time).0))
    }
}
