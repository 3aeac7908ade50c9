//! Three zones, a client in one of them, and what becomes of its calls while that zone dies and comes back.
//!
//! ```text
//! cargo run --release --example multi_zone
//! cargo run --release --example multi_zone -- --seconds 5   # each phase longer
//! ```
//!
//! Nine real servers, three to a zone; the delays of the zones are those of a network: 1 ms in the client's own
//! (`eu/a`), 3 ms in the other one of its region (`eu/b`), 20 ms in the other region (`us/a`). Calls stay in the zone
//! while enough of it works ([`NearestFirst`]), and are tried again elsewhere when they fail.
//!
//! Ends with 0 if no call failed and the shares were as the rule says.

#[path = "../tests/support/mod.rs"]
pub mod support;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::{Parser, value_parser};
use evenkeel::grpc::Channel;
use evenkeel::math::Backoff;
use evenkeel::retry::RetryPolicy;
use evenkeel::topology::{NearestFirst, Topology};
use evenkeel::{BoxError, Endpoint};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Request;

use support::connected::connected;
use support::proto::EchoRequest;
use support::proto::demo_client::DemoClient;
use support::verdict::verdict;
use support::{Behaviour, TestServer};

/// Three zones, one of which dies.
#[derive(Debug, Parser)]
#[command(name = "multi_zone")]
struct Options {
    /// How long each phase lasts.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = value_parser!(u32).range(1..=3_600))]
    seconds: u32,
}

/// Where the servers are, and how far that is.
const ZONES: [(&str, Duration); 3] = [
    ("eu/a", Duration::from_millis(1)),
    ("eu/b", Duration::from_millis(3)),
    ("us/a", Duration::from_millis(20)),
];

const SERVERS: usize = 3;

const CALLERS: usize = 16;

#[tokio::main]
async fn main() -> ExitCode {
    verdict(run(&Options::parse()).await)
}

/// Returns the rules that did not hold.
async fn run(options: &Options) -> Result<Vec<String>, BoxError> {
    let start = |(zone, delay): &(&str, Duration)| -> Vec<TestServer> {
        let server = |n| TestServer::builder(format!("{zone}/{n}"), Behaviour::after(*delay));
        (0..SERVERS)
            .map(|n| server(n).own_thread().start())
            .collect()
    };
    let servers: Vec<Vec<TestServer>> = ZONES.iter().map(start).collect();
    let mut endpoints = Vec::new();
    for ((zone, _), servers) in ZONES.iter().zip(&servers) {
        for server in servers {
            endpoints.push(Endpoint::new(server.uri()).with_locality(zone.parse()?));
        }
    }
    let channel = Channel::builder()
        .endpoints(endpoints)
        .topology(
            Topology::default()
                .with_locality(ZONES[0].0.parse()?)
                .with_localities(NearestFirst::default()),
        )
        .backoff(Backoff::default().with_base(Duration::from_millis(50)))
        .retry(RetryPolicy::default())
        .build()?;
    connected(&channel).await?;

    let calls = Calls::start(&channel);
    let length = Duration::from_secs(options.seconds.into());
    let own = &servers[0];
    let mut broken = Vec::new();
    println!(
        "{:<28} {:>7}   {}",
        "",
        "failed",
        ZONES.map(|(zone, _)| column(zone)).join("  ")
    );
    let mut phase = async |name: &str, wanted: [f64; 3]| {
        // What is under way is of the phase before.
        sleep(Duration::from_millis(200)).await;
        calls.take();
        sleep(length).await;
        let seen = calls.take();
        println!("{name:<28} {seen}");
        broken.extend(seen.broken(name, wanted));
    };
    phase("before", [1.0, 0.0, 0.0]).await;
    own[0].kill().await;
    own[1].kill().await;
    // One of three is worth 46 % of the calls, by 140 % for each.
    phase("two of three in eu/a dead", [0.46, 0.54, 0.0]).await;
    own[2].kill().await;
    phase("eu/a dead", [0.0, 1.0, 0.0]).await;
    for server in &servers[1] {
        server.kill().await;
    }
    phase("eu/a and eu/b dead", [0.0, 0.0, 1.0]).await;
    for server in own {
        server.restart().await;
    }
    connected_to(&channel, own).await?;
    phase("eu/a is back", [1.0, 0.0, 0.0]).await;
    calls.stop();
    for group in channel.report().groups {
        let places: Vec<String> = group.localities.iter().map(ToString::to_string).collect();
        let (usable, total) = (group.usable, group.total);
        println!(
            "{}: {usable} of {total} usable, share {:.2}",
            places.join(" "),
            group.share
        );
    }
    Ok(broken)
}

