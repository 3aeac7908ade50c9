//! Unary calls over loopback: calls per second, CPU of the client and latency, beside what one
//! writes by hand over tonic and beside tonic's own balancer.
//!
//! ```text
//! cargo bench --bench grpc -- [--quick] [--rounds N] [--cell-ms N] [--runtime multi|current]
//!                             [--callers 1,16,64] [--only ARM]
//! ```
//!
//! Three servers run in a process of their own, a thread each. The clients take turns in short
//! cells, in another order each round, so that what else the machine does hits all of them. Every
//! round gives one ratio for each client against *by hand*; printed is their geometric mean with the
//! 95 % interval of Student's t over the logarithms. *By hand again* is by hand a second time, over
//! connections of its own: what its interval does not tell from 1, no other's does either.

pub mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use evenkeel::policy::RoundRobin;
use hdrhistogram::Histogram;
use hyper_util::rt::TokioIo;
use rustix::time::{ClockId, clock_gettime};
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint};

use support::proto::demo_client::DemoClient;
use support::proto::demo_server::DemoServer;
use support::{Arm, Echo, SERVERS, bare};

const SERVE: &str = "--serve";

fn main() {
    if std::env::args().any(|arg| arg == SERVE) {
        serve();
        return;
    }
    let options = Options::read();
    let mut servers = Servers::start();
    let runtime = match options.runtime {
        Flavour::Multi => tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build(),
        Flavour::Current => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build(),
    };
    runtime
        .expect("a runtime can be built")
        .block_on(run(&options, &servers.uris));
    servers.stop();
}

struct Options {
    rounds: usize,
    cell: Duration,
    runtime: Flavour,
    callers: Vec<usize>,
    only: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Flavour {
    Multi,
    Current,
}

impl Options {
    fn read() -> Self {
        let mut options = Self {
            rounds: 25,
            cell: Duration::from_millis(250),
            runtime: Flavour::Multi,
            callers: vec![1, 16, 64],
            only: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
            match arg.as_str() {
                "--bench" => {}
                "--quick" => {
                    options.rounds = 5;
                    options.cell = Duration::from_millis(100);
                }
                "--rounds" => options.rounds = number(&value()),
                "--cell-ms" => options.cell = Duration::from_millis(number(&value()) as u64),
                "--runtime" => {
                    options.runtime = match value().as_str() {
                        "multi" => Flavour::Multi,
                        "current" => Flavour::Current,
                        other => panic!("--runtime is multi or current, not {other}"),
                    };
                }
                "--callers" => options.callers = value().split(',').map(number).collect(),
                "--only" => options.only = Some(value()),
                other => panic!("unknown argument {other}"),
            }
        }
        assert!(options.rounds >= 2, "an interval needs two rounds");
        options
    }
}

fn number(text: &str) -> usize {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} is not a number"))
}

/// The servers' process, until told to stop or until this one ends.
struct Servers {
    process: Child,
    uris: Vec<String>,
}

impl Servers {
    fn start() -> Self {
        let this = std::env::current_exe().expect("the bench knows its own path");
        let mut process = Command::new(this)
            .arg(SERVE)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the bench can be started again as the servers");
        let stdout = process.stdout.take().expect("piped");
        let uris: Vec<String> = BufReader::new(stdout)
            .lines()
            .take(SERVERS)
            .map(|line| line.expect("the servers print their addresses"))
            .collect();
        assert_eq!(uris.len(), SERVERS, "every server has an address");
        Self { process, uris }
    }

    fn stop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Serves until the standard input ends, which it does too when the parent dies.
fn serve() {
    for _ in 0..SERVERS {
        std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be built");
            runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0")
                    .await
                    .expect("loopback has a free port");
                let address = listener
                    .local_addr()
                    .expect("a bound socket has an address");
                let mut stdout = std::io::stdout().lock();
                writeln!(stdout, "http://{address}").expect("the parent reads");
                drop(stdout);
                let accepted =
                    futures::StreamExt::inspect(TcpListenerStream::new(listener), |io| {
                        if let Ok(io) = io {
                            let _ = io.set_nodelay(true);
                        }
                    });
                tonic::transport::Server::builder()
                    .add_service(DemoServer::new(Echo))
                    .serve_with_incoming(accepted)
                    .await
                    .expect("the server serves");
            });
        });
    }
    let mut line = String::new();
    while std::io::stdin()
        .read_line(&mut line)
        .is_ok_and(|read| read > 0)
    {}
}

/// The first is what the others are compared to.
async fn arms(uris: &[String]) -> Vec<(&'static str, Arm)> {
    vec![
        ("by hand", by_hand(uris)),
        ("by hand again", by_hand(uris)),
        ("balance_list", balance_list(uris)),
        ("bare sender", bare(uris).await),
        (
            "evenkeel round robin",
            evenkeel(uris, |builder| builder.policy(RoundRobin::default())).await,
        ),
        ("evenkeel default", evenkeel(uris, |builder| builder).await),
    ]
}

fn endpoints(uris: &[String]) -> impl Iterator<Item = Endpoint> {
    uris.iter()
        .map(|uri| Endpoint::from_shared(uri.clone()).expect("a server's address is a URI"))
}

fn by_hand(uris: &[String]) -> Arm {
    let channels: Vec<Channel> = endpoints(uris).map(|e| e.connect_lazy()).collect();
    Arm::by_hand(channels.try_into().expect("as many as servers"))
}

fn balance_list(uris: &[String]) -> Arm {
    Arm::BalanceList(DemoClient::new(Channel::balance_list(endpoints(uris))))
}

