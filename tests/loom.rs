//! Models of the hand-made atomics: every interleaving of a few threads, by loom.
//!
//! ```text
//! RUSTFLAGS="--cfg evenkeel_loom" cargo test --no-default-features --test loom --target-dir target/loom
//! ```
#![cfg(evenkeel_loom)]

use std::sync::Arc;
use std::time::Duration;

use evenkeel::ConnectivityState;
use evenkeel::Endpoint;
use evenkeel::health::limits::Limiter;
use evenkeel::health::{Cause, Change, Ejection, Ejections, Entry, Gate, Health, Limits};
use evenkeel::load::StreamCount;
use evenkeel::math::{Moment, Rng, RunningQuantile};
use evenkeel::outcome::Outcome;
use evenkeel::policy::{
    Candidate, Candidates, Pick, PickContext, Picker, Policy, RoundRobin, Subchannel,
    WeightedRoundRobin,
};
use evenkeel::retry::{Budget, BudgetSettings, Throttle, ThrottleSettings};
use loom::sync::Mutex;
use loom::sync::atomic::AtomicUsize;
use loom::sync::atomic::Ordering::{Relaxed, SeqCst};
use loom::thread;

/// Rules by which one failure ejects, for `endpoints` endpoints.
fn rules(endpoints: usize) -> Arc<Ejections> {
    let rules = Ejection::default()
        .with_consecutive_failures(1)
        .with_base_time(Duration::from_secs(1));
    let rules = Arc::new(Ejections::new(rules));
    rules.set_endpoints(endpoints);
    rules
}

fn is_out(health: &Health) -> bool {
    !health.gate().is_open()
}

/// An endpoint that was ejected and may be probed now.
fn due(rules: &Ejections) -> Arc<Health> {
    let health = Arc::new(Health::new());
    let change = health.record(Outcome::Failure, Entry::Normal, rules);
    assert_eq!(change, Some(Change::Ejected(Cause::ConsecutiveFailures)));
    assert!(health.gate().offer_probe());
    health
}

/// A call that ends with `outcome`, if it gets in.
fn call(health: &Health, rules: &Ejections, outcome: Outcome) -> Option<Change> {
    let entry = health.gate().enter()?;
    health.record(outcome, entry, rules)
}

#[test]
fn no_more_endpoints_are_ejected_than_allowed() {
    loom::model(|| {
        let rules = rules(2);
        let both = [Arc::new(Health::new()), Arc::new(Health::new())];
        let threads = both.clone().map(|health| {
            let rules = rules.clone();
            thread::spawn(move || health.record(Outcome::Failure, Entry::Normal, &rules))
        });
        let changes = threads.map(|thread| thread.join().unwrap());
        let out = both.iter().filter(|health| is_out(health)).count();
        assert_eq!(out, 1, "half of two may be out, and one failure is enough");
        assert_eq!(rules.ejected(), 1, "the count is right");
        let told = changes.iter().flatten().count();
        assert_eq!(told, 1, "each ejection is told once: {changes:?}");
    });
}

#[test]
fn two_failures_at_once_eject_one_endpoint_once() {
    loom::model(|| {
        // Four endpoints, so that two may be out: the count must not be taken twice.
        let rules = rules(4);
        let health = Arc::new(Health::new());
        let threads = [(); 2].map(|()| {
            let (rules, health) = (rules.clone(), health.clone());
            thread::spawn(move || health.record(Outcome::Failure, Entry::Normal, &rules))
        });
        let changes = threads.map(|thread| thread.join().unwrap());
        assert_eq!(rules.ejected(), 1, "one endpoint, one place");
        assert_eq!(
            changes.iter().flatten().count(),
            1,
            "told once: {changes:?}"
        );
    });
}

#[test]
fn one_call_at_a_time_probes() {
    loom::model(|| {
        let rules = rules(2);
        let health = due(&rules);
        let threads = [(); 2].map(|()| {
            let health = health.clone();
            thread::spawn(move || health.gate().enter())
        });
        let mine = health.gate().enter();
        let entries = threads.map(|thread| thread.join().unwrap());
        let probes = entries.into_iter().chain([mine]).flatten();
        assert_eq!(
            probes.collect::<Vec<_>>(),
            [Entry::Probe],
            "one of three gets in, to probe"
        );
    });
}

