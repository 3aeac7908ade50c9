use crate::endpoint::Locality;
use crate::error::Error;
use crate::topology::localities::{LocalityShare, LocalityState};
use crate::topology::priority::check_overprovisioning;
use crate::topology::{Availability, Priorities};

/// The same zone first, then the same region, then anywhere.
///
/// What is near gets all calls as long as enough of it is usable, and what it cannot carry goes one step further,
/// by the same rule as from one [priority](Priorities) to the next: with the default factor of 140 %, from when
/// fewer than 71.4 % of a zone's endpoints are usable. Sub-zones make no difference.
///
/// It goes by what is usable, and not by how much there is: where one zone has most of the clients and few of the
/// endpoints, those endpoints get all of its calls. [`ZoneAware`](crate::topology::ZoneAware) is for that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NearestFirst {
    spill: Priorities,
}

impl NearestFirst {
    /// Sets how much more than its share of calls each endpoint can carry, in percent. At least 100; default 140, as
    /// Envoy's between priorities.
    #[must_use]
    pub fn with_overprovisioning_percent(mut self, percent: u32) -> Self {
        self.spill = self.spill.with_overprovisioning_percent(percent);
        self
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let field = "localities.overprovisioning_percent";
        check_overprovisioning(field, self.spill.overprovisioning_percent)
    }

    pub(super) fn shares(
        &self,
        own: &Locality,
        localities: &[LocalityState],
    ) -> Vec<LocalityShare> {
        let mut members: [Vec<usize>; 3] = Default::default();
        let mut steps = [Availability::default(); 3];
        for (place, state) in localities.iter().enumerate() {
            let step = distance(own, &state.locality);
            members[step].push(place);
            steps[step].usable += state.availability.usable;
            steps[step].total += state.availability.total;
        }
        let shares = self.spill.shares(&steps, 0);
        let shares = members.into_iter().zip(shares);
        shares
            .filter(|(members, _)| !members.is_empty())
            .map(|(members, share)| LocalityShare {
                members,
                share: f64::from(share.percent) / 100.0,
            })
            .collect()
    }
}

/// In steps outwards.
fn distance(own: &Locality, other: &Locality) -> usize {
    if own.is_in_zone_of(other) {
        0
    } else if own.is_in_region_of(other) {
        1
    } else {
        2
    }
}
