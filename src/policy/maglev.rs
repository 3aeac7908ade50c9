use crate::error::Error;
use crate::math::MaglevTable;
use crate::math::maglev::is_prime;
use crate::policy::hashing::{Hashing, Shape, hashing_policy};

/// Envoy, and the "small" table of the paper.
const TABLE_SIZE: u32 = 65_537;
/// Envoy's limit.
const MAX_TABLE_SIZE: u32 = 5_000_011;

/// Calls with the same hash go to the same endpoint, by one look into a table that Envoy would build
/// just so.
///
/// Each endpoint has slots in the table by its weight, to within one or two; a call goes to the owner of
/// slot `hash % size`. An endpoint that is lost keeps its slots, so only *its* calls move, and all
/// come back with it: such a call tries up to 15 other slots, drawn from its hash, and then goes from its
/// own slot on to the next that has a usable owner. Each hash has an order of its own, so the
/// calls of one endpoint spread over all others, by their weights. (Envoy takes a lost endpoint out of
/// the table, and some calls of the others move too.)
///
/// What is hashed of a call: [`with_sources`](Self::with_sources). What is hashed of an endpoint:
/// `host:port` of its address, or its [`EndpointHashKey`](crate::policy::EndpointHashKey).
///
/// # Cost
///
/// | | |
/// |---|---|
/// | pick | O(1): a remainder and two look-ups |
/// | build | O(size · log(size)), 1 to 2 ms at 65,537 slots, somewhat more if weights differ, when an endpoint comes, goes or changes its weight; O(n) and no hashing when one merely connects, is lost, is ejected or comes back |
/// | memory | 2 bytes per slot, 128 KiB by default (4 beyond 65,536 endpoints), plus 4 bytes per endpoint |
///
/// **Wins** where shares must be even and picks quick: the fullest of 1,000 endpoints has 1 % more
/// slots than the mean, while on a [ring of gRPC's size](crate::policy::RingHash) it has four times the
/// mean.
/// **Loses** where as little as possible may move: an endpoint that *leaves the set* takes some calls of
/// the others with it, 0.2 % of all calls with 10 endpoints and 0.6 % with 100 in the default table, less
/// in a larger one; [`Rendezvous`](crate::policy::Rendezvous) moves none. It needs many more slots than
/// endpoints, 100 times at least by the paper; with more endpoints than slots some have none, and
/// get calls only if nothing else is left.
///
/// # Source
///
/// Eisenbud et al., *Maglev: A Fast and Reliable Software Network Load Balancer*, NSDI 2016; Envoy's `MAGLEV`
/// for hashes, sizes, the order of endpoints and weights.
///
/// ```
/// use evenkeel::math::Rng;
/// use evenkeel::call::RequestInfo;
/// use evenkeel::policy::{Candidates, HashSource, Maglev, PickContext, Policy};
///
/// let policy = Maglev::default().with_sources([HashSource::path()]);
/// let candidates = Candidates::connected(["a:1", "b:1", "c:1"]);
/// let picker = policy.build(&candidates, None);
/// let mut rng = Rng::new(7);
/// let request = http::Request::get("/shop.Cart/Show").body(()).unwrap();
/// let mut pick = || {
///     let request = RequestInfo::http(&request);
///     picker.pick(&mut PickContext::new(&mut rng).with_request(request))
/// };
/// assert_eq!(pick(), pick());
/// ```
#[derive(Debug, Clone)]
pub struct Maglev {
    hashing: Hashing<Size>,
}

impl Default for Maglev {
    fn default() -> Self {
        Self {
            hashing: Hashing::new(Size(TABLE_SIZE)),
        }
    }
}

impl Maglev {
    /// Sets the number of slots; default 65,537. Larger is more even, moves less, and takes longer to
    /// build.
    ///
    /// # Errors
    ///
    /// It is not prime, or over 5,000,011, the limit of Envoy.
    pub fn with_table_size(mut self, size: u32) -> Result<Self, Error> {
        if size > MAX_TABLE_SIZE {
            let message = format!("{size} is over {MAX_TABLE_SIZE}");
            return Err(Error::config("table_size", message));
        }
        if !is_prime(size) {
            return Err(Error::config("table_size", format!("{size} is not prime")));
        }
        self.hashing.shape = Size(size);
        Ok(self)
    }
}

hashing_policy!(Maglev, "maglev", sources);

#[derive(Debug, Clone, PartialEq)]
struct Size(u32);

impl Shape for Size {
    type Table = MaglevTable;

    fn table<'k>(&self, keys: impl Iterator<Item = (&'k str, u32)> + Clone) -> MaglevTable {
        MaglevTable::new(keys, self.0).expect("only primes are set")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::policy::testing::pick_by;
    use crate::policy::{Candidates, EndpointHashKey, Policy};

    fn ports(policy: &Maglev, set: &Candidates, slots: u64) -> Vec<usize> {
        let picker = policy.build(set, None);
        (0..slots).map(|hash| pick_by(&*picker, hash)).collect()
    }

    #[test]
    fn hashes_go_where_envoy_sends_them() {
        let policy = Maglev::default().with_table_size(7).unwrap();
        let endpoint = |port: u32| Endpoint::new(format!("http://127.0.0.1:{port}"));
        let set = Candidates::connected((90..96).map(endpoint));
        assert_eq!(ports(&policy, &set, 8), [2, 4, 0, 1, 5, 0, 3, 2]);
        let backwards = Candidates::connected((90..96).rev().map(endpoint));
        assert_eq!(ports(&policy, &backwards, 7), [3, 1, 5, 4, 0, 5, 2]);
        let named = |port: u32| endpoint(port).with(EndpointHashKey::from(port.to_string()));
        let set = Candidates::connected((90..96).map(named));
        assert_eq!(ports(&policy, &set, 7), [2, 5, 0, 3, 4, 1, 0], "by name");
        let set = Candidates::connected([endpoint(90), endpoint(91).with_weight(2)]);
        let policy = policy.with_table_size(17).unwrap();
        assert_eq!(
            ports(&policy, &set, 17),
            [1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 1, 1, 0, 1, 0, 1],
            "by weight"
        );
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for bad in [0, 1, 8, 65_536, 5_000_021, u32::MAX] {
            let error = Maglev::default().with_table_size(bad).unwrap_err();
            assert_eq!(error.field(), Some("table_size"), "{error}");
        }
        assert!(Maglev::default().with_table_size(5_000_011).is_ok());
    }

    #[test]
    fn an_endpoint_without_a_slot_is_found_when_nothing_else_is_left() {
        let policy = Maglev::default().with_table_size(2).unwrap();
        let set = Candidates::connected(["a", "b", "c"]);
        let picked = ports(&policy, &set, 100);
        let without = (0..3).find(|slot| !picked.contains(slot)).expect("2 slots");
        for candidate in set.all().iter().filter(|c| c.slot() != without) {
            candidate.subchannel().disconnected(candidate.connection());
        }
        assert_eq!(ports(&policy, &set, 3), [without; 3]);
    }
}
