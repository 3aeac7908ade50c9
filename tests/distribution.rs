//! One suite over every policy: who gets how many calls, and what is never picked.
//!
//! Every run is seeded, so a tolerance of `SIGMAS` standard deviations is not there to keep the
//! tests from failing now and then; it says how far from even a correct policy may be.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use evenkeel::Endpoint;
use evenkeel::call::RequestInfo;
use evenkeel::math::Rng;
use evenkeel::outcome::Outcome;
use evenkeel::policy::{
    Adaptive, BoundedLoad, C3, Candidates, HashSource, IpHash, LeastRequest, Maglev,
    OrcaWeightedRoundRobin, PeakEwma, Pick, PickContext, PickFirst, Picker, Policy, Prequal,
    Random, Rendezvous, RingHash, RoundRobin, Tried, WeightedRandom, WeightedRoundRobin,
};

const SIGMAS: f64 = 6.0;

/// How even the shares of a policy are when nothing distinguishes the endpoints.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shares {
    /// `n * k` picks give each endpoint `k`.
    Exact,
    /// Each pick falls on each endpoint with the same probability.
    Even,
    /// As even as places drawn at random on a ring, this many per endpoint.
    Ring(f64),
    /// As places drawn at random on a ring, this many for all: too few for anything but a bound.
    RingOf(f64),
    /// All picks go to the first endpoint that can be used, whatever the seed.
    First,
}

struct Subject {
    policy: Arc<dyn Policy>,
    shares: Shares,
}

fn subjects() -> Vec<Subject> {
    let subject = |policy: Arc<dyn Policy>, shares| Subject { policy, shares };
    vec![
        subject(Arc::new(RoundRobin::default()), Shares::Exact),
        // Without reports.
        subject(Arc::new(OrcaWeightedRoundRobin::default()), Shares::Exact),
        subject(Arc::new(LeastRequest::default()), Shares::Even),
        subject(
            Arc::new(LeastRequest::default().with_choices(4).unwrap()),
            Shares::Even,
        ),
        subject(Arc::new(LeastRequest::full_scan()), Shares::Even),
        subject(
            Arc::new(LeastRequest::default().with_replacement()),
            Shares::Even,
        ),
        subject(Arc::new(Random::default()), Shares::Even),
        subject(Arc::new(WeightedRoundRobin::default()), Shares::Exact),
        subject(Arc::new(WeightedRandom::default()), Shares::Even),
        subject(Arc::new(PeakEwma::default()), Shares::Even),
        // Without reports.
        subject(Arc::new(C3::default()), Shares::Even),
        subject(Arc::new(Prequal::default()), Shares::Even),
        subject(Arc::new(Adaptive::default()), Shares::Even),
        subject(Arc::new(PickFirst::default()), Shares::First),
        subject(Arc::new(IpHash::default()), Shares::Ring(160.0)),
        subject(Arc::new(ring_hash()), Shares::RingOf(1024.0)),
        subject(Arc::new(maglev()), Shares::Even),
        subject(Arc::new(rendezvous()), Shares::Even),
        // Without calls under way a bound changes nothing.
        subject(
            Arc::new(ring_hash().with_bounded_load(BoundedLoad::default())),
            Shares::RingOf(1024.0),
        ),
        subject(
            Arc::new(maglev().with_bounded_load(BoundedLoad::default())),
            Shares::Even,
        ),
        subject(
            Arc::new(rendezvous().with_bounded_load(BoundedLoad::default())),
            Shares::Even,
        ),
    ]
}

fn ring_hash() -> RingHash {
    RingHash::default().with_sources([HashSource::source_ip()])
}

/// With a table that is built in no time; at 1,000 endpoints still 20 slots each, and one more for some.
fn maglev() -> Maglev {
    Maglev::default()
        .with_sources([HashSource::source_ip()])
        .with_table_size(20_011)
        .expect("a prime")
}

fn rendezvous() -> Rendezvous {
    Rendezvous::default().with_sources([HashSource::source_ip()])
}

fn candidates(n: usize) -> Candidates {
    Candidates::connected((0..n).map(|i| format!("127.0.0.1:{}", 10_000 + i)))
}

/// The same with weights: a few in a row, or one that has most.
fn with_weights(n: usize, heavy: bool) -> Candidates {
    Candidates::connected((0..n).map(|i| {
        let weight = match (heavy, i) {
            (true, 1) => 40,
            (true, _) => 1,
            (false, i) => 1 + i as u32 % 3,
        };
        Endpoint::new(format!("127.0.0.1:{}", 10_000 + i)).with_weight(weight)
    }))
}

