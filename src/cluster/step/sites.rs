//! Which endpoints stand together: those of one priority, in one locality. Endpoints have a number here, so that
//! no name is compared when a snapshot is made.

use std::collections::HashMap;
use std::sync::Arc;

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
    subset: Option<Arc<str>>,
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

    /// The sites in parts: of all endpoints, and of each subset. Sites that differ only in what is no part of a
    /// [`Site`] are taken for one. In the order of subsets, then of priorities, then of localities.
    pub(super) fn parts(&self, of_all: bool, of_subsets: bool) -> Parts {
        let mut order: Vec<(&Key, usize)> =
            self.all.iter().enumerate().filter_map(by_key).collect();
        let mut parts = Vec::new();
        let mut seats = vec![[None; 2]; self.all.len()];
        order.sort_unstable_by_key(|(key, _)| (key.priority, &key.locality));
        if of_all {
            let mut sites = Vec::new();
            for &(key, number) in &order {
                seats[number][0] = Some((0, seat(&mut sites, key)));
            }
            parts.push((None, sites));
        }
        if of_subsets {
            // Keeps the order of what is equal.
            order.sort_by_key(|(key, _)| key.subset.as_ref());
            for (key, number) in order.into_iter().filter(|(key, _)| key.subset.is_some()) {
                if parts.last().is_none_or(|(subset, _)| *subset != key.subset) {
                    parts.push((key.subset.clone(), Vec::new()));
                }
                let part = parts.len() - 1;
                seats[number][1] = Some((part, seat(&mut parts[part].1, key)));
            }
        }
        Parts { parts, seats }
    }
}

/// What [`Sites::parts`] gives.
pub(super) struct Parts {
    /// Of which subset, or of all; and the sites.
    pub(super) parts: Vec<(Option<Arc<str>>, Vec<Site>)>,
    /// Of each number: in which part its site is, and at which place.
    pub(super) seats: Vec<[Option<(usize, usize)>; 2]>,
}

/// The place of the key's site, which is the last one or a new one.
fn seat(sites: &mut Vec<Site>, key: &Key) -> usize {
    let same = sites
        .last_mut()
        .filter(|site| site.priority == key.priority && site.state.locality == key.locality);
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
    sites.len() - 1
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
        let light = sites.join(&weighted(1), Some("x"));
        let heavy = sites.join(&weighted(3), Some("y"));
        let plain = sites.join(&endpoint(0, "r/a"), Some("x"));
        let Parts { parts, seats } = sites.parts(true, true);
        let seen: Vec<_> = parts
            .iter()
            .map(|(subset, sites)| {
                let sites = sites.iter().map(|s| (s.priority, s.state.weight));
                (subset.as_deref(), sites.collect::<Vec<_>>())
            })
            .collect();
        let wanted = [
            (None, vec![(0, Some(3)), (1, None)]),
            (Some("x"), vec![(0, Some(1))]),
            (Some("y"), vec![(0, Some(3))]),
        ];
        assert_eq!(seen, wanted, "the greatest weight counts");
        let seat = |number: u32| seats[number as usize];
        assert_eq!(seat(late), [Some((0, 1)), None], "in no subset");
        assert_eq!(seat(light), [Some((0, 0)), Some((1, 0))]);
        assert_eq!(seat(plain), seat(light), "one site but for its weight");
        assert_eq!(seat(heavy), [Some((0, 0)), Some((2, 0))]);
        let only_subsets = sites.parts(false, true);
        assert_eq!(only_subsets.seats[late as usize], [None, None]);
    }
}
