//! What a pick costs by itself, and what a policy's tables cost to build.
//!
//! ```text
//! cargo bench --bench pick             # the whole table
//! cargo bench --bench pick -- --quick  # two sizes, a few seconds
//! ```
//!
//! All arms run in turn, round after round, so that whatever else the machine does falls on all of
//! them. A cell is the median of the rounds, with the least and the greatest. A pick is timed with
//! nothing under way, on one thread; policies that hash are given the hash. *loop* is the loop
//! with a draw from the generator in place of a pick, to be subtracted by who wants to. Policies that go by
//! servers' answers hear as many for each pick as they ask for, and one that comes with a response: what
//! hearing them costs is in the cell.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel::Endpoint;
use evenkeel::load::ReportSource;
use evenkeel::math::{Moment, Rng};
use evenkeel::outcome::{LoadReport, Outcome};
use evenkeel::policy::{
    Adaptive, BoundedLoad, C3, Candidates, IpHash, LeastRequest, Maglev, PeakEwma, Pick,
    PickContext, PickFirst, Picker, Policy, Prequal, ProbeRequests, Random, Rendezvous, RingHash,
    RoundRobin, WeightedRandom, WeightedRoundRobin,
};
use rustix::time::{ClockId, clock_gettime};

/// When all picks are.
const NOW: Moment = Moment::from_nanos(1_000_000);

struct Arm {
    name: &'static str,
    policy: Box<dyn Policy>,
    candidates: Candidates,
    picker: Arc<dyn Picker>,
    /// Nanoseconds over which the table says that the target is missed.
    target: Option<f64>,
    /// Policies that look at all endpoints get fewer picks.
    linear: bool,
    /// How many answers come in for each pick.
    answers: u32,
    picks: Vec<f64>,
    builds: Vec<f64>,
}

/// Time that this thread ran.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).expect("no time before the thread began");
    let nanos = u32::try_from(time.tv_nsec).expect("less than a second");
    Duration::new(seconds, nanos)
}

fn endpoints(count: usize, weighted: bool) -> impl Iterator<Item = Endpoint> {
    (0..count).map(move |n| {
        let address = format!("10.{}.{}.{}:443", n >> 16, (n >> 8) & 255, n & 255);
        let weight = if weighted { n as u32 % 10 + 1 } else { 1 };
        Endpoint::new(address).with_weight(weight)
    })
}

impl Arm {
    fn new(name: &'static str, policy: impl Policy, count: usize, weighted: bool) -> Self {
        let candidates = Candidates::connected_for(endpoints(count, weighted), policy.measures());
        // So that a policy that goes by latency has some to compare.
        for (n, candidate) in candidates.all().iter().enumerate() {
            let mut claim = candidate.claim(false).expect("it is connected");
            claim.begun(Moment::from_nanos(0));
            let took = Duration::from_micros(500 + 7 * n as u64 % 100);
            claim.finish_at(Outcome::Success, Moment::from_origin(took));
        }
        Self {
            name,
            picker: policy.build(&candidates, None),
            policy: Box::new(policy),
            candidates,
            target: None,
            linear: false,
            answers: 0,
            picks: Vec::new(),
            builds: Vec::new(),
        }
    }

    fn at_most(mut self, nanos: f64) -> Self {
        self.target = Some(nanos);
        self
    }

    /// All servers have reported, and so many more answers come with each pick.
    fn hearing(mut self, answers: u32) -> Self {
        self.answers = answers;
        for slot in 0..self.candidates.all().len() {
            self.hear(slot);
        }
        let candidates = self.candidates.clone().with_now(NOW);
        self.picker = self.policy.build(&candidates, None);
        self
    }

    fn hear(&self, slot: usize) {
        let report = LoadReport::new()
            .with_in_flight(slot as u32 % 7)
            .with_latency(Duration::from_micros(500 + slot as u64 % 100));
        let endpoint = self.candidates.all()[slot].subchannel();
        endpoint.reported(&report, ReportSource::Probe, NOW);
        if let Some(queue) = endpoint.reports().queue() {
            self.policy.reported(endpoint, queue, ReportSource::Probe);
        }
    }

    fn linear(mut self) -> Self {
        self.linear = true;
        self
    }
}