#[test]
fn a_probe_is_given_back_whatever_its_outcome() {
    for outcome in [Outcome::Success, Outcome::Failure, Outcome::Ignored] {
        loom::model(move || {
            let rules = rules(2);
            let health = due(&rules);
            // Two callers race for the probe; the one that gets it ends with the outcome.
            let other = {
                let (health, rules) = (health.clone(), rules.clone());
                thread::spawn(move || call(&health, &rules, outcome))
            };
            let changes = [call(&health, &rules, outcome), other.join().unwrap()];
            let told: Vec<_> = changes.into_iter().flatten().collect();
            match outcome {
                Outcome::Success => {
                    assert_eq!(told, [Change::Readmitted], "it is back, told once");
                    assert_eq!(rules.ejected(), 0, "its place is free");
                    assert_eq!(health.gate().enter(), Some(Entry::Normal));
                }
                Outcome::Failure => {
                    assert_eq!(told, [Change::ProbeFailed], "it is out again, told once");
                    assert_eq!(rules.ejected(), 1, "in the place that it had");
                    assert_eq!(health.gate().enter(), None, "until its time is over");
                    assert!(health.gate().offer_probe(), "which it can be");
                }
                _ => {
                    assert!(
                        !told.is_empty() && told.iter().all(|c| *c == Change::ProbeReturned),
                        "nothing was learned but that the next call may probe: {told:?}"
                    );
                    assert_eq!(rules.ejected(), 1);
                    assert_eq!(
                        health.gate().enter(),
                        Some(Entry::Probe),
                        "the next call may probe"
                    );
                }
            }
        });
    }
}

#[test]
fn a_dropped_claim_gives_back_the_probe_and_the_load() {
    loom::model(|| {
        let rules = rules(2);
        let subchannel = Arc::new(Subchannel::new(1, "a".into(), rules.clone()));
        subchannel.connected(1);
        let candidate = Candidate::new(
            0,
            Endpoint::new("a"),
            subchannel.clone(),
            1,
            ConnectivityState::Ready,
        );
        let failed = candidate.claim(false).unwrap();
        failed.finish(Outcome::Failure);
        assert!(subchannel.health().gate().offer_probe());
        let other = {
            let candidate = candidate.clone();
            thread::spawn(move || drop(candidate.claim(false)))
        };
        drop(candidate.claim(false));
        other.join().unwrap();
        assert_eq!(candidate.in_flight(), 0, "nothing is under way");
        assert_eq!(
            subchannel.health().gate().enter(),
            Some(Entry::Probe),
            "the probe can be had again"
        );
    });
}

#[test]
fn a_leaving_endpoint_gives_its_place_back_once() {
    // The last call on it may eject it, or be the probe of an ejected one, with any outcome; and it may
    // be told to leave twice.
    let ends = [Outcome::Success, Outcome::Failure, Outcome::Ignored];
    for (probing, outcome) in [false, true]
        .into_iter()
        .flat_map(|probing| ends.map(|outcome| (probing, outcome)))
    {
        loom::model(move || {
            let rules = rules(2);
            let health = match probing {
                true => due(&rules),
                false => Arc::new(Health::new()),
            };
            let entry = health.gate().enter().unwrap();
            let call = {
                let (health, rules) = (health.clone(), rules.clone());
                thread::spawn(move || health.record(outcome, entry, &rules))
            };
            let again = {
                let (health, rules) = (health.clone(), rules.clone());
                thread::spawn(move || health.retire(&rules))
            };
            health.retire(&rules);
            call.join().unwrap();
            again.join().unwrap();
            assert_eq!(
                rules.ejected(),
                0,
                "no place is lost, and none is freed twice"
            );
            assert_eq!(health.gate().enter(), None, "nobody gets in any more");
            assert!(!health.gate().offer_probe(), "and it stays so");
        });
    }
}

