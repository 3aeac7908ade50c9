use std::time::Duration;

use crate::error::Error;
use crate::math::Moment;
use crate::math::atomic::{AtomicU32, AtomicU64, Ordering};

/// Into how many windows the time to live is cut; Finagle's `WindowedAdder` has as many.
const WINDOWS: u32 = 10;

/// The settings of a [`Budget`].
///
/// | setting | default | source |
/// |---|---|---|
/// | retries per call | 20 % | Finagle `RetryBudget` |
/// | retries in any case | 10 a second | Finagle |
/// | time to live | 10 s | Finagle |
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetSettings {
    percent: u32,
    min_per_second: u32,
    ttl: Duration,
}

impl Default for BudgetSettings {
    fn default() -> Self {
        Self {
            percent: 20,
            min_per_second: 10,
            ttl: Duration::from_secs(10),
        }
    }
}

impl BudgetSettings {
    /// How many retries each 100 calls bring, up to 1,000; default 20.
    #[must_use]
    pub fn with_percent(mut self, percent: u32) -> Self {
        self.percent = percent;
        self
    }

    /// How many retries a second there are without any calls, up to 1,000,000, for callers that call
    /// seldom; default 10. A whole time to live of them may be spent at once.
    #[must_use]
    pub fn with_min_per_second(mut self, retries: u32) -> Self {
        self.min_per_second = retries;
        self
    }

    /// How long a call counts, and a retry that was made; 1 s to 60 s, as in Finagle; default 10 s.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        if self.percent > 1_000 {
            return Err(Error::config("budget", "the percentage is over 1,000"));
        }
        if self.min_per_second > 1_000_000 {
            return Err(Error::config(
                "budget",
                "over 1,000,000 retries a second in any case",
            ));
        }
        if !(Duration::from_secs(1)..=Duration::from_secs(60)).contains(&self.ttl) {
            return Err(Error::config(
                "budget",
                "the time to live is not 1 s to 60 s",
            ));
        }
        Ok(())
    }
}

/// A retry budget as Finagle has it: calls pay in, retries take out.
///
/// Retries are at most 20 % of the calls of the last ten seconds, and ten a second more. When a
/// backend fails for good, the calls that it gets are thus 1.2 times what its callers make, not three
/// or five times; a caller that calls seldom has its retries all the same.
///
/// The time is an argument, read to a tenth of the time to live. A call costs one atomic addition; a
/// retry a few more. No lock, and no retry too many however many threads ask at once.
///
/// ```
/// use evenkeel::math::Moment;
/// use evenkeel::retry::{Budget, BudgetSettings};
///
/// let budget = Budget::new(BudgetSettings::default().with_min_per_second(0))?;
/// let now = Moment::from_nanos(1);
/// for _call in 0..5 {
///     budget.deposit(now);
/// }
/// assert!(budget.withdraw(now), "five calls bring one retry");
/// assert!(!budget.withdraw(now));
/// # Ok::<_, evenkeel::Error>(())
/// ```
#[derive(Debug)]
pub struct Budget {
    /// Calls in each window.
    deposits: [Window; WINDOWS as usize],
    /// The count of `withdrawn` before the first retry in each window that had one.
    marks: [Window; WINDOWS as usize],
    /// Retries that were ever allowed; wraps.
    ///
    /// All of them go through this one word: who finds it as it was when the sum was made knows that
    /// no other retry was allowed since.
    withdrawn: AtomicU32,
    percent: u64,
    /// Hundredths of a retry.
    reserve: u64,
    window_nanos: u64,
}

/// A number and the window that it is of, in one word: the window's in the upper half, from 1.
#[derive(Debug)]
struct Window(AtomicU64);

impl Window {
    fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    fn pack(window: u32, number: u32) -> u64 {
        u64::from(window) << 32 | u64::from(number)
    }