fn arms(n: usize) -> Vec<Arm> {
    let small = if n <= 1_000 { 25.0 } else { f64::INFINITY };
    let ring = if n <= 1_000 { 100.0 } else { f64::INFINITY };
    let four = LeastRequest::default().with_choices(4);
    let four = four.expect("a number that gRFC A48 allows");
    let bounded = Maglev::default().with_bounded_load(BoundedLoad::default());
    vec![
        Arm::new("round robin", RoundRobin::default(), n, false).at_most(10.0),
        Arm::new(
            "weighted round robin",
            WeightedRoundRobin::default(),
            n,
            true,
        )
        .at_most(10.0),
        Arm::new("random", Random::default(), n, false).at_most(10.0),
        Arm::new("weighted random", WeightedRandom::default(), n, true).at_most(10.0),
        Arm::new("pick first", PickFirst::default(), n, false).at_most(10.0),
        Arm::new("least of two", LeastRequest::default(), n, false).at_most(small),
        Arm::new("least of two, weighted", LeastRequest::default(), n, true).at_most(small),
        Arm::new("least of four", four, n, false),
        Arm::new("least of all", LeastRequest::full_scan(), n, false).linear(),
        Arm::new("peak EWMA", PeakEwma::default(), n, false).at_most(small),
        Arm::new("C3", C3::default(), n, false).hearing(0).linear(),
        Arm::new("Prequal, 3 answers", Prequal::default(), n, false).hearing(3),
        Arm::new("adaptive", Adaptive::default(), n, false).at_most(small),
        Arm::new("adaptive, 2 answers", Adaptive::default(), n, false).hearing(2),
        Arm::new("IP hash", IpHash::default(), n, false).at_most(ring),
        Arm::new("ring hash", RingHash::default(), n, false).at_most(ring),
        Arm::new("Maglev", Maglev::default(), n, false).at_most(15.0),
        Arm::new("Maglev, bounded load", bounded, n, false).linear(),
        Arm::new("rendezvous", Rendezvous::default(), n, false).linear(),
    ]
}

/// Nanoseconds for each of `count` rounds of `work`.
fn timed(count: u32, mut work: impl FnMut()) -> f64 {
    let began = cpu();
    for _ in 0..count {
        work();
    }
    (cpu() - began).as_secs_f64() * 1e9 / f64::from(count)
}

fn pick(arm: &Arm, rng: &mut Rng) -> Pick {
    let hash = rng.next_u64();
    for _ in 0..arm.answers {
        arm.hear(rng.below(arm.candidates.all().len()));
    }
    let mut probes = ProbeRequests::new();
    let mut context = PickContext::new(rng).with_hash(Some(hash)).with_now(NOW);
    if arm.answers > 0 {
        context = context.with_probes(&mut probes);
    }
    let pick = arm.picker.pick(&mut context);
    black_box(&probes);
    pick
}

/// The median, the least and the greatest.
fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    (
        sorted[sorted.len() / 2],
        sorted[0],
        sorted[sorted.len() - 1],
    )
}

fn main() {
    // Without `--bench` it is run as a test: see that it works, and be quick about it.
    let args: Vec<String> = std::env::args().collect();
    let quick = args.iter().any(|arg| arg == "--quick") || !args.iter().any(|arg| arg == "--bench");
    let (sizes, rounds, count): (&[usize], _, _) = if quick {
        (&[3, 1_000], 5, 20_000)
    } else {
        (&[3, 10, 100, 1_000, 10_000], 11, 400_000)
    };
    for &n in sizes {
        let mut arms = arms(n);
        let mut rng = Rng::new(1);
        let mut empty = Vec::new();
        for _ in 0..rounds {
            empty.push(timed(count, || {
                black_box(rng.next_u64());
            }));
            for arm in &mut arms {
                let each = if arm.linear { count / 50 } else { count };
                let took = timed(each, || {
                    black_box(pick(arm, &mut rng));
                });
                arm.picks.push(took);
                let began = Instant::now();
                black_box(arm.policy.build(&arm.candidates, None));
                arm.builds.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        println!("\nN = {n}; thread CPU of a pick, wall time of a build from nothing");
        println!(
            "{:<24}{:>10}{:>20}{:>10}{:>14}{:>22}",
            "", "pick ns", "range", "target", "build us", "range"
        );
        let (loop_ns, least, most) = spread(&empty);
        println!(
            "{:<24}{loop_ns:>10.1}{:>20}",
            "loop",
            format!("{least:.1}..{most:.1}")
        );
        for arm in &arms {
            let (pick, least, most) = spread(&arm.picks);
            let (build, quickest, slowest) = spread(&arm.builds);
            let target = match arm.target {
                Some(target) if pick > target => format!("{target:.0} missed"),
                Some(target) if target.is_finite() => format!("{target:.0}"),
                _ => String::new(),
            };
            println!(
                "{:<24}{pick:>10.1}{:>20}{target:>10}{build:>14.1}{:>22}",
                arm.name,
                format!("{least:.1}..{most:.1}"),
                format!("{quickest:.1}..{slowest:.1}"),
            );
        }
    }
}
