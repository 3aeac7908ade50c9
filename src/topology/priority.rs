use crate::error::Error;

/// How many of a group of endpoints can take calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Availability {
    /// Those that are connected and not ejected.
    pub usable: usize,
    /// All of them.
    pub total: usize,
}

/// What one group gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PriorityShare {
    /// Of all calls, in percent.
    pub percent: u32,
    /// So few of the group are usable, and the others cannot carry the rest, that its
    /// [ejections are ignored](crate::health::panic_mode).
    pub panic: bool,
}

/// How calls spill over from one [priority](crate::Endpoint::with_priority) to the next, as Envoy has it.
///
/// A priority is worth the share of its endpoints that is usable, times the overprovisioning factor: with the
/// default of 140 % it gets all of the calls until fewer than 71.4 % of its endpoints are usable, and from there
/// what is missing goes to the next one. Where all priorities together are worth less than 100 %, each gets its part
/// of what there is, and those in which fewer endpoints are usable than the panic threshold says are in a panic. Where
/// all are, calls are spread by the number of endpoints.
///
/// An endpoint that is connecting for the first time is not usable yet, so calls go to a lower priority before they
/// wait. All priorities stay connected.
///
/// ```
/// use evenkeel::topology::{Availability, Priorities};
///
/// let half = Availability { usable: 2, total: 4 };
/// let shares = Priorities::default().shares(&[half, half], 50);
/// assert_eq!(shares.map(|share| share.percent).collect::<Vec<_>>(), [70, 30]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Priorities {
    pub(super) overprovisioning_percent: u32,
}

impl Default for Priorities {
    /// Spill-over with a factor of 140 % (Envoy).
    fn default() -> Self {
        Self {
            overprovisioning_percent: 140,
        }
    }
}

impl Priorities {
    /// Sets the overprovisioning factor, in percent: how much more than its share of calls each endpoint can
    /// carry. At least 100; default 140 (Envoy).
    #[must_use]
    pub fn with_overprovisioning_percent(mut self, percent: u32) -> Self {
        self.overprovisioning_percent = percent;
        self
    }

    /// # Errors
    /// An overprovisioning factor under 100 %.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        let field = "priorities.overprovisioning_percent";
        check_overprovisioning(field, self.overprovisioning_percent)
    }

    /// What each of `levels` gets, from the highest priority to the lowest. The percentages add up to 100 if there is
    /// any endpoint. A `panic_threshold_percent` of 0 means that there is never a panic.
    pub fn shares(
        &self,
        levels: &[Availability],
        panic_threshold_percent: u32,
    ) -> impl ExactSizeIterator<Item = PriorityShare> + use<> {
        let worth: Vec<u64> = levels.iter().map(|level| self.worth(*level)).collect();
        let sum = worth.iter().sum::<u64>().min(100);
        let panics = |level: &Availability| {
            let (usable, total) = (level.usable as u64, level.total as u64);
            sum < 100 && usable * 100 < total * u64::from(panic_threshold_percent)
        };
        let any = |level: &&Availability| level.total > 0;
        let all_panic = panic_threshold_percent > 0 && levels.iter().filter(any).all(panics);
        let wanted: Vec<u64> = if all_panic || sum == 0 {
            levels.iter().map(|level| level.total as u64).collect()
        } else {
            worth
        };
        let mut percents = parts_of_100(&wanted, !(all_panic || sum == 0)).into_iter();
        let shares: Vec<_> = levels
            .iter()
            .map(|level| PriorityShare {
                percent: percents.next().unwrap_or_default(),
                panic: panics(level),
            })
            .collect();
        shares.into_iter()
    }

    /// In percent of all calls.
    fn worth(&self, level: Availability) -> u64 {
        let factor = u64::from(self.overprovisioning_percent);
        let usable = level.usable as u64 * factor;
        usable.checked_div(level.total as u64).unwrap_or(0).min(100)
    }
}

/// Refuses what no endpoint can be worth.
pub(super) fn check_overprovisioning(field: &'static str, percent: u32) -> Result<(), Error> {
    match percent {
        0..100 => Err(Error::config(
            field,
            format!("is {percent}; the least is 100"),
        )),
        _ => Ok(()),
    }
}