#[test]
fn the_end_of_an_ejection_and_leaving_do_not_undo_each_other() {
    loom::model(|| {
        let gate = Arc::new(Gate::default());
        assert!(gate.eject());
        let timer = {
            let gate = gate.clone();
            thread::spawn(move || gate.offer_probe())
        };
        let held_a_place = gate.retire();
        timer.join().unwrap();
        assert!(held_a_place, "ejected or due: it held a place either way");
        assert_eq!(gate.enter(), None, "shut for good");
    });
}

#[test]
fn the_end_of_an_old_connection_does_not_clear_a_newer_one() {
    loom::model(|| {
        let subchannel = Arc::new(Subchannel::new(1, "a".into(), rules(2)));
        subchannel.connected(1);
        let old = {
            let subchannel = subchannel.clone();
            thread::spawn(move || subchannel.disconnected(1))
        };
        let again = {
            let subchannel = subchannel.clone();
            thread::spawn(move || subchannel.disconnected(1))
        };
        subchannel.connected(2);
        let ended = [old.join().unwrap(), again.join().unwrap()];
        assert_eq!(subchannel.connection(), 2, "the newer one is up");
        assert!(
            ended.iter().filter(|&&ended| ended).count() <= 1,
            "a connection ends once"
        );
        assert!(subchannel.disconnected(2), "and can end in its turn");
        assert_eq!(subchannel.connection(), 0);
    });
}

/// What the picker names for a caller of its own.
fn pick(picker: &dyn Picker, seed: u64) -> Pick {
    picker.pick(&mut PickContext::new(&mut Rng::new(seed)))
}

#[test]
fn first_picks_of_round_robin_at_once_take_different_places() {
    loom::model(|| {
        let picker = RoundRobin::default().build(&Candidates::connected(["a", "b"]), None);
        let other = {
            let picker = picker.clone();
            thread::spawn(move || pick(&*picker, 1))
        };
        let mine = pick(&*picker, 2);
        let mut both = [mine, other.join().unwrap()];
        both.sort_by_key(|pick| *pick == Pick::Endpoint(1));
        assert_eq!(both, [Pick::Endpoint(0), Pick::Endpoint(1)], "one each");
    });
}

#[test]
fn picks_of_weighted_round_robin_at_once_are_exact() {
    loom::model(|| {
        let endpoints = [1, 2].map(|w| Endpoint::new(format!("e{w}")).with_weight(w));
        let picker = WeightedRoundRobin::default().build(&Candidates::connected(endpoints), None);
        let other = {
            let picker = picker.clone();
            thread::spawn(move || pick(&*picker, 1))
        };
        let mut all = [pick(&*picker, 2), pick(&*picker, 3), Pick::Nothing];
        all[2] = other.join().unwrap();
        let of_the_heavy = all.iter().filter(|pick| **pick == Pick::Endpoint(1));
        assert_eq!(of_the_heavy.count(), 2, "two of any three: {all:?}");
    });
}

#[test]
fn one_older_failure_does_not_eject_an_endpoint_that_just_came_back() {
    loom::model(|| {
        let rules = Ejection::default().with_consecutive_failures(2);
        let rules = Arc::new(Ejections::new(rules));
        rules.set_endpoints(2);
        let health = Arc::new(Health::new());
        for _ in 0..2 {
            health.record(Outcome::Failure, Entry::Normal, &rules);
        }
        assert!(health.gate().offer_probe());
        assert_eq!(health.gate().enter(), Some(Entry::Probe));
        let older = {
            let (health, rules) = (health.clone(), rules.clone());
            thread::spawn(move || health.record(Outcome::Failure, Entry::Normal, &rules))
        };
        let change = health.record(Outcome::Success, Entry::Probe, &rules);
        assert_eq!(change, Some(Change::Readmitted));
        assert_eq!(
            older.join().unwrap(),
            None,
            "one failure since it came back is not two"
        );
        assert_eq!(rules.ejected(), 0, "and nobody is out");
    });
}