    /// The number, if it is of one of the last `WINDOWS` windows up to `window`.
    fn read(&self, window: u32) -> Option<u32> {
        let word = self.0.load(Ordering::Acquire);
        let of = (word >> 32) as u32;
        // One that is newer comes from a clock that is ahead of this one, and counts.
        (of != 0 && of.saturating_add(WINDOWS) > window).then_some(word as u32)
    }

    /// Begins `window` with `number`, if nobody did yet. A later window stays.
    fn begin(&self, window: u32, number: u32) -> bool {
        let word = self.0.load(Ordering::Acquire);
        let fresh = Self::pack(window, number);
        ((word >> 32) as u32) < window
            && (self.0)
                .compare_exchange(word, fresh, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
    }
}

impl Budget {
    /// With nothing paid in but the reserve.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub fn new(settings: BudgetSettings) -> Result<Self, Error> {
        settings.validate()?;
        let reserve = settings.ttl.as_millis() as u64 * u64::from(settings.min_per_second) / 10;
        Ok(Self {
            deposits: std::array::from_fn(|_| Window::new()),
            marks: std::array::from_fn(|_| Window::new()),
            withdrawn: AtomicU32::new(0),
            percent: settings.percent.into(),
            reserve,
            window_nanos: settings.ttl.as_nanos() as u64 / u64::from(WINDOWS),
        })
    }

