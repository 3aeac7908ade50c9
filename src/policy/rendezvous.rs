use crate::math::RendezvousTable;
use crate::policy::hashing::{Hashing, Shape, hashing_policy};

/// Calls with the same hash go to the same endpoint, and nothing moves that need not: rendezvous
/// hashing, also called highest random weight.
///
/// For each hash every endpoint has a draw, a number from its own key and the hash; the best draw that
/// can be used gets the call. An endpoint that goes, or is lost, leaves each of its calls to the
/// second best of that call, so they spread over all others, by their weights. One that comes takes from
/// each of the others the same part. A weight that changes moves calls only to or from that endpoint.
///
/// What is hashed of a call: [`with_sources`](Self::with_sources). What is hashed of an endpoint:
/// `host:port` of its address, or its [`EndpointHashKey`](crate::policy::EndpointHashKey).
///
/// # Cost
///
/// | | |
/// |---|---|
/// | pick | O(n): a draw for each endpoint, about 2 ns (3 if weights differ); only about ln(n) endpoints themselves are looked at |
/// | build | O(n · log(n)), when an endpoint comes, goes or changes its weight; O(n) and no hashing when one merely connects, is lost, is ejected or comes back |
/// | memory | 12 bytes per endpoint, 20 if weights differ |
///
/// **Wins** up to about a hundred endpoints: shares are exactly those of the weights, whatever the number of
/// endpoints, nothing is built that would have to be kept, and a change moves the least that is possible.
/// **Loses** with thousands of endpoints, where a pick takes microseconds:
/// [`Maglev`](crate::policy::Maglev) is O(1).
///
/// # Source
///
/// Thaler and Ravishankar, *Using Name-Based Mappings to Increase Hit Rates*, IEEE/ACM Transactions on
/// Networking 1998; weights by the logarithmic method of Schindelhauer and Schomaker, *Weighted
/// Distributed Hash Tables*, SPAA 2005. Neither gRPC nor Envoy has it: the draws are our own, XXH64 of the
/// key XOR the hash, mixed by SplitMix64.
///
/// ```
/// use evenkeel::math::Rng;
/// use evenkeel::call::RequestInfo;
/// use evenkeel::policy::{Candidates, PickContext, Policy, Rendezvous};
///
/// let candidates = Candidates::connected(["a:1", "b:1", "c:1"]);
/// let picker = Rendezvous::default().build(&candidates, None);
/// let mut rng = Rng::new(7);
/// let mut pick = |user| {
///     let request = RequestInfo::new().with_hash_key(user);
///     picker.pick(&mut PickContext::new(&mut rng).with_request(request))
/// };
/// assert_eq!(pick(1), pick(1));
/// ```
#[derive(Debug, Clone)]
pub struct Rendezvous {
    hashing: Hashing<Draws>,
}

impl Default for Rendezvous {
    fn default() -> Self {
        Self {
            hashing: Hashing::new(Draws),
        }
    }
}

hashing_policy!(Rendezvous, "rendezvous", sources);

#[derive(Debug, Clone, PartialEq)]
struct Draws;

impl Shape for Draws {
    type Table = RendezvousTable;

    fn table<'k>(&self, keys: impl Iterator<Item = (&'k str, u32)> + Clone) -> RendezvousTable {
        RendezvousTable::new(keys)
    }
}