fn column(zone: &str) -> String {
    format!("{:<27}", format!("{zone}: share, p50, p99"))
}

async fn connected_to(channel: &Channel, servers: &[TestServer]) -> Result<(), BoxError> {
    let ready = async {
        let is_ready = |uri: &String| {
            let report = channel.report();
            let mut endpoints = report.endpoints.iter();
            endpoints.any(|e| e.address == *uri && e.state == evenkeel::ConnectivityState::Ready)
        };
        while !servers
            .iter()
            .map(TestServer::uri)
            .all(|uri| is_ready(&uri))
        {
            sleep(Duration::from_millis(5)).await;
        }
    };
    let ready = tokio::time::timeout(support::connected::CONNECTED_WITHIN, ready).await;
    ready.map_err(|_| "the zone is not back in time".into())
}

/// Callers that go on until they are stopped.
struct Calls {
    tasks: JoinSet<()>,
    seen: Arc<Mutex<Seen>>,
}

/// What became of the calls of a phase.
#[derive(Default)]
struct Seen {
    zones: BTreeMap<String, Histogram<u64>>,
    failed: u64,
}

impl Calls {
    fn start(channel: &Channel) -> Self {
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let mut tasks = JoinSet::new();
        for _ in 0..CALLERS {
            let mut client = DemoClient::new(channel.clone());
            let seen = seen.clone();
            tasks.spawn(async move {
                loop {
                    let mut request = Request::new(EchoRequest::default());
                    request.set_timeout(Duration::from_secs(1));
                    let began = Instant::now();
                    let answer = client.echo(request).await;
                    let took = began.elapsed();
                    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                    match answer {
                        Ok(reply) => {
                            let server = reply.into_inner().server;
                            let zone = server.rsplit_once('/').map_or("", |(zone, _)| zone);
                            let times = seen.zones.entry(zone.to_owned()).or_insert_with(|| {
                                Histogram::new_with_bounds(1, 60_000_000, 3).expect("valid bounds")
                            });
                            times.saturating_record(took.as_micros() as u64);
                        }
                        Err(_) => seen.failed += 1,
                    }
                }
            });
        }
        Self { tasks, seen }
    }

    /// What was seen since the last time.
    fn take(&self) -> Seen {
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn stop(mut self) {
        self.tasks.abort_all();
    }
}

impl Seen {
    fn share(&self, zone: &str) -> f64 {
        let all: u64 = self.zones.values().map(Histogram::len).sum();
        let here = self.zones.get(zone).map_or(0, Histogram::len);
        here as f64 / all.max(1) as f64
    }

    fn broken(&self, phase: &str, wanted: [f64; 3]) -> Vec<String> {
        let mut broken = Vec::new();
        if self.failed > 0 {
            broken.push(format!("{phase}: {} calls failed", self.failed));
        }
        for ((zone, _), wanted) in ZONES.iter().zip(wanted) {
            let share = self.share(zone);
            if (share - wanted).abs() > 0.05 {
                broken.push(format!(
                    "{phase}: {zone} had {share:.2} of the calls, not {wanted:.2}"
                ));
            }
        }
        broken
    }
}

impl std::fmt::Display for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>7}   ", self.failed)?;
        for (zone, _) in ZONES {
            let at = |quantile: f64| match self.zones.get(zone) {
                Some(times) => format!("{:.1} ms", times.value_at_quantile(quantile) as f64 / 1e3),
                None => "–".to_owned(),
            };
            write!(
                f,
                "{:>5.1} %  {:>7}  {:>8}   ",
                100.0 * self.share(zone),
                at(0.5),
                at(0.99)
            )?;
        }
        Ok(())
    }
}
