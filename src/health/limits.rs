//! How much may be asked of the endpoints at once: circuit breaking.
//!
//! A server that is given more than it can do answers all of it late. Beyond a limit it is better to refuse a
//! call at once, while the caller can still do something else; a queue in front of a full server only hides that
//! it is full. So a call takes its place at the pick or is refused there, and the number that may wait for
//! something else (a first connection, a service that is not ready) has a limit of its own.

use std::fmt;

use crate::error::Error;
use crate::math::atomic::{AtomicU32, Ordering};

/// The most calls that can be told apart on one endpoint.
const MOST: u32 = (1 << 23) - 1;

/// How many calls may be under way, and how many may wait. Off by default, each by itself.
///
/// | limit | counts | Envoy's name, its default |
/// |---|---|---|
/// | [`in_flight`](Self::with_max_in_flight) | calls under way to all endpoints | `max_requests`, 1,024 |
/// | [`in_flight_per_endpoint`](Self::with_max_in_flight_per_endpoint) | calls under way to one of them | – |
/// | [`pending`](Self::with_max_pending) | calls that wait | `max_pending_requests`, 1,024 |
/// | [`pending_per_endpoint`](Self::with_max_pending_per_endpoint) | calls that wait for the service of one of them to be ready | – |
///
/// A call is under way from the pick to the end of its response, streams and trailers included. All clones of
/// a balancer share its limits. An endpoint that is full is passed over, as one that is not connected; when all
/// that could take a call are full, when the total is reached, or when too many wait, the call fails at once
/// with `UNAVAILABLE`, also if it is to wait for ready, and says which limit it met. Nothing that is counted here is
/// ever exceeded; but an endpoint that leaves and comes back, or moves to other addresses, begins at none under way,
/// whatever still goes on there. A call that waits for services to be ready is under way on each of them, up to
/// three. Waiting in `poll_ready`, where a builder asks for that, is not counted.
///
/// ```
/// use evenkeel::health::Limits;
///
/// let limits = Limits::default()
///     .with_max_in_flight_per_endpoint(100)
///     .with_max_pending(1_000);
/// # let _ = limits;
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    in_flight: Option<u32>,
    in_flight_per_endpoint: Option<u32>,
    pending: Option<u32>,
    pending_per_endpoint: Option<u32>,
}

impl Limits {
    /// How many calls may be under way to all endpoints together, at least 1.
    #[must_use]
    pub fn with_max_in_flight(mut self, calls: u32) -> Self {
        self.in_flight = Some(calls);
        self
    }

    /// How many calls may be under way to one endpoint, 1 to 8,388,607.
    #[must_use]
    pub fn with_max_in_flight_per_endpoint(mut self, calls: u32) -> Self {
        self.in_flight_per_endpoint = Some(calls);
        self
    }

    /// How many calls may wait: for the first word of the source of endpoints, for a connection, or for a
    /// service to be ready. With 0 none waits.
    #[must_use]
    pub fn with_max_pending(mut self, calls: u32) -> Self {
        self.pending = Some(calls);
        self
    }

    /// How many calls may wait for the service of one endpoint to be ready; more look for another endpoint.
    /// With 0 none waits there. A call may wait for three endpoints at a time, and takes a place at each.
    #[must_use]
    pub fn with_max_pending_per_endpoint(mut self, calls: u32) -> Self {
        self.pending_per_endpoint = Some(calls);
        self
    }

    /// Whether there is any.
    pub fn is_off(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// No call allowed to be under way at all, or more on one endpoint than can be counted.
    pub fn validate(&self) -> Result<(), Error> {
        if self.in_flight == Some(0) {
            return Err(Error::config("limits.in_flight", "is 0; the least is 1"));
        }
        match self.in_flight_per_endpoint {
            Some(0) => Err(Error::config(
                "limits.in_flight_per_endpoint",
                "is 0; the least is 1",
            )),
            Some(calls) if calls > MOST => Err(Error::config(
                "limits.in_flight_per_endpoint",
                format!("{calls} is over {MOST}"),
            )),
            _ => Ok(()),
        }
    }
}

/// Which limit a call met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The calls under way to all endpoints.
    InFlight(u32),
    /// The calls under way to each endpoint that could take the call.
    InFlightPerEndpoint(u32),
    /// The calls that wait.
    Pending(u32),
    /// The calls that wait for each endpoint that could take the call.
    PendingPerEndpoint(u32),
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFlight(most) => write!(f, "{most} calls are under way, the most allowed"),
            Self::InFlightPerEndpoint(most) => write!(
                f,
                "{most} calls, the most allowed, are under way to each endpoint that is usable"
            ),
            Self::Pending(most) => write!(f, "{most} calls wait, the most allowed"),
            Self::PendingPerEndpoint(most) => write!(
                f,
                "{most} calls, the most allowed, wait for each endpoint that is usable"
            ),
        }
    }
}

