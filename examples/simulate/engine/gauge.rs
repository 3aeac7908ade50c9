//! What is true of a server right now, for rules that may know it.
//!
//! Every endpoint of the simulation carries one. A policy of the crate does not look at it; the rules that
//! mark the limit of what could be known ([`crate::rules`]) do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// A server's state. Cheap to clone: all clones show the same server.
#[derive(Debug, Clone, Default)]
pub struct Gauge(Arc<State>);

#[derive(Debug, Default)]
struct State {
    bound: AtomicU32,
    in_flight: AtomicU32,
    cores: AtomicU64,
    speed: AtomicU64,
    broken: AtomicBool,
}

impl Gauge {
    /// Calls of all clients that were sent there and have not left it.
    pub fn bound(&self) -> u32 {
        self.0.bound.load(Ordering::Relaxed)
    }

    /// Calls that the server has: it could say so itself.
    pub fn in_flight(&self) -> u32 {
        self.0.in_flight.load(Ordering::Relaxed)
    }

    /// What one more call would cost all calls there together, itself included, against calls that run
    /// alone at speed 1, if nothing else changed. Infinite for a server that is at fault.
    ///
    /// `n` calls on `c` cores cost `n` while `n ≤ c`, and `n²/c` after that.
    pub fn marginal_cost(&self) -> f64 {
        if self.0.broken.load(Ordering::Relaxed) {
            return f64::INFINITY;
        }
        let cores = f64::from_bits(self.0.cores.load(Ordering::Relaxed));
        let speed = f64::from_bits(self.0.speed.load(Ordering::Relaxed));
        let cost = |calls: f64| calls * (calls / cores).max(1.0);
        let bound = f64::from(self.bound());
        (cost(bound + 1.0) - cost(bound)) / speed
    }

    /// A call was sent there.
    pub fn sent(&self) {
        self.0.bound.fetch_add(1, Ordering::Relaxed);
    }

    /// A call came in.
    pub fn arrived(&self) {
        self.0.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// A call left, or will not come.
    pub fn left(&self, had_arrived: bool) {
        self.0.bound.fetch_sub(1, Ordering::Relaxed);
        if had_arrived {
            self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// What the server has for its calls.
    pub fn set_capacity(&self, cores: f64, speed: f64) {
        self.0.cores.store(cores.to_bits(), Ordering::Relaxed);
        self.0.speed.store(speed.to_bits(), Ordering::Relaxed);
    }

    /// Whether it is at fault.
    pub fn set_broken(&self, broken: bool) {
        self.0.broken.store(broken, Ordering::Relaxed);
    }
}
