use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use xxhash_rust::xxh64::xxh64;

use crate::call::RequestInfo;
use crate::error::Error;
use crate::math::Ring;
use crate::policy::draw::draw;
use crate::policy::{Candidate, Candidates, Pick, PickContext, Picker, Policy, forwarded};

/// nginx (`hash … consistent`) and ketama.
const PLACES_PER_WEIGHT: u32 = 160;
const MAX_PLACES: u32 = 1 << 18;
/// The largest ring of gRFC A42 and of Envoy.
const MAX_MAX_PLACES: u32 = 8 << 20;

/// The same caller IP, the same endpoint, for as long as that one can be used.
///
/// Endpoints have places on a hash ring; a caller's address has one too and goes to the next endpoint
/// from there on that can be used. When an endpoint is lost, *its* callers go on to the next ones round
/// the ring, each to another; nobody else moves; when it is back, so are they. All clients with the
/// same set of endpoints agree, in whatever order they learned of them.
///
/// # Where the address comes from
///
/// The first of these that there is:
///
/// 1. the extension [`HashKey`](crate::call::HashKey), or
///    [`RequestInfo::with_hash_key`]: hashed in place of an address;
/// 2. the extension [`SourceIp`](crate::call::SourceIp), or [`RequestInfo::with_source_ip`];
/// 3. the header `Forwarded` (RFC 7239; only its `for`);
/// 4. the header `X-Forwarded-For`.
///
/// [`from_fn`](Self::from_fn) puts a function in place of 2 to 4. Of the headers, the *last* address is
/// the one: it was written by the proxy that is next to this client (or by this client itself), and
/// what stands left of it may be forged. With trusted proxies behind one another, say how many to pass
/// over: see [`with_trusted_hops`](Self::with_trusted_hops). Several lines of a header are one list;
/// addresses may have ports; at most 4 KiB are looked at, from the right. An IPv4 address mapped to
/// IPv6 (`::ffff:192.0.2.1`) is the IPv4 address.
///
/// A call without an address (none there, `unknown`, an obfuscated `_name`, fewer hops than are
/// trusted, not an address at all) goes to a random endpoint.
///
/// # Cost
///
/// | | |
/// |---|---|
/// | pick | O(log n): a hash and a binary search; a step along the ring for each place of a lost endpoint. Reading headers adds to it, linear in the part read |
/// | build | O(n log n), about 20 µs per endpoint and unit of weight, when an endpoint comes, goes or changes its weight; O(n) and no hashing when one merely connects, is lost, is ejected or comes back |
/// | memory | 1,920 bytes per endpoint and unit of weight, at most 3 MiB, plus 4 bytes per endpoint |
///
/// **Wins** where the server keeps something per caller (a cache, a session) and callers are many.
/// **Loses** where callers are few or differ in volume, or come from behind one address: load follows
/// the callers, not the servers. Shares are as even as the ring: an endpoint's share of the callers
/// has a standard deviation of about 1/√160 = 8 %. The fullest of 3 endpoints has about 1.06 times the
/// mean, of 10 1.12, of 100 1.2; the tests allow 1.2, 1.27 and 1.36.
///
/// # Source
///
/// The ring is that of gRFC A42 and Envoy (XXH64 of `id_0`, `id_1`, …) but for its size. They fix the size
/// of the whole (at least 1,024 places, at most 4,096 in gRPC), so that with every endpoint that comes or
/// goes all others get fewer or more places and some of *their* callers move too; and of 100
/// endpoints each has 11 places, the fullest twice the mean. Here each endpoint has 160 places per unit of
/// weight, as in nginx and ketama. Only beyond 2^18 places (a total weight of 1,638) does the whole
/// have a fixed size. Both are [settings](Self::with_places).
///
/// ```
/// use evenkeel::call::RequestInfo;
/// use evenkeel::math::Rng;
/// use evenkeel::policy::{Candidates, IpHash, PickContext, Policy};
///
/// let candidates = Candidates::connected(["a:1", "b:1", "c:1"]);
/// let picker = IpHash::default().build(&candidates, None);
/// let mut rng = Rng::new(7);
/// let mut pick = |ip: &str| {
///     let request = RequestInfo::new().with_source_ip(ip.parse().unwrap());
///     picker.pick(&mut PickContext::new(&mut rng).with_request(request))
/// };
/// assert_eq!(pick("192.0.2.1"), pick("192.0.2.1"));
/// assert_eq!(pick("192.0.2.1"), pick("::ffff:192.0.2.1"));
/// ```
#[derive(Debug, Clone)]
pub struct IpHash {
    places_per_weight: u32,
    max_places: u32,
    source: Source,
}

