use crate::error::Error;
use crate::math::Ring;
use crate::policy::hashing::{Hashing, Shape, hashing_policy};

const MIN_SIZE: u32 = 1024;
const MAX_SIZE: u32 = 4096;
const SIZE_CAP: u32 = 4096;
/// The largest ring of gRFC A42 and of Envoy.
const SIZE_LIMIT: u32 = 8 << 20;

/// Calls with the same hash go to the same endpoint, by the ring of gRPC and Envoy, place for place.
///
/// Each endpoint has places on a circle of 64-bit hashes, by its weight; a call's hash goes to the next
/// place at or after it. If that endpoint cannot be used, the call goes on round the ring to the first
/// that can. An endpoint that is lost keeps its places, so only *its* calls move, each to the next
/// place of another, and all come back with it.
///
/// What is hashed of a call: [`with_sources`](Self::with_sources). What is hashed of an endpoint:
/// `host:port` of its address, or its [`EndpointHashKey`](crate::policy::EndpointHashKey).
///
/// # Cost
///
/// | | |
/// |---|---|
/// | pick | O(1) on average: an index leads to within a place or two; a step along the ring for each place of a lost endpoint |
/// | build | O(n + places · log(places)), about 0.3 ms at 4,096 places, when an endpoint comes, goes or changes its weight; O(n) and no hashing when one merely connects, is lost, is ejected or comes back |
/// | memory | 16 bytes per place, at most 64 KiB by default, plus 4 bytes per endpoint |
///
/// **Wins** where the same endpoint must be chosen as by gRPC or Envoy clients of the same service.
/// **Loses** against [`Maglev`](crate::policy::Maglev) in evenness: of 10 endpoints the fullest has about 1.25
/// times the mean, of 100, with 11 places each, twice the mean; more than 4,096 need a
/// [larger cap](Self::with_ring_size_cap), or some have no place at all. Loses against
/// [`IpHash`](crate::policy::IpHash) and [`Rendezvous`](crate::policy::Rendezvous) in what moves: the size of the
/// whole is fixed, so an endpoint that comes or goes takes places from all others, or leaves some to
/// them; of 10 endpoints, that moves another 8 % of all calls.
///
/// # Source
///
/// gRFC A42 (sizes, XXH64 with seed 0, weights), A61 (an endpoint's first address), A76 (the endpoint's
/// own key, a random hash in the absence of one); Envoy's `RING_HASH`. Those take endpoints in the
/// order in which they come; here they are sorted first, so that all clients agree. That matters
/// only where rounding gives one endpoint a place more than its equals.
///
/// gRPC connects to an endpoint when a call first needs it, and lets calls wait for that; here all are
/// connected beforehand, and a call does not wait for one endpoint while another is usable.
///
/// ```
/// use evenkeel::math::Rng;
/// use evenkeel::call::RequestInfo;
/// use evenkeel::policy::{Candidates, HashSource, PickContext, Policy, RingHash};
///
/// let policy = RingHash::default().with_sources([HashSource::header("x-user-id")?]);
/// let candidates = Candidates::connected(["a:1", "b:1", "c:1"]);
/// let picker = policy.build(&candidates, None);
/// let mut rng = Rng::new(7);
/// let mut pick = |user: &str| {
///     let request = http::Request::builder().header("x-user-id", user).body(()).unwrap();
///     let request = RequestInfo::http(&request);
///     picker.pick(&mut PickContext::new(&mut rng).with_request(request))
/// };
/// assert_eq!(pick("mary"), pick("mary"));
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct RingHash {
    hashing: Hashing<Size>,
}

impl Default for RingHash {
    fn default() -> Self {
        Self {
            hashing: Hashing::new(Size {
                min: MIN_SIZE,
                max: MAX_SIZE,
                cap: SIZE_CAP,
            }),
        }
    }
}

