//! Minutes of random faults and churn under load, after which everything must be where it began: tasks, connections,
//! calls under way, memory.
//!
//! ```text
//! cargo run --release --example soak                        # ten minutes
//! cargo run --release --example soak -- --seconds 60 --seed 7
//! ```
//!
//! Real servers, each on a thread of its own; what a server does next, when it dies, is drained, leaves the set or
//! changes its weight is drawn from the seed. Ends with 0 if every rule held, and names those that did not.
//!
//! - `chaos`: what happens to the servers;
//! - `callers`: who calls, and what became of the calls;
//! - `footprint`: what there is of the client: tasks, connections, calls, memory.

mod callers;
mod chaos;
mod footprint;
#[path = "../../tests/support/mod.rs"]
pub mod support;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, value_parser};
use evenkeel::BoxError;
use evenkeel::discovery::Handle;
use evenkeel::grpc::Channel;
use evenkeel::health::{Ejection, OutlierDetection, SlowStart};
use evenkeel::math::Backoff;
use evenkeel::retry::RetryPolicy;
use tokio::time::{Instant, sleep};

use callers::Callers;
use footprint::Footprint;
use support::connected::connected;
use support::verdict::verdict;
use support::{Behaviour, TestServer};

/// Random faults and churn under load, after which everything must be where it began.
#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Options {
    /// How long the faults last.
    #[arg(long, default_value_t = 600, value_name = "N", value_parser = value_parser!(u32).range(5..=86_400))]
    seconds: u32,

    /// What the faults are drawn from.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,

    /// How many servers.
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = value_parser!(u8).range(4..=100))]
    servers: u8,

    /// How many callers, each with one call under way at a time.
    #[arg(long, default_value_t = 32, value_name = "N", value_parser = value_parser!(u16).range(1..=1_000))]
    callers: u16,
}

/// How long a server takes for a call when all is well.
const WORK: Duration = Duration::from_millis(2);

/// For connections, caches and tables to have their size before they are measured.
const WARM_UP: Duration = Duration::from_secs(5);

/// How long the client may take to be where it began.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    verdict(soak(&Options::parse()).await)
}

/// Returns the rules that did not hold.
async fn soak(options: &Options) -> Result<Vec<String>, BoxError> {
    let servers: Vec<TestServer> = (0..options.servers)
        .map(|number| {
            let behaviour = Behaviour::after(WORK);
            let server = TestServer::builder(format!("server {number}"), behaviour);
            server.own_thread().start()
        })
        .collect();
    let nobody = Footprint::of(&servers);
    let (handle, updates) = Handle::new(servers.iter().map(TestServer::uri))?;
    let channel = channel(updates)?;
    connected(&channel).await?;

    let mut callers = Callers::start(&channel, options.callers, options.seed);
    sleep(WARM_UP).await;
    callers.pause().await?;
    let before = settled(&servers, |now| now.is_idle(&servers)).await;
    println!("before: {before}");
    if !before.is_idle(&servers) {
        return Err("it never came to rest before the faults began".into());
    }

    callers.go_on();
    let began = Instant::now();
    let length = Duration::from_secs(options.seconds.into());
    let happened = chaos::reign(&servers, &handle, options.seed, length).await?;
    chaos::mend(&servers, &handle).await?;
    let lasted = began.elapsed();
    // Who was ejected for a second or two is back by a call.
    let back = || {
        channel
            .report()
            .endpoints
            .iter()
            .all(|e| e.ejected.is_none())
    };
    let mut broken = Vec::new();
    let recovers = async {
        while !back() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(SETTLES_WITHIN, recovers)
        .await
        .is_err()
    {
        broken.push(format!(
            "an endpoint never came back:\n{:#?}",
            channel.report()
        ));
    }
    if let Err(error) = connected(&channel).await {
        broken.push(error.to_string());
    }
    callers.pause().await?;
    let after = settled(&servers, |now| now.is_like(&before)).await;
    println!("after {:.0} s: {after}", lasted.as_secs_f64());
    println!("{happened}");
    let calls = callers.stop().await?;
    println!("{calls}");
    broken.extend(after.differs_from(&before));
    broken.extend(calls.broken());

    drop(channel);
    let end = settled(&servers, |now| {
        now.tasks == nobody.tasks && now.connections == 0
    })
    .await;
    println!("without the channel: {end}");
    if end.tasks != nobody.tasks || end.connections != 0 {
        broken.push("tasks or connections outlived the channel".to_owned());
    }
    Ok(broken)
}

/// Everything on that a fault can bring into play, with times short enough that a minute holds many of them.
fn channel(updates: evenkeel::discovery::Updates) -> Result<Channel, BoxError> {
    let backoff = Backoff::default()
        .with_base(Duration::from_millis(50))
        .with_max(Duration::from_secs(1));
    let outliers = OutlierDetection::default().with_interval(Duration::from_secs(1));
    let ejection = Ejection::default()
        .with_base_time(Duration::from_secs(1))
        .with_max_time(Duration::from_secs(3))
        .with_outlier_detection(outliers);
    let channel = Channel::builder()
        .discovery(updates)
        .backoff(backoff)
        .connect_timeout(Duration::from_secs(1))
        .max_connection_age(Duration::from_secs(20))
        .ejection(ejection)
        .slow_start(SlowStart::new(Duration::from_secs(2)))
        .retry(RetryPolicy::default())
        .build()?;
    Ok(channel)
}

/// Waits until `is` holds, and returns what there is then, or in the end.
async fn settled(servers: &[TestServer], is: impl Fn(&Footprint) -> bool) -> Footprint {
    let over = Instant::now() + SETTLES_WITHIN;
    loop {
        let now = Footprint::of(servers);
        if is(&now) || Instant::now() > over {
            return now;
        }
        sleep(Duration::from_millis(20)).await;
    }
}