impl Default for IpHash {
    fn default() -> Self {
        Self {
            places_per_weight: PLACES_PER_WEIGHT,
            max_places: MAX_PLACES,
            source: Source::Request { trusted_hops: 0 },
        }
    }
}

impl IpHash {
    /// Takes the caller's address from `read` alone, and goes to a random endpoint where it says
    /// `None`. A [`HashKey`](crate::call::HashKey) still comes first.
    ///
    /// `read` runs on each pick: it must not block or panic.
    ///
    /// ```
    /// use evenkeel::policy::IpHash;
    ///
    /// let by_real_ip = IpHash::from_fn(|request| {
    ///     request.headers()?.get("x-real-ip")?.to_str().ok()?.parse().ok()
    /// });
    /// ```
    pub fn from_fn(
        read: impl Fn(&RequestInfo<'_>) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        Self {
            source: Source::Function(Arc::new(read)),
            ..Self::default()
        }
    }

    /// How many addresses to pass over from the right of `Forwarded` and `X-Forwarded-For`, because they
    /// are those of trusted proxies; default 0, the last address. Without effect after
    /// [`from_fn`](Self::from_fn).
    ///
    /// This is Envoy's `xff_num_trusted_hops` with `use_remote_address: false`: N names the (N+1)th
    /// address from the right. nginx finds the same one with `real_ip_recursive on` and its own list
    /// of N trusted proxies. With fewer addresses than that there is none.
    ///
    /// A caller at 192.0.2.1 comes through an edge proxy at 10.0.0.1 and an inner one at 10.0.0.2,
    /// each of which appends its peer; the caller made up the first entry:
    ///
    /// ```text
    /// x-forwarded-for: 1.2.3.4, 192.0.2.1, 10.0.0.1
    ///                                      0 hops: 10.0.0.1, all callers alike
    ///                           1 hop: 192.0.2.1, the caller
    ///                  2 hops: 1.2.3.4, what the caller would like us to believe
    /// ```
    #[must_use]
    pub fn with_trusted_hops(mut self, hops: u32) -> Self {
        if let Source::Request { trusted_hops } = &mut self.source {
            *trusted_hops = hops;
        }
        self
    }

    /// The places on the ring: how many per unit of weight (default 160, as in nginx and ketama), and
    /// how many in all at most (default 2^18). 12 bytes each.
    ///
    /// More places make shares more even (their standard deviation is about `1 / sqrt(places)`) and
    /// builds slower. Where the maximum would be exceeded, all get fewer in proportion, at least 1;
    /// then callers of other endpoints move too when one comes or goes.
    ///
    /// # Errors
    ///
    /// Either is 0, or `max` is over 8,388,608, the limit of gRFC A42 and Envoy.
    pub fn with_places(mut self, per_weight: u32, max: u32) -> Result<Self, Error> {
        if per_weight == 0 {
            return Err(Error::config("places", "0 per unit of weight"));
        }
        if !(1..=MAX_MAX_PLACES).contains(&max) {
            return Err(Error::config(
                "places",
                format!("a maximum of {max} is not between 1 and {MAX_MAX_PLACES}"),
            ));
        }
        self.places_per_weight = per_weight;
        self.max_places = max;
        Ok(self)
    }

