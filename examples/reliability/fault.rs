//! What breaks.

use std::time::Duration;

use clap::ValueEnum;
use evenkeel::BoxError;
use tokio::time::{Instant, sleep_until};
use tonic::Code;

use crate::servers::Servers;
use crate::support::Behaviour;

/// How long a server takes for a call when all is well.
pub(crate) const WORK: Duration = Duration::from_millis(5);

/// What breaks, for half of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Fault {
    /// Two fail every call at once
    FailFast,
    /// One takes calls and never answers
    Silent,
    /// The packets of one are lost, both ways
    Dropped,
    /// The packets to one come late
    Delayed,
    /// A tenth of the packets to one is lost
    Lossy,
    /// One answers each packet by a reset: its connections end, and it takes no other
    Reset,
    /// One fails 30 % of its calls
    Flaky,
    /// One is 100 times slower
    Slow,
    /// 60 % of them are gone
    MostDown,
    /// All do half of their work a second, which is two thirds of what is asked
    Halved,
    /// All are drained and started again, one after the other
    RollingRestart,
}

impl Fault {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::FailFast => "2 fail fast",
            Self::Silent => "1 accepts and never answers",
            Self::Dropped => "packets of 1 dropped",
            Self::Delayed => "packets to 1 come 200 ms late",
            Self::Lossy => "a tenth of the packets to 1 lost",
            Self::Reset => "packets to 1 answered by resets",
            Self::Flaky => "1 fails 30 % of its calls",
            Self::Slow => "1 is 100 times slower",
            Self::MostDown => "60 % down at once",
            Self::Halved => "capacity halved",
            Self::RollingRestart => "rolling restart of all",
        }
    }

    /// Whether it is one of the network, so that one server has a network of its own.
    pub(crate) fn is_of_the_network(self) -> bool {
        matches!(
            self,
            Self::Dropped | Self::Delayed | Self::Lossy | Self::Reset
        )
    }

    /// How many servers it hits, the first ones.
    pub(crate) fn victims(self, servers: usize) -> usize {
        match self {
            Self::FailFast => 2,
            Self::Silent | Self::Flaky | Self::Slow => 1,
            Self::Dropped | Self::Delayed | Self::Lossy | Self::Reset => 1,
            Self::MostDown => servers * 6 / 10,
            Self::Halved | Self::RollingRestart => 0,
        }
    }

    /// Breaks what it breaks.
    pub(crate) async fn begin(self, servers: &Servers, lasts: Duration) -> Result<(), BoxError> {
        let behaviour = Behaviour::after(WORK);
        let behaviour = match self {
            Self::FailFast => Behaviour::failing(Code::Unavailable),
            Self::Silent => Behaviour::silent(),
            Self::Flaky => behaviour.failing_share(0.3, Code::Unavailable),
            Self::Slow => behaviour.slower(100.0),
            Self::MostDown => {
                for server in servers.victims() {
                    server.kill().await;
                }
                return Ok(());
            }
            Self::Dropped | Self::Delayed | Self::Lossy | Self::Reset => {
                return servers.break_network(self);
            }
            Self::Halved => {
                servers.set_capacity(0.5);
                return Ok(());
            }
            Self::RollingRestart => {
                let each = lasts / u32::try_from(servers.plain().len())?;
                let began = Instant::now();
                for (number, server) in (1..).zip(servers.plain()) {
                    server.shutdown_within(each / 2).await;
                    server.restart().await;
                    sleep_until(began + each * number).await;
                }
                return Ok(());
            }
        };
        for server in servers.victims() {
            server.set(behaviour);
        }
        Ok(())
    }

    /// Mends it.
    pub(crate) async fn end(self, servers: &Servers) -> Result<(), BoxError> {
        match self {
            Self::MostDown => {
                for server in servers.victims() {
                    server.restart().await;
                }
            }
            Self::Dropped | Self::Delayed | Self::Lossy | Self::Reset => {
                return servers.mend_network(self);
            }
            Self::Halved => servers.set_capacity(1.0),
            Self::RollingRestart => {}
            _ => {
                for server in servers.victims() {
                    server.set(Behaviour::after(WORK));
                }
            }
        }
        Ok(())
    }
}
