//! One endpoint, as the control plane knows it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::snapshot::{Detail, EjectionDetail};
use crate::connection::End;
use crate::endpoint::{ConnectivityState, Endpoint};
use crate::health::{Cause, Ejection, OutlierDetection, Verdict};
pub(super) use crate::math::after;
use crate::math::{Backoff, Rng};
use crate::observe::DrainStage;
use crate::policy::{Candidate, Subchannel};

/// A healthy stretch of an interval takes one off the count of ejections in a row: this where no interval is
/// set, gRFC A50's default.
const EJECTION_DECAY: Duration = Duration::from_secs(10);

/// After a connection that was ready, the next dial starts no sooner than this part of the base
/// delay after the last one: a server that accepts and hangs up must not be dialled in a tight loop.
const REDIAL_FRACTION: u32 = 10;

#[derive(Debug)]
pub(super) enum Phase<S> {
    /// For its turn, or for its backoff.
    Waiting { due: Instant },
    /// A dial is under way.
    Dialing {
        connection: u64,
        /// The connection's end, if that was heard of before the end of its dial.
        ended: Option<End>,
    },
    /// Connected.
    Ready {
        connection: u64,
        since: Instant,
        service: S,
        health: Checked,
    },
    /// Out by order. `over`: so are the calls that it had.
    Drained { over: bool },
}

/// What active checks say of a connection.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Checked {
    /// Nobody checks.
    Off,
    /// Nothing yet.
    Awaited,
    Said(Verdict),
}

/// Whether its calls may come at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Warmth {
    /// It is new, has failed or was ejected: a slow start is due when it can be used.
    Cold,
    /// In its slow start.
    Rising {
        since: Instant,
        factor: f64,
    },
    Warm,
}