async fn bare(uris: &[String]) -> Arm {
    let mut senders = Vec::new();
    for uri in uris {
        let address = uri.trim_start_matches("http://");
        let io = TcpStream::connect(address)
            .await
            .expect("the server listens");
        io.set_nodelay(true).expect("the socket takes options");
        senders.push(bare::Sender::handshake(TokioIo::new(io)).await);
    }
    Arm::bare(senders.try_into().ok().expect("as many as servers"))
}

async fn evenkeel(
    uris: &[String],
    change: impl FnOnce(evenkeel::grpc::Builder) -> evenkeel::grpc::Builder,
) -> Arm {
    let builder = evenkeel::grpc::Channel::builder().endpoints(uris.to_vec());
    let channel = change(builder).build().expect("the settings are good");
    let ready = async {
        while !channel
            .report()
            .endpoints
            .iter()
            .all(|e| e.state == evenkeel::ConnectivityState::Ready)
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ready)
        .await
        .expect("all servers are ready");
    Arm::Evenkeel(DemoClient::new(channel))
}

async fn run(options: &Options, uris: &[String]) {
    let mut arms = arms(uris).await;
    if let Some(only) = &options.only {
        arms.retain(|(name, _)| name == only);
        assert!(!arms.is_empty(), "no client is named {only}");
    }
    println!(
        "{} rounds of {} ms cells, runtime: {:?}, {SERVERS} servers\n",
        options.rounds,
        options.cell.as_millis(),
        options.runtime
    );
    println!(
        "| callers | client | calls/s | CPU µs/call | p50 µs | p99 µs | CPU ratio [95 %] | calls/s ratio [95 %] |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for &callers in &options.callers {
        let mut measured: Vec<Measured> = arms.iter().map(|_| Measured::new()).collect();
        // Connects what is lazy, and warms up.
        for (_, arm) in &arms {
            cell(arm, callers, options.cell / 2).await;
        }
        for round in 0..options.rounds {
            for place in 0..arms.len() {
                // Each client goes first, second, ... equally often, before and after each other.
                let place = (place + round) % arms.len();
                let index = if round % 2 == 0 {
                    place
                } else {
                    arms.len() - 1 - place
                };
                let one = cell(&arms[index].1, callers, options.cell).await;
                measured[index].add(one);
            }
        }
        for (index, (name, _)) in arms.iter().enumerate() {
            let (this, base) = (&measured[index], &measured[0]);
            println!(
                "| {callers} | {name} | {:.0} | {:.2} | {} | {} | {} | {} |",
                mean(&this.calls_per_second),
                mean(&this.cpu_per_call) * 1e6,
                this.latency.value_at_quantile(0.5),
                this.latency.value_at_quantile(0.99),
                ratio(&this.cpu_per_call, &base.cpu_per_call),
                ratio(&this.calls_per_second, &base.calls_per_second),
            );
        }
    }
}

/// What one client did in one cell.
struct One {
    calls_per_second: f64,
    cpu_per_call: f64,
    latency: Histogram<u32>,
}

struct Measured {
    calls_per_second: Vec<f64>,
    /// In seconds.
    cpu_per_call: Vec<f64>,
    /// In microseconds.
    latency: Histogram<u32>,
}

impl Measured {
    fn new() -> Self {
        Self {
            calls_per_second: Vec::new(),
            cpu_per_call: Vec::new(),
            latency: histogram(),
        }
    }

    fn add(&mut self, one: One) {
        self.calls_per_second.push(one.calls_per_second);
        self.cpu_per_call.push(one.cpu_per_call);
        self.latency
            .add(one.latency)
            .expect("both have the same bounds");
    }
}

/// From 1 µs to 10 s, to two digits: small, since each caller fills one of its own.
fn histogram() -> Histogram<u32> {
    Histogram::new_with_bounds(1, 10_000_000, 2).expect("valid bounds")
}

async fn cell(arm: &Arm, callers: usize, length: Duration) -> One {
    let calls = Arc::new(AtomicU64::new(0));
    let cpu = cpu_time();
    let start = Instant::now();
    let end = start + length;
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (arm, calls) = (arm.clone(), calls.clone());
            tokio::spawn(async move {
                let mut latency = histogram();
                let mut last = None;
                arm.call_while(caller, || {
                    let now = Instant::now();
                    if let Some(last) = last.replace(now) {
                        latency.saturating_record((now - last).as_micros() as u64);
                    }
                    now < end
                })
                .await;
                calls.fetch_add(latency.len(), Ordering::Relaxed);
                latency
            })
        })
        .collect();
    let mut latency = histogram();
    for task in tasks {
        let one = task.await.expect("a caller does not panic");
        latency.add(one).expect("both have the same bounds");
    }
    let wall = start.elapsed();
    let cpu = cpu_time() - cpu;
    let calls = calls.load(Ordering::Relaxed) as f64;
    One {
        calls_per_second: calls / wall.as_secs_f64(),
        cpu_per_call: cpu.as_secs_f64() / calls,
        latency,
    }
}

/// Of this process, kernel included.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The geometric mean of `a[i] / b[i]`, and its 95 % interval.
fn ratio(a: &[f64], b: &[f64]) -> String {
    let logs: Vec<f64> = a.iter().zip(b).map(|(a, b)| (a / b).ln()).collect();
    let n = logs.len() as f64;
    let middle = mean(&logs);
    let variance = logs.iter().map(|x| (x - middle).powi(2)).sum::<f64>() / (n - 1.0);
    // Student's t at 97.5 %, within 0.5 % from 4 degrees of freedom on.
    let df = n - 1.0;
    let t = 1.96 + 2.372 / df + 2.822 / (df * df) + 2.6 / (df * df * df);
    let half = t * (variance / n).sqrt();
    format!(
        "{:.3} [{:.3}, {:.3}]",
        middle.exp(),
        (middle - half).exp(),
        (middle + half).exp()
    )
}
