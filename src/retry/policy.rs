use std::time::Duration;

use crate::error::Error;
use crate::math::Backoff;
use crate::retry::attempts::AttemptSettings;
use crate::retry::codes::Codes;
use crate::retry::{BudgetSettings, ThrottleSettings};

/// When and how often a failed call is tried again. Plain settings; [`RetryLayer`](crate::retry::RetryLayer)
/// and `grpc::Builder::retry` put them to use.
///
/// | setting | default | source |
/// |---|---|---|
/// | attempts in all | 3 | ours; gRFC A6: at most 5 |
/// | codes that are tried again | `UNAVAILABLE` | gRPC's status guide: the one that says so itself |
/// | transport errors are | yes | gRPC, where a lost connection is `UNAVAILABLE` |
/// | delay | 50 ms × 2 ± 20 %, at most 1 s | ± 20 % and the form by gRFC A6; the figures ours |
/// | time for one attempt | none | gRPC |
/// | request kept to be sent again | 256 KiB | gRPC's per-RPC buffer limit |
/// | budget | 20 % of the calls, and 10 a second | Finagle, see [`BudgetSettings`] |
/// | throttle | none | gRFC A6 |
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryPolicy {
    pub(super) attempts: AttemptSettings,
    pub(super) backoff: Backoff,
    pub(super) attempt_timeout: Option<Duration>,
    pub(super) seed: Option<u64>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: AttemptSettings::of(3),
            backoff: Backoff::default()
                .with_base(Duration::from_millis(50))
                .with_multiplier(2.0)
                .with_max(Duration::from_secs(1)),
            attempt_timeout: None,
            seed: None,
        }
    }
}

impl RetryPolicy {
    /// How many attempts a call has, the first one included: at least 2; more than 5 are taken for 5, as
    /// gRFC A6 has it. Default 3.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.attempts.max_attempts = attempts;
        self
    }

    /// The gRPC codes that are tried again, as numbers or `tonic::Code`; default `UNAVAILABLE` (14).
    /// None at all leaves transport errors only.
    ///
    /// Choose only those after which the same request may be sent again: of most others the server may
    /// have done a part.
    #[must_use]
    pub fn with_codes<C: Into<i32>>(mut self, codes: impl IntoIterator<Item = C>) -> Self {
        self.attempts.codes = Codes::of(codes);
        self
    }

    /// Whether a call is tried again whose connection was lost after the request was sent, or whose
    /// service gave an error that says nothing more; default yes. The server may have acted on it.
    #[must_use]
    pub fn with_transport_errors(mut self, retried: bool) -> Self {
        self.attempts.transport_errors = retried;
        self
    }

    /// The delays before the second attempt and later ones; default 50 ms × 2 ± 20 %, at most 1 s.
    #[must_use]
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// How long one attempt may take to its response head, the wait for an endpoint included; default no
    /// limit but the caller's deadline. One that takes longer is cancelled, counts as its endpoint's
    /// failure, and is tried again whatever the codes are. The only attempt of a call with
    /// [`NoRetry`](crate::call::NoRetry) has no limit but the deadline.
    #[must_use]
    pub fn with_attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout);
        self
    }

    /// How many bytes of a request's body are kept to be sent again; default 256 KiB. A call that has
    /// sent more is not tried again. Data counts; the record of each frame, 32 bytes, comes on top, and
    /// so do trailers.
    #[must_use]
    pub fn with_buffer_limit_bytes(mut self, bytes: usize) -> Self {
        self.attempts.buffer_limit_bytes = bytes;
        self
    }

    /// How many retries there may be in proportion to calls; default 20 %, and 10 a second more. `None`
    /// is no such limit.
    #[must_use]
    pub fn with_budget(mut self, budget: impl Into<Option<BudgetSettings>>) -> Self {
        self.attempts.budget = budget.into();
        self
    }

    /// gRPC's retry throttle; by default there is none.
    #[must_use]
    pub fn with_throttle(mut self, throttle: impl Into<Option<ThrottleSettings>>) -> Self {
        self.attempts.throttle = throttle.into();
        self
    }

    /// Seeds the jitter; by default a different seed each time.
    #[must_use]
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// Looks for what cannot be used.
    ///
    /// # Errors
    /// Names the setting.
    pub fn validate(&self) -> Result<(), Error> {
        self.attempts
            .validate("fewer than 2 attempts are no retry")?;
        if let Some(mistake) = self.backoff.mistake_of_few() {
            return Err(Error::config("backoff", mistake));
        }
        if self.attempt_timeout == Some(Duration::ZERO) {
            return Err(Error::config("attempt_timeout", "is zero"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_names_its_setting() {
        let good = RetryPolicy::default();
        assert!(good.validate().is_ok());
        assert!(good.with_codes([0_i32; 0]).validate().is_ok(), "no codes");
        for (field, bad) in [
            ("max_attempts", good.with_max_attempts(1)),
            ("max_attempts", good.with_max_attempts(0)),
            ("codes", good.with_codes([14, 0])),
            ("codes", good.with_codes([17])),
            ("codes", good.with_codes([-1])),
            (
                "backoff",
                good.with_backoff(Backoff::default().with_jitter(2.0)),
            ),
            ("attempt_timeout", good.with_attempt_timeout(Duration::ZERO)),
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
            RetryPolicy::default()
                .with_max_attempts(attempts)
                .attempts
                .most()
        };
        assert_eq!([of(2), of(5), of(6), of(u32::MAX)], [2, 5, 5, 5]);
    }

    #[test]
    fn only_the_codes_given_are_tried_again() {
        let policy = RetryPolicy::default();
        let retried = |policy: &RetryPolicy| -> Vec<u32> {
            (0..40)
                .filter(|&code| policy.attempts.codes.contains(code))
                .collect()
        };
        assert_eq!(retried(&policy), [14], "UNAVAILABLE by default");
        assert_eq!(retried(&policy.with_codes([8, 14])), [8, 14]);
        assert!(!policy.attempts.codes.contains(u32::MAX));
    }
}
