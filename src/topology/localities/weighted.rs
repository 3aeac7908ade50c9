use std::collections::HashMap;

use crate::endpoint::Locality;
use crate::error::Error;
use crate::topology::localities::{LocalityShare, LocalityState, no_twins};
use crate::topology::priority::check_overprovisioning;

/// Calls spread by the weights of localities (Envoy's locality weighted load balancing, gRFC A42).
///
/// A locality gets its part by weight, times what it is worth: with the default factor of 140 % a locality is
/// worth all of its weight until fewer than 71.4 % of its endpoints are usable. Within it, the policy chooses.
///
/// A weight comes with the endpoints, [attached](crate::Endpoint::with) as a [`LocalityWeight`], or is set
/// here, which comes before that. A locality for which nobody names one has 1; one with 0 gets calls only when
/// nothing else is left.
///
/// ```
/// use evenkeel::endpoint::Locality;
/// use evenkeel::topology::WeightedLocalities;
///
/// let rule = WeightedLocalities::default()
///     .with_weight(Locality::new("eu").with_zone("a"), 3)
///     .with_weight(Locality::new("eu").with_zone("b"), 1);
/// # let _ = rule;
/// ```
///
/// [`LocalityWeight`]: crate::endpoint::LocalityWeight
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightedLocalities {
    weights: Vec<(Locality, u32)>,
    overprovisioning_percent: u32,
}

impl Default for WeightedLocalities {
    /// By the weights that come with the endpoints, with a factor of 140 % (Envoy).
    fn default() -> Self {
        Self {
            weights: Vec::new(),
            overprovisioning_percent: 140,
        }
    }
}

impl WeightedLocalities {
    /// Sets the weight of a locality.
    #[must_use]
    pub fn with_weight(mut self, locality: Locality, weight: u32) -> Self {
        self.weights.push((locality, weight));
        self
    }

    /// Sets how much more than its share of calls each endpoint can carry, in percent. At least 100; default 140
    /// (Envoy).
    #[must_use]
    pub fn with_overprovisioning_percent(mut self, percent: u32) -> Self {
        self.overprovisioning_percent = percent;
        self
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let field = "localities.weights";
        no_twins(field, self.weights.iter().map(|(locality, _)| locality))?;
        if !self.weights.is_empty() && self.weights.iter().all(|(_, weight)| *weight == 0) {
            return Err(Error::config(field, "all are 0"));
        }
        let field = "localities.overprovisioning_percent";
        check_overprovisioning(field, self.overprovisioning_percent)
    }

    pub(super) fn shares(&self, localities: &[LocalityState]) -> Vec<LocalityShare> {
        let set: HashMap<_, _> = self
            .weights
            .iter()
            .map(|(l, weight)| (l, *weight))
            .collect();
        let weight = |state: &LocalityState| {
            let set = set.get(&state.locality).copied();
            f64::from(set.or(state.weight).unwrap_or(1))
        };
        let factor = f64::from(self.overprovisioning_percent) / 100.0;
        let worth = |state: &LocalityState| {
            let total = state.availability.total.max(1) as f64;
            let usable = state.availability.usable as f64 / total;
            weight(state) * (factor * usable).min(1.0)
        };
        let there = |state: &LocalityState| f64::from(u8::from(state.availability.total > 0));
        let by_worth: Vec<f64> = localities.iter().map(worth).collect();
        let by_weight = || localities.iter().map(|s| weight(s) * there(s)).collect();
        let by_presence = || localities.iter().map(there).collect();
        // Where none is worth anything it must go somewhere, for it may be about to be.
        let parts = [by_worth].into_iter().chain([by_weight(), by_presence()]);
        let positive = |parts: &Vec<f64>| parts.iter().sum::<f64>() > 0.0;
        let parts = parts.into_iter().find(positive);
        let parts = parts.unwrap_or_else(|| vec![0.0; localities.len()]);
        let sum: f64 = parts.iter().sum();
        let share = |part: f64| if sum > 0.0 { part / sum } else { 0.0 };
        let parts = parts.into_iter().enumerate();
        parts
            .map(|(place, part)| LocalityShare {
                members: vec![place],
                share: share(part),
            })
            .collect()
    }
}
