//! What a balancer tells of itself, as plain data.

use std::fmt;
use std::time::Duration;

use crate::endpoint::{ConnectivityState, EndpointId, Locality};

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
    /// The way from all endpoints to those that a call may go to, in its order: `subset`, `metadata`, `priority`,
    /// `locality` and `policy`. See [`topology`](crate::topology).
    pub stages: Vec<StageReport>,
    /// What calls are spread over: groups of endpoints, by subset, then from the highest priority to the lowest, and from
    /// the greatest share to the least. Empty where all endpoints are alike.
    pub groups: Vec<GroupReport>,
    /// The endpoints that the source names and the subset leaves out: they are not connected.
    pub left_out: Vec<EndpointId>,
    /// Every other endpoint, in the source's order.
    pub endpoints: Vec<EndpointReport>,
}

/// How many endpoints one stage was given and how many it passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct StageReport {
    /// Which one.
    pub name: &'static str,
    /// How many there were before it.
    pub endpoints_in: usize,
    /// How many of them get calls as far as it goes: those in the subset, with metadata that calls go by, of
    /// priorities that get calls, in localities that do, and that are connected and not ejected.
    pub endpoints_out: usize,
}

/// Endpoints of one priority, in one locality or several, among which the policy chooses.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct GroupReport {
    /// The value of the metadata by which their [subset](crate::topology::MetadataSubsets) is told apart; `None` where
    /// that is not done, and for the groups of all endpoints beside it, for calls that name no subset.
    pub subset: Option<String>,
    /// Their priority.
    pub priority: u32,
    /// Where they are.
    pub localities: Vec<Locality>,
    /// How many they are, without those that are drained.
    pub total: usize,
    /// How many of them are connected and not ejected.
    pub usable: usize,
    /// Their share of the calls to their subset, or of all calls where there are no subsets, 0 to 1. A group without one
    /// gets calls when nothing else is left.
    pub share: f64,
    /// So few of its priority are usable that ejections are ignored there, or calls fail.
    pub panic: bool,
}

/// Why an endpoint gets calls only when nothing else is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PassedOver {
    /// Calls go to endpoints with certain values of a metadata name, and it has none of them.
    Subset,
    /// Higher priorities carry all calls.
    Priority,
    /// Other localities get the calls of its priority.
    Locality,
}

impl fmt::Display for PassedOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Subset => "calls go to other subsets",
            Self::Priority => "higher priorities carry the calls",
            Self::Locality => "other localities carry the calls",
        })
    }
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
    /// Its priority; 0 is the highest.
    pub priority: u32,
    /// Where it runs.
    pub locality: Locality,
    /// Set while it gets calls only when nothing else is left: why.
    pub passed_over: Option<PassedOver>,
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
    /// It is over. The calls that could not be cut may be under way yet: [`Drained::left`].
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
        if let Some(why) = &self.passed_over {
            write!(f, ", passed over: {why}")?;
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