    fn ring(&self, all: &[Candidate], order: &[u32]) -> Ring {
        let key = |&index: &u32| {
            let endpoint = all[index as usize].endpoint();
            (endpoint.id().as_str(), endpoint.weight())
        };
        let total: u64 = order.iter().map(|i| u64::from(key(i).1.max(1))).sum();
        // A ring of at least this many places has exactly so many per unit of weight.
        let min = total.saturating_mul(u64::from(self.places_per_weight));
        let min = u32::try_from(min).unwrap_or(u32::MAX).min(self.max_places);
        Ring::new(order.iter().map(key), min, self.max_places)
    }
}

impl Policy for IpHash {
    fn name(&self) -> &'static str {
        "ip_hash"
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let places = (self.places_per_weight, self.max_places);
        let previous = previous
            .and_then(|picker| picker.downcast_ref::<IpHashPicker>())
            .filter(|picker| picker.places == places);
        let all = candidates.all();
        let (ring, order) = match previous {
            Some(previous) if same(all.iter(), previous.candidates.all().iter()) => {
                (previous.ring.clone(), previous.order.clone())
            }
            _ => {
                let order = by_id(all);
                let ring = previous
                    .filter(|previous| same(sorted(all, &order), previous.sorted()))
                    .map_or_else(|| Arc::new(self.ring(all, &order)), |p| p.ring.clone());
                (ring, order)
            }
        };
        Arc::new(IpHashPicker {
            candidates: candidates.clone(),
            ring,
            order,
            places,
            source: self.source.clone(),
        })
    }
}

/// The indices of the candidates in the order of their ids, so that the order in which a client
/// learned of them does not matter.
fn by_id(all: &[Candidate]) -> Arc<[u32]> {
    let mut order: Vec<u32> = (0..).take(all.len()).collect();
    order.sort_unstable_by_key(|&index| {
        let endpoint = all[index as usize].endpoint();
        (endpoint.id(), endpoint.weight(), index)
    });
    order.into()
}

fn sorted<'c>(
    all: &'c [Candidate],
    order: &'c [u32],
) -> impl ExactSizeIterator<Item = &'c Candidate> {
    order.iter().map(|&index| &all[index as usize])
}

/// Whether both give the same ids with the same weights.
fn same<'c>(
    a: impl ExactSizeIterator<Item = &'c Candidate>,
    b: impl ExactSizeIterator<Item = &'c Candidate>,
) -> bool {
    a.len() == b.len()
        && a.zip(b).all(|(a, b)| {
            let (a, b) = (a.endpoint(), b.endpoint());
            a.ptr_eq(b) || (a.id() == b.id() && a.weight() == b.weight())
        })
}

