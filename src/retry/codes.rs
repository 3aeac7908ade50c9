use crate::error::Error;

/// A set of gRPC codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Codes(
    /// A bit for each code; codes that there are not are all in the last.
    u32,
);

impl Codes {
    /// gRPC's status guide has this one say by itself that the call may be made again.
    pub(super) const UNAVAILABLE: Self = Self(1 << 14);

    pub(super) fn of<C: Into<i32>>(codes: impl IntoIterator<Item = C>) -> Self {
        let codes = codes.into_iter();
        Self(codes.fold(0, |bits, code| bits | bit(code.into())))
    }

    pub(super) fn contains(self, code: u32) -> bool {
        i32::try_from(code).is_ok_and(|code| self.0 & bit(code) != 0)
    }

    /// Refuses what are no codes of failures.
    pub(super) fn validate(self) -> Result<(), Error> {
        if self.0 & bit(0) != 0 {
            return Err(Error::config("codes", "0 is OK, which is no failure"));
        }
        if self.0 & bit(-1) != 0 {
            return Err(Error::config("codes", "gRPC's codes are 1 to 16"));
        }
        Ok(())
    }
}

/// The bit of a gRPC code, the last one for what is none.
fn bit(code: i32) -> u32 {
    match code {
        0..=16 => 1 << code,
        _ => 1 << 31,
    }
}