    /// A call that may be tried again if it fails begins at `now`.
    #[inline]
    pub fn deposit(&self, now: Moment) {
        let (window, place) = self.window(now);
        let calls = &self.deposits[place];
        if !calls.begin(window, 1) {
            // Late by ten windows, it counts for another one, which does no harm.
            calls.0.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether a call may be tried again at `now`. If so, that retry is taken out.
    pub fn withdraw(&self, now: Moment) -> bool {
        let (window, place) = self.window(now);
        loop {
            let withdrawn = self.withdrawn.load(Ordering::Acquire);
            if self.left(window, withdrawn) < 100 {
                if self.withdrawn.load(Ordering::Acquire) == withdrawn {
                    return false;
                }
                // The sum was of different moments.
                continue;
            }
            self.marks[place].begin(window, withdrawn);
            let more = withdrawn.wrapping_add(1);
            let swapped = self.withdrawn.compare_exchange(
                withdrawn,
                more,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            if swapped.is_ok() {
                return true;
            }
        }
    }

    /// How many retries could be made at `now`.
    pub fn balance(&self, now: Moment) -> u64 {
        let (window, _) = self.window(now);
        self.left(window, self.withdrawn.load(Ordering::Acquire)) / 100
    }

    /// Hundredths of a retry.
    fn left(&self, window: u32, withdrawn: u32) -> u64 {
        let calls = self.deposits.iter().filter_map(|calls| calls.read(window));
        let calls: u64 = calls.map(u64::from).sum();
        let retries = self.marks.iter().filter_map(|mark| mark.read(window));
        // The oldest mark is the lowest, and all that came after it counts.
        let retries = retries.map(|mark| withdrawn.wrapping_sub(mark)).max();
        let spent = u64::from(retries.unwrap_or(0)) * 100;
        (self.reserve + calls * self.percent).saturating_sub(spent)
    }

    fn window(&self, now: Moment) -> (u32, usize) {
        let window = now.as_nanos() / self.window_nanos;
        // A clock that runs for 13 years without a pause stands still here.
        let window = u32::try_from(window).map_or(u32::MAX, |window| window.saturating_add(1));
        (window, (window % WINDOWS) as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(millis))
    }

    fn without_reserve() -> BudgetSettings {
        BudgetSettings::default().with_min_per_second(0)
    }

    /// How many retries there are.
    fn drain(budget: &Budget, now: Moment) -> u64 {
        let counted = budget.balance(now);
        let mut count = 0;
        while budget.withdraw(now) {
            count += 1;
        }
        assert_eq!(count, counted, "the balance is what can be taken out");
        count
    }

    #[test]
    fn a_fifth_of_the_calls() {
        let budget = Budget::new(without_reserve()).unwrap();
        assert_eq!(drain(&budget, at(0)), 0, "no calls, no retries");
        for _ in 0..1_003 {
            budget.deposit(at(0));
        }
        assert_eq!(drain(&budget, at(0)), 200, "20 % of 1,003");
        budget.deposit(at(10));
        budget.deposit(at(10));
        assert_eq!(drain(&budget, at(10)), 1, "and of 1,005");
    }

    #[test]
    fn the_reserve_is_ten_a_second_over_ten_seconds() {
        let budget = Budget::new(BudgetSettings::default()).unwrap();
        assert_eq!(drain(&budget, at(0)), 100, "10/s for 10 s");
        assert_eq!(drain(&budget, at(9_999)), 0, "spent for ten seconds");
        assert_eq!(drain(&budget, at(10_000)), 100, "then it is there again");
        assert_eq!(drain(&budget, at(100_000)), 100, "and no more than that");
    }

    #[test]
    fn calls_count_for_ten_seconds() {
        let budget = Budget::new(without_reserve()).unwrap();
        for second in 0..10 {
            for _ in 0..5 {
                budget.deposit(at(second * 1_000));
            }
        }
        assert_eq!(budget.balance(at(9_999)), 10, "50 calls");
        assert_eq!(budget.balance(at(10_000)), 9, "the first five are too old");
        assert_eq!(budget.balance(at(18_999)), 1);
        assert_eq!(budget.balance(at(19_000)), 0, "all are");
        for _ in 0..5 {
            budget.deposit(at(19_000));
        }
        assert_eq!(drain(&budget, at(19_000)), 1, "a window is used again");
    }

    #[test]
    fn retries_count_as_spent_for_ten_seconds() {
        let budget = Budget::new(BudgetSettings::default().with_min_per_second(1)).unwrap();
        for second in 0..10 {
            assert!(budget.withdraw(at(second * 1_000)), "ten in the reserve");
        }
        assert!(!budget.withdraw(at(9_999)), "all spent");
        assert!(budget.withdraw(at(10_000)), "the first is too old to count");
        assert!(!budget.withdraw(at(10_999)), "the second is not yet");
        assert!(budget.withdraw(at(11_000)));
        assert_eq!(drain(&budget, at(60_000)), 10);
    }

    #[test]
    fn a_clock_that_steps_back_or_runs_out_does_not_panic() {
        let budget = Budget::new(BudgetSettings::default()).unwrap();
        for now in [at(50_000), at(0), Moment::from_nanos(u64::MAX), at(1)] {
            budget.deposit(now);
            budget.withdraw(now);
            assert!(budget.balance(now) <= 101);
        }
    }

    #[test]
    fn no_retry_too_many_by_many_threads() {
        let budget = Arc::new(Budget::new(without_reserve()).unwrap());
        for _ in 0..5_000 {
            budget.deposit(at(0));
        }
        let threads = [(); 4].map(|()| {
            let budget = budget.clone();
            thread::spawn(move || (0..1_000).filter(|_| budget.withdraw(at(0))).count())
        });
        let allowed: usize = threads.map(|thread| thread.join().unwrap()).iter().sum();
        assert_eq!(allowed, 1_000, "20 % of 5,000, by whomever");
    }

    #[test]
    fn nonsense_names_its_setting() {
        let good = BudgetSettings::default();
        for bad in [
            good.with_percent(1_001),
            good.with_min_per_second(1_000_001),
            good.with_ttl(Duration::ZERO),
            good.with_ttl(Duration::from_millis(999)),
            good.with_ttl(Duration::from_secs(61)),
        ] {
            let error = Budget::new(bad).unwrap_err();
            assert_eq!(error.field(), Some("budget"), "{bad:?}");
        }
    }
}
