//! One fault, one balancer.

use std::time::Duration;

use evenkeel::{BoxError, ConnectivityState};
use tokio::time::{Instant, sleep, sleep_until};

use crate::arms::{self, Arm};
use crate::fault::Fault;
use crate::load;
use crate::options::Options;
use crate::servers::Servers;
use crate::verdict::{Sample, Verdict};

/// How often the servers' counts are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The inner error says why this cannot be done here.
pub(crate) async fn run(
    fault: Fault,
    arm: Arm,
    options: &Options,
) -> Result<Result<Verdict, String>, BoxError> {
    let servers = match Servers::start(fault, options)? {
        Ok(servers) => servers,
        Err(why) => return Ok(Err(why)),
    };
    let (client, channel) = arms::client(arm, fault, servers.uris()).await?;
    let began = Instant::now();
    let breaks = async {
        let (begins, ends) = (options.begins(), options.ends());
        sleep_until(began + begins).await;
        fault.begin(&servers, ends - begins).await?;
        sleep_until(began + ends).await;
        fault.end(&servers).await
    };
    let looks = async {
        let mut samples: Vec<Sample> = Vec::new();
        loop {
            sleep(LOOK_EVERY).await;
            let victim_is_ready = channel.as_ref().and_then(|channel| {
                let endpoints = channel.report().endpoints;
                let last = endpoints.last()?;
                Some(last.state == ConnectivityState::Ready && last.ejected.is_none())
            });
            let at = began.elapsed();
            samples.push(Sample {
                at,
                arrived: servers.arrived(),
                victim_is_ready: victim_is_ready.filter(|_| fault.is_of_the_network()),
            });
            if at > options.length() {
                return samples;
            }
        }
    };
    let calls = load::send(&client, began, options.length(), options.rate);
    let (calls, broken, samples) = tokio::join!(calls, breaks, looks);
    broken?;
    let share = fault.victims(options.servers.into()) as f64 / f64::from(options.servers);
    Ok(Ok(Verdict::of(&calls?, &samples, share, options)))
}
