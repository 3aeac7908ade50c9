//! What the calls to one endpoint came to since one of them went well.

use crate::math::atomic::{AtomicU32, Ordering};

/// Failures and overload answers since the last success, and calls that were given up since the last answer.
///
/// One word, since each success looks at it: while all is well that is one plain load. Each count stays at its
/// most.
#[derive(Debug, Default)]
pub(super) struct InARow(AtomicU32);

/// The most failures that are told apart.
pub(super) const MOST_FAILURES: u32 = 0xffff;
/// The most overload answers that are told apart.
pub(super) const MOST_OVERLOADS: u32 = 0xff;
/// So many calls given up with nothing answered between are one failure.
const GIVEN_UP: u32 = 5;

const FAILURE: u32 = 1;
const OVERLOAD_SHIFT: u32 = 16;
const GIVEN_UP_SHIFT: u32 = 24;
const FAILURES: u32 = MOST_FAILURES;
const OVERLOADS: u32 = MOST_OVERLOADS << OVERLOAD_SHIFT;

impl InARow {
    pub(super) fn failures(&self) -> u32 {
        self.0.load(Ordering::Relaxed) & FAILURES
    }

    /// A call went well: all counts begin anew.
    #[inline]
    pub(super) fn succeeded(&self) {
        // A plain load keeps the cache line shared while all is well.
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// As [`succeeded`](Self::succeeded), in an order with the gate.
    pub(super) fn clear(&self) {
        self.0.swap(0, Ordering::Relaxed);
    }

    /// There was an answer, though it is not known yet whether it is a good one.
    #[inline]
    pub(super) fn answered(&self) {
        if self.0.load(Ordering::Relaxed) >> GIVEN_UP_SHIFT != 0 {
            self.0.fetch_and(FAILURES | OVERLOADS, Ordering::Relaxed);
        }
    }

    /// A call failed. Returns how many in a row.
    pub(super) fn failed(&self) -> u32 {
        let failed = |word: u32| {
            let failures = (word & FAILURES).saturating_add(FAILURE).min(FAILURES);
            word & OVERLOADS | failures
        };
        self.change(failed) & FAILURES
    }

    /// The endpoint had no room. Returns how many times in a row.
    pub(super) fn overloaded(&self) -> u32 {
        let overloaded = |word: u32| {
            let overloads = (word >> OVERLOAD_SHIFT & MOST_OVERLOADS) + 1;
            word & FAILURES | (overloads.min(MOST_OVERLOADS) << OVERLOAD_SHIFT)
        };
        self.change(overloaded) >> OVERLOAD_SHIFT
    }

    /// A call was given up after longer than the endpoint takes. `true` if it is the last of so many that they
    /// are a failure; they are counted anew then.
    pub(super) fn given_up(&self) -> bool {
        let given_up = |word: u32| {
            let calls = (word >> GIVEN_UP_SHIFT) + 1;
            word & (FAILURES | OVERLOADS) | (calls % GIVEN_UP) << GIVEN_UP_SHIFT
        };
        self.change(given_up) >> GIVEN_UP_SHIFT == 0
    }

    /// Returns the new word.
    fn change(&self, change: impl Fn(u32) -> u32) -> u32 {
        let order = Ordering::Relaxed;
        let changed = self.0.fetch_update(order, order, |word| Some(change(word)));
        changed.map_or(0, change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_counted_apart_and_a_success_ends_all_rows() {
        let row = InARow::default();
        assert_eq!((row.failed(), row.failed()), (1, 2));
        assert_eq!((row.overloaded(), row.overloaded()), (1, 2));
        assert_eq!(row.failures(), 2, "overloads are no failures");
        assert_eq!(row.failed(), 3, "and do not end the row of failures");
        row.succeeded();
        assert_eq!((row.failed(), row.overloaded()), (1, 1), "all begin anew");
        row.clear();
        assert_eq!(row.failures(), 0);
    }

    #[test]
    fn the_fifth_call_given_up_with_no_answer_between_is_a_failure() {
        let row = InARow::default();
        let five = || [(); 5].map(|()| row.given_up());
        let last = [false, false, false, false, true];
        assert_eq!(five(), last);
        assert_eq!(five(), last, "counted anew");
        let answers: [&dyn Fn(); 4] = [
            &|| row.succeeded(),
            &|| row.answered(),
            &|| _ = row.failed(),
            &|| _ = row.overloaded(),
        ];
        for answer in answers {
            assert!(!(0..4).any(|_| row.given_up()), "four are not five");
            answer();
            assert_eq!(five(), last, "any answer ends the row");
        }
    }

    #[test]
    fn counts_stay_at_their_most_and_never_spill_over() {
        let row = InARow(AtomicU32::new(FAILURES));
        assert_eq!(row.failed(), MOST_FAILURES);
        assert_eq!(row.overloaded(), 1, "failures do not become overloads");
        row.0.store(OVERLOADS, Ordering::Relaxed);
        assert_eq!(row.overloaded(), MOST_OVERLOADS);
        assert!(!row.given_up(), "overloads do not become calls given up");
        assert_eq!(row.failed(), 1);
    }
}
