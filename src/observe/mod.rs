//! What a balancer tells of itself, as plain data.

use std::fmt;
use std::time::Duration;

use crate::endpoint::{ConnectivityState, EndpointId};

/// A balancer at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The state of the whole: `Ready` if any endpoint is, else `Connecting` if any may become so,
    /// else `TransientFailure`.
    pub state: ConnectivityState,
    /// The policy's name.
    pub policy: &'static str,
    /// So few endpoints are usable that ejections are ignored, or calls fail where the rules of
    /// [ejection](crate::health::Ejection::with_failing_in_panic) say so.
    pub panic: bool,
    /// Whether the source of endpoints has named a state yet.
    pub resolved: bool,
    /// What the source's last word was, if it was an error.
    pub discovery_error: Option<String>,
    /// Every endpoint, in the source's order.
    pub endpoints: Vec<EndpointReport>,
}

/// One endpoint at one moment.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EndpointReport {
    /// Its id.
    pub id: EndpointId,
    /// Where it is.
    pub address: String,
    /// Its weight.
    pub weight: u32,
    /// The state of its connection.
    pub state: ConnectivityState,
    /// Calls under way, streams counted to their end.
    pub in_flight: u32,
    /// Calls that were ever sent to it.
    pub calls: u64,
    /// Calls that failed by its fault, by overload, or with its connection.
    pub failures: u64,
    /// Set while it is out because of its calls.
    pub ejected: Option<Ejected>,
    /// Set while it gets no calls because of its health check: why.
    pub unhealthy: Option<String>,
    /// Set while it gets no calls because it was [drained](crate::Balance::drain). Its state is then `Shutdown`.
    pub drain: Option<DrainStage>,
    /// Why the last attempt to connect failed, or the last connection ended; cleared when the next
    /// one is ready.
    pub last_error: Option<String>,
}

/// How far the drain of an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum DrainStage {
    /// Calls that it had are under way, or its connection is not closed yet.
    Draining,
    /// It has no calls left.
    Drained,
}

impl fmt::Display for DrainStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Draining => "draining",
            Self::Drained => "drained",
        })
    }
}

/// How the calls ended that were under way when no new ones were taken any more; see
/// [`Balance::shutdown`](crate::Balance::shutdown) and [`Balance::drain`](crate::Balance::drain).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// How many the deadline cut: they were under way when it passed, and their connections were closed. A call that
    /// waits for the service of the endpoint to be ready counts, too, though another endpoint may take it yet.
    pub cut: u64,
    /// How many were under way when the deadline passed and could not be cut, since their connector has not said
    /// [how](crate::connection::ConnectionEvents::on_cut). They go on to their own end.
    pub left: u64,
}

impl Drained {
    /// Whether all calls ended before the deadline.
    pub fn is_clean(&self) -> bool {
        *self == Self::default()
    }
}

/// Why, since when and for how long an endpoint is out.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Ejected {
    /// How long ago it was ejected.
    pub since: Duration,
    /// How long until a probing call may try it; zero if one may now.
    pub until: Duration,
    /// How many times in a row; an ejection lasts that many times the base time.
    pub times: u32,
    /// Why.
    pub reason: &'static str,
}

impl fmt::Display for EndpointReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} in-flight {} calls {} failures {}",
            self.id, self.state, self.in_flight, self.calls, self.failures
        )?;
        if let Some(ejected) = &self.ejected {
            write!(
                f,
                ", ejected ({}) for {:?} more",
                ejected.reason, ejected.until
            )?;
        }
        if let Some(stage) = &self.drain {
            write!(f, ", {stage}")?;
        }
        if let Some(why) = &self.unhealthy {
            write!(f, ", health check: {why}")?;
        }
        if let Some(error) = &self.last_error {
            write!(f, ", last error: {error}")?;
        }
        Ok(())
    }
}
