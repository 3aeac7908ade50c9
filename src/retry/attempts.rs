use crate::error::Error;
use crate::retry::codes::Codes;
use crate::retry::{BudgetSettings, ThrottleSettings};

/// The most attempts that a call has, whatever is asked for (gRFC A6).
const MAX_ATTEMPTS: u32 = 5;

/// What every policy of more than one attempt says: how many, after which failures, and within what bounds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct AttemptSettings {
    pub(super) max_attempts: u32,
    pub(super) codes: Codes,
    pub(super) transport_errors: bool,
    pub(super) buffer_limit_bytes: usize,
    pub(super) budget: Option<BudgetSettings>,
    pub(super) throttle: Option<ThrottleSettings>,
}

impl AttemptSettings {
    /// So many attempts by default, and the rest as the policies' tables have it.
    pub(super) fn of(max_attempts: u32) -> Self {
        Self {
            max_attempts,
            codes: Codes::UNAVAILABLE,
            transport_errors: true,
            buffer_limit_bytes: 256 * 1024,
            budget: Some(BudgetSettings::default()),
            throttle: None,
        }
    }

    /// How many attempts a call has at most.
    pub(super) fn most(&self) -> u32 {
        self.max_attempts.min(MAX_ATTEMPTS)
    }

    /// Looks for what cannot be used. `too_few` says what is wrong with a single attempt.
    pub(super) fn validate(&self, too_few: &'static str) -> Result<(), Error> {
        if self.max_attempts < 2 {
            return Err(Error::config("max_attempts", too_few));
        }
        self.codes.validate()?;
        if let Some(budget) = &self.budget {
            budget.validate()?;
        }
        if let Some(throttle) = &self.throttle {
            throttle.validate()?;
        }
        Ok(())
    }
}