impl RingHash {
    /// Sets the least and the largest number of places on the ring; defaults 1,024 and 4,096 (gRPC's
    /// `min_ring_size` and `max_ring_size`). What is over the [cap](Self::with_ring_size_cap) counts as
    /// the cap.
    ///
    /// # Errors
    ///
    /// One of them is 0 or over 8,388,608, the limit of gRFC A42 and Envoy, or `min` is over `max`.
    pub fn with_ring_size(mut self, min: u32, max: u32) -> Result<Self, Error> {
        check("ring_size", min)?;
        check("ring_size", max)?;
        if min > max {
            let message = format!("a minimum of {min} is over a maximum of {max}");
            return Err(Error::config("ring_size", message));
        }
        self.hashing.shape.min = min;
        self.hashing.shape.max = max;
        Ok(self)
    }

    /// Sets the client's own cap on the size of the ring, whatever a configuration asks for; default
    /// 4,096, as in gRPC. Envoy has none but its limit of 8,388,608.
    ///
    /// # Errors
    ///
    /// It is 0 or over 8,388,608.
    pub fn with_ring_size_cap(mut self, cap: u32) -> Result<Self, Error> {
        check("ring_size_cap", cap)?;
        self.hashing.shape.cap = cap;
        Ok(self)
    }
}

fn check(field: &'static str, size: u32) -> Result<(), Error> {
    if (1..=SIZE_LIMIT).contains(&size) {
        return Ok(());
    }
    let message = format!("{size} is not between 1 and {SIZE_LIMIT}");
    Err(Error::config(field, message))
}

hashing_policy!(RingHash, "ring_hash_experimental", sources);

#[derive(Debug, Clone, PartialEq)]
struct Size {
    min: u32,
    max: u32,
    cap: u32,
}

impl Size {
    fn bounds(&self) -> (u32, u32) {
        (self.min.min(self.cap), self.max.min(self.cap))
    }
}

impl Shape for Size {
    type Table = Ring;

    fn table<'k>(&self, keys: impl Iterator<Item = (&'k str, u32)> + Clone) -> Ring {
        let (min, max) = self.bounds();
        Ring::a42(keys, min, max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rng;
    use crate::policy::testing::{pick_by, picked};
    use crate::policy::{Candidates, PickContext, Policy, Tried};

    #[test]
    fn sizes_follow_a42() {
        let policy = RingHash::default();
        assert_eq!(policy.hashing.shape.bounds(), (1024, 4096));
        let policy = RingHash::default().with_ring_size(1, 6000).unwrap();
        assert_eq!(policy.hashing.shape.bounds(), (1, 4096), "capped");
        let policy = policy.with_ring_size_cap(5000).unwrap();
        assert_eq!(policy.hashing.shape.bounds(), (1, 5000), "by another cap");
        let policy = RingHash::default().with_ring_size(5000, 6000).unwrap();
        assert_eq!(policy.hashing.shape.bounds(), (4096, 4096), "both");
        for (min, max) in [(10, 2), (0, 10), (0, 0), (1, SIZE_LIMIT + 1)] {
            let error = RingHash::default().with_ring_size(min, max).unwrap_err();
            assert_eq!(error.field(), Some("ring_size"), "{error}");
        }
        for cap in [0, u32::MAX] {
            let error = RingHash::default().with_ring_size_cap(cap).unwrap_err();
            assert_eq!(error.field(), Some("ring_size_cap"), "{error}");
        }
    }

    #[test]
    fn hashes_go_where_envoy_sends_them() {
        // In another order, with schemes: neither is hashed.
        let ports = [93, 90, 95, 91, 94, 92];
        let set = Candidates::connected(ports.map(|port| format!("http://127.0.0.1:{port}")));
        let policy = RingHash::default().with_ring_size(12, 4096).unwrap();
        let picker = policy.build(&set, None);
        for (hash, port) in [
            (0, 94),
            (u64::MAX, 94),
            (3551244743356806947, 95),
            (3551244743356806948, 93),
            (16117243373044804880, 90),
        ] {
            assert_eq!(ports[pick_by(&*picker, hash)], port, "{hash}");
        }
        let mut tried = Tried::new();
        tried.insert(set.all()[4].connection());
        let mut rng = Rng::new(1);
        let again = PickContext::new(&mut rng)
            .with_hash(Some(0))
            .with_tried(&tried);
        assert_eq!(ports[picked(&*picker, again)], 92, "past 94 comes 92");
    }
}
