//! One endpoint, as the control plane knows it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::snapshot::{EjectionStatus, Status};
use crate::endpoint::{ConnectivityState, Endpoint};
use crate::health::Ejection;
use crate::math::{Backoff, Rng};
use crate::policy::Subchannel;

/// A healthy stretch of this length takes one off the count of ejections in a row: gRFC A50's
/// default interval.
const EJECTION_DECAY: Duration = Duration::from_secs(10);

/// After a connection that was ready, the next dial starts no sooner than this part of the base
/// delay after the last one: a server that accepts and hangs up must not be dialled in a tight loop.
const REDIAL_FRACTION: u32 = 10;

/// As far ahead as any wait goes. "No limit" is written as a time that no clock reaches, and adding
/// that to an instant would panic.
const FAR: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

fn after(start: Instant, delay: Duration) -> Instant {
    start + delay.min(FAR)
}

#[derive(Debug)]
pub(super) enum Phase {
    /// For its turn, or for its backoff.
    Waiting { due: Instant },
    /// A dial is under way.
    Dialing { connection: u64 },
    /// Connected.
    Ready { connection: u64, since: Instant },
}

impl Phase {
    /// The connection that is up.
    pub(super) fn connection(&self) -> Option<u64> {
        match *self {
            Self::Ready { connection, .. } => Some(connection),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) endpoint: Endpoint,
    pub(super) subchannel: Arc<Subchannel>,
    pub(super) phase: Phase,
    pub(super) ejection: Option<EjectionStatus>,
    /// Failed since it was last ready.
    failing: bool,
    /// Failures in a row, for the backoff.
    failures: u32,
    last_dial: Instant,
    last_error: Option<Arc<str>>,
    ejected_times: u32,
    readmitted: Option<Instant>,
    /// Made when it is asked for, dropped when it is no longer true.
    status: Option<Arc<Status>>,
}

impl Entry {
    pub(super) fn new(endpoint: Endpoint, subchannel: Arc<Subchannel>, now: Instant) -> Self {
        Self {
            endpoint,
            subchannel,
            phase: Phase::Waiting { due: now },
            ejection: None,
            failing: false,
            failures: 0,
            last_dial: now,
            last_error: None,
            ejected_times: 0,
            readmitted: None,
            status: None,
        }
    }

    pub(super) fn state(&self) -> ConnectivityState {
        match self.phase {
            Phase::Ready { .. } => ConnectivityState::Ready,
            _ if self.failing => ConnectivityState::TransientFailure,
            Phase::Dialing { .. } => ConnectivityState::Connecting,
            Phase::Waiting { .. } => ConnectivityState::Idle,
        }
    }

    pub(super) fn status(&mut self) -> &Arc<Status> {
        let state = self.state();
        self.status.get_or_insert_with(|| {
            Arc::new(Status {
                endpoint: self.endpoint.clone(),
                state,
                last_error: self.last_error.clone(),
                ejection: self.ejection.clone(),
            })
        })
    }

    pub(super) fn set_endpoint(&mut self, endpoint: Endpoint) {
        self.endpoint = endpoint;
        self.status = None;
    }

    pub(super) fn dial(&mut self, connection: u64, now: Instant) {
        self.phase = Phase::Dialing { connection };
        self.last_dial = now;
        self.status = None;
    }

    pub(super) fn ready(&mut self, connection: u64, now: Instant) {
        self.phase = Phase::Ready {
            connection,
            since: now,
        };
        self.failing = false;
        self.last_error = None;
        self.status = None;
        // After the phase: from here on the connection's own end may take it out again.
        self.subchannel.connected(connection);
    }

    /// A dial failed, or the service broke. Returns when the next dial is due: gRPC counts the delay
    /// from the start of the attempt.
    pub(super) fn failed(
        &mut self,
        error: Arc<str>,
        backoff: &Backoff,
        rng: &mut Rng,
        now: Instant,
    ) -> Instant {
        let from = self.last_dial;
        self.fail(error, from, backoff, rng, now)
    }

    /// The server wants a pause: the delay counts from now, however old the connection is.
    pub(super) fn asked_to_back_off(
        &mut self,
        error: Arc<str>,
        backoff: &Backoff,
        rng: &mut Rng,
        now: Instant,
    ) -> Instant {
        self.fail(error, now, backoff, rng, now)
    }

    fn fail(
        &mut self,
        error: Arc<str>,
        from: Instant,
        backoff: &Backoff,
        rng: &mut Rng,
        now: Instant,
    ) -> Instant {
        self.forgive(backoff, now);
        let delay = backoff.delay(self.failures, rng);
        self.failures = self.failures.saturating_add(1);
        self.failing = true;
        self.last_error = Some(error);
        self.wait_until(after(from, delay).max(now))
    }

    /// A connection that was ready ended. Returns when the next dial is due: at once, unless the
    /// last one was a moment ago.
    pub(super) fn ended(
        &mut self,
        error: Option<Arc<str>>,
        backoff: &Backoff,
        now: Instant,
    ) -> Instant {
        self.failures = 0;
        self.last_error = error;
        self.wait_until(after(self.last_dial, backoff.base() / REDIAL_FRACTION).max(now))
    }

    /// A connection that held is a success, and a success resets the backoff. One that broke within
    /// the base delay is not: its service connects and fails, over and over.
    fn forgive(&mut self, backoff: &Backoff, now: Instant) {
        if matches!(self.phase, Phase::Ready { since, .. } if now - since >= backoff.base()) {
            self.failures = 0;
        }
    }

    fn wait_until(&mut self, due: Instant) -> Instant {
        self.phase = Phase::Waiting { due };
        self.status = None;
        due
    }

    /// The ejector took it out. Returns until when.
    pub(super) fn eject(&mut self, rules: &Ejection, now: Instant) -> Instant {
        if let Some(readmitted) = self.readmitted.take() {
            let healthy = (now - readmitted).as_secs() / EJECTION_DECAY.as_secs();
            let healthy = u32::try_from(healthy).unwrap_or(u32::MAX);
            self.ejected_times = self.ejected_times.saturating_sub(healthy);
        }
        self.ejected_times = self.ejected_times.saturating_add(1);
        let until = after(now, rules.duration(self.ejected_times));
        let since = self.ejection.take().map_or(now, |ejection| ejection.since);
        self.ejection = Some(EjectionStatus {
            since,
            until,
            times: self.ejected_times,
        });
        self.status = None;
        until
    }

    pub(super) fn readmit(&mut self, now: Instant) {
        self.ejection = None;
        self.readmitted = Some(now);
        self.status = None;
    }
}
