use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use crate::call::RequestInfo;
use crate::endpoint::Endpoint;
use crate::error::Error;
use crate::math::Ring;
use crate::policy::HashSource;
use crate::policy::hashing::{Hashing, Shape, hashing_policy};

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
/// | pick | O(1) on average: a hash, and an index that leads to within a place or two; a step along the ring for each place of a lost endpoint. Reading headers adds to it, linear in the part read |
/// | build | O(n log n), about 20 µs per endpoint and unit of weight, when an endpoint comes, goes or changes its weight; O(n) and no hashing when one merely connects, is lost, is ejected or comes back |
/// | memory | up to 2,560 bytes per endpoint and unit of weight, at most 4 MiB, plus 4 bytes per endpoint |
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
    hashing: Hashing<Places>,
}

impl Default for IpHash {
    fn default() -> Self {
        Self::by(HashSource::source_ip())
    }
}

impl IpHash {
    fn by(source: HashSource) -> Self {
        let mut hashing = Hashing::new(Places {
            per_weight: PLACES_PER_WEIGHT,
            max: MAX_PLACES,
        });
        hashing.sources = Arc::new([source]);
        Self { hashing }
    }

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
        Self::by(HashSource::ip_from_fn(read))
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
        for source in Arc::make_mut(&mut self.hashing.sources) {
            source.set_trusted_hops(hops);
        }
        self
    }

    /// The places on the ring: how many per unit of weight (default 160, as in nginx and ketama), and
    /// how many in all at most (default 2^18). Up to 16 bytes each.
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
        self.hashing.shape = Places { per_weight, max };
        Ok(self)
    }
}

hashing_policy!(IpHash, "ip_hash");

#[derive(Debug, Clone, PartialEq)]
struct Places {
    per_weight: u32,
    max: u32,
}

impl Shape for Places {
    type Table = Ring;

    fn key(endpoint: &Endpoint) -> Cow<'_, str> {
        Cow::Borrowed(endpoint.id().as_str())
    }

    fn table<'k>(&self, keys: impl Iterator<Item = (&'k str, u32)> + Clone) -> Ring {
        let total: u64 = keys.clone().map(|(_, w)| u64::from(w.max(1))).sum();
        // A ring of at least this many places has exactly so many per unit of weight.
        let min = total.saturating_mul(u64::from(self.per_weight));
        let min = u32::try_from(min).unwrap_or(u32::MAX).min(self.max);
        Ring::new(keys, min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::hashing::HashPicker;
    use crate::policy::{Candidates, Picker, Policy};

    fn ring(picker: &dyn Picker) -> &Arc<Ring> {
        &picker.downcast_ref::<HashPicker<Places>>().unwrap().table
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
