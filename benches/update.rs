//! What a change of a large set costs, and what calls notice of it.
//!
//! ```text
//! cargo bench --bench update             # the whole table
//! cargo bench --bench update -- --quick  # one round
//! ```
//!
//! 10,000 endpoints in 50 localities, over services that answer at once.
//!
//! - *all*: a state in which each endpoint is described anew, to a snapshot that shows it.
//! - *one*: a state in which one is, the others being the same.
//! - *picks*: the time of a call on one thread while another makes 1,000 changes a second, beside the
//!   same without changes, in turns.
//! - *memory*: what an endpoint takes, its service and its locality's share of the tables included.
//!
//! The control plane is a task of a runtime with one thread, so that a turn of the scheduler is all of its work.

use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use evenkeel::balance::Plain;
use evenkeel::connection::connector_fn;
use evenkeel::discovery::Update;
use evenkeel::endpoint::Locality;
use evenkeel::policy::{Candidates, LeastRequest, Maglev, Picker, Policy, RingHash, RoundRobin};
use evenkeel::topology::{Topology, WeightedLocalities};
use evenkeel::{Balance, BoxError, Endpoint};
use hdrhistogram::Histogram;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tower::Service;

const ENDPOINTS: usize = 10_000;
const LOCALITIES: usize = 50;

/// Answers at once.
#[derive(Clone)]
struct Echo;

impl Service<u64> for Echo {
    type Response = u64;
    type Error = Infallible;
    type Future = Ready<Result<u64, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        ready(Ok(request))
    }
}

/// Counts how often a picker is built.
#[derive(Debug)]
struct Counted {
    policy: Arc<dyn Policy>,
    builds: Arc<AtomicU64>,
}

impl Policy for Counted {
    fn name(&self) -> &'static str {
        self.policy.name()
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let picker = self.policy.build(candidates, previous);
        self.builds.fetch_add(1, Ordering::Relaxed);
        picker
    }
}

struct Fleet {
    balance: Balance<Echo, Plain>,
    updates: UnboundedSender<Update>,
    endpoints: Vec<Endpoint>,
    builds: Arc<AtomicU64>,
}

fn localities() -> Vec<Locality> {
    let name = |n| Locality::new("region").with_zone(format!("zone-{n}"));
    (0..LOCALITIES).map(name).collect()
}

impl Fleet {
    async fn new(policy: Arc<dyn Policy>, by_locality: bool) -> Self {
        let localities = localities();
        let endpoint = |n: usize| {
            Endpoint::new(format!("10.{}.{}.{}:1", n / 65_536, n / 256 % 256, n % 256))
                .with_locality(localities[n % LOCALITIES].clone())
        };
        let endpoints: Vec<Endpoint> = (0..ENDPOINTS).map(endpoint).collect();
        let (updates, states) = unbounded_channel();
        let builds = Arc::new(AtomicU64::new(0));
        let policy = Counted {
            policy,
            builds: builds.clone(),
        };
        let mut topology = Topology::default();
        if by_locality {
            topology = topology.with_localities(WeightedLocalities::default());
        }
        let balance = Balance::builder()
            .connector(connector_fn(|_: &Endpoint, _| {
                ready(Ok::<_, Infallible>(Echo))
            }))
            .discovery(UnboundedReceiverStream::new(states).map(Ok::<_, BoxError>))
            .max_concurrent_dials(ENDPOINTS)
            .policy(policy)
            .topology(topology)
            .seed(1)
            .build()
            .expect("the settings are right");
        let fleet = Self {
            balance,
            updates,
            endpoints,
            builds,
        };
        fleet.tell();
        let ready = |fleet: &Self| {
            let report = fleet.balance.report();
            let ready = |e: &&evenkeel::observe::EndpointReport| {
                e.state == evenkeel::ConnectivityState::Ready
            };
            report.endpoints.iter().filter(ready).count()
        };
        while ready(&fleet) < ENDPOINTS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        fleet
    }

    fn tell(&self) {
        let state = Update::new(self.endpoints.iter().cloned());
        self.updates
            .send(state)
            .expect("the control plane is there");
    }

    /// Describes so many endpoints anew.
    fn change(&mut self, count: usize, round: usize) {
        for n in 0..count {
            let place = (round * 7_919 + n) % ENDPOINTS;
            let endpoint = self.endpoints[place].clone();
            let weight = 1 + (endpoint.weight() % 2);
            self.endpoints[place] = endpoint.with_weight(weight);
        }
        self.tell();
    }

    /// How long the control plane works on a change of so many endpoints.
    async fn time(&mut self, count: usize, round: usize) -> Duration {
        // It rests after its work, as long as that took.
        tokio::time::sleep(Duration::from_millis(60)).await;
        let before = self.builds.load(Ordering::Relaxed);
        self.change(count, round);
        let start = Instant::now();
        while self.builds.load(Ordering::Relaxed) == before {
            tokio::task::yield_now().await;
        }
        start.elapsed()
    }
}

