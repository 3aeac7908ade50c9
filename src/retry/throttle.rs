use crate::error::Error;
use crate::math::atomic::{AtomicU32, Ordering};

const THOUSANDTHS: u32 = 1_000;

/// The settings of a [`Throttle`], as in gRPC's service config (gRFC A6 `retryThrottling`, which has
/// no default for them).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ThrottleSettings {
    max_tokens: u32,
    token_ratio: f64,
}

impl ThrottleSettings {
    /// `max_tokens` in 1 to 1,000; `token_ratio`, what a success gives back, at least 0.001. Both are
    /// looked at when the policy is put to use.
    pub fn new(max_tokens: u32, token_ratio: f64) -> Self {
        Self {
            max_tokens,
            token_ratio,
        }
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        if !(1..=1_000).contains(&self.max_tokens) {
            return Err(Error::config("throttle", "max_tokens is not 1 to 1,000"));
        }
        if !(self.token_ratio >= 0.001 && self.token_ratio.is_finite()) {
            return Err(Error::config(
                "throttle",
                "token_ratio is not 0.001 or more",
            ));
        }
        Ok(())
    }
}

/// Without what is beyond three places: A6 has 0.5466 be 0.546.
fn thousandths(ratio: f64) -> u32 {
    // The float may be a little less than the decimal that it was written as, and the product than the
    // float's: by half an epsilon each.
    let thousandths = ratio * f64::from(THOUSANDTHS) * (1.0 + 2.0 * f64::EPSILON);
    // Saturates; more than fills the bucket is as good as what fills it.
    thousandths as u32
}

/// gRPC's retry throttle (gRFC A6): a bucket of tokens for all calls of a channel.
///
/// A failure takes one token, a success gives back `token_ratio` of one, and while half of the tokens
/// or fewer are left, nothing is tried again. So retries stop as soon as a large part of all calls
/// fail, whatever their number.
///
/// What counts, where [`Retry`](crate::retry::Retry) keeps it: each attempt that fails in a way that the
/// policy tries again, and each one whose server asks for no retry; each call whose status is OK at its
/// end, in the trailers if the response had begun. Other statuses, and calls that the caller gives up or
/// whose deadline passes, count for neither.
///
/// Decimals beyond three places are not counted, as A6 has it.
///
/// One atomic: a success on a full bucket only reads it.
///
/// ```
/// use evenkeel::retry::{Throttle, ThrottleSettings};
///
/// let throttle = Throttle::new(ThrottleSettings::new(4, 0.8))?;
/// assert!(throttle.failed(), "3 of 4 are left");
/// assert!(!throttle.failed(), "2 of 4 are not more than half");
/// # Ok::<_, evenkeel::Error>(())
/// ```
#[derive(Debug)]
pub struct Throttle {
    thousandths: AtomicU32,
    max: u32,
    ratio: u32,
}

impl Throttle {
    /// A full bucket.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn new(settings: ThrottleSettings) -> Result<Self, Error> {
        settings.validate()?;
        let max = settings.max_tokens * THOUSANDTHS;
        Ok(Self {
            thousandths: AtomicU32::new(max),
            max,
            ratio: thousandths(settings.token_ratio),
        })
    }

    /// A call has failed. Returns whether it may be tried again.
    pub fn failed(&self) -> bool {
        let left = |tokens: u32| tokens.saturating_sub(THOUSANDTHS);
        let before = self.update(|tokens| Some(left(tokens)));
        self.allows(left(before))
    }

    /// A call has succeeded.
    #[inline]
    pub fn succeeded(&self) {
        self.update(|tokens| {
            (tokens < self.max).then(|| tokens.saturating_add(self.ratio).min(self.max))
        });
    }

    /// Whether a call that fails now may be tried again.
    #[inline]
    pub fn allows_retry(&self) -> bool {
        self.allows(self.thousandths.load(Ordering::Relaxed))
    }

    #[inline]
    fn allows(&self, tokens: u32) -> bool {
        // "Retries are allowed while token_count > maxTokens / 2."
        tokens > self.max / 2
    }

    /// Relaxed: the count guards no other memory. Returns what was there before.
    #[inline]
    fn update(&self, change: impl Fn(u32) -> Option<u32>) -> u32 {
        let relaxed = Ordering::Relaxed;
        let updated = self.thousandths.fetch_update(relaxed, relaxed, change);
        updated.unwrap_or_else(|unchanged| unchanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_tokens_with_a_ratio_of_0_8() {
        let throttle = Throttle::new(ThrottleSettings::new(4, 0.8)).unwrap();
        assert!(throttle.allows_retry(), "full");
        let failures = [(); 4].map(|()| throttle.failed());
        assert_eq!(failures, [true, false, false, false], "3, 2, 1, 0 tokens");
        assert!(!throttle.failed(), "and no less than 0");
        let successes = [(); 4].map(|()| {
            throttle.succeeded();
            throttle.allows_retry()
        });
        assert_eq!(
            successes,
            [false, false, true, true],
            "0.8, 1.6, 2.4, 3.2 tokens"
        );
        for _ in 0..10 {
            throttle.succeeded();
        }
        let failures = [(); 2].map(|()| throttle.failed());
        assert_eq!(failures, [true, false], "no more than full");
    }

    #[test]
    fn a_ratio_is_the_decimal_that_it_is_written_as() {
        let ratio = |ratio| {
            let throttle = Throttle::new(ThrottleSettings::new(1, ratio)).unwrap();
            throttle.ratio
        };
        for thousandths in 1..=20_000_u32 {
            let written = format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000);
            let read = written.parse().expect("a decimal");
            assert_eq!(ratio(read), thousandths, "{written}");
        }
        assert_eq!(ratio(0.5466), 546, "A6's own example");
        assert_eq!(ratio(0.999_999), 999, "not rounded up");
        assert_eq!(ratio(f64::MAX), u32::MAX, "as good as full");
    }

    #[test]
    fn decimals_beyond_three_places_are_not_counted() {
        let throttle = Throttle::new(ThrottleSettings::new(2, 0.5009)).unwrap();
        while throttle.failed() {}
        throttle.failed();
        for successes in 1..=3 {
            throttle.succeeded();
            let more_than_half = successes == 3;
            assert_eq!(
                throttle.allows_retry(),
                more_than_half,
                "{successes} × 0.500"
            );
        }
    }

    #[test]
    fn nonsense_names_its_setting() {
        for (tokens, ratio) in [
            (0, 0.1),
            (1_001, 0.1),
            (10, 0.0),
            (10, -1.0),
            (10, f64::NAN),
            (10, f64::INFINITY),
        ] {
            let error = Throttle::new(ThrottleSettings::new(tokens, ratio)).unwrap_err();
            assert_eq!(error.field(), Some("throttle"), "{tokens}, {ratio}");
        }
    }
}
