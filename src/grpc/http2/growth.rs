//! How an endpoint gets a further connection, when those that it has are full.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle as Runtime;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::connection::{ConnectionEvents, DialTerms};
use crate::error::{BoxError, Error};
use crate::math::Rng;

use super::cuts::Cuts;
use super::pool::Pool;
use super::service::Connection;

type Dialled = Pin<Box<dyn Future<Output = Result<Arc<Connection>, BoxError>> + Send>>;

/// Begins an attempt. Its connection tells the pool of its end.
type Dial = Box<dyn Fn(Weak<Pool>, ConnectionEvents) -> Dialled + Send + Sync>;

/// How further connections are made: one at a time, in a task of its own, within the balancer's connect timeout, and
/// with its backoff between attempts that fail (gRFC A105).
pub(super) struct Growth {
    most: usize,
    dial: Dial,
    runtime: Runtime,
    cuts: Arc<Cuts>,
}

impl Growth {
    /// Up to `most` connections, by `dial`, on the current runtime.
    pub(super) fn new(
        most: usize,
        cuts: Arc<Cuts>,
        dial: impl Fn(Weak<Pool>, ConnectionEvents) -> Dialled + Send + Sync + 'static,
    ) -> Self {
        Self {
            most,
            dial: Box::new(dial),
            runtime: Runtime::current(),
            cuts,
        }
    }

    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Begins an attempt for `pool`, after this many in a row that failed.
    pub(super) fn begin(
        &self,
        pool: Weak<Pool>,
        failures: u32,
        events: ConnectionEvents,
    ) -> Growing {
        let dialled = (self.dial)(pool.clone(), events.clone());
        self.spawn(grow(pool, dialled, failures, events))
    }

    /// Begins a pause instead, as after an attempt that failed.
    pub(super) fn pause(
        &self,
        pool: Weak<Pool>,
        failures: u32,
        events: &ConnectionEvents,
    ) -> Growing {
        let delay = delay(&events.dial_terms(), failures);
        self.spawn(pause(pool, delay))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Growing {
        let task = self.runtime.spawn(task).abort_handle();
        self.cuts.add(task.clone());
        Growing(task)
    }
}

/// An attempt that is under way, or the pause after it. Dropping it gives it up.
#[derive(Debug)]
pub(super) struct Growing(AbortHandle);

impl Drop for Growing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn grow(pool: Weak<Pool>, dialled: Dialled, failures: u32, events: ConnectionEvents) {
    let terms = events.dial_terms();
    let limit = terms.connect_timeout;
    let began = Instant::now();
    let dialled = AssertUnwindSafe(timeout(limit, dialled)).catch_unwind();
    let error = match dialled.await {
        Ok(Ok(Ok(connection))) => {
            events.beside(None);
            if let Some(pool) = pool.upgrade() {
                pool.join(connection);
            }
            return;
        }
        Ok(Ok(Err(error))) => error,
        Ok(Err(_)) => Error::timeout(format!("not connected within {limit:?}")).into(),
        Err(_) => "the connector panicked".into(),
    };
    events.beside(Some(error));
    // Neither is kept through the pause.
    drop(events);
    match pool.upgrade() {
        Some(pool) => pool.dial_failed(),
        None => return,
    }
    // From the beginning of the attempt, as gRPC counts.
    pause(
        pool,
        delay(&terms, failures).saturating_sub(began.elapsed()),
    )
    .await;
}

fn delay(terms: &DialTerms, failures: u32) -> Duration {
    let mut rng = Rng::stream(terms.seed, u64::from(failures));
    terms.backoff.delay(failures, &mut rng)
}

async fn pause(pool: Weak<Pool>, delay: Duration) {
    sleep(delay).await;
    if let Some(pool) = pool.upgrade() {
        pool.pause_is_over();
    }
}

impl fmt::Debug for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Growth")
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}
