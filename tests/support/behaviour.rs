//! What a server does with the calls that reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tonic::{Code, Status};
use xxhash_rust::xxh64::xxh64;

/// What a server does with the calls that reach it. By default it answers at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Behaviour {
    /// Time before each reply (of a stream: before each of its replies). Tokio's timer rounds up to
    /// the next millisecond.
    pub delay: Duration,
    /// By how much `delay` is multiplied.
    pub slowdown: f64,
    /// The status of calls that fail, which they do at once.
    pub failure: Code,
    /// The share of calls that fail, from 0 to 1. Which ones depends only on the server's name and
    /// on how many calls came before.
    pub fail_share: f64,
    /// Takes calls and never answers, not even with a response head. Streams under way fall silent
    /// too. What was caught stays caught after the behaviour has changed.
    pub silent: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            slowdown: 1.0,
            failure: Code::Unavailable,
            fail_share: 0.0,
            silent: false,
        }
    }
}

impl Behaviour {
    /// Answers at once.
    pub fn prompt() -> Self {
        Self::default()
    }

    /// Answers after `delay`.
    pub fn after(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }

    /// Fails every call at once.
    pub fn failing(code: Code) -> Self {
        Self::default().failing_share(1.0, code)
    }

    /// Never answers.
    pub fn silent() -> Self {
        Self {
            silent: true,
            ..Self::default()
        }
    }

    /// The same, but `share` of the calls (0 to 1) fail at once.
    pub fn failing_share(self, share: f64, code: Code) -> Self {
        Self {
            failure: code,
            fail_share: share,
            ..self
        }
    }

    /// The same, but `times` times as slow as its delay says.
    pub fn slower(self, times: f64) -> Self {
        Self {
            slowdown: times,
            ..self
        }
    }
}

/// Sets the behaviour of a running server. Cheap to clone; the server reads it without a lock.
#[derive(Debug, Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    behaviour: ArcSwap<Behaviour>,
    calls: AtomicU64,
}

impl Control {
    pub(super) fn new(name: String, behaviour: Behaviour) -> Self {
        let shared = Shared {
            name,
            behaviour: ArcSwap::from_pointee(behaviour),
            calls: AtomicU64::new(0),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Behaves like this from now on. A reply that is already waiting keeps its old delay.
    pub fn set(&self, behaviour: Behaviour) {
        self.shared.behaviour.store(Arc::new(behaviour));
    }

    /// The present behaviour.
    pub fn get(&self) -> Behaviour {
        **self.shared.behaviour.load()
    }

    /// The server's name.
    pub(super) fn name(&self) -> &str {
        &self.shared.name
    }

    /// Whether a new call is let in: no answer while silent.
    pub(super) async fn admit(&self) -> Result<(), Status> {
        let behaviour = self.get();
        if behaviour.silent {
            std::future::pending::<()>().await;
        }
        let call = self.shared.calls.fetch_add(1, Ordering::Relaxed);
        let draw = xxh64(self.shared.name.as_bytes(), call) as f64 / u64::MAX as f64;
        // A share of 1 is all, though the draw may be 1 itself.
        if behaviour.fail_share >= 1.0 || draw < behaviour.fail_share {
            let message = format!("{} was told to fail", self.shared.name);
            return Err(Status::new(behaviour.failure, message));
        }
        Ok(())
    }

    /// The time that a reply takes: for ever while silent.
    pub(super) async fn pause(&self) {
        let behaviour = self.get();
        if behaviour.silent {
            std::future::pending::<()>().await;
        }
        let delay = behaviour.delay.mul_f64(behaviour.slowdown);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
    }
}
