use std::time::Duration;

use crate::error::Error;
use crate::retry::attempts::AttemptSettings;
use crate::retry::codes::Codes;
use crate::retry::{BudgetSettings, ThrottleSettings};

/// When a call is made a second time though the first has not failed, and how often. Plain settings;
/// [`HedgeLayer`](crate::retry::HedgeLayer) and `grpc::Builder::hedge` put them to use.
///
/// | setting | default | source |
/// |---|---|---|
/// | attempts in all | 2 | ours; gRFC A6: at most 5 |
/// | delay before the next one | the 95th percentile of the latency lately | "The Tail at Scale", CACM 2013 |
/// | delay until 100 calls were answered | 100 ms | ours |
/// | shortest delay by the percentile | 1 ms | Finagle `minSendBackupAfterMs` |
/// | codes that are not fatal | `UNAVAILABLE` | as of [`RetryPolicy`](crate::retry::RetryPolicy); gRFC A6 has none |
/// | transport errors are fatal | no | gRPC, where a lost connection is `UNAVAILABLE` |
/// | request kept to be sent again | 256 KiB | gRPC's per-RPC buffer limit |
/// | budget | 20 % of the calls, and 10 a second | Finagle, see [`BudgetSettings`] |
/// | throttle | none | gRFC A6 |
///
/// Only calls that a server may do twice are to be hedged: with hedging it does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HedgePolicy {
    pub(super) attempts: AttemptSettings,
    pub(super) delay: Delay,
    pub(super) initial_delay: Duration,
    pub(super) min_delay: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Delay {
    Fixed(Duration),
    Quantile(f64),
}

impl Default for HedgePolicy {
    fn default() -> Self {
        Self {
            attempts: AttemptSettings::of(2),
            delay: Delay::Quantile(0.95),
            initial_delay: Duration::from_millis(100),
            min_delay: Duration::from_millis(1),
        }
    }
}

impl HedgePolicy {
    /// How many attempts a call has, the first one included: at least 2; more than 5 are taken for 5, as
    /// gRFC A6 has it. Default 2.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.attempts.max_attempts = attempts;
        self
    }

    /// The time between one attempt and the next, always the same, in place of a quantile: gRFC A6's
    /// `hedgingDelay`. None at all sends all attempts at once.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = Delay::Fixed(delay);
        self
    }

    /// The time between one attempt and the next is this quantile of the latency of all calls lately, to
    /// their response heads; above 0 and below 1, default 0.95. See
    /// [`RunningQuantile`](crate::math::RunningQuantile) for how exact it is and how long it remembers.
    ///
    /// Where more calls than the rest of the quantile are slow for long, hedged ones among them, the delay grows
    /// towards what those take; a [fixed](Self::with_delay) one does not.
    #[must_use]
    pub fn with_quantile(mut self, quantile: f64) -> Self {
        self.delay = Delay::Quantile(quantile);
        self
    }

    /// The delay until the quantile is known, which is after 100 calls; default 100 ms. Not used with a
    /// [fixed delay](Self::with_delay).
    #[must_use]
    pub fn with_initial_delay(mut self, delay: Duration) -> Self {
        self.initial_delay = delay;
        self
    }

    /// The shortest delay that a quantile may come to; default 1 ms, which is as fine as timers are. Not used
    /// with a [fixed delay](Self::with_delay).
    #[must_use]
    pub fn with_min_delay(mut self, delay: Duration) -> Self {
        self.min_delay = delay;
        self
    }

    /// The gRPC codes that are not fatal, as numbers or `tonic::Code`: a call goes on after them, and its next
    /// attempt is sent at once. Default `UNAVAILABLE` (14). gRFC A6's `nonFatalStatusCodes`.
    #[must_use]
    pub fn with_codes<C: Into<i32>>(mut self, codes: impl IntoIterator<Item = C>) -> Self {
        self.attempts.codes = Codes::of(codes);
        self
    }

    /// Whether a call goes on after an attempt whose connection was lost, or whose service gave an error that
    /// says nothing more; default yes.
    #[must_use]
    pub fn with_transport_errors(mut self, go_on: bool) -> Self {
        self.attempts.transport_errors = go_on;
        self
    }

    /// How many bytes of a request's body are kept to be sent again; default 256 KiB. When more is sent, the
    /// attempt that sends it is the only one from then on. Data counts; the record of each frame, 32 bytes,
    /// comes on top, and so do trailers.
    #[must_use]
    pub fn with_buffer_limit_bytes(mut self, bytes: usize) -> Self {
        self.attempts.buffer_limit_bytes = bytes;
        self
    }

    /// How many hedges there may be in proportion to calls; default 20 %, and 10 a second more. `None` is no
    /// such limit. One that finds no other endpoint has had its part all the same.
    #[must_use]
    pub fn with_budget(mut self, budget: impl Into<Option<BudgetSettings>>) -> Self {
        self.attempts.budget = budget.into();
        self
    }

    /// gRPC's throttle, for hedges as for retries; by default there is none.
    #[must_use]
    pub fn with_throttle(mut self, throttle: impl Into<Option<ThrottleSettings>>) -> Self {
        self.attempts.throttle = throttle.into();
        self
    }

    /// Looks for what cannot be used.
    ///
    /// # Errors
    /// Names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.attempts
            .validate("fewer than 2 attempts are no hedging")?;
        if let Delay::Quantile(quantile) = self.delay
            && !(quantile > 0.0 && quantile < 1.0)
        {
            return Err(Error::config("quantile", "is not between 0 and 1"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_names_its_setting() {
        let good = HedgePolicy::default();
        assert!(good.validate().is_ok());
        assert!(good.with_codes([0_i32; 0]).validate().is_ok(), "no codes");
        assert!(
            good.with_delay(Duration::ZERO).validate().is_ok(),
            "gRFC A6: all at once"
        );
        for (field, bad) in [
            ("max_attempts", good.with_max_attempts(1)),
            ("quantile", good.with_quantile(0.0)),
            ("quantile", good.with_quantile(1.0)),
            ("quantile", good.with_quantile(95.0)),
            ("quantile", good.with_quantile(f64::NAN)),
            ("codes", good.with_codes([14, 0])),
            ("codes", good.with_codes([17])),
            (
                "budget",
                good.with_budget(BudgetSettings::default().with_ttl(Duration::ZERO)),
            ),
            (
                "throttle",
                good.with_throttle(ThrottleSettings::new(0, 1.0)),
            ),
        ] {
            let error = bad.validate().unwrap_err();
            assert!(error.is_config(), "{error}");
            assert_eq!(error.field(), Some(field), "{bad:?}");
        }
    }

    #[test]
    fn more_than_five_attempts_are_five() {
        let of = |attempts| {
            let policy = HedgePolicy::default().with_max_attempts(attempts);
            policy.attempts.most()
        };
        assert_eq!([of(2), of(5), of(6), of(u32::MAX)], [2, 5, 5, 5]);
    }
}