/// A request of a caller that is another one each time.
fn any_caller(rng: &mut Rng) -> RequestInfo<'static> {
    RequestInfo::new().with_source_ip(IpAddr::V4(Ipv4Addr::from_bits(rng.next_u64() as u32)))
}

/// The slot picked for any caller that has tried `tried`.
fn pick_after(
    picker: &dyn Picker,
    rng: &mut Rng,
    tried: &Tried,
    ignore_ejections: bool,
) -> Option<usize> {
    let request = any_caller(rng);
    let mut context = PickContext::new(rng)
        .with_request(request)
        .with_tried(tried)
        .with_ejections_ignored(ignore_ejections);
    match picker.pick(&mut context) {
        Pick::Endpoint(slot) => Some(slot),
        _ => None,
    }
}

fn pick(picker: &dyn Picker, rng: &mut Rng) -> Option<usize> {
    pick_after(picker, rng, &Tried::new(), false)
}

/// Checks the shares of `counts`, by the rule for `shares`.
fn assert_shares(counts: &[u64], shares: Shares, what: &dyn Debug) {
    let n = counts.len() as f64;
    let total: u64 = counts.iter().sum();
    let mean = total as f64 / n;
    match shares {
        Shares::Exact => assert!(
            counts.iter().all(|&count| count as f64 == mean),
            "{what:?}: n * k picks give each endpoint k: {counts:?}"
        ),
        Shares::First => assert_eq!(counts[0], total, "{what:?}: the first gets all: {counts:?}"),
        Shares::Ring(places) => {
            // An endpoint's share of the ring is a sum of `places` gaps, each with a standard
            // deviation of about its mean: relative to the sum, 1 / sqrt(places). The variance of
            // the picks comes on top.
            let deviation = ((mean + mean.powi(2) / places) * (1.0 - 1.0 / n)).sqrt();
            for (slot, &count) in counts.iter().enumerate() {
                assert!(
                    (count as f64 - mean).abs() <= SIGMAS * deviation,
                    "{what:?}: slot {slot} of {n} got {count}, expected {mean} ± {deviation}"
                );
            }
        }
        Shares::RingOf(places) => {
            // The sum of k gaps is over x times its mean with a probability of at most
            // exp(-k (x - 1 - ln x)) (Chernoff's bound for a gamma distribution); here one in 10^9, as
            // for six standard deviations. The deviation of the picks comes on top.
            let k = (places / n).ceil();
            let over = |x: &f64| k * (x - 1.0 - x.ln()) > 1e9_f64.ln();
            let most = (100..).map(|x| f64::from(x) / 100.0).find(over);
            let most = mean * most.expect("it grows with x");
            let bound = most + SIGMAS * most.sqrt();
            for (slot, &count) in counts.iter().enumerate() {
                assert!(
                    count as f64 <= bound,
                    "{what:?}: slot {slot} of {n} got {count}, at most {bound} of a mean of {mean}"
                );
            }
        }
        Shares::Even => {
            // A count is binomial: `total` picks, each with probability 1 / n. Its variance is
            // total * 1/n * (1 - 1/n).
            let deviation = (mean * (1.0 - 1.0 / n)).sqrt();
            for (slot, &count) in counts.iter().enumerate() {
                assert!(
                    (count as f64 - mean).abs() <= SIGMAS * deviation,
                    "{what:?}: slot {slot} of {n} got {count}, expected {mean} ± {deviation}"
                );
            }
            // All counts at once: Pearson's sum has mean n - 1 and variance 2 (n - 1). It would also
            // be too *small* if picks were not independent.
            let chi: f64 = counts
                .iter()
                .map(|&count| (count as f64 - mean).powi(2) / mean)
                .sum();
            let spread = SIGMAS * (2.0 * (n - 1.0)).sqrt();
            assert!(
                (chi - (n - 1.0)).abs() <= spread.max(4.0 * SIGMAS),
                "{what:?}: chi square {chi} of {n} endpoints, expected {} ± {spread}",
                n - 1.0
            );
        }
    }
}

#[test]
fn shares_are_even_among_equal_endpoints() {
    for (n, each) in [(1, 2000), (2, 2000), (3, 2000), (10, 2000), (1000, 20)] {
        for Subject { policy, shares } in subjects() {
            let picker = policy.build(&candidates(n), None);
            let mut rng = Rng::new(17);
            let mut counts = vec![0_u64; n];
            for _ in 0..n * each {
                let slot = pick(&*picker, &mut rng).expect("all are usable");
                counts[slot] += 1;
            }
            assert_shares(&counts, shares, &policy);
        }
    }
}

