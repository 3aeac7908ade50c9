//! The control plane: one task that keeps the set of endpoints, their connections and their
//! ejections, and publishes a [`snapshot`] of it for the calls.
//!
//! [`step`] is the rules: a pure machine from events to effects, with the time as an argument.
//! [`driver`] is the task that feeds it and does what it says. They are apart so that every rule
//! can be tested, and replayed, without a connection.
//!
//! ```text
//!               permit to dial                  connected
//!   Idle ─────────────────────► Connecting ─────────────────► Ready
//!    ▲                            │      ▲                      │
//!    │                    failed  │      │ backoff is over      │ GOAWAY, or the connection ended
//!    │                            ▼      │                      │
//!    │                         TransientFailure                 │
//!    └──────────────────────────────────────────────────────────┘
//! ```
//! TransientFailure is sticky: it stays through later dials until one succeeds (gRFC A62). Where the policy
//! wants one connection only, all others are Idle, from any state, once it is there; see [`step`]'s `order`.

mod checks;
mod clock;
mod dials;
mod drain;
mod driver;
mod lifecycle;
mod links;
mod load_reports;
mod probes;
mod refresh;
mod report;
mod snapshot;
mod step;
mod watches;

pub(crate) use clock::{moment, now};
pub(crate) use driver::{Launch, launch};
pub(crate) use lifecycle::{Answer, Ending};
pub(crate) use snapshot::{Shared, Snapshot};

use std::sync::Arc;
use std::time::Duration;

use crate::connection::DialTerms;
use crate::error::Error;
use crate::health::{Ejection, Limits, SlowStart};
use crate::load::Measures;
use crate::math::Backoff;
use crate::policy::{Connects, Policy};
use crate::topology::{ClientSubset, Topology};

/// What the control plane goes by.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) backoff: Backoff,
    pub(crate) connect_timeout: Duration,
    pub(crate) max_concurrent_dials: usize,
    /// After how long a connection takes no new calls, give or take a tenth.
    pub(crate) max_connection_age: Option<Duration>,
    pub(crate) ejection: Ejection,
    pub(crate) limits: Limits,
    /// How the part of the calls grows of an endpoint that is new, or back; at once by default.
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) seed: u64,
    /// How many of the endpoints to use; all by default.
    pub(crate) subset: Option<ClientSubset>,
    /// How calls are spread over groups of endpoints.
    pub(crate) topology: Topology,
    /// What the policy wants measured.
    pub(crate) measures: Measures,
    /// Which endpoints the policy wants connected.
    pub(crate) connects: Connects,
    /// Whether an endpoint that is connected has to pass a health check before it is ready.
    pub(crate) health_checked: bool,
    /// The policy, if it wants to hear of reports.
    pub(crate) listener: Option<Arc<dyn Policy>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            backoff: Backoff::default(),
            connect_timeout: Duration::from_secs(20),
            max_concurrent_dials: 100,
            max_connection_age: None,
            ejection: Ejection::default(),
            limits: Limits::default(),
            slow_start: None,
            seed: fastrand::u64(..),
            subset: None,
            topology: Topology::default(),
            measures: Measures::NOTHING,
            connects: Connects::All,
            health_checked: false,
            listener: None,
        }
    }
}

impl Settings {
    /// Takes over what this policy wants.
    pub(crate) fn adopt(&mut self, policy: &Arc<dyn Policy>) {
        self.measures = policy.measures();
        self.connects = policy.connects();
        let listens = self.measures.reports.is_some();
        self.listener = listens.then(|| policy.clone());
    }

    /// For connectors that make further connections by themselves.
    pub(crate) fn dial_terms(&self) -> DialTerms {
        DialTerms {
            connect_timeout: self.connect_timeout,
            backoff: self.backoff,
            seed: self.seed,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), Error> {
        if let Some(mistake) = self.backoff.mistake() {
            return Err(Error::config("backoff", mistake));
        }
        self.ejection.validate()?;
        self.limits.validate()?;
        self.topology.validate()?;
        if let Some(slow_start) = &self.slow_start {
            slow_start.validate()?;
        }
        if self.connect_timeout.is_zero() {
            return Err(Error::config("connect_timeout", "is zero"));
        }
        if self.max_connection_age.is_some_and(|age| age.is_zero()) {
            return Err(Error::config("max_connection_age", "is zero"));
        }
        if self.max_concurrent_dials == 0 {
            return Err(Error::config(
                "max_concurrent_dials",
                "is 0; the least is 1",
            ));
        }
        Ok(())
    }
}
