//! How calls are spread over localities.

mod nearest;
mod weighted;
mod zone_aware;

pub use nearest::NearestFirst;
pub use weighted::WeightedLocalities;
pub use zone_aware::ZoneAware;

use std::collections::HashSet;

use crate::endpoint::Locality;
use crate::error::Error;
use crate::topology::Availability;

/// Which rule spreads calls over localities. The rules are values of their own, of which this is made by `into`.
///
/// | rule | use it when |
/// |---|---|
/// | [`NearestFirst`] | calls should stay near, and go further only as far as the near ones cannot carry them |
/// | [`ZoneAware`] | the same, and no zone's servers may get more than their part though clients are spread unevenly |
/// | [`WeightedLocalities`] | somebody else (a control plane, a person) says how much each locality gets |
///
/// A rule looks at the endpoints of one [priority](crate::topology::Priorities) at a time, and names no endpoint: in a
/// locality the policy chooses. Where a priority is in a panic its localities make no difference (Envoy).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Localities {
    /// By distance from the client.
    Nearest(NearestFirst),
    /// By zone, with the load of all zones kept equal.
    ZoneAware(ZoneAware),
    /// By weights.
    Weighted(WeightedLocalities),
}

impl From<NearestFirst> for Localities {
    fn from(rule: NearestFirst) -> Self {
        Self::Nearest(rule)
    }
}

impl From<ZoneAware> for Localities {
    fn from(rule: ZoneAware) -> Self {
        Self::ZoneAware(rule)
    }
}

impl From<WeightedLocalities> for Localities {
    fn from(rule: WeightedLocalities) -> Self {
        Self::Weighted(rule)
    }
}

/// What is known of one locality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalityState {
    /// Which one.
    pub locality: Locality,
    /// The weight that the source gave it.
    pub weight: Option<u32>,
    /// Its endpoints of one priority.
    pub availability: Availability,
}

/// Localities that are taken for one, and how much they get.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalityShare {
    /// Their places in the list that the rule was asked about.
    pub members: Vec<usize>,
    /// Of the calls to the priority, 0 to 1. What has none is used when nothing else is left.
    pub share: f64,
}

impl Localities {
    /// How the calls of a client in `own` are spread over `localities`. Each is in one share; the shares add up
    /// to 1 if there is any endpoint.
    pub fn shares(&self, own: &Locality, localities: &[LocalityState]) -> Vec<LocalityShare> {
        match self {
            Self::Nearest(rule) => rule.shares(own, localities),
            Self::ZoneAware(rule) => rule.shares(own, localities),
            Self::Weighted(rule) => rule.shares(localities),
        }
    }

    /// # Errors
    /// What the rule says of itself, and an `own` locality that is not known where the rule needs it.
    pub(crate) fn validate(&self, own: &Locality) -> Result<(), Error> {
        match self {
            Self::Nearest(rule) => rule.validate()?,
            Self::ZoneAware(rule) => rule.validate()?,
            Self::Weighted(rule) => return rule.validate(),
        }
        if own.zone().is_empty() {
            let message =
                "the client's own zone is not known, and the rule of its localities goes by it";
            return Err(Error::config("locality", message));
        }
        Ok(())
    }
}

/// Refuses a list that names a locality twice.
fn no_twins<'a>(
    field: &'static str,
    localities: impl IntoIterator<Item = &'a Locality>,
) -> Result<(), Error> {
    let mut seen = HashSet::new();
    match localities
        .into_iter()
        .find(|locality| !seen.insert(*locality))
    {
        Some(twin) => Err(Error::config(field, format!("{twin} is named twice"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
