//! Which endpoints stand together: those of one priority, in one locality. Endpoints have a number here, so that
//! no name is compared when a snapshot is made.

use std::collections::{BTreeSet, HashMap};

use crate::endpoint::{Endpoint, Locality, LocalityWeight};
use crate::topology::{LocalityState, Site};

#[derive(Debug, Default)]
pub(super) struct Sites {
    numbers: HashMap<Key, u32>,
    all: Vec<Option<(Key, usize)>>,
    free: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    priority: u32,
    locality: Locality,
    weight: Option<u32>,
    /// The value of the metadata by which endpoints are told apart.
    subset: Option<Box<str>>,
}

impl Sites {
    /// The number of the endpoint's site, which has one member more.
    pub(super) fn join(&mut self, endpoint: &Endpoint, subset: Option<&str>) -> u32 {
        let key = Key {
            priority: endpoint.priority(),
            locality: endpoint.locality().clone(),
            weight: endpoint.get::<LocalityWeight>().map(|weight| weight.0),
            subset: subset.map(Into::into),
        };
        if let Some(&number) = self.numbers.get(&key) {
            if let Some(Some((_, members))) = self.all.get_mut(number as usize) {
                *members += 1;
            }
            return number;
        }
        let site = Some((key.clone(), 1));
        let number = match self.free.pop() {
            Some(number) => {
                self.all[number as usize] = site;
                number
            }
            None => {
                self.all.push(site);
                u32::try_from(self.all.len() - 1).expect("fewer than 2^32 sites")
            }
        };
        self.numbers.insert(key, number);
        number
    }

    /// One of the members of the site has left.
    pub(super) fn leave(&mut self, number: u32) {
        let Some(site) = self.all.get_mut(number as usize) else {
            return;
        };
        let Some((key, members)) = site else {
            return;
        };
        *members -= 1;
        if *members == 0 {
            self.numbers.remove(key);
            *site = None;
            self.free.push(number);
        }
    }

    /// Whether there is one priority at most, and so nothing to tell apart but localities.
    pub(super) fn has_one_priority(&self) -> bool {
        let mut priorities = self.numbers.keys().map(|key| key.priority);
        let first = priorities.next();
        priorities.all(|priority| Some(priority) == first)
    }

    /// As many numbers as there are, those that stand for nothing among them.
    pub(super) fn numbers(&self) -> usize {
        self.all.len()
    }

    /// The subsets that there are, in order.
    pub(super) fn subsets(&self) -> BTreeSet<&str> {
        let keys = self.numbers.keys();
        keys.filter_map(|key| key.subset.as_deref()).collect()
    }

    /// The sites of a subset, or of all; those that differ only in what is no part of a [`Site`] are taken for one.
    /// And for each number the place of its site among them. In the order of priorities, then of localities.
    pub(super) fn merged(&self, subset: Option<&str>) -> (Vec<Site>, Vec<Option<usize>>) {
        let in_subset = |key: &Key| subset.is_none() || key.subset.as_deref() == subset;
        let all = self.all.iter().enumerate().filter_map(by_key);
        let mut order: Vec<(&Key, usize)> = all.filter(|(key, _)| in_subset(key)).collect();
        order.sort_unstable_by(|(a, _), (b, _)| {
            (a.priority, &a.locality).cmp(&(b.priority, &b.locality))
        });
        let mut sites: Vec<Site> = Vec::with_capacity(order.len());
        let mut places = vec![None; self.all.len()];
        for (key, number) in order {
            let same = sites.last_mut().filter(|site| {
                site.priority == key.priority && site.state.locality == key.locality
            });
            match same {
                Some(site) => site.state.weight = site.state.weight.max(key.weight),
                None => sites.push(Site {
                    priority: key.priority,
                    state: LocalityState {
                        locality: key.locality.clone(),
                        weight: key.weight,
                        availability: Default::default(),
                    },
                }),
            }
            places[number] = Some(sites.len() - 1);
        }
        (sites, places)
    }
}

fn by_key((number, site): (usize, &Option<(Key, usize)>)) -> Option<(&Key, usize)> {
    site.as_ref().map(|(key, _)| (key, number))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(priority: u32, locality: &str) -> Endpoint {
        let locality = locality.parse().expect(locality);
        Endpoint::new("a:1")
            .with_priority(priority)
            .with_locality(locality)
    }

    #[test]
    fn numbers_are_kept_while_there_are_members_and_used_again() {
        let mut sites = Sites::default();
        let (a, b) = (endpoint(0, "r/a"), endpoint(1, "r/b"));
        let first = sites.join(&a, None);
        assert_eq!(sites.join(&a, None), first, "the same site");
        let second = sites.join(&b, None);
        assert_ne!(first, second);
        sites.leave(first);
        assert_eq!(
            sites.join(&a, None),
            first,
            "one member is left, and so is the number"
        );
        sites.leave(first);
        sites.leave(first);
        assert!(sites.has_one_priority());
        assert_eq!(
            sites.join(&endpoint(2, "q"), None),
            first,
            "what is free is used again"
        );
        assert!(!sites.has_one_priority());
    }

    #[test]
    fn sites_are_in_order_and_weights_are_merged() {
        let mut sites = Sites::default();
        let weighted = |weight| endpoint(0, "r/a").with(LocalityWeight(weight));
        let late = sites.join(&endpoint(1, "r/a"), None);
        let light = sites.join(&weighted(1), None);
        let heavy = sites.join(&weighted(3), None);
        let plain = sites.join(&endpoint(0, "r/a"), None);
        let (merged, places) = sites.merged(None);
        let seen: Vec<_> = merged
            .iter()
            .map(|s| (s.priority, s.state.weight))
            .collect();
        assert_eq!(
            seen,
            [(0, Some(3)), (1, None)],
            "the greatest weight counts"
        );
        let place = |number: u32| places[number as usize];
        assert_eq!(
            [place(light), place(heavy), place(plain), place(late)],
            [Some(0), Some(0), Some(0), Some(1)]
        );
    }
}