impl<S> Phase<S> {
    /// The connection that is up.
    pub(super) fn connection(&self) -> Option<u64> {
        match *self {
            Self::Ready { connection, .. } => Some(connection),
            _ => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Entry<S> {
    pub(super) endpoint: Endpoint,
    pub(super) subchannel: Arc<Subchannel>,
    /// With whom it stands together.
    pub(super) site: u32,
    pub(super) phase: Phase<S>,
    pub(super) ejection: Option<EjectionDetail>,
    /// When its connection is to be replaced.
    pub(super) retires: Option<Instant>,
    /// `Cold` for ever without slow start.
    pub(super) warmth: Warmth,
    /// Failed since it was last ready.
    failing: bool,
    /// Failures in a row, for the backoff.
    failures: u32,
    last_dial: Instant,
    last_error: Option<Arc<str>>,
    ejected_times: u32,
    readmitted: Option<Instant>,
}

impl<S: Clone> Entry<S> {
    pub(super) fn new(
        endpoint: Endpoint,
        subchannel: Arc<Subchannel>,
        site: u32,
        now: Instant,
    ) -> Self {
        Self {
            endpoint,
            subchannel,
            site,
            phase: Phase::Waiting { due: now },
            ejection: None,
            retires: None,
            warmth: Warmth::Cold,
            failing: false,
            failures: 0,
            last_dial: now,
            last_error: None,
            ejected_times: 0,
            readmitted: None,
        }
    }

    pub(super) fn state(&self) -> ConnectivityState {
        match self.phase {
            Phase::Drained { .. } => ConnectivityState::Shutdown,
            Phase::Ready { .. } if self.usable_connection().is_some() => ConnectivityState::Ready,
            _ if self.failing => ConnectivityState::TransientFailure,
            Phase::Dialing { .. } | Phase::Ready { .. } => ConnectivityState::Connecting,
            Phase::Waiting { .. } => ConnectivityState::Idle,
        }
    }

    /// The connection that is up, if no check speaks against it.
    pub(super) fn usable_connection(&self) -> Option<u64> {
        match &self.phase {
            Phase::Ready {
                connection,
                health: Checked::Off | Checked::Said(Verdict::Serving),
                ..
            } => Some(*connection),
            _ => None,
        }
    }

    /// Why it gets no calls though it is connected, if a check says so.
    pub(super) fn unhealthy(&self) -> Option<&Arc<str>> {
        match &self.phase {
            Phase::Ready {
                health: Checked::Said(Verdict::NotServing(why)),
                ..
            } => Some(why),
            _ => None,
        }
    }

    /// As the policies see it, in this slot.
    pub(super) fn candidate(&self, slot: usize) -> Candidate {
        let candidate = Candidate::new(
            slot,
            self.endpoint.clone(),
            self.subchannel.clone(),
            self.usable_connection().unwrap_or(0),
            self.state(),
        );
        match self.warmth {
            Warmth::Rising { factor, .. } => candidate.with_slow_start_factor(factor),
            Warmth::Cold | Warmth::Warm => candidate,
        }
    }

    /// The service to call, while connected.
    pub(super) fn service(&self) -> Option<S> {
        match &self.phase {
            Phase::Ready { service, .. } => Some(service.clone()),
            _ => None,
        }
    }

    /// What a report says beside the candidate, if anything.
    pub(super) fn detail(&self) -> Option<Arc<Detail>> {
        let unhealthy = self.unhealthy();
        let drain = match self.phase {
            Phase::Drained { over: false } => Some(DrainStage::Draining),
            Phase::Drained { over: true } => Some(DrainStage::Drained),
            _ => None,
        };
        let told = self.last_error.is_some()
            || self.ejection.is_some()
            || unhealthy.is_some()
            || drain.is_some();
        told.then(|| {
            Arc::new(Detail {
                last_error: self.last_error.clone(),
                ejection: self.ejection.clone(),
                unhealthy: unhealthy.cloned(),
                drain,
            })
        })
    }

    /// Whether it is out by order.
    pub(super) fn is_drained(&self) -> bool {
        matches!(self.phase, Phase::Drained { .. })
    }

    /// It gets no more calls, and what it did is forgotten.
    pub(super) fn drain(&mut self) {
        self.phase = Phase::Drained { over: false };
        self.ejection = None;
        self.retires = None;
        self.warmth = Warmth::Cold;
        self.failing = false;
        self.last_error = None;
    }

    /// Whether it failed since it was last ready.
    pub(super) fn is_failing(&self) -> bool {
        self.failing
    }

    /// When the last dial began.
    pub(super) fn last_dial(&self) -> Instant {
        self.last_dial
    }

    /// It is new among endpoints that have all failed, and is not to look better than they do.
    pub(super) fn joins_failed(&mut self) {
        self.failing = true;
    }

    /// No connection is wanted for now; when one is, its failures are forgotten, but it is not dialled in a
    /// tight loop. `false` if nothing was to be done.
    pub(super) fn rest(&mut self, backoff: &Backoff) -> bool {
        if matches!(self.phase, Phase::Waiting { .. }) && !self.failing {
            return false;
        }
        self.failing = false;
        self.failures = 0;
        self.wait_until(after(self.last_dial, backoff.base() / REDIAL_FRACTION));
        true
    }

    #[cfg(test)]
    pub(super) fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    pub(super) fn dial(&mut self, connection: u64, now: Instant) {
        self.phase = Phase::Dialing {
            connection,
            ended: None,
        };
        self.last_dial = now;
    }

    /// The dial ended well. Returns the connection's end, if that has come too.
    ///
    /// `checked`: it gets no calls before its first verdict.
    pub(super) fn ready(
        &mut self,
        connection: u64,
        service: S,
        checked: bool,
        now: Instant,
    ) -> Option<End> {
        let health = if checked {
            Checked::Awaited
        } else {
            Checked::Off
        };
        let phase = Phase::Ready {
            connection,
            since: now,
            service,
            health,
        };
        let ended = match std::mem::replace(&mut self.phase, phase) {
            Phase::Dialing { ended, .. } => ended,
            _ => None,
        };
        if !checked {
            self.take_up(connection);
        }
        ended
    }

    /// After the phase is set: from here on the connection's own end may take it out again.
    fn take_up(&mut self, connection: u64) {
        self.failing = false;
        self.last_error = None;
        self.subchannel.connected(connection);
    }

    /// An attempt to make another connection beside its own ended.
    pub(super) fn beside(&mut self, error: Option<Arc<str>>) {
        self.last_error = error;
    }

    /// A check of its connection said something new.
    pub(super) fn checked(&mut self, verdict: Verdict) {
        let Phase::Ready {
            connection, health, ..
        } = &mut self.phase
        else {
            return;
        };
        let connection = *connection;
        let was = std::mem::replace(health, Checked::Said(verdict.clone()));
        if was == Checked::Said(verdict.clone()) {
            return;
        }
        match verdict {
            Verdict::Serving => self.take_up(connection),
            Verdict::NotServing(_) => {
                self.failing = true;
                self.warmth = Warmth::Cold;
                self.subchannel.disconnected(connection);
            }
        }
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
        self.warmth = Warmth::Cold;
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
        due
    }

    /// The ejector took it out. Returns until when.
    pub(super) fn eject(&mut self, cause: Cause, rules: &Ejection, now: Instant) -> Instant {
        if let Some(readmitted) = self.readmitted.take() {
            let interval = rules.outlier_detection().map(OutlierDetection::interval);
            let interval = interval.unwrap_or(EJECTION_DECAY);
            // What it is out for by comparison it did in the interval that ends now.
            let faulty = match cause {
                Cause::SuccessRate | Cause::FailurePercentage => interval,
                _ => Duration::ZERO,
            };
            let healthy = (now - readmitted).saturating_sub(faulty);
            let intervals = healthy.as_nanos() / interval.as_nanos().max(1);
            let intervals = u32::try_from(intervals).unwrap_or(u32::MAX);
            self.ejected_times = self.ejected_times.saturating_sub(intervals);
        }
        self.ejected_times = self.ejected_times.saturating_add(1);
        self.warmth = Warmth::Cold;
        let until = after(now, rules.duration(self.ejected_times));
        let since = self.ejection.take().map_or(now, |ejection| ejection.since);
        self.ejection = Some(EjectionDetail {
            since,
            until,
            times: self.ejected_times,
            cause,
        });
        until
    }

    /// Whether the time of an ejection is not over yet.
    pub(super) fn is_out(&self, now: Instant) -> bool {
        (self.ejection.as_ref()).is_some_and(|ejection| ejection.until > now)
    }

    pub(super) fn readmit(&mut self, now: Instant) {
        self.ejection = None;
        self.readmitted = Some(now);
    }
}
