//! The groups that calls are spread over.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::cluster::snapshot::GroupState;
use crate::cluster::step::Cluster;
use crate::cluster::step::sites::Parts;
use crate::endpoint::{ConnectivityState, Locality};
use crate::policy::{Candidate, Candidates, Group, Plan, SubsetPlan};
use crate::topology::{Availability, GroupShare, MetadataSubsets, Site, SubsetFallback, Topology};

/// What the rules make of the endpoints there are.
pub(super) struct Grouped {
    pub(super) states: Arc<[GroupState]>,
    rules: Option<Arc<MetadataSubsets>>,
    drafts: Vec<Draft>,
}

/// The groups of one subset, or of all endpoints.
struct Draft {
    subset: Option<Arc<str>>,
    sites: Vec<Site>,
    ejected: Vec<bool>,
    groups: Vec<GroupShare>,
    /// The number of each site's group.
    group_of: Vec<usize>,
    /// In the order of `groups`.
    members: Vec<Vec<Candidate>>,
}

impl<S: Clone> Cluster<S> {
    /// Spreads the endpoints over groups; `None` where they are all alike.
    pub(super) fn group(&self) -> Option<Grouped> {
        let topology = &self.settings.topology;
        let rules = topology.subsets();
        let apart = topology.tells_localities_apart() || !self.sites.has_one_priority();
        // Where one is to be connected, the list has its own order.
        if (rules.is_none() && !apart) || self.order.is_some() || self.rows.is_empty() {
            return None;
        }
        let of_all = rules.is_none_or(|rules| *rules.fallback() == SubsetFallback::Any);
        let Parts { parts, seats } = self.sites.parts(of_all, rules.is_some());
        let mut drafts: Vec<Draft> = parts.into_iter().map(Draft::new).collect();
        let seats_of = |site: u32| seats[site as usize].into_iter().flatten();
        for row in &self.rows {
            for (draft, place) in seats_of(row.site) {
                drafts[draft].count(place, &row.candidate);
            }
        }
        let threshold = self.settings.ejection.panic_threshold_percent();
        for draft in &mut drafts {
            draft.spread(topology, threshold);
        }
        for row in &self.rows {
            for (draft, place) in seats_of(row.site) {
                drafts[draft].push(place, &row.candidate);
            }
        }
        Some(Grouped {
            states: drafts.iter().flat_map(Draft::states).collect(),
            rules: rules.cloned(),
            drafts,
        })
    }
}

impl Draft {
    fn new((subset, sites): (Option<Arc<str>>, Vec<Site>)) -> Self {
        Self {
            subset,
            ejected: vec![false; sites.len()],
            sites,
            groups: Vec::new(),
            group_of: Vec::new(),
            members: Vec::new(),
        }
    }

    fn count(&mut self, place: usize, candidate: &Candidate) {
        if candidate.state() == ConnectivityState::Shutdown {
            return;
        }
        let open = candidate.subchannel().health().gate().is_open();
        let Availability { usable, total } = &mut self.sites[place].state.availability;
        *total += 1;
        *usable += usize::from(open && candidate.state() == ConnectivityState::Ready);
        self.ejected[place] |= !open;
    }

    fn spread(&mut self, topology: &Topology, panic_threshold_percent: u32) {
        self.groups = topology.groups(&self.sites, panic_threshold_percent);
        self.group_of = vec![0; self.sites.len()];
        for (number, group) in self.groups.iter().enumerate() {
            for &site in &group.sites {
                self.group_of[site] = number;
            }
        }
        self.members = vec![Vec::new(); self.groups.len()];
    }

    fn push(&mut self, place: usize, candidate: &Candidate) {
        self.members[self.group_of[place]].push(candidate.clone());
    }

    fn panics(&self, group: &GroupShare) -> bool {
        // Where nobody is ejected there is nothing to ignore.
        group.panic && group.sites.iter().any(|site| self.ejected[*site])
    }

    fn states(&self) -> impl Iterator<Item = GroupState> {
        self.groups.iter().map(|group| {
            let sites = || group.sites.iter().map(|site| &self.sites[*site]);
            GroupState {
                subset: self.subset.clone(),
                priority: group.priority,
                localities: sites().map(|s| s.state.locality.clone()).collect(),
                usable: sites().map(|s| s.state.availability.usable).sum(),
                total: sites().map(|s| s.state.availability.total).sum(),
                share: group.share,
                panic: self.panics(group),
            }
        })
    }

    fn into_plan(mut self, fails: bool) -> SubsetPlan {
        let members = std::mem::take(&mut self.members);
        let groups = self.groups.iter().zip(members).map(|(group, members)| {
            let panic = self.panics(group);
            let first = group
                .sites
                .first()
                .map(|site| &self.sites[*site].state.locality);
            Group {
                key: key(group.priority, first),
                level: group.priority,
                share: group.share,
                candidates: Candidates::new(members, panic && !fails),
                ignores_ejections: panic && !fails,
                halted: panic && fails,
            }
        });
        SubsetPlan {
            groups: groups.collect(),
            subset: self.subset,
        }
    }
}

impl Grouped {
    /// Whether any group is in a panic.
    pub(super) fn any_panics(&self) -> bool {
        self.states.iter().any(|group| group.panic)
    }

    /// Whether each group that has endpoints is.
    pub(super) fn all_panic(&self) -> bool {
        let mut used = self.states.iter().filter(|group| group.total > 0);
        self.any_panics() && used.all(|group| group.panic)
    }

    /// What the picker is built of. `fails`: calls of a group in a panic fail.
    pub(super) fn into_plan(self, fails: bool) -> Plan {
        let drafts = self.drafts.into_iter();
        Plan {
            rules: self.rules,
            parts: drafts.map(|draft| draft.into_plan(fails)).collect(),
        }
    }
}

fn key(priority: u32, first: Option<&Locality>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (priority, first).hash(&mut hasher);
    hasher.finish()
}
