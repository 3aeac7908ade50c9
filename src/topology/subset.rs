use xxhash_rust::xxh64::xxh64;

use crate::endpoint::Endpoint;
use crate::error::Error;

/// A random subset of the endpoints, the same for as long as the client lives.
///
/// With thousands of clients and servers, every client connected to every server is a connection for
/// each pair, most of them idle, and a health check or a probe on each. A subset bounds that: each
/// client takes the `size` endpoints whose addresses hash lowest under its own seed. Another endpoint
/// changes one place at most, and the order in which a source names them changes nothing.
///
/// The price is evenness between servers: with many clients a server gets a binomial share of them. Of
/// 100 clients that take 5 of 100 servers each, the fullest server sees 10 to 15, where 5 is the mean.
/// And a policy can only choose within the subset, so keep it above what a client needs when several of
/// its endpoints are down; 20 and more is usual. An endpoint that is not in the subset is not dialled,
/// and a report only names it. A policy that hashes would map a key to another endpoint in each client:
/// leave the subset off there.
///
/// gRFC A68 (`random_subsetting`): XXH64 of the address, seeded once for each client.
///
/// ```
/// use evenkeel::Endpoint;
/// use evenkeel::topology::RandomSubset;
///
/// let subset = RandomSubset::new(20)?;
/// let all: Vec<Endpoint> = (0..1_000).map(|n| format!("http://10.0.{}.{}:1", n / 250, n % 250).into()).collect();
/// assert_eq!(subset.of(all, 7).len(), 20);
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RandomSubset {
    size: usize,
}

impl RandomSubset {
    /// Subsets of `size` endpoints, at least 1; all of them, if there are no more than that.
    ///
    /// # Errors
    /// A size of 0.
    pub fn new(size: usize) -> Result<Self, Error> {
        if size == 0 {
            return Err(Error::config("subset", "the size is 0; the least is 1"));
        }
        Ok(Self { size })
    }

    /// How many endpoints a client uses at most.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The subset of `endpoints` for the client with this seed, in the order given. Takes time in the
    /// number of endpoints.
    pub fn of(&self, endpoints: Vec<Endpoint>, seed: u64) -> Vec<Endpoint> {
        self.split(endpoints, seed).0
    }

    /// The subset, and what is not in it.
    pub(crate) fn split(
        &self,
        endpoints: Vec<Endpoint>,
        seed: u64,
    ) -> (Vec<Endpoint>, Vec<Endpoint>) {
        if endpoints.len() <= self.size {
            return (endpoints, Vec::new());
        }
        // By id where addresses, and so hashes, are equal: the order given must not matter.
        let mut order: Vec<(u64, usize)> = endpoints
            .iter()
            .enumerate()
            .map(|(place, endpoint)| (xxh64(endpoint.address().as_bytes(), seed), place))
            .collect();
        let (_, last, _) = order.select_nth_unstable_by(self.size - 1, |a, b| {
            let id = |place: usize| endpoints[place].id();
            a.0.cmp(&b.0).then_with(|| id(a.1).cmp(id(b.1)))
        });
        let last = (last.0, endpoints[last.1].id().clone());
        let (mut used, mut left_out): (Vec<_>, Vec<_>) =
            endpoints.into_iter().partition(|endpoint| {
                let hash = xxh64(endpoint.address().as_bytes(), seed);
                (hash, endpoint.id()) <= (last.0, &last.1)
            });
        // Only endpoints that are named twice are equal in both.
        left_out.extend(used.drain(self.size..));
        (used, left_out)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn endpoints(count: usize) -> Vec<Endpoint> {
        (0..count)
            .map(|n| Endpoint::new(format!("10.0.{}.{}:443", n / 250, n % 250)))
            .collect()
    }

    fn ids(endpoints: &[Endpoint]) -> HashSet<String> {
        endpoints.iter().map(|e| e.id().to_string()).collect()
    }

    #[test]
    fn a_hundred_clients_with_5_of_100_servers_put_at_most_15_on_one() {
        let subset = RandomSubset::new(5).unwrap();
        // The bound of the specification holds for its seeds; so for ours, tried in tens.
        for round in 0..10 {
            let mut connections: HashMap<String, usize> = HashMap::new();
            for client in 0..100 {
                let chosen = subset.of(endpoints(100), round * 1_000 + client);
                assert_eq!(chosen.len(), 5, "each client has as many as it asked for");
                for id in ids(&chosen) {
                    *connections.entry(id).or_default() += 1;
                }
            }
            let most = connections.values().max().copied().unwrap_or(0);
            assert!(most <= 15, "{most} connections on one server");
        }
    }

    #[test]
    fn the_order_of_the_source_does_not_matter() {
        let subset = RandomSubset::new(7).unwrap();
        let mut all = endpoints(300);
        let one = ids(&subset.of(all.clone(), 5));
        all.reverse();
        assert_eq!(ids(&subset.of(all.clone(), 5)), one);
        all.rotate_left(101);
        assert_eq!(ids(&subset.of(all, 5)), one);
    }

    #[test]
    fn one_that_leaves_or_comes_changes_one_place_at_most() {
        let subset = RandomSubset::new(10).unwrap();
        let all = endpoints(200);
        let before = ids(&subset.of(all.clone(), 9));
        for gone in 0..all.len() {
            let mut rest = all.clone();
            let left = rest.remove(gone).id().to_string();
            let after = ids(&subset.of(rest, 9));
            let kept = before.intersection(&after).count();
            let expected = if before.contains(&left) { 9 } else { 10 };
            assert_eq!(kept, expected, "the others stay");
        }
    }

    #[test]
    fn equal_addresses_and_names_given_twice_are_no_trouble() {
        let subset = RandomSubset::new(3).unwrap();
        let same = |id: usize| Endpoint::new("10.0.0.1:1").with_id(id.to_string());
        let all: Vec<Endpoint> = (0..9).map(same).collect();
        let mut reversed = all.clone();
        reversed.reverse();
        let chosen = ids(&subset.of(all, 1));
        assert_eq!(chosen.len(), 3);
        assert_eq!(ids(&subset.of(reversed, 1)), chosen);
        let twice = vec![same(1), same(1), same(1), same(1), same(2)];
        assert_eq!(subset.of(twice, 1).len(), 3);
    }

    #[test]
    fn no_more_than_asked_for_are_all_of_them_and_none_is_refused() {
        assert_eq!(RandomSubset::new(9).unwrap().of(endpoints(9), 1).len(), 9);
        let error = RandomSubset::new(0).unwrap_err();
        assert_eq!(error.field(), Some("subset"), "{error}");
    }
}