type ReadIp = dyn Fn(&RequestInfo<'_>) -> Option<IpAddr> + Send + Sync;

#[derive(Clone)]
enum Source {
    Request { trusted_hops: u32 },
    Function(Arc<ReadIp>),
}

impl Source {
    fn ip(&self, request: &RequestInfo<'_>) -> Option<IpAddr> {
        match self {
            Self::Request { trusted_hops } => request
                .source_ip()
                .or_else(|| forwarded::caller(request.headers()?, *trusted_hops)),
            Self::Function(read) => read(request),
        }
    }

    fn hash(&self, request: &RequestInfo<'_>) -> Option<u64> {
        // Also a key is hashed: numbers in a row must not fall on one place of the ring.
        if let Some(key) = request.hash_key() {
            return Some(xxh64(&key.to_le_bytes(), 0));
        }
        Some(match self.ip(request)?.to_canonical() {
            IpAddr::V4(ip) => xxh64(&ip.octets(), 0),
            IpAddr::V6(ip) => xxh64(&ip.octets(), 0),
        })
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request { trusted_hops } => f
                .debug_struct("Request")
                .field("trusted_hops", trusted_hops)
                .finish(),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

struct IpHashPicker {
    candidates: Candidates,
    ring: Arc<Ring>,
    /// From the ring's numbers to places in `candidates.all()`.
    order: Arc<[u32]>,
    places: (u32, u32),
    source: Source,
}

/// Steps along the ring before it is asked whether there is anything to be found: one full round of a
/// large ring would take a call without any usable endpoint a millisecond.
const STEPS: usize = 64;

impl IpHashPicker {
    fn sorted(&self) -> impl ExactSizeIterator<Item = &Candidate> {
        sorted(self.candidates.all(), &self.order)
    }

    fn find(&self, hash: u64, context: &PickContext<'_>) -> Option<&Candidate> {
        let all = self.candidates.all();
        let mut walk = self
            .ring
            .walk(hash)
            .map(|number| &all[self.order[number] as usize]);
        let usable = |candidate: &&Candidate| context.is_usable(candidate);
        if let Some(near) = walk.by_ref().take(STEPS).find(usable) {
            return Some(near);
        }
        all.iter().find(usable)?;
        walk.find(usable)
    }
}

impl Picker for IpHashPicker {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let hash = context
            .hash()
            .or_else(|| self.source.hash(context.request()));
        let picked = match hash {
            // Kept for the call's next try, which need not read the request again.
            Some(hash) => self.find(context.hash_with(|_| hash), context),
            None => draw(self.candidates.usable(), context),
        };
        picked.map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

impl fmt::Debug for IpHashPicker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The ring itself is thousands of numbers.
        f.debug_struct("IpHashPicker")
            .field("candidates", &self.candidates)
            .field("places", &self.ring.len())
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;

    fn ring(picker: &dyn Picker) -> &Arc<Ring> {
        &picker.downcast_ref::<IpHashPicker>().unwrap().ring
    }

    #[test]
    fn the_ring_is_built_anew_only_for_another_set() {
        let policy = IpHash::default();
        let set = Candidates::connected(["a", "b", "c"]);
        let first = policy.build(&set, None);
        let reused = |set: &Candidates| {
            let next = policy.build(set, Some(&*first));
            Arc::ptr_eq(ring(&*first), ring(&*next))
        };
        set.all()[1].subchannel().disconnected(2);
        let lost = Candidates::new(set.all().clone(), false);
        assert!(reused(&lost), "an endpoint that is lost keeps its places");
        assert!(reused(&Candidates::connected(["a", "b", "c"])), "equal ids");
        assert!(
            reused(&Candidates::connected(["c", "a", "b"])),
            "other slots"
        );
        assert!(!reused(&Candidates::connected(["a", "b"])), "one went");
        assert!(
            !reused(&Candidates::connected(["a", "b", "d"])),
            "one other"
        );
        let weighted = ["a", "b", "c"].map(|id| Endpoint::new(id).with_weight(2));
        assert!(!reused(&Candidates::connected(weighted)), "other weights");

        let other = IpHash::default().with_places(7, 100).unwrap();
        let next = other.build(&set, Some(&*first));
        assert_eq!(ring(&*next).len(), 21, "other places");
    }

    #[test]
    fn places_go_by_weight_up_to_the_maximum() {
        let set = Candidates::connected([
            Endpoint::new("a").with_weight(1),
            Endpoint::new("b").with_weight(3),
        ]);
        let places = |per_weight, max| {
            let policy = IpHash::default().with_places(per_weight, max).unwrap();
            let picker = policy.build(&set, None);
            let ring = ring(&*picker);
            let of_a = ring.walk(0).filter(|&number| number == 0).count();
            (of_a, ring.len() - of_a)
        };
        assert_eq!(places(160, 1 << 18), (160, 480));
        assert_eq!(places(160, 100), (25, 75));
        assert_eq!(places(u32::MAX, 4000), (1000, 3000));
        assert_eq!(places(1, 1), (1, 1), "each endpoint has a place");
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        for (per_weight, max) in [(0, 1), (1, 0), (1, (8 << 20) + 1)] {
            let error = IpHash::default().with_places(per_weight, max).unwrap_err();
            assert_eq!(error.field(), Some("places"), "{error}");
        }
    }
}
