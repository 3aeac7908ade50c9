//! Prints how the endpoints of a channel with health checks are, a JSON line at each change: for scripts that hold
//! it against other makers' health services, as `tests/interop` does, and to see what a channel makes of one's
//! own.
//!
//! ```text
//! cargo run --example checked -- shop.Cart http://127.0.0.1:50051 http://127.0.0.1:50052
//! ```
//!
//! The first argument is the service that is asked for; "" is the server as a whole. Ends with stdin.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use evenkeel::BoxError;
use evenkeel::grpc::{Channel, HealthCheck};
use tokio::io::{AsyncReadExt, stdin};
use tokio::time::sleep;

/// How often the channel's report is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(service), uris) = (arguments.next(), arguments.collect::<Vec<_>>()) else {
        eprintln!("usage: checked SERVICE URI...");
        return ExitCode::from(2);
    };
    match watch(service, uris).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

async fn watch(service: String, uris: Vec<String>) -> Result<(), BoxError> {
    let channel = Channel::builder()
        .endpoints(uris)
        .health_check(HealthCheck::of(service))
        .build()?;
    let prints = async {
        let mut last = None;
        loop {
            let endpoints = channel.report().endpoints.into_iter();
            let now: BTreeMap<String, String> = endpoints
                .map(|e| {
                    (
                        e.address,
                        e.unhealthy.unwrap_or_else(|| e.state.to_string()),
                    )
                })
                .collect();
            if last.as_ref() != Some(&now) {
                println!("{}", serde_json::to_string(&now).expect("strings are JSON"));
                last = Some(now);
            }
            sleep(LOOK_EVERY).await;
        }
    };
    let ends = async {
        let mut rest = Vec::new();
        stdin().read_to_end(&mut rest).await.map(drop)
    };
    tokio::select! {
        ended = ends => Ok(ended?),
        () = prints => Ok(()),
    }
}
