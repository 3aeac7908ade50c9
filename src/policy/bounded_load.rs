use crate::error::Error;
use crate::math::atomic::{AtomicU64, Ordering};
use crate::policy::{Candidate, Candidates};

/// A limit on what a hashing policy lets pile up on one endpoint: consistent hashing with bounded
/// loads.
///
/// No endpoint gets a call while it has `ceil(factor * (calls under way + 1) * share)` of them or more,
/// where `share` is its weight in that of all usable endpoints and the 1 is the call to place. A
/// call whose endpoint is full goes on as if that one were lost: round the ring, to the next slots
/// of the table, to the next best draw. So a key that is hot spills over, always in the same order,
/// and is back as soon as there is room.
///
/// The default factor is 1.25. A smaller one is more even, and more calls leave the endpoint of their
/// key: in the analysis of Mirrokni et al. a key that comes or goes moves `O(1 / (factor - 1)²)` others. At
/// 1 all are as even as least request keeps them. Where all that a call may still use are full,
/// because others were lost or tried meanwhile, it goes to where it would without a limit: a limit
/// never fails a call.
///
/// Only the calls of this client count, a stream until it ends. Calls that threads place at the same
/// moment do not see each other, so there may be as many too many. [`IpHash`](crate::policy::IpHash),
/// [`RingHash`](crate::policy::RingHash), [`Maglev`](crate::policy::Maglev) and
/// [`Rendezvous`](crate::policy::Rendezvous) take one.
///
/// # Cost
///
/// | | |
/// |---|---|
/// | pick, up to 64 endpoints | nothing if the endpoint is idle; else the calls under way are added up, O(n) |
/// | pick, beyond | an atomic addition that all threads share; every n/64 picks all calls are added up, so about 64 endpoints are read per pick, whatever n |
/// | build | O(n) |
/// | memory | 8 bytes per endpoint |
///
/// Beyond 64 endpoints the sum is exact but for the calls that ended since it was last taken, at most n/64
/// picks ago; those count as under way until then. At a steady load that lets a limit be a
/// sixty-fourth of a call too high.
///
/// # Source
///
/// Mirrokni, Thorup and Zadimoghaddam, *Consistent Hashing with Bounded Loads*, 2016. 1.25 is the default of
/// brpc; HAProxy's and Envoy's `hash_balance_factor` is the same limit, off by default as here.
///
/// ```
/// use evenkeel::math::Rng;
/// use evenkeel::policy::{BoundedLoad, Candidates, Maglev, PickContext, Pick, Policy};
///
/// let candidates = Candidates::connected(["a:1", "b:1", "c:1"]);
/// let policy = Maglev::default().with_bounded_load(BoundedLoad::default());
/// let picker = policy.build(&candidates, None);
/// let mut rng = Rng::new(7);
/// // Nine calls of one key: ceil(1.25 * 9 / 3) = 4 at most on each.
/// let calls: Vec<_> = (0..9)
///     .map(|_| {
///         let Pick::Endpoint(slot) = picker.pick(&mut PickContext::new(&mut rng).with_hash(Some(5)))
///         else { panic!("all are usable") };
///         candidates.all()[slot].claim(false)
///     })
///     .collect();
/// assert!(candidates.all().iter().all(|c| c.in_flight() <= 4));
/// # drop(calls);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BoundedLoad {
    factor: f64,
}

impl Default for BoundedLoad {
    fn default() -> Self {
        Self { factor: 1.25 }
    }
}

impl BoundedLoad {
    /// A limit of `factor` times the mean.
    ///
    /// # Errors
    ///
    /// `factor` is under 1, or no finite number: limits that together are less than the calls
    /// cannot be kept.
    pub fn new(factor: f64) -> Result<Self, Error> {
        if factor.is_finite() && factor >= 1.0 {
            Ok(Self { factor })
        } else {
            let message = format!("a factor of {factor} is not a finite number from 1 on");
            Err(Error::config("bounded_load", message))
        }
    }
}

/// Up to so many endpoints, calls under way are added up for each pick; beyond, as many are read per
/// pick on average.
const READS: usize = 64;

/// The limits over one set.
#[derive(Debug)]
pub(super) struct Bound {
    /// The factor times the share of each number.
    shares: Box<[f64]>,
    /// With more than [`READS`] endpoints.
    total: Option<Total>,
}

impl Bound {
    pub(super) fn new(by: BoundedLoad, candidates: &Candidates, order: &[u32]) -> Self {
        let weight = |c: &Candidate| f64::from(c.endpoint().weight().max(1));
        let usable = candidates.usable();
        let all: f64 = usable.iter().map(weight).sum();
        let of = |&index: &u32| by.factor * weight(&candidates.all()[index as usize]) / all;
        Self {
            shares: order.iter().map(of).collect(),
            total: (usable.len() > READS).then(|| Total::new(usable)),
        }
    }

