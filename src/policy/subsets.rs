//! Calls that go to the endpoints with one value of a metadata name, each of these subsets with groups of its own.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::call::RequestInfo;
use crate::math::{Moment, Rng};
use crate::policy::groups::{Group, Groups};
use crate::policy::{Candidate, Pick, PickContext, Picker, Policy};
use crate::topology::{MetadataSubsets, SubsetFallback};

/// What the picker of endpoints that are not all alike is built of.
pub(crate) struct Plan {
    /// How calls find their subset; `None` where there is one part for all.
    pub(crate) rules: Option<Arc<MetadataSubsets>>,
    pub(crate) parts: Vec<SubsetPlan>,
}

/// The groups of a subset, or of all endpoints.
pub(crate) struct SubsetPlan {
    pub(crate) subset: Option<Arc<str>>,
    pub(crate) groups: Vec<Group>,
}

impl SubsetPlan {
    fn usable(&self) -> usize {
        let groups = self.groups.iter();
        groups.map(|group| group.candidates.usable().len()).sum()
    }
}

impl Plan {
    pub(crate) fn build(
        self,
        policy: &dyn Policy,
        previous: &dyn Picker,
        now: Moment,
    ) -> Arc<dyn Picker> {
        // The part of all is the greatest; without it each endpoint is in one.
        let of_all = self.parts.iter().find(|part| part.subset.is_none());
        let sum = || self.parts.iter().map(SubsetPlan::usable).sum();
        let fleet = of_all.map_or_else(sum, SubsetPlan::usable);
        let before = previous.downcast_ref::<Subsets>();
        // What a picker hands on has one heir.
        let mut heir = Some(previous);
        let mut any = None;
        let mut subsets = HashMap::new();
        for part in self.parts {
            let previous = match before {
                Some(before) => before.of(part.subset.as_deref()),
                None => heir.take(),
            };
            let picker = Groups::build(policy, part.groups, previous, fleet, now);
            match part.subset {
                Some(name) => {
                    subsets.insert(name, picker);
                }
                None => any = Some(picker),
            }
        }
        match self.rules {
            Some(rules) => Arc::new(Subsets {
                rules,
                subsets,
                any,
            }),
            None => any.unwrap_or_else(|| Groups::build(policy, Vec::new(), None, 0, now)),
        }
    }
}

/// The picker of several subsets.
struct Subsets {
    rules: Arc<MetadataSubsets>,
    subsets: HashMap<Arc<str>, Arc<dyn Picker>>,
    /// Over all endpoints, where calls may fall back to that.
    any: Option<Arc<dyn Picker>>,
}

impl Subsets {
    fn of(&self, subset: Option<&str>) -> Option<&dyn Picker> {
        match subset {
            Some(name) => self.subsets.get(name).map(|picker| &**picker),
            None => self.any.as_deref(),
        }
    }

    fn fallback(&self) -> Option<&dyn Picker> {
        match self.rules.fallback() {
            SubsetFallback::Any => self.any.as_deref(),
            SubsetFallback::None => None,
            SubsetFallback::Subset(name) => self.of(Some(name)),
        }
    }

    fn pick_fallback(&self, context: &mut PickContext<'_>) -> Pick {
        let fallback = self.fallback();
        fallback.map_or(Pick::Nothing, |picker| picker.pick(context))
    }

    /// A call that names no value: to the one that it draws, or to what stands in for that.
    fn pick_drawn(&self, context: &mut PickContext<'_>) -> Pick {
        let hash = self.any_of_all().and_then(|any| any.hash(context));
        let point = match hash {
            Some(hash) => Rng::stream(hash, DRAW).next_u64(),
            None => context.rng().next_u64(),
        };
        let drawn = self.rules.drawn(point);
        let first = drawn.and_then(|name| self.of(Some(name)));
        match first.map(|picker| picker.pick(context)) {
            Some(pick @ Pick::Endpoint(_)) => pick,
            _ => self.pick_in_place_of(drawn, context),
        }
    }

    #[cold]
    fn pick_in_place_of(&self, drawn: Option<&str>, context: &mut PickContext<'_>) -> Pick {
        let others = self.rules.drawable().filter(|name| Some(*name) != drawn);
        for picker in others.filter_map(|name| self.of(Some(name))) {
            if let pick @ Pick::Endpoint(_) = picker.pick(context) {
                return pick;
            }
        }
        self.pick_fallback(context)
    }

    fn any_of_all(&self) -> Option<&dyn Picker> {
        let any = self.any.as_ref().or_else(|| self.subsets.values().next());
        any.map(|picker| &**picker)
    }
}

/// Of the numbers that come of a call's hash: another one than draws its group.
const DRAW: u64 = 1;

impl Picker for Subsets {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        match self.rules.wanted_by(context.request()) {
            Some(name) => match self.of(Some(name)) {
                Some(picker) => picker.pick(context),
                None => self.pick_fallback(context),
            },
            None if self.rules.draws() => self.pick_drawn(context),
            None => self.pick_fallback(context),
        }
    }

    fn hash(&self, context: &mut PickContext<'_>) -> Option<u64> {
        self.any_of_all()?.hash(context)
    }

    fn covers(&self, request: &RequestInfo<'_>, candidate: &Candidate) -> bool {
        let own = self.rules.value_of(candidate.endpoint());
        match self.rules.wanted_by(request) {
            Some(wanted) if self.subsets.contains_key(wanted) => return own == Some(wanted),
            None if own.is_some_and(|own| self.rules.may_draw(own)) => return true,
            _ => {}
        }
        match self.rules.fallback() {
            SubsetFallback::Any => true,
            SubsetFallback::None => false,
            SubsetFallback::Subset(name) => own == Some(name),
        }
    }
}

