use std::ops::RangeInclusive;
use std::time::Duration;

/// gRFC A61, which has it of RFC 8305.
pub(crate) const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// gRFC A61, which has them of RFC 8305.
pub(crate) const ATTEMPT_DELAYS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(2);

/// Which endpoints a [`Policy`](crate::policy::Policy) wants connections to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Connects {
    /// All of them, all the time.
    #[default]
    All,
    /// One, as gRPC's pick first has it (gRFC A62). They are dialled in the order of the list; the next
    /// one when the one before failed, or has not answered for some time. As soon as one is READY and not
    /// ejected, the other dials are given up, other connections take no new calls, and the rest stays
    /// IDLE. When that one is lost, ejected, or leaves, it begins again at the front of the list.
    ///
    /// Once all have failed, each is dialled after its own backoff, and all stay in TRANSIENT_FAILURE,
    /// those that come later too, until one is READY.
    InOrder {
        /// How long a dial may go without an answer before the next one begins beside it: 100 ms to 2 s,
        /// and what is outside is taken for the nearer end (gRFC A61: 250 ms).
        attempt_delay: Duration,
        /// Whether each update of the list is put into random order.
        shuffle: bool,
    },
}
