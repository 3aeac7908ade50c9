//! A server that shares its processors among all calls that it has.
//!
//! Each call gets the same: one core at most, `cores / calls` of one if there are more calls than cores,
//! times the server's speed. So one number per server, the work that each call has been given since some
//! start, tells the progress of all: a call that arrives at `given` ends when that has grown by its
//! work. An arrival or an end is then O(log n) in the calls there, and exact.

use std::collections::BTreeSet;

use evenkeel::Endpoint;
use evenkeel::math::Rng;
use evenkeel::outcome::LoadReport;

use crate::engine::draw::exponential;
use crate::engine::gauge::Gauge;
use crate::engine::queue::{Nanos, nanos, seconds};
use crate::engine::reporter::Reporter;
use crate::engine::slab::Id;
use crate::scenario::{Antagonists, ServerGroup};

/// Floats of this size are equal: far under a nanosecond of work, far over the error of the sums.
const EQUAL: f64 = 1e-11;

/// What a server does with a call.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Condition {
    /// It does the work and answers.
    Well,
    /// It answers this share of its calls with an error, after so long and without working.
    Fails {
        /// Of 1.
        rate: f64,
        /// How long.
        after: Nanos,
    },
    /// It takes calls and never answers.
    Silent,
    /// It cannot be reached.
    Down,
}

/// What a server works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Task {
    /// A call.
    Call(Id),
    /// The answer to a probe.
    Probe(Id),
}

/// One server.
pub struct Server {
    /// How the clients know it.
    pub endpoint: Endpoint,
    /// What is true of it.
    pub gauge: Gauge,
    /// The place in the set that it has, or had.
    pub slot: usize,
    /// Its share of the machine, in cores.
    pub allotment: f64,
    /// What it knows of its load.
    pub reporter: Reporter,
    condition: Condition,
    machine: Machine,
    /// Of a script: factors on cores and speed.
    cores_factor: f64,
    speed_factor: f64,
    given: f64,
    since: Nanos,
    running: BTreeSet<(u64, Task)>,
    wake: Option<Nanos>,
    used: f64,
}

/// The machine under a server, and who else is on it.
struct Machine {
    speed: f64,
    cores: f64,
    contention: f64,
    rng: Rng,
}

impl Server {
    /// A new server in `slot`, idle, called `name`.
    pub fn new(name: String, slot: usize, group: &ServerGroup, rng: Rng) -> Self {
        let gauge = Gauge::default();
        gauge.set_capacity(group.cores, group.speed);
        Self {
            endpoint: Endpoint::new(name).with(gauge.clone()),
            gauge,
            slot,
            allotment: group.cores,
            reporter: Reporter::default(),
            condition: Condition::Well,
            machine: Machine {
                speed: group.speed,
                cores: group.cores,
                contention: 1.0,
                rng,
            },
            cores_factor: 1.0,
            speed_factor: 1.0,
            given: 0.0,
            since: 0,
            running: BTreeSet::new(),
            wake: None,
            used: 0.0,
        }
    }

    /// What it does with calls.
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// Sets what it does with calls that come from now on.
    pub fn set_condition(&mut self, condition: Condition) {
        self.condition = condition;
        self.gauge.set_broken(condition != Condition::Well);
    }

    /// Takes in what needs `work` seconds of a core. The result names it for [`cancel`](Self::cancel).
    pub fn begin(&mut self, now: Nanos, task: Task, work: f64) -> u64 {
        self.advance(now);
        if self.running.is_empty() {
            // Small numbers are more exact.
            self.given = 0.0;
        }
        // Floats over 0 are ordered as their bits are.
        let end = (self.given + work).to_bits();
        self.running.insert((end, task));
        end
    }

    /// Drops a task.
    pub fn cancel(&mut self, now: Nanos, task: Task, end: u64) {
        self.advance(now);
        self.running.remove(&(end, task));
    }

    /// The next task that is done by `now`.
    pub fn finished(&mut self, now: Nanos) -> Option<Task> {
        self.advance(now);
        let &(end, task) = self.running.first()?;
        if f64::from_bits(end) > self.given + EQUAL {
            return None;
        }
        self.running.pop_first();
        Some(task)
    }

    /// When to look again, if that is not known yet or sooner than known.
    pub fn next_wake(&mut self, now: Nanos) -> Option<Nanos> {
        let &(end, _) = self.running.first()?;
        let left = (f64::from_bits(end) - self.given).max(0.0);
        // Up, so that the call is done by then.
        let at = now.saturating_add((left / self.pace() * 1e9).ceil() as Nanos);
        if self.wake.is_some_and(|wake| wake <= at) {
            return None;
        }
        self.wake = Some(at);
        Some(at)
    }

    /// Whether the wake-up for `at` is the one that counts; it is then spent.
    pub fn woken(&mut self, at: Nanos) -> bool {
        let counts = self.wake == Some(at);
        if counts {
            self.wake = None;
        }
        counts
    }

    /// Core-seconds that its calls have used, up to `now`.
    pub fn used(&mut self, now: Nanos) -> f64 {
        self.advance(now);
        self.used
    }

    /// What it says of its load, when `in_flight` calls are under way.
    pub fn report(&mut self, now: Nanos, in_flight: u32) -> LoadReport {
        let used = self.used(now) / self.allotment;
        self.reporter.report(now, in_flight, used)
    }