#[test]
fn shares_stay_even_from_many_threads() {
    const THREADS: u64 = 4;
    const EACH: usize = 5_000;
    for Subject { policy, shares } in subjects() {
        let n = 8;
        let picker = policy.build(&candidates(n), None);
        let counts: Vec<AtomicU64> = (0..n).map(|_| AtomicU64::new(0)).collect();
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (picker, counts) = (&picker, &counts);
                scope.spawn(move || {
                    let mut rng = Rng::stream(23, thread);
                    for _ in 0..EACH {
                        let slot = pick(&**picker, &mut rng).expect("all are usable");
                        counts[slot].fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        let counts: Vec<u64> = counts.into_iter().map(AtomicU64::into_inner).collect();
        assert_shares(&counts, shares, &policy);
    }
}

#[test]
fn picks_stay_in_bounds_while_sets_are_exchanged() {
    const PICKS: usize = 3_000;
    for Subject { policy, .. } in subjects() {
        let sets: Vec<Candidates> = [1, 3, 100, 2, 0, 10].map(candidates).into();
        let build = |set: &Candidates, previous: Option<&dyn Picker>| {
            Arc::new((set.all().len(), policy.build(set, previous)))
        };
        let current = ArcSwap::new(build(&sets[0], None));
        let over = AtomicBool::new(false);
        let exchanges = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let callers: Vec<_> = (0..3)
                .map(|thread| {
                    let (current, policy) = (&current, &policy);
                    let (exchanges, sets) = (&exchanges, &sets);
                    scope.spawn(move || {
                        let mut rng = Rng::stream(29, thread);
                        let mut picks = 0;
                        // Each set was there twice, however late its thread began.
                        while picks < PICKS || exchanges.load(Ordering::Relaxed) < 2 * sets.len() {
                            picks += 1;
                            let set = current.load();
                            let (n, picker) = &**set;
                            match pick(&**picker, &mut rng) {
                                Some(slot) => assert!(
                                    slot < *n,
                                    "{policy:?}: slot {slot} of {n}: out of the set it was asked for"
                                ),
                                None => assert_eq!(*n, 0, "{policy:?}: only an empty set has none"),
                            }
                        }
                    })
                })
                .collect();
            let (current, over, sets, build) = (&current, &over, &sets, &build);
            let exchanges = &exchanges;
            scope.spawn(move || {
                for set in sets.iter().cycle() {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let previous = current.load_full();
                    current.store(build(set, Some(&*previous.1)));
                    exchanges.fetch_add(1, Ordering::Relaxed);
                }
            });
            let results: Vec<_> = callers.into_iter().map(|caller| caller.join()).collect();
            over.store(true, Ordering::Relaxed);
            for result in results {
                result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    }
}

/// A way in which a call may not go to an endpoint, though it was usable when the set was made.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Disconnected,
    Ejected,
    Tried,
}

const LOSSES: [Loss; 3] = [Loss::Disconnected, Loss::Ejected, Loss::Tried];

impl Loss {
    fn apply(self, candidates: &Candidates, slot: usize, tried: &mut Tried) {
        let candidate = &candidates.all()[slot];
        let applied = match self {
            Self::Disconnected => candidate.subchannel().disconnected(candidate.connection()),
            Self::Ejected => candidate.subchannel().health().gate().eject(),
            Self::Tried => {
                tried.insert(candidate.connection());
                true
            }
        };
        assert!(applied, "{self:?} of slot {slot} is a change");
    }
}

#[test]
fn what_a_call_may_not_use_is_never_picked_while_something_else_can_be() {
    for Subject { policy, .. } in subjects() {
        let mut rng = Rng::new(31);
        for round in 0..200 {
            let n = 2 + rng.below(9);
            let set = match round % 3 {
                0 => candidates(n),
                weights => with_weights(n, weights == 1),
            };
            let mut picker = policy.build(&set, None);
            let mut tried = Tried::new();
            // All in any mixture, but for one; at most 8 can be tried.
            let kept = rng.below(n);
            let mut lost = vec![false; n];
            for slot in (0..n).filter(|&slot| slot != kept) {
                lost[slot] = rng.below(3) != 0;
                if lost[slot] {
                    LOSSES[rng.below(3)].apply(&set, slot, &mut tried);
                }
            }
            if rng.below(2) == 0 {
                let set = Candidates::new(set.all().clone(), false);
                picker = policy.build(&set, Some(&*picker));
            }
            for _ in 0..20 {
                let slot = pick_after(&*picker, &mut rng, &tried, false)
                    .unwrap_or_else(|| panic!("{policy:?}: slot {kept} of {n} is usable"));
                assert!(!lost[slot], "{policy:?}: slot {slot} is lost: {lost:?}");
            }
        }
    }
}

#[test]
fn the_only_usable_one_is_found_and_nothing_when_there_is_none() {
    for Subject { policy, .. } in subjects() {
        for loss in LOSSES {
            // No more than 8 can be tried.
            let n = if matches!(loss, Loss::Tried) { 9 } else { 33 };
            for kept in 0..n {
                let set = match kept % 3 {
                    0 => candidates(n),
                    weights => with_weights(n, weights == 2),
                };
                let picker = policy.build(&set, None);
                let mut rng = Rng::new(37 + kept as u64);
                let mut tried = Tried::new();
                for slot in (0..n).filter(|&slot| slot != kept) {
                    loss.apply(&set, slot, &mut tried);
                }
                assert_eq!(
                    pick_after(&*picker, &mut rng, &tried, false),
                    Some(kept),
                    "{policy:?}: all but slot {kept} are {loss:?}"
                );
            }
        }
        for loss in LOSSES {
            let set = candidates(8);
            let picker = policy.build(&set, None);
            let mut rng = Rng::new(41);
            let mut tried = Tried::new();
            for slot in 0..8 {
                loss.apply(&set, slot, &mut tried);
            }
            assert_eq!(
                pick_after(&*picker, &mut rng, &tried, false),
                None,
                "{policy:?}: all are {loss:?}"
            );
        }
    }
}

#[test]
fn in_a_panic_ejected_endpoints_are_picked() {
    for Subject { policy, shares } in subjects() {
        let set = candidates(3);
        for candidate in set.all().iter() {
            assert!(candidate.subchannel().health().gate().eject());
        }
        let picker = policy.build(&Candidates::new(set.all().clone(), true), None);
        let mut rng = Rng::new(43);
        let mut seen = [false; 3];
        for _ in 0..100 {
            let slot = pick_after(&*picker, &mut rng, &Tried::new(), true);
            seen[slot.expect("ejections are ignored")] = true;
        }
        let wanted = match shares {
            Shares::First => [true, false, false],
            _ => [true; 3],
        };
        assert_eq!(seen, wanted, "{policy:?}: all of them take calls");
    }
}

#[test]
fn an_empty_set_gives_nothing() {
    for Subject { policy, .. } in subjects() {
        let set = candidates(0);
        let picker = policy.build(&set, None);
        let picker = policy.build(&set, Some(&*picker));
        assert_eq!(pick(&*picker, &mut Rng::new(1)), None, "{policy:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_picks() {
    for Subject { policy, shares } in subjects() {
        let run = |seed| {
            let mut rng = Rng::new(seed);
            let mut picks = Vec::new();
            let mut picker: Option<Arc<dyn Picker>> = None;
            for n in [5, 10, 3, 10] {
                let set = candidates(n);
                let next = policy.build(&set, picker.as_deref());
                for i in 0..50 {
                    let slot = pick(&*next, &mut rng).expect("one is usable");
                    picks.push(slot);
                    if i == 25 && slot + 1 != n {
                        set.all()[n - 1].subchannel().disconnected(n as u64);
                    }
                }
                picker = Some(next);
            }
            picks
        };
        assert_eq!(run(47), run(47), "{policy:?}: replays");
        if shares != Shares::First {
            assert_ne!(run(47), run(48), "{policy:?}: another seed, other picks");
        }
    }
}

/// Servers that serve each call in a random time of a mean of their own, however many they have, and
/// callers that start the next call when the last one ends. Returns the calls that each server got.
fn closed_loop(policy: &dyn Policy, mean_us: &[f64], callers: u64, calls: u64) -> Vec<u64> {
    let set = candidates(mean_us.len());
    let picker = policy.build(&set, None);
    let mut rng = Rng::new(53);
    let mut counts = vec![0; mean_us.len()];
    let mut claims = Vec::new();
    let mut ends = BinaryHeap::new();
    for started in 0..calls {
        let mut now_us = 0;
        let mut place = claims.len();
        if started >= callers {
            let Reverse((end_us, ended)) = ends.pop().expect("each caller has a call under way");
            (now_us, place) = (end_us, ended);
            let claim: Option<evenkeel::policy::Claim> = std::mem::take(&mut claims[place]);
            claim.expect("it was under way").finish(Outcome::Success);
        } else {
            claims.push(None);
        }
        let slot = pick(&*picker, &mut rng).expect("all are usable");
        counts[slot] += 1;
        claims[place] = Some(set.all()[slot].claim(false).expect("not ejected"));
        // Exponential, at least 1 µs.
        let time_us = -mean_us[slot] * (1.0 - rng.unit()).ln();
        ends.push(Reverse((now_us + 1 + time_us as u64, place)));
    }
    counts
}

#[test]
fn a_slow_server_gets_less_from_a_policy_that_looks_at_load() {
    // Nine servers at 1 ms, one at 10 ms; 100 callers. Where all have the same number of calls under
    // way, a server's share is its speed over all speeds: 0.1 / 9.1 = 1.1 % for the slow one.
    let mut mean_us = [1_000.0; 10];
    mean_us[4] = 10_000.0;
    let share = |policy: &dyn Policy| {
        let counts = closed_loop(policy, &mean_us, 100, 200_000);
        counts[4] as f64 / 200_000.0
    };
    let ideal = 0.1 / 9.1;

    // Of the least loaded, a full scan keeps all counts within one call of each other, at about 10:
    // a tenth. 2,200 calls have a standard deviation of 47: 6 of them are another 13 %.
    let all = share(&LeastRequest::full_scan());
    assert!((all / ideal - 1.0).abs() < 0.23, "full scan: {all}");

    // Two choices let the fullest be a few calls above the mean of 10: less than twice the ideal.
    let two = share(&LeastRequest::default());
    assert!((ideal * 0.87..ideal * 2.0).contains(&two), "two: {two}");

    // More choices are between the two.
    let four = share(&LeastRequest::default().with_choices(4).unwrap());
    assert!(
        (ideal * 0.87..=two).contains(&four),
        "four: {four}, two: {two}"
    );

    // What does not look at the load gives it a tenth of the calls, come what may.
    assert_eq!(share(&RoundRobin::default()), 0.1, "round robin");
    let random = share(&Random::default());
    assert!((random - 0.1).abs() < SIGMAS * (0.09_f64 / 200_000.0).sqrt());
}

#[test]
fn calls_that_do_not_end_pile_up_evenly() {
    let n = 1000;
    let each = 20;
    let fullest = |policy: &dyn Policy| {
        let set = candidates(n);
        let picker = policy.build(&set, None);
        let mut rng = Rng::new(59);
        let claims: Vec<_> = (0..n * each)
            .map(|_| {
                let slot = pick(&*picker, &mut rng).expect("all are usable");
                set.all()[slot].claim(false).expect("not ejected")
            })
            .collect();
        let fullest = set.all().iter().map(|c| c.in_flight()).max();
        drop(claims);
        assert!(
            set.all().iter().all(|c| c.in_flight() == 0),
            "a claim that ends gives the load back"
        );
        fullest.expect("n is not 0") as usize - each
    };
    assert_eq!(
        fullest(&LeastRequest::full_scan()),
        0,
        "the least each time"
    );
    assert_eq!(fullest(&RoundRobin::default()), 0, "exact shares");
    // ceil(1.25 * 20) is 5 over 20, whatever the table.
    let bounded: [&dyn Policy; 3] = [
        &ring_hash().with_bounded_load(BoundedLoad::default()),
        &maglev().with_bounded_load(BoundedLoad::default()),
        &rendezvous().with_bounded_load(BoundedLoad::default()),
    ];
    for policy in bounded {
        let most = fullest(policy);
        assert!(most <= 5, "{policy:?}: {most} above the mean");
    }
    assert_eq!(fullest(&WeightedRoundRobin::default()), 0, "exact shares");
    // The fullest of two choices is log2(ln n) + O(1) above the mean, however many calls there are
    // (Berenbrink et al., "Balanced Allocations: The Heavily Loaded Case", 2000): 2.8 + O(1) here.
    let two = fullest(&LeastRequest::default());
    assert!(two <= 5, "two choices: {two} above the mean");
    // One choice: about sqrt(2 * 20 * ln n) = 17.
    let one = fullest(&Random::default());
    assert!(one > 2 * two, "random: {one} above the mean");
}