impl fmt::Debug for Subsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subsets")
            .field("subsets", &self.subsets)
            .field("any", &self.any)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::policy::{Candidates, RoundRobin};

    fn group(candidates: Vec<Candidate>) -> Vec<Group> {
        vec![Group {
            key: 1,
            level: 0,
            share: 1.0,
            candidates: Candidates::new(candidates, false),
            ignores_ejections: false,
            halted: false,
        }]
    }

    /// Slots 0 and 1 are stable, slot 2 is the canary, and slot 3 says nothing.
    fn build(rules: MetadataSubsets) -> (Candidates, Arc<dyn Picker>) {
        let versions = [Some("stable"), Some("stable"), Some("canary"), None];
        let endpoints = versions.iter().zip(0..).map(|(version, n)| {
            let pairs = version.map(|version| ("version", version));
            Endpoint::new(format!("e{n}")).with_metadata(pairs)
        });
        let all = Candidates::connected(endpoints);
        let part = |subset: Option<&str>, slots: &[usize]| SubsetPlan {
            subset: subset.map(Into::into),
            groups: group(slots.iter().map(|slot| all.all()[*slot].clone()).collect()),
        };
        let mut parts = vec![part(Some("stable"), &[0, 1]), part(Some("canary"), &[2])];
        if *rules.fallback() == SubsetFallback::Any {
            parts.push(part(None, &[0, 1, 2, 3]));
        }
        let plan = Plan {
            rules: Some(Arc::new(rules)),
            parts,
        };
        let nobody = Groups::build(
            &RoundRobin::default(),
            Vec::new(),
            None,
            0,
            Moment::default(),
        );
        let picker = plan.build(&RoundRobin::default(), &*nobody, Moment::default());
        (all, picker)
    }

    /// How often each slot is picked by 1,000 calls to `path`, and which ones a last resort may take.
    fn counts(rules: MetadataSubsets, path: &str) -> ([usize; 4], [bool; 4]) {
        let (all, picker) = build(rules);
        let request = http::Request::builder().uri(path).body(()).expect("a path");
        let mut rng = Rng::new(3);
        let mut counts = [0; 4];
        for _ in 0..1_000 {
            let info = RequestInfo::http(&request);
            let mut context = PickContext::new(&mut rng).with_request(info);
            if let Pick::Endpoint(slot) = picker.pick(&mut context) {
                counts[slot] += 1;
                let covers = picker.covers(context.request(), &all.all()[slot]);
                assert!(covers, "what it picks it covers");
            }
        }
        let info = RequestInfo::http(&request);
        let covered = |slot: usize| picker.covers(&info, &all.all()[slot]);
        (counts, [0, 1, 2, 3].map(covered))
    }

    fn by_path() -> MetadataSubsets {
        MetadataSubsets::by("version")
            .from_path_prefix("/canary", "canary")
            .from_path_prefix("/stable", "stable")
            .from_path_prefix("/gone", "gone")
    }

    #[test]
    fn a_call_goes_to_the_subset_that_it_names() {
        for fallback in [SubsetFallback::Any, SubsetFallback::None] {
            let rules = || by_path().with_fallback(fallback.clone());
            let (counts_of, covered) = counts(rules(), "/canary/x");
            assert_eq!(counts_of, [0, 0, 1_000, 0]);
            assert_eq!(covered, [false, false, true, false]);
            assert_eq!(counts(rules(), "/stable").0, [500, 500, 0, 0]);
        }
    }

    #[test]
    fn what_names_no_subset_that_exists_falls_back() {
        for path in ["/gone", "/other"] {
            let any = counts(by_path(), path);
            assert_eq!(any, ([250; 4], [true; 4]), "{path} to any endpoint");
            let none = counts(by_path().with_fallback(SubsetFallback::None), path);
            assert_eq!(none, ([0; 4], [false; 4]), "{path} to none");
            let default = SubsetFallback::Subset("stable".into());
            let default = counts(by_path().with_fallback(default), path);
            let covered = [true, true, false, false];
            assert_eq!(
                default,
                ([500, 500, 0, 0], covered),
                "{path} to the default"
            );
        }
    }

    #[test]
    fn a_value_that_is_named_and_that_nobody_has_is_not_drawn() {
        let rules = by_path()
            .with_split([("stable", 1), ("canary", 1)])
            .with_fallback(SubsetFallback::None);
        assert_eq!(counts(rules, "/gone"), ([0; 4], [false; 4]));
    }

    #[test]
    fn others_stand_in_for_a_value_that_is_drawn_and_has_nobody_left() {
        let rules = MetadataSubsets::by("version")
            .with_split([("stable", 1), ("canary", 1)])
            .with_fallback(SubsetFallback::None);
        let (all, picker) = build(rules);
        let canary = &all.all()[2];
        canary.subchannel().disconnected(canary.connection());
        let mut rng = Rng::new(5);
        for _ in 0..100 {
            let pick = picker.pick(&mut PickContext::new(&mut rng));
            assert!(matches!(pick, Pick::Endpoint(0 | 1)), "{pick:?}");
        }
    }

    #[test]
    fn a_split_draws_what_names_nothing() {
        let rules = by_path()
            .with_split([("stable", 9), ("canary", 1)])
            .with_fallback(SubsetFallback::None);
        let ([a, b, canary, rest], covered) = counts(rules, "/other");
        assert_eq!((a.abs_diff(b) <= 1, rest), (true, 0));
        // Five times the standard deviation of a binomial.
        assert!(canary.abs_diff(100) < 48, "a tenth of 1,000, not {canary}");
        assert_eq!(covered, [true, true, true, false]);
    }
}
