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
    /// Why the last attempt to connect failed, or the last connection ended; cleared when the next
    /// one is ready.
    pub last_error: Option<String>,
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
        if let Some(why) = &self.unhealthy {
            write!(f, ", health check: {why}")?;
        }
        if let Some(error) = &self.last_error {
            write!(f, ", last error: {error}")?;
        }
        Ok(())
    }
}
