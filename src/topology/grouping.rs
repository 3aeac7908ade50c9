use std::collections::BTreeMap;
use std::sync::Arc;

use crate::endpoint::{Endpoint, Locality};
use crate::error::Error;
use crate::topology::localities::{Localities, LocalityShare, LocalityState};
use crate::topology::{Availability, MetadataSubsets, Priorities};

/// How calls are spread over groups of endpoints: first over [priorities](Priorities), then over
/// [localities](Localities).
///
/// By default priorities count, as endpoints have other ones than 0 only where somebody meant it, and localities
/// make no difference. Both look at the endpoints of one [subset by metadata](MetadataSubsets) at a time, where there
/// are such.
///
/// ```
/// use evenkeel::topology::{NearestFirst, Topology};
///
/// // Calls stay in this client's zone while enough of it works.
/// let topology = Topology::default()
///     .with_locality("eu-west-1/eu-west-1a".parse()?)
///     .with_localities(NearestFirst::default());
/// # let _ = topology;
/// # Ok::<_, evenkeel::Error>(())
/// ```
///
/// Policies that go by servers' answers ([`Adaptive`](crate::policy::Adaptive), [`Prequal`](crate::policy::Prequal)) keep
/// one pool of at most 16 answers for all groups: a call whose group the best one is not of goes by latency, or at random.
/// A [policy](crate::policy::PickFirst) that wants one connection has the list in its own order, and there neither
/// makes a difference. A policy that hashes sends calls of one hash to one group, and they move to another as far as
/// shares change. The ejections of each priority have their own
/// [limit](crate::health::Ejection::with_max_percent); an endpoint whose priority changes later is counted with the
/// first one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    priorities: Priorities,
    localities: Option<Localities>,
    locality: Locality,
    subsets: Option<Arc<MetadataSubsets>>,
}

/// Endpoints that stand together: of one priority, in one locality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Their priority.
    pub priority: u32,
    /// Where they are, and how many.
    pub state: LocalityState,
}

/// Sites among whose endpoints the policy chooses.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupShare {
    /// The priority of all of them.
    pub priority: u32,
    /// Their places in the list of sites.
    pub sites: Vec<usize>,
    /// Of all calls, 0 to 1. What has none is used when nothing else is left.
    pub share: f64,
    /// The [panic](crate::topology::PriorityShare::panic) of the priority.
    pub panic: bool,
}

impl Topology {
    /// Sets how calls are spread over priorities; by default as [`Priorities::default`].
    #[must_use]
    pub fn with_priorities(mut self, priorities: Priorities) -> Self {
        self.priorities = priorities;
        self
    }

    /// Sets how calls are spread over localities; by default those make no difference.
    #[must_use]
    pub fn with_localities(mut self, rule: impl Into<Localities>) -> Self {
        self.localities = Some(rule.into());
        self
    }

    /// Sets where this client runs; by default that is not known. Needed by the rules that go by it.
    #[must_use]
    pub fn with_locality(mut self, own: Locality) -> Self {
        self.locality = own;
        self
    }

    /// Sets how endpoints are told apart by what a call wants; by default they are not.
    #[must_use]
    pub fn with_subsets(mut self, subsets: MetadataSubsets) -> Self {
        self.subsets = Some(Arc::new(subsets));
        self
    }

    /// How endpoints are told apart by what a call wants.
    pub fn subsets(&self) -> Option<&Arc<MetadataSubsets>> {
        self.subsets.as_ref()
    }

