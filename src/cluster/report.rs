//! What a snapshot tells of itself to whoever asks.

use std::collections::{HashMap, HashSet};

use tokio::time::Instant;

use crate::cluster::snapshot::{GroupState, Shared, Snapshot, Summary};
use crate::endpoint::{Endpoint, Locality};
use crate::observe::{Ejected, EndpointReport, GroupReport, PassedOver, Report, StageReport};
use crate::policy::Candidate;
use crate::topology::MetadataSubsets;

impl<S> Shared<S> {
    pub(crate) fn report(&self, now: Instant) -> Report {
        let snapshot = self.load();
        let summary = &snapshot.summary;
        let placing = Placing::of(summary);
        let endpoints: Vec<EndpointReport> = snapshot
            .details
            .iter()
            .zip(snapshot.candidates.all().iter())
            .map(|(detail, candidate)| {
                let detail = detail.as_deref();
                let endpoint = candidate.endpoint();
                let load = candidate.subchannel().load();
                EndpointReport {
                    id: endpoint.id().clone(),
                    address: endpoint.address().to_owned(),
                    weight: endpoint.weight(),
                    priority: endpoint.priority(),
                    locality: endpoint.locality().clone(),
                    passed_over: placing.passed_over(endpoint),
                    state: candidate.state(),
                    in_flight: load.current(),
                    calls: load.started(),
                    failures: load.failed(),
                    ejected: detail
                        .and_then(|d| d.ejection.as_ref())
                        .map(|ejection| Ejected {
                            since: now.saturating_duration_since(ejection.since),
                            until: ejection.until.saturating_duration_since(now),
                            times: ejection.times,
                            reason: ejection.cause.as_str(),
                        }),
                    unhealthy: detail
                        .and_then(|d| d.unhealthy.as_deref())
                        .map(str::to_owned),
                    drain: detail.and_then(|d| d.drain),
                    last_error: detail
                        .and_then(|d| d.last_error.as_deref())
                        .map(str::to_owned),
                }
            })
            .collect();
        Report {
            state: snapshot.summary.state(),
            policy: self.policy(),
            panic: snapshot.summary.panic,
            resolved: snapshot.summary.resolved,
            discovery_error: snapshot
                .summary
                .discovery_error
                .as_deref()
                .map(str::to_owned),
            stages: stages(&snapshot, &endpoints),
            groups: summary.groups.iter().map(GroupState::report).collect(),
            left_out: summary.left_out.iter().map(|e| e.id().clone()).collect(),
            endpoints,
        }
    }
}

/// How many endpoints each stage was given and passed on.
fn stages<S>(snapshot: &Snapshot<S>, endpoints: &[EndpointReport]) -> Vec<StageReport> {
    let all = endpoints.len();
    let by_metadata = Some(PassedOver::Subset);
    let by_priority = [by_metadata, Some(PassedOver::Priority)];
    let count = |stays: &dyn Fn(&EndpointReport) -> bool| {
        endpoints.iter().filter(|endpoint| stays(endpoint)).count()
    };
    let in_subset = count(&|e| e.passed_over != by_metadata);
    let in_priority = count(&|e| !by_priority.contains(&e.passed_over));
    let in_locality = count(&|e| e.passed_over.is_none());
    let usable = snapshot.candidates.usable().iter();
    let is_first = |c: &&Candidate| {
        let endpoint = endpoints.get(c.slot());
        endpoint.is_some_and(|endpoint| endpoint.passed_over.is_none())
    };
    let counts = [
        ("subset", all + snapshot.summary.left_out.len(), all),
        ("metadata", all, in_subset),
        ("priority", in_subset, in_priority),
        ("locality", in_priority, in_locality),
        ("policy", in_locality, usable.filter(is_first).count()),
    ];
    let stage = |(name, endpoints_in, endpoints_out)| StageReport {
        name,
        endpoints_in,
        endpoints_out,
    };
    counts.map(stage).to_vec()
}

/// Which groups an endpoint is in, and what those get.
struct Placing<'s> {
    rules: Option<&'s MetadataSubsets>,
    shares: HashMap<(Option<&'s str>, u32, &'s Locality), f64>,
    /// The priorities, of a subset or of all, that get calls.
    used: HashSet<(Option<&'s str>, u32)>,
}

impl<'s> Placing<'s> {
    fn of(summary: &'s Summary) -> Self {
        let mut shares = HashMap::new();
        let mut used = HashSet::new();
        for group in &*summary.groups {
            let subset = group.subset.as_deref();
            for locality in &group.localities {
                shares.insert((subset, group.priority, locality), group.share);
            }
            if group.share > 0.0 {
                used.insert((subset, group.priority));
            }
        }
        Self {
            rules: summary.subsets.as_deref(),
            shares,
            used,
        }
    }

    /// Why the endpoint gets calls only when nothing else is left, if that is so.
    fn passed_over(&self, endpoint: &Endpoint) -> Option<PassedOver> {
        if self.rules.is_none() && self.shares.is_empty() {
            return None;
        }
        let (priority, locality) = (endpoint.priority(), endpoint.locality());
        let own = self.rules.and_then(|rules| rules.value_of(endpoint));
        let subsets = [None, own].into_iter().take(1 + usize::from(own.is_some()));
        let mine = subsets.filter_map(|subset| {
            let share = self.shares.get(&(subset, priority, locality))?;
            Some((*share, self.used.contains(&(subset, priority))))
        });
        let mut best = Some(PassedOver::Subset);
        for (share, is_used) in mine {
            match (share > 0.0, is_used) {
                (true, _) => return None,
                (false, true) => best = Some(PassedOver::Locality),
                (false, false) if best == Some(PassedOver::Subset) => {
                    best = Some(PassedOver::Priority);
                }
                (false, false) => {}
            }
        }
        best
    }
}

impl GroupState {
    fn report(&self) -> GroupReport {
        GroupReport {
            subset: self.subset.as_deref().map(str::to_owned),
            priority: self.priority,
            localities: self.localities.clone(),
            total: self.total,
            usable: self.usable,
            share: self.share,
            panic: self.panic,
        }
    }
}
