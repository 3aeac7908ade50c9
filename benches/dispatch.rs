//! What one call costs over services that answer at once: the pick, the bookkeeping and nothing else.
//!
//! ```text
//! cargo bench --bench dispatch             # the whole table
//! cargo bench --bench dispatch -- --quick  # two sizes, a few seconds
//! ```
//!
//! All arms run in turn, round after round, so that whatever else the machine does falls on all of
//! them. A cell is the median of the rounds, with the least and the greatest.
//!
//! - *direct*: the service itself, so the cost of the loop.
//! - *bare*: two choices over a swappable list, with a count of calls under way: no health, no
//!   retries, no report. What no balancer of this shape can be under.
//! - *tower*: `tower::balance::p2c::Balance` over `PendingRequests`. It is not `Clone`.
//! - *buffer*: the same behind `tower::buffer::Buffer`, as it has to be to be shared.

use std::convert::Infallible;
use std::future::{Future, Ready, poll_fn, ready};
use std::hint::black_box;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use evenkeel::Balance;
use evenkeel::balance::Plain;
use evenkeel::policy::{Adaptive, LeastRequest, Policy, Random, RoundRobin};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Runtime;
use tower::balance::p2c;
use tower::buffer::Buffer;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PendingRequests};
use tower::{BoxError, Service};

/// Answers at once.
#[derive(Clone)]
struct Echo(u64);

impl Service<u64> for Echo {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request ^ self.0))
    }
}

fn echoes(count: usize) -> impl Iterator<Item = Echo> {
    (0..count as u64).map(Echo)
}

async fn balance(count: usize, policy: impl Policy) -> Balance<Echo, Plain> {
    let services = echoes(count).map(|echo| (format!("e{}", echo.0), echo));
    let balance = Balance::builder()
        .services(services)
        .policy(policy)
        .seed(1)
        .build()
        .expect("the settings are right");
    let all_up = || {
        let endpoints = balance.report().endpoints;
        endpoints.len() == count && endpoints.iter().all(|e| e.state.as_str() == "READY")
    };
    let up = async {
        while !all_up() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), up)
        .await
        .expect("services that are there connect at once");
    balance
}

type TowerBalance = p2c::Balance<ServiceList<Vec<PendingRequests<Echo>>>, u64>;

fn tower_balance(count: usize) -> TowerBalance {
    let services = echoes(count)
        .map(|echo| PendingRequests::new(echo, CompleteOnResponse::default()))
        .collect();
    p2c::Balance::new(ServiceList::new(services))
}

/// Services with their calls under way.
type List = Vec<(Echo, Arc<AtomicU32>)>;

/// Two choices over a swappable list.
#[derive(Clone)]
struct Bare {
    list: Arc<ArcSwap<List>>,
    rng: fastrand::Rng,
}

impl Bare {
    fn new(count: usize) -> Self {
        let list = echoes(count).map(|echo| (echo, Arc::default())).collect();
        Self {
            list: Arc::new(ArcSwap::from_pointee(list)),
            rng: fastrand::Rng::with_seed(1),
        }
    }
}

struct BareFuture(Ready<Result<u64, Infallible>>, Arc<AtomicU32>);

impl Future for BareFuture {
    type Output = Result<u64, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl Drop for BareFuture {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service<u64> for Bare {
    type Response = u64;
    type Error = Infallible;
    type Future = BareFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> BareFuture {
        let list = self.list.load();
        let (a, b) = (self.rng.usize(..list.len()), self.rng.usize(..list.len()));
        let load = |i: usize| list[i].1.load(Ordering::Relaxed);
        let (echo, load) = &list[if load(b) < load(a) { b } else { a }];
        load.fetch_add(1, Ordering::Relaxed);
        BareFuture(echo.clone().call(request), load.clone())
    }
}

/// Nanoseconds per call.
#[derive(Clone, Copy)]
struct Sample {
    wall: f64,
    cpu: f64,
}

fn measure(clock: ClockId, calls: u64, run: impl FnOnce()) -> Sample {
    let cpu_now = || {
        let now = clock_gettime(clock);
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    };
    let (wall, cpu) = (Instant::now(), cpu_now());
    run();
    let (wall, cpu) = (wall.elapsed(), cpu_now() - cpu);
    let per_call = |time: Duration| time.as_nanos() as f64 / calls as f64;
    Sample {
        wall: per_call(wall),
        cpu: per_call(cpu),
    }
}

async fn calls<S>(service: &mut S, count: u64)
where
    S: Service<u64, Error: Into<BoxError>>,
{
    for request in 0..count {
        if poll_fn(|cx| service.poll_ready(cx)).await.is_err() {
            unreachable!("every endpoint is ready");
        }
        let response = service.call(black_box(request)).await;
        black_box(response.ok().expect("every endpoint answers"));
    }
}

struct Arm<'a> {
    name: &'static str,
    run: Box<dyn FnMut() -> Sample + 'a>,
    samples: Vec<Sample>,
}

impl<'a> Arm<'a> {
    /// Calls one after the other from one task, on a runtime of one thread: all work is on it.
    fn one<S>(name: &'static str, runtime: &'a Runtime, mut service: S, count: u64) -> Self
    where
        S: Service<u64, Error: Into<BoxError>> + 'a,
    {
        let run = move || {
            measure(ClockId::ThreadCPUTime, count, || {
                runtime.block_on(calls(&mut service, count));
            })
        };
        Self::new(name, run)
    }