    /// The value by which the endpoint is told apart from others, if that is done.
    pub fn subset_of<'e>(&self, endpoint: &'e Endpoint) -> Option<&'e str> {
        self.subsets.as_ref()?.value_of(endpoint)
    }

    /// Where this client runs.
    pub fn locality(&self) -> &Locality {
        &self.locality
    }

    /// Whether endpoints that differ in nothing but their locality are told apart.
    pub fn tells_localities_apart(&self) -> bool {
        self.localities.is_some()
    }

    /// # Errors
    /// A field out of its range, a locality named twice, weights that are all 0, or no zone of the client's own where
    /// the rule of localities goes by it.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        self.priorities.validate()?;
        if let Some(subsets) = &self.subsets {
            subsets.validate()?;
        }
        let rule = self.localities.as_ref();
        rule.map_or(Ok(()), |rule| rule.validate(&self.locality))
    }

    /// What each group of `sites` gets, from the highest priority to the lowest, and in a priority from the
    /// greatest share to the least. Each site is in one group, and the shares add up to 1 if there is any endpoint.
    pub fn groups(&self, sites: &[Site], panic_threshold_percent: u32) -> Vec<GroupShare> {
        let mut levels: BTreeMap<u32, (Availability, Vec<usize>)> = BTreeMap::new();
        for (place, site) in sites.iter().enumerate() {
            let (sum, members) = levels.entry(site.priority).or_default();
            sum.usable += site.state.availability.usable;
            sum.total += site.state.availability.total;
            members.push(place);
        }
        let sums: Vec<Availability> = levels.values().map(|(sum, _)| *sum).collect();
        let shares = self.priorities.shares(&sums, panic_threshold_percent);
        let mut groups = Vec::new();
        for ((priority, (_, members)), level) in levels.into_iter().zip(shares) {
            let rule = self.localities.as_ref().filter(|_| !level.panic);
            let of_level = match rule {
                Some(rule) => {
                    let states: Vec<_> = members.iter().map(|n| sites[*n].state.clone()).collect();
                    rule.shares(&self.locality, &states)
                }
                None => vec![LocalityShare {
                    members: (0..members.len()).collect(),
                    share: 1.0,
                }],
            };
            let begin = groups.len();
            groups.extend(of_level.into_iter().map(|part| GroupShare {
                priority,
                sites: part.members.into_iter().map(|n| members[n]).collect(),
                share: part.share * f64::from(level.percent) / 100.0,
                panic: level.panic,
            }));
            groups[begin..].sort_by(|a, b| b.share.total_cmp(&a.share));
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::NearestFirst;

    fn site(priority: u32, locality: &str, usable: usize, total: usize) -> Site {
        Site {
            priority,
            state: LocalityState {
                locality: locality.parse().expect(locality),
                weight: None,
                availability: Availability { usable, total },
            },
        }
    }

    #[test]
    fn priorities_come_first_and_localities_within_them() {
        let topology = Topology::default()
            .with_locality("r/a".parse().unwrap())
            .with_localities(NearestFirst::default());
        let sites = [
            site(1, "r/a", 4, 4),
            site(0, "r/b", 2, 2),
            site(0, "r/a", 0, 2),
            site(1, "q/z", 1, 1),
        ];
        let groups = topology.groups(&sites, 50);
        let seen: Vec<_> = groups
            .iter()
            .map(|g| {
                (
                    g.priority,
                    g.sites.clone(),
                    (g.share * 100.0).round() as u32,
                )
            })
            .collect();
        let wanted = [
            (0, vec![1], 70),
            (0, vec![2], 0),
            (1, vec![0], 30),
            (1, vec![3], 0),
        ];
        assert_eq!(seen, wanted, "2 of 4 are worth 70 %, all of them in zone b");
    }

    #[test]
    fn localities_make_no_difference_in_a_panic_nor_by_default() {
        let sites = [site(0, "r/a", 1, 4), site(0, "r/b", 0, 4)];
        let nearest = Topology::default()
            .with_locality("r/a".parse().unwrap())
            .with_localities(NearestFirst::default());
        for topology in [nearest, Topology::default()] {
            let groups = topology.groups(&sites, 50);
            let [group] = &groups[..] else {
                panic!("one group, not {groups:?}");
            };
            assert!(group.panic && group.sites == [0, 1], "{group:?}");
        }
    }
}