#[test]
fn the_retry_throttle_allows_no_retry_too_many() {
    loom::model(|| {
        let throttle = Throttle::new(ThrottleSettings::new(4, 1.0)).unwrap();
        let throttle = Arc::new(throttle);
        let threads = [(); 2].map(|()| {
            let throttle = throttle.clone();
            thread::spawn(move || throttle.failed())
        });
        let allowed = threads.map(|thread| thread.join().unwrap());
        assert_eq!(
            allowed.iter().filter(|&&allowed| allowed).count(),
            1,
            "3 of 4 tokens allow a retry, 2 do not"
        );
        throttle.succeeded();
        assert!(throttle.allows_retry(), "3 tokens: none was lost");
    });
}

#[test]
fn a_success_and_a_failure_at_once_are_both_counted_by_the_throttle() {
    loom::model(|| {
        let throttle = Arc::new(Throttle::new(ThrottleSettings::new(4, 1.0)).unwrap());
        throttle.failed();
        throttle.failed();
        let other = {
            let throttle = throttle.clone();
            thread::spawn(move || throttle.succeeded())
        };
        throttle.failed();
        other.join().unwrap();
        assert!(!throttle.allows_retry(), "2 tokens");
        throttle.succeeded();
        assert!(throttle.allows_retry(), "3");
    });
}

/// With room for this many retries, of its reserve.
fn budget(retries: u32) -> Arc<Budget> {
    let settings = BudgetSettings::default()
        .with_ttl(Duration::from_secs(1))
        .with_min_per_second(retries);
    Arc::new(Budget::new(settings).unwrap())
}

#[test]
fn the_retry_budget_is_not_overdrawn() {
    // In one window, and where one thread's clock has gone on to the next.
    for later in [0_u64, 100] {
        loom::model(move || {
            let budget = budget(1);
            let at = |millis| Moment::from_origin(Duration::from_millis(5_000 + millis));
            let other = {
                let budget = budget.clone();
                thread::spawn(move || budget.withdraw(at(later)))
            };
            let allowed = [budget.withdraw(at(0)), other.join().unwrap()];
            assert_eq!(
                allowed.iter().filter(|&&allowed| allowed).count(),
                1,
                "the one there is goes to one of two: {allowed:?}"
            );
        });
    }
}

#[test]
fn the_retry_budget_refuses_none_that_there_is_room_for() {
    loom::model(|| {
        let budget = budget(3);
        let at = |millis: u64| Moment::from_origin(Duration::from_millis(5_000 + millis));
        // The mark of the later window is ahead of a count that was read before.
        let other = {
            let budget = budget.clone();
            thread::spawn(move || budget.withdraw(at(100)))
        };
        let mine = [budget.withdraw(at(0)), budget.withdraw(at(100))];
        let theirs = other.join().unwrap();
        assert!(
            theirs && mine == [true; 2],
            "room for three, and three asked: {mine:?}, {theirs}"
        );
    });
}

#[test]
fn calls_at_once_are_all_counted_by_the_budget() {
    loom::model(|| {
        let settings = BudgetSettings::default()
            .with_percent(50)
            .with_min_per_second(0);
        let budget = Arc::new(Budget::new(settings).unwrap());
        let now = Moment::from_origin(Duration::from_secs(5));
        let other = {
            let budget = budget.clone();
            thread::spawn(move || {
                budget.deposit(now);
            })
        };
        budget.deposit(now);
        other.join().unwrap();
        assert_eq!(budget.balance(now), 1, "the window began once, with both");
    });
}

/// An endpoint with these limits.
fn limited(limits: Limits) -> Candidate {
    limited_by(&Arc::new(Limiter::new(limits)))
}

/// An endpoint that is counted against this.
fn limited_by(limiter: &Arc<Limiter>) -> Candidate {
    let rules = Arc::new(Ejections::new(Ejection::off()));
    let subchannel = Subchannel::new(1, "a".into(), rules).limited_by(limiter.clone());
    subchannel.connected(1);
    let (endpoint, ready) = (Endpoint::new("a"), ConnectivityState::Ready);
    Candidate::new(0, endpoint, Arc::new(subchannel), 1, ready)
}