fn median(mut of: Vec<Duration>) -> (Duration, Duration, Duration) {
    of.sort_unstable();
    (of[of.len() / 2], of[0], of[of.len() - 1])
}

fn millis((median, least, most): (Duration, Duration, Duration)) -> String {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    format!("{:.2} ms ({:.2}–{:.2})", ms(median), ms(least), ms(most))
}

type Make = fn() -> Arc<dyn Policy>;

const POLICIES: [(&str, Make); 4] = [
    ("round robin", || Arc::new(RoundRobin::default())),
    ("least request", || Arc::new(LeastRequest::default())),
    ("ring hash", || Arc::new(RingHash::default())),
    ("Maglev", || Arc::new(Maglev::default())),
];

fn changes(rounds: usize) {
    println!("| policy | groups | all, median of {rounds} (range) | one |\n|---|---|---|---|");
    for (name, make) in POLICIES {
        for by_locality in [false, true] {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let mut fleet = Fleet::new(make(), by_locality).await;
                let mut times = [Vec::new(), Vec::new()];
                for round in 0..rounds {
                    times[0].push(fleet.time(ENDPOINTS, round).await);
                    times[1].push(fleet.time(1, round).await);
                }
                let [all, one] = times.map(|times| millis(median(times)));
                let groups = if by_locality { LOCALITIES } else { 1 };
                println!("| {name} | {groups} | {all} | {one} |");
            });
        }
    }
}

/// The times of calls for so long, in nanoseconds.
fn calls(balance: &mut Balance<Echo, Plain>, span: Duration) -> Histogram<u64> {
    let mut times = Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("valid bounds");
    let mut context = Context::from_waker(Waker::noop());
    let start = Instant::now();
    let mut before = start;
    while before - start < span {
        let call = Service::<u64>::call(balance, 1);
        let answer = pin!(call).poll(&mut context);
        assert!(matches!(answer, Poll::Ready(Ok(_))), "somebody can take it");
        let now = Instant::now();
        times.saturating_record((now - before).as_nanos() as u64);
        before = now;
    }
    times
}

fn picks(rounds: usize, span: Duration) {
    println!(
        "\n| policy | groups | changes | p50 | p99 | p99.9 (range of {rounds}) | changes a second |\n|---|---|---|---|---|---|---|"
    );
    for (name, make) in &POLICIES[..2] {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .expect("a runtime");
        let mut fleet = runtime.block_on(async {
            let made = make();
            tokio::spawn(Fleet::new(made, true))
                .await
                .expect("it is made")
        });
        let mut balance = fleet.balance.clone();
        let changing = Arc::new(AtomicBool::new(false));
        let told = Arc::new(AtomicU64::new(0));
        let (is_changing, count) = (changing.clone(), told.clone());
        let changer = runtime.spawn(async move {
            let mut tick = tokio::time::interval(Duration::from_millis(1));
            for round in 0.. {
                tick.tick().await;
                if is_changing.load(Ordering::Relaxed) {
                    fleet.change(1, round);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        let mut seen: [Vec<Histogram<u64>>; 2] = Default::default();
        for _ in 0..rounds {
            for busy in [false, true] {
                changing.store(busy, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
                seen[usize::from(busy)].push(calls(&mut balance, span));
            }
        }
        changer.abort();
        let rate =
            told.load(Ordering::Relaxed) as f64 / (rounds as f64 * (span.as_secs_f64() + 0.05));
        for (label, histograms) in ["none", "one at a time"].into_iter().zip(&seen) {
            let at = |quantile: f64| {
                let mut times: Vec<u64> = histograms
                    .iter()
                    .map(|h| h.value_at_quantile(quantile))
                    .collect();
                times.sort_unstable();
                (times[times.len() / 2], times[0], times[times.len() - 1])
            };
            let (p999, least, most) = at(0.999);
            let rate = if label == "none" { 0.0 } else { rate };
            println!(
                "| {name} | {LOCALITIES} | {label} | {} ns | {} ns | {p999} ns ({least}–{most}) | {rate:.0} |",
                at(0.5).0,
                at(0.99).0,
            );
        }
    }
}

fn memory() {
    println!("\n| policy | groups | bytes for each endpoint |\n|---|---|---|");
    for (name, make) in POLICIES {
        let mut kept = None;
        let used = allocation_counter::measure(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .expect("a runtime");
            let fleet = runtime.block_on(Fleet::new(make(), true));
            kept = Some((runtime, fleet));
        });
        let each = used.bytes_current as f64 / ENDPOINTS as f64;
        println!("| {name} | {LOCALITIES} | {each:.0} |");
        drop(kept);
    }
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick" || arg == "--test");
    let rounds = if quick { 1 } else { 11 };
    changes(rounds);
    let span = Duration::from_millis(if quick { 200 } else { 2_000 });
    picks(if quick { 1 } else { 5 }, span);
    memory();
}