    /// Multiplies its speed.
    pub fn scale_speed(&mut self, now: Nanos, factor: f64) {
        self.advance(now);
        self.speed_factor *= factor;
        self.show_capacity();
    }

    /// Multiplies its cores.
    pub fn scale_cores(&mut self, now: Nanos, factor: f64) {
        self.advance(now);
        self.cores_factor *= factor;
        self.show_capacity();
    }

    /// The others on the machine change what they use. Says when they do so again.
    pub fn redraw(&mut self, now: Nanos, others: &Antagonists) -> Nanos {
        self.advance(now);
        let rng = &mut self.machine.rng;
        if rng.unit() < others.contended_share {
            self.machine.cores = self.allotment;
            self.machine.contention = others.contended_speed;
        } else {
            let spare = others.machine_cores - others.other_cores * rng.unit();
            self.machine.cores = spare.max(self.allotment);
            self.machine.contention = 1.0;
        }
        let hold = exponential(rng, others.hold_seconds);
        self.show_capacity();
        now + nanos(hold)
    }

    fn show_capacity(&self) {
        self.gauge.set_capacity(self.cores(), self.speed());
    }

    fn cores(&self) -> f64 {
        self.machine.cores * self.cores_factor
    }

    fn speed(&self) -> f64 {
        self.machine.speed * self.machine.contention * self.speed_factor
    }

    /// Cores that each call has.
    fn share(&self) -> f64 {
        (self.cores() / self.running.len() as f64).min(1.0)
    }

    /// Work that each call is given, per second.
    fn pace(&self) -> f64 {
        self.share() * self.speed()
    }

    fn advance(&mut self, now: Nanos) {
        let time = seconds(now - self.since);
        self.since = now;
        if time > 0.0 && !self.running.is_empty() {
            self.given += time * self.pace();
            self.used += time * self.share() * self.running.len() as f64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::slab::Slab;

    const MS: Nanos = 1_000_000;

    struct Bench {
        server: Server,
        ids: Slab<()>,
    }

    impl Bench {
        fn new(cores: f64) -> Self {
            let group = ServerGroup {
                count: 1,
                cores,
                speed: 1.0,
            };
            Self {
                server: Server::new("s".into(), 0, &group, Rng::new(1)),
                ids: Slab::default(),
            }
        }

        /// A call of `ms` of work at `at`.
        fn begin(&mut self, at: Nanos, ms: f64) -> (Task, u64) {
            let call = Task::Call(self.ids.insert(()));
            (call, self.server.begin(at, call, ms / 1e3))
        }

        /// When the next call ends if nothing else happens, in milliseconds; it is then taken out.
        fn next_end(&mut self, now: Nanos) -> f64 {
            self.server.wake = None;
            let at = self.server.next_wake(now).expect("a call is there");
            assert!(self.server.finished(at).is_some(), "it is done by then");
            at as f64 / MS as f64
        }
    }

    #[test]
    fn two_calls_on_one_core_take_turns() {
        let mut bench = Bench::new(1.0);
        bench.begin(0, 10.0);
        bench.begin(5 * MS, 2.0);
        // From 5 ms on each runs at half: 2 ms of work take 4, and the other one goes on alone.
        assert!((bench.next_end(5 * MS) - 9.0).abs() < 1e-4);
        assert!((bench.next_end(9 * MS) - 12.0).abs() < 1e-4);
    }

    #[test]
    fn a_call_uses_one_core_at_most_and_several_share_what_is_there() {
        let mut bench = Bench::new(2.0);
        bench.begin(0, 10.0);
        assert!(
            (bench.next_end(0) - 10.0).abs() < 1e-4,
            "alone on two cores"
        );
        let start = 10 * MS;
        for _ in 0..3 {
            bench.begin(start, 10.0);
        }
        let mut now = start;
        for _ in 0..3 {
            let end = bench.next_end(now);
            now = bench.server.since;
            assert!((end - 25.0).abs() < 1e-4, "three on two cores: {end}");
        }
        let used = bench.server.used(30 * MS);
        assert!((used - 0.040).abs() < 1e-8, "40 ms of CPU: {used}");
    }

    #[test]
    fn a_call_that_is_cancelled_leaves_its_share_to_the_others() {
        let mut bench = Bench::new(1.0);
        bench.begin(0, 10.0);
        let (call, end) = bench.begin(0, 50.0);
        bench.server.cancel(4 * MS, call, end);
        assert!((bench.next_end(4 * MS) - 12.0).abs() < 1e-4);
    }

    #[test]
    fn a_server_that_turns_slow_takes_longer_for_what_is_left() {
        let mut bench = Bench::new(1.0);
        bench.begin(0, 10.0);
        bench.server.scale_speed(5 * MS, 0.5);
        assert!((bench.next_end(5 * MS) - 15.0).abs() < 1e-4);
    }

    #[test]
    fn only_the_last_wake_up_counts() {
        let mut bench = Bench::new(1.0);
        bench.begin(0, 10.0);
        assert_eq!(bench.server.next_wake(0), Some(10 * MS));
        bench.begin(0, 1.0);
        assert_eq!(bench.server.next_wake(0), Some(2 * MS), "sooner than known");
        assert_eq!(bench.server.next_wake(0), None, "known already");
        assert!(!bench.server.woken(10 * MS), "the first one is stale");
        assert!(bench.server.woken(2 * MS));
    }
}