#[test]
fn no_more_calls_are_under_way_than_the_limits_allow_and_each_gives_its_place_back() {
    for limits in [
        Limits::default().with_max_in_flight_per_endpoint(1),
        Limits::default().with_max_in_flight(1),
        Limits::default()
            .with_max_in_flight(1)
            .with_max_in_flight_per_endpoint(1),
    ] {
        loom::model(move || {
            let candidate = limited(limits);
            let under_way = Arc::new(loom::sync::atomic::AtomicU32::new(0));
            let threads = [(), ()].map(|()| {
                let (candidate, under_way) = (candidate.clone(), under_way.clone());
                thread::spawn(move || {
                    let Ok(Some(claim)) = candidate.claim_within(false) else {
                        return false;
                    };
                    // The counts order no other memory, so this is not theirs to order either.
                    let others = under_way.fetch_add(1, SeqCst);
                    assert_eq!(others, 0, "one at a time");
                    under_way.fetch_sub(1, SeqCst);
                    drop(claim);
                    true
                })
            });
            let let_in = threads.map(|thread| thread.join().unwrap());
            assert!(let_in.contains(&true), "there was room for one");
            assert_eq!(candidate.in_flight(), 0);
            let again = candidate.claim_within(false);
            assert!(matches!(again, Ok(Some(_))), "the place was given back");
        });
    }
}

#[test]
fn a_call_that_finds_its_endpoint_full_takes_no_room_from_another_one() {
    loom::model(|| {
        let limits = Limits::default()
            .with_max_in_flight(2)
            .with_max_in_flight_per_endpoint(1);
        let limiter = Arc::new(Limiter::new(limits));
        let (full, free) = (limited_by(&limiter), limited_by(&limiter));
        let first = full.claim_within(false);
        assert!(matches!(first, Ok(Some(_))));
        let other = thread::spawn(move || {
            let second = full.claim_within(false);
            assert!(!matches!(second, Ok(Some(_))), "its endpoint is full");
        });
        let mine = free.claim_within(false);
        assert!(matches!(mine, Ok(Some(_))), "one of two is under way");
        other.join().unwrap();
    });
}

/// In few buckets: a walk over them is a step of the model each.
fn quantile() -> RunningQuantile {
    RunningQuantile::new(1.0)
        .with_resolution(0, 2)
        .with_min_samples(1)
        .with_half_life(Duration::from_secs(1))
}

#[test]
fn a_sample_that_comes_while_the_quantile_is_halved_is_not_lost() {
    loom::model(|| {
        let quantile = Arc::new(quantile());
        let at = |secs| Moment::from_origin(Duration::from_secs(secs));
        // The first look at the clock begins the half-life.
        for _ in 0..8 {
            quantile.record(Duration::ZERO, at(1));
        }
        let other = {
            let quantile = quantile.clone();
            // No refresh is due at this moment.
            thread::spawn(move || quantile.record(Duration::ZERO, at(1)))
        };
        quantile.refresh(at(2));
        other.join().unwrap();
        let left = quantile.samples();
        assert!(
            left == 4.5 || left == 5.0,
            "half of nine, or half of eight and one: {left}"
        );
    });
}

#[test]
fn one_of_two_halves_the_quantile() {
    loom::model(|| {
        let quantile = Arc::new(quantile());
        let at = |secs| Moment::from_origin(Duration::from_secs(secs));
        for _ in 0..4 {
            quantile.record(Duration::ZERO, at(1));
        }
        let other = {
            let quantile = quantile.clone();
            thread::spawn(move || quantile.refresh(at(2)))
        };
        quantile.refresh(at(2));
        other.join().unwrap();
        assert_eq!(quantile.samples(), 2.0, "4 samples are 2, and not 1");
    });
}

#[test]
fn the_end_of_the_last_call_is_told_if_it_is_waited_for() {
    use evenkeel::load::InFlight;
    loom::model(|| {
        let calls = Arc::new(InFlight::new());
        calls.begin();
        calls.begin();
        let ends = [(), ()].map(|()| {
            let calls = calls.clone();
            thread::spawn(move || calls.end(false))
        });
        let left = calls.drain();
        let told = ends.map(|end| end.join().unwrap());
        let told = told.iter().filter(|&&told| told).count();
        let expected = usize::from(left > 0);
        assert_eq!(
            told, expected,
            "who saw {left} under way hears of the last, once"
        );
        assert_eq!(calls.current(), 0);
    });
}

