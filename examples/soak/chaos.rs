//! What happens to the servers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use evenkeel::discovery::Handle;
use evenkeel::math::Rng;
use evenkeel::{BoxError, Endpoint};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::WORK;
use crate::support::{Behaviour, TestServer};

/// The time between two events, at most. The mean is half of it.
const GAP_MS: usize = 400;

/// How many of the servers may be bad at once: calls are to have somewhere to go.
const BAD_AT_ONCE: usize = 3;

/// What happened, and how often.
#[derive(Debug, Default)]
pub(crate) struct Happened(BTreeMap<&'static str, u64>);

impl fmt::Display for Happened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("happened:")?;
        for (number, (what, count)) in self.0.iter().enumerate() {
            write!(f, "{} {count} × {what}", if number == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// Lets things happen for so long.
pub(crate) async fn reign(
    servers: &[TestServer],
    handle: &Handle,
    seed: u64,
    length: Duration,
) -> Result<Happened, BoxError> {
    let mut rng = Rng::stream(seed, 0);
    let mut happened = Happened::default();
    let mut bad: Vec<usize> = Vec::new();
    let over = Instant::now() + length;
    while Instant::now() < over {
        sleep(Duration::from_millis(rng.below(GAP_MS) as u64)).await;
        if bad.len() == BAD_AT_ONCE {
            let number = bad.swap_remove(rng.below(bad.len()));
            mend_one(&servers[number], handle).await?;
        }
        let number = rng.below(servers.len());
        let server = &servers[number];
        let behaviour = Behaviour::after(WORK);
        let what = match rng.below(10) {
            0 => {
                server.set(Behaviour::failing(Code::Unavailable));
                "fails all"
            }
            1 => {
                server.set(behaviour.failing_share(0.3, Code::Internal));
                "fails some"
            }
            2 => {
                server.set(behaviour.slower(100.0));
                "slow"
            }
            3 => {
                server.set(Behaviour::silent());
                "silent"
            }
            4 => {
                server.kill().await;
                "killed"
            }
            5 => {
                server.drain().await;
                "drained"
            }
            6 => {
                server.drain().await;
                server.restart().await;
                "restarted"
            }
            7 => {
                handle.remove(&server.uri());
                "left"
            }
            8 => {
                let weight = 1 + rng.below(10) as u32;
                handle.insert(Endpoint::new(server.uri()).with_weight(weight))?;
                "other weight"
            }
            _ => {
                for weight in 1..=50 {
                    handle.remove(&server.uri());
                    handle.insert(Endpoint::new(server.uri()).with_weight(weight))?;
                }
                "burst of changes"
            }
        };
        *happened.0.entry(what).or_default() += 1;
        if !bad.contains(&number) {
            bad.push(number);
        }
    }
    Ok(happened)
}

/// Mends everything.
pub(crate) async fn mend(servers: &[TestServer], handle: &Handle) -> Result<(), BoxError> {
    for server in servers {
        mend_one(server, handle).await?;
    }
    Ok(())
}

async fn mend_one(server: &TestServer, handle: &Handle) -> Result<(), BoxError> {
    server.set(Behaviour::after(WORK));
    // One that is killed, drains, or holds calls that it will never answer begins anew.
    server.kill().await;
    server.restart().await;
    handle.insert(Endpoint::new(server.uri()))?;
    Ok(())
}