/// `in_order`: the first ones get what they are worth as far as there is something left, unless all together are
/// worth less; else each gets its part.
fn parts_of_100(wanted: &[u64], in_order: bool) -> Vec<u32> {
    let sum: u64 = wanted.iter().sum();
    let whole = if in_order { sum.min(100) } else { sum };
    let mut left = 100;
    let mut parts: Vec<u32> = wanted
        .iter()
        .map(|part| {
            let part = (part * 100).checked_div(whole).unwrap_or(0).min(left);
            left -= part;
            part as u32
        })
        .collect();
    // What was lost by rounding goes to the first that is to get anything.
    if let Some(first) = wanted.iter().position(|part| *part > 0) {
        parts[first] += left as u32;
    }
    parts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(levels: &[(usize, usize)], priorities: Priorities, threshold: u32) -> Vec<(u32, bool)> {
        let levels: Vec<_> = levels
            .iter()
            .map(|&(usable, total)| Availability { usable, total })
            .collect();
        let shares = priorities.shares(&levels, threshold);
        shares.map(|share| (share.percent, share.panic)).collect()
    }

    fn percents(levels: &[(usize, usize)], priorities: Priorities) -> Vec<u32> {
        let shares = of(levels, priorities, 50);
        shares.into_iter().map(|(percent, _)| percent).collect()
    }

    #[test]
    fn calls_spill_over_as_envoys_do() {
        let by_140 = Priorities::default();
        let by_100 = by_140.with_overprovisioning_percent(100);
        for (levels, priorities, wanted) in [
            (&[(2, 4), (2, 4)][..], by_140, &[70, 30][..]),
            (&[(2, 4), (2, 4)], by_100, &[50, 50]),
            (&[(1, 4), (1, 4), (1, 4)], by_140, &[35, 35, 30]),
            (&[(4, 4), (4, 4)], by_140, &[100, 0]),
            (&[(5, 7), (4, 4)], by_140, &[100, 0]),
            (&[(0, 4), (4, 4)], by_140, &[0, 100]),
            (&[(0, 0), (4, 4)], by_140, &[0, 100]),
            (&[(1, 4), (0, 4)], by_140, &[50, 50]),
            (&[(0, 1), (0, 200)], by_140, &[1, 99]),
            (&[(0, 4), (0, 12)], by_140, &[25, 75]),
            (&[(1, 3), (1, 3)], by_100, &[50, 50]),
            (&[(0, 0)], by_140, &[0]),
            (&[], by_140, &[]),
        ] {
            assert_eq!(percents(levels, priorities), wanted, "{levels:?}");
        }
    }

    #[test]
    fn a_priority_panics_only_if_the_others_cannot_help() {
        let default = Priorities::default();
        assert_eq!(
            of(&[(1, 4), (4, 4)], default, 50),
            [(35, false), (65, false)],
            "the second carries what the first cannot"
        );
        assert_eq!(
            of(&[(1, 4), (2, 5)], default, 45),
            [(45, true), (55, true)],
            "both are under the threshold: by number of endpoints, as far as percents go"
        );
        assert_eq!(
            of(&[(1, 10), (5, 10)], default, 50),
            [(17, true), (83, false)],
            "14 and 70 of 84, and what rounding lost to the first"
        );
        let never = of(&[(0, 4), (0, 4)], default, 0);
        assert!(never.iter().all(|(_, panic)| !panic), "0 turns panic off");
    }

    #[test]
    fn a_factor_under_100_is_a_mistake() {
        let error = Priorities::default()
            .with_overprovisioning_percent(99)
            .validate()
            .unwrap_err();
        assert_eq!(error.field(), Some("priorities.overprovisioning_percent"));
    }

    proptest! {
        #[test]
        fn the_shares_are_all_of_the_calls(
            levels in proptest::collection::vec((0_usize..200, 0_usize..200), 1..150),
            factor in 100_u32..300,
            threshold in 0_u32..=100,
        ) {
            let levels: Vec<_> = levels.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            let priorities = Priorities::default().with_overprovisioning_percent(factor);
            let shares = of(&levels, priorities, threshold);
            let sum: u32 = shares.iter().map(|(percent, _)| percent).sum();
            let any = levels.iter().any(|(_, total)| *total > 0);
            prop_assert_eq!(sum, if any { 100 } else { 0 }, "of {:?}: {:?}", levels, shares);
            for ((_, total), (percent, _)) in levels.iter().zip(&shares) {
                prop_assert!(*total > 0 || *percent == 0, "nothing to a level without endpoints");
            }
        }
    }
}