#[test]
fn a_call_that_slips_in_while_an_endpoint_drains_is_told_too() {
    use evenkeel::load::InFlight;
    loom::model(|| {
        let calls = Arc::new(InFlight::new());
        let written = Arc::new(AtomicUsize::new(0));
        let late = {
            let (calls, written) = (calls.clone(), written.clone());
            thread::spawn(move || {
                calls.begin();
                let told = calls.end(false);
                if told {
                    assert!(calls.is_draining(), "the mark is there");
                    let seen = written.load(Relaxed);
                    assert_eq!(seen, 1, "and what was written ahead of it");
                }
                told
            })
        };
        written.store(1, Relaxed);
        let left = calls.drain();
        let told = late.join().unwrap();
        assert!(told || left == 0, "no end that is waited for is missed");
        assert_eq!(calls.current(), 0);
        assert!(
            !calls.try_begin(0),
            "the mark is no call, and leaves the limits alone"
        );
        assert!(calls.try_begin(1));
    });
}

/// One connection for one stream, and a queue as the connections of an endpoint have it.
#[derive(Default)]
struct Turns {
    count: StreamCount,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: u32,
    granted: u32,
}

impl Turns {
    /// Whether a call got its stream at once. Else it waits.
    fn call(&self) -> bool {
        if self.count.take() {
            return true;
        }
        let mut queue = self.queue.lock().unwrap();
        if queue.waiting == 0 {
            self.count.begin_waiting();
            if self.count.take_in_turn() {
                self.count.end_waiting();
                return true;
            }
        }
        queue.waiting += 1;
        false
    }

    fn end(&self) {
        if self.count.give_back() {
            self.serve();
        }
    }

    fn serve(&self) {
        let mut queue = self.queue.lock().unwrap();
        while queue.waiting > 0 && self.count.take_in_turn() {
            queue.waiting -= 1;
            queue.granted += 1;
        }
        if queue.waiting == 0 {
            self.count.end_waiting();
        }
    }
}

#[test]
fn no_call_waits_for_a_stream_while_there_is_room() {
    loom::model(|| {
        let turns = Arc::new(Turns::default());
        turns.count.set_most(1);
        assert!(turns.call(), "there is room for one");
        let other = {
            let turns = turns.clone();
            thread::spawn(move || turns.call())
        };
        turns.end();
        let at_once = u32::from(other.join().unwrap());
        let queue = turns.queue.lock().unwrap();
        let served = at_once + queue.granted;
        assert_eq!(served, 1, "the stream that ended is the other call's");
        assert_eq!(queue.waiting, 0, "nobody waits");
        drop(queue);
        assert_eq!(turns.count.open(), 1, "and it is counted once");
    });
}

#[test]
fn a_stream_goes_to_who_waits_and_not_to_who_comes_then() {
    loom::model(|| {
        let turns = Arc::new(Turns::default());
        turns.count.set_most(1);
        assert!(turns.call(), "there is room for one");
        assert!(!turns.call(), "and not for two: it waits");
        let late = {
            let turns = turns.clone();
            thread::spawn(move || turns.call())
        };
        turns.end();
        assert!(!late.join().unwrap(), "one waited before it");
        let queue = turns.queue.lock().unwrap();
        assert_eq!((queue.granted, queue.waiting), (1, 1), "in their order");
    });
}

#[test]
fn no_call_waits_for_a_stream_that_the_server_has_just_allowed() {
    loom::model(|| {
        let turns = Arc::new(Turns::default());
        turns.count.set_most(0);
        let allowed = {
            let turns = turns.clone();
            thread::spawn(move || {
                turns.count.set_most(1);
                turns.serve();
            })
        };
        let at_once = u32::from(turns.call());
        allowed.join().unwrap();
        let queue = turns.queue.lock().unwrap();
        assert_eq!(at_once + queue.granted, 1, "it has its stream");
        assert_eq!(queue.waiting, 0, "nobody waits");
    });
}