    /// What one pick needs to know. `usable` are those of the set.
    #[inline]
    pub(super) fn room<'b>(&'b self, usable: &'b [Candidate]) -> Room<'b> {
        Room {
            shares: &self.shares,
            usable,
            total: self.total.as_ref().map(|total| total.next(usable)),
        }
    }
}

pub(super) struct Room<'b> {
    shares: &'b [f64],
    usable: &'b [Candidate],
    /// Calls under way, once they were added up.
    total: Option<u64>,
}

impl Room<'_> {
    /// Whether the endpoint of this number takes another call beside the `load` under way.
    #[inline]
    pub(super) fn is_in(&mut self, number: usize, load: u32) -> bool {
        if load == 0 {
            return true;
        }
        let usable = self.usable;
        let total = *self.total.get_or_insert_with(|| sum(usable));
        f64::from(load) < (self.shares[number] * (total + 1) as f64).ceil()
    }
}

fn sum(usable: &[Candidate]) -> u64 {
    usable.iter().map(|c| u64::from(c.in_flight())).sum()
}

/// The calls under way as of the last time that they were added up, and the picks since.
///
/// Alone on its cache lines: each pick writes here, and what is read beside it would be fetched anew
/// by every other thread. 128 bytes, since processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Total {
    /// Calls in the high bits, picks in the low ones.
    word: AtomicU64,
    /// Picks from one sum to the next.
    every: u64,
}

const PICK_BITS: u32 = 16;
const PICKS: u64 = (1 << PICK_BITS) - 1;
const CALL: u64 = 1 << PICK_BITS;

impl Total {
    fn new(usable: &[Candidate]) -> Self {
        Self {
            word: AtomicU64::new(sum(usable) << PICK_BITS),
            every: ((usable.len() / READS) as u64).min(PICKS / 2),
        }
    }

    /// Counts a call that is about to begin; the calls under way without it.
    #[inline]
    fn next(&self, usable: &[Candidate]) -> u64 {
        let word = self.word.fetch_add(CALL + 1, Ordering::Relaxed);
        // One thread alone sees this number of picks; should the picks meanwhile run over into the
        // calls, that is one call too many until the next sum.
        if word & PICKS == self.every {
            let total = sum(usable);
            self.word
                .store(((total + 1) << PICK_BITS) + 1, Ordering::Relaxed);
            total
        } else {
            word >> PICK_BITS
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;

    #[test]
    fn factors_that_cannot_be_kept_are_refused() {
        for bad in [0.99, 0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error = BoundedLoad::new(bad).unwrap_err();
            assert_eq!(error.field(), Some("bounded_load"), "{bad}: {error}");
        }
        assert!(BoundedLoad::new(1.0).is_ok());
        assert_eq!(BoundedLoad::new(1.25).unwrap(), BoundedLoad::default());
    }

    #[test]
    fn limits_are_those_of_the_paper() {
        let set = Candidates::connected([
            Endpoint::new("a"),
            Endpoint::new("b"),
            Endpoint::new("c").with_weight(2),
        ]);
        let bound = Bound::new(BoundedLoad::default(), &set, &[0, 1, 2]);
        let limit = |number, total| {
            let mut room = bound.room(set.usable());
            room.total = Some(total);
            (0..).find(|&load| !room.is_in(number, load)).unwrap()
        };
        // ceil(1.25 * (total + 1) / 4), and twice the weight.
        for (total, single, double) in [(0, 1, 1), (2, 1, 2), (3, 2, 3), (15, 5, 10), (16, 6, 11)] {
            assert_eq!(limit(0, total), single, "{total} under way, weight 1 of 4");
            assert_eq!(limit(2, total), double, "{total} under way, weight 2 of 4");
        }
    }

    #[test]
    fn a_large_set_counts_its_calls_to_within_those_that_ended_lately() {
        let n = 1000;
        let set = Candidates::connected((0..n).map(|i| format!("e{i}")));
        let total = Total::new(set.usable());
        let mut claims = std::collections::VecDeque::new();
        for pick in 0..20_000 {
            let counted = total.next(set.usable());
            let real = claims.len() as u64;
            assert!(
                counted >= real,
                "no call under way is missed: {counted} of {real}"
            );
            assert!(
                counted - real <= 2 * (n as u64 / 64 + 1),
                "at most those that ended since the last sum are too many: {counted} of {real}"
            );
            claims.push_back(set.all()[pick % n].claim(false).unwrap());
            // Two end for each that begins, from time to time.
            for _ in 0..2 {
                if pick % 3_000 > 2_000 {
                    drop(claims.pop_front());
                }
            }
        }
    }
}