/// Places of which each is taken by one call at a time. Takes no lock; exact.
#[derive(Debug, Default)]
pub struct Places {
    taken: AtomicU32,
}

impl Places {
    /// All free.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one of `most` places; `false` if all are taken. Who has one owes a [`free`](Self::free).
    #[inline]
    pub fn take(&self, most: u32) -> bool {
        let mut taken = self.taken.load(Ordering::Relaxed);
        while taken < most {
            let next = taken + 1;
            match (self.taken).compare_exchange_weak(
                taken,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => taken = now,
            }
        }
        false
    }

    /// Gives a place back.
    #[inline]
    pub fn free(&self) {
        self.taken.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many are taken.
    pub fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }
}

/// What one balancer counts against its limits.
#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    in_flight: Places,
    pending: Places,
}

impl Limiter {
    /// Nothing under way.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            in_flight: Places::new(),
            pending: Places::new(),
        }
    }

    /// How many calls may be under way to one endpoint.
    #[inline]
    pub fn in_flight_per_endpoint(&self) -> Option<u32> {
        self.limits.in_flight_per_endpoint
    }

    /// Whether calls under way are counted against anything.
    #[inline]
    pub fn counts_calls(&self) -> bool {
        self.limits.in_flight.is_some() || self.limits.in_flight_per_endpoint.is_some()
    }

    /// How many calls may wait for one endpoint.
    #[inline]
    pub fn pending_per_endpoint(&self) -> Option<u32> {
        self.limits.pending_per_endpoint
    }

    /// Whether calls of all endpoints are counted together.
    #[inline]
    pub fn counts_all(&self) -> bool {
        self.limits.in_flight.is_some()
    }

    /// Whether one more call may begin, as of now.
    ///
    /// # Errors
    /// The limit.
    #[inline]
    pub fn has_room(&self) -> Result<(), Limit> {
        match self.limits.in_flight {
            Some(most) if self.in_flight.taken() >= most => Err(Limit::InFlight(most)),
            _ => Ok(()),
        }
    }

    /// A call to any endpoint begins. Who is let in owes an [`end`](Self::end), if all calls are
    /// [counted](Self::counts_all).
    ///
    /// # Errors
    /// The limit.
    #[inline]
    pub fn begin(&self) -> Result<(), Limit> {
        match self.limits.in_flight {
            Some(most) if !self.in_flight.take(most) => Err(Limit::InFlight(most)),
            _ => Ok(()),
        }
    }

    /// A call that began ends.
    #[inline]
    pub fn end(&self) {
        self.in_flight.free();
    }

    /// A call begins to wait. Who may owes a [`go_on`](Self::go_on).
    ///
    /// # Errors
    /// The limit.
    pub fn wait(&self) -> Result<(), Limit> {
        match self.limits.pending {
            Some(most) if !self.pending.take(most) => Err(Limit::Pending(most)),
            Some(_) => Ok(()),
            None => {
                self.pending.take(u32::MAX);
                Ok(())
            }
        }
    }

    /// A call waits no more.
    pub fn go_on(&self) {
        self.pending.free();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_let_no_call_through_is_refused_by_name() {
        for (limits, field) in [
            (Limits::default().with_max_in_flight(0), "limits.in_flight"),
            (
                Limits::default().with_max_in_flight_per_endpoint(0),
                "limits.in_flight_per_endpoint",
            ),
            (
                Limits::default().with_max_in_flight_per_endpoint(MOST + 1),
                "limits.in_flight_per_endpoint",
            ),
        ] {
            let error = limits.validate().unwrap_err();
            assert!(error.to_string().contains(field), "{error}");
        }
        let right = Limits::default()
            .with_max_in_flight(1)
            .with_max_in_flight_per_endpoint(MOST)
            .with_max_pending(0)
            .with_max_pending_per_endpoint(0);
        assert!(right.validate().is_ok() && !right.is_off());
        assert!(Limits::default().is_off());
    }

    #[test]
    fn places_are_taken_up_to_the_last_and_given_back() {
        let places = Places::new();
        assert!(!places.take(0), "there is none");
        assert!(places.take(2) && places.take(2) && !places.take(2));
        places.free();
        assert!(places.take(2), "it was given back");
        assert_eq!(places.taken(), 2);
    }

    #[test]
    fn limits_that_are_off_let_all_through() {
        let limiter = Limiter::new(Limits::default().with_max_in_flight_per_endpoint(1));
        for _ in 0..10 {
            assert!(limiter.begin().is_ok() && limiter.wait().is_ok());
        }
        assert!(!limiter.counts_all());
    }
}