    /// Calls from [`TASKS`] tasks with a handle each, on a runtime of two threads.
    fn many<S>(name: &'static str, runtime: &'a Runtime, service: S, count: u64) -> Self
    where
        S: Service<u64, Error: Into<BoxError>, Future: Send> + Clone + Send + 'static,
    {
        let run = move || {
            measure(ClockId::ProcessCPUTime, count, || {
                runtime.block_on(async {
                    let tasks: Vec<_> = (0..TASKS)
                        .map(|_| {
                            let mut service = service.clone();
                            tokio::spawn(async move { calls(&mut service, count / TASKS).await })
                        })
                        .collect();
                    for task in tasks {
                        task.await.expect("no task panics");
                    }
                });
            })
        };
        Self::new(name, run)
    }

    fn new(name: &'static str, run: impl FnMut() -> Sample + 'a) -> Self {
        Self {
            name,
            run: Box::new(run),
            samples: Vec::new(),
        }
    }

    fn median(&self, of: fn(&Sample) -> f64) -> (f64, f64, f64) {
        let mut values: Vec<f64> = self.samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        (
            values[values.len() / 2],
            values[0],
            values[values.len() - 1],
        )
    }
}

const TASKS: u64 = 64;

/// Runs all arms in turn, and prints them beside the arm of the name `beside`.
fn table(title: &str, rounds: usize, mut arms: Vec<Arm<'_>>, beside: &str) {
    for round in 0..=rounds {
        for arm in &mut arms {
            let sample = (arm.run)();
            // The first round warms caches and branch predictors.
            if round > 0 {
                arm.samples.push(sample);
            }
        }
    }
    println!("\n{title}");
    println!(
        "{:<14} {:>9} {:>19} {:>9} {:>19} {:>12} {:>12}",
        "", "cpu ns", "range", "wall ns", "range", "cpu x less", "wall x less"
    );
    let base = arms.iter().find(|arm| arm.name == beside);
    let base = base.map(|arm| (arm.median(|s| s.cpu).0, arm.median(|s| s.wall).0));
    let (base_cpu, base_wall) = base.expect("the arm to compare with is one of the arms");
    for arm in &arms {
        let (cpu, cpu_least, cpu_most) = arm.median(|s| s.cpu);
        let (wall, wall_least, wall_most) = arm.median(|s| s.wall);
        println!(
            "{:<14} {cpu:>9.1} {:>19} {wall:>9.1} {:>19} {:>12.2} {:>12.2}",
            arm.name,
            format!("{cpu_least:.1}..{cpu_most:.1}"),
            format!("{wall_least:.1}..{wall_most:.1}"),
            base_cpu / cpu,
            base_wall / wall,
        );
    }
}

fn main() {
    // Without `--bench` it is run as a test: see that it works, and be quick about it.
    let args: Vec<String> = std::env::args().collect();
    let quick = args.iter().any(|arg| arg == "--quick") || !args.iter().any(|arg| arg == "--bench");
    let (sizes, rounds, count): (&[usize], _, _) = if quick {
        (&[10, 1_000], 5, 64_000)
    } else {
        (&[2, 10, 100, 1_000, 10_000], 11, 256_000)
    };
    let slow = count / 8;
    let one = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime can be made");
    let two = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .expect("a runtime can be made");

    for &n in sizes {
        let buffer = one.block_on(async { Buffer::new(tower_balance(n), 1024) });
        let arms = vec![
            Arm::one("direct", &one, Echo(0), count),
            Arm::one("bare", &one, Bare::new(n), count),
            Arm::one(
                "round robin",
                &one,
                one.block_on(balance(n, RoundRobin::default())),
                count,
            ),
            Arm::one(
                "random",
                &one,
                one.block_on(balance(n, Random::default())),
                count,
            ),
            Arm::one(
                "least of two",
                &one,
                one.block_on(balance(n, LeastRequest::default())),
                count,
            ),
            Arm::one(
                "adaptive",
                &one,
                one.block_on(balance(n, Adaptive::default())),
                count,
            ),
            Arm::one("tower", &one, tower_balance(n), slow),
            Arm::one("buffer", &one, buffer, slow),
        ];
        let title = format!("N = {n}, one task; CPU of its thread; beside tower's Balance");
        table(&title, rounds, arms, "tower");
    }
    for &n in sizes {
        let buffer = two.block_on(async { Buffer::new(tower_balance(n), 1024) });
        let arms = vec![
            Arm::many("direct", &two, Echo(0), count),
            Arm::many("bare", &two, Bare::new(n), count),
            Arm::many(
                "round robin",
                &two,
                two.block_on(balance(n, RoundRobin::default())),
                count,
            ),
            Arm::many(
                "random",
                &two,
                two.block_on(balance(n, Random::default())),
                count,
            ),
            Arm::many(
                "least of two",
                &two,
                two.block_on(balance(n, LeastRequest::default())),
                count,
            ),
            Arm::many(
                "adaptive",
                &two,
                two.block_on(balance(n, Adaptive::default())),
                count,
            ),
            Arm::many("buffer", &two, buffer, slow),
        ];
        let title = format!(
            "N = {n}, {TASKS} tasks on two threads; CPU of all; beside tower's Buffer(Balance)"
        );
        table(&title, rounds, arms, "buffer");
    }
}
