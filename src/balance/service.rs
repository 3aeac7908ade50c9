use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::watch;
use tokio::time::Instant;
use tower_service::Service;

use crate::balance::{Builder, ResponseFuture, Track};
use crate::cluster::{Shared, Snapshot};
use crate::endpoint::ConnectivityState;
use crate::error::Error;
use crate::math::Rng;
use crate::observe::Report;

/// Spreads calls over a changing set of endpoints. Cheap to clone, by one small allocation; a clone
/// shares everything but its readiness and its random numbers. Threads get in each other's way least
/// if each task has a clone of its own.
///
/// `S` is the service of one endpoint; `T` says how requests and responses are read.
///
/// # Readiness
/// [`poll_ready`](Service::poll_ready) is always ready and never errs: the endpoint is picked in
/// [`call`](Service::call), where the request is known, and what waiting there is happens in the
/// returned future. A builder can be told to
/// [wait in `poll_ready`](Builder::wait_in_poll_ready) instead.
///
/// # Cancellation
/// Dropping the returned future, or the response body, gives the endpoint's load back at once and
/// counts neither for nor against it.
///
/// # End
/// The background task and all connections live as long as one handle or one queued call does;
/// responses under way finish. [`shutdown`](Self::shutdown) ends them earlier, and the responses within a deadline.
///
/// ```
/// use evenkeel::{Balance, policy::RoundRobin};
/// use tower::{BoxError, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let services = ["a", "b"].map(|name| {
///     (name, service_fn(move |n: u32| async move { Ok::<_, BoxError>(format!("{name}{n}")) }))
/// });
/// let balance = Balance::builder()
///     .services(services)
///     .policy(RoundRobin::default())
///     .build()?;
///
/// let mut answers = vec![balance.clone().oneshot(1).await?, balance.oneshot(1).await?];
/// answers.sort();
/// assert_eq!(answers, ["a1", "b1"]);
/// # Ok(())
/// # }
/// ```
pub struct Balance<S, T> {
    shared: Arc<Own<S>>,
    track: T,
    rng: Rng,
    wait: Option<Wait>,
}

/// What one handle and its calls hold in place of what all handles share.
///
/// Every call counts a reference up and down. With one count for all handles, two threads that call
/// through handles of their own would still wait for each other: 214 ns a call instead of 134.
pub(super) struct Own<S> {
    shared: Arc<Shared<S>>,
    /// Keeps the counts of handles that were cloned one after the other on lines of their own, also
    /// where the processor fetches lines in pairs: with the two counts of an `Arc` 128 bytes.
    _apart: [u64; 13],
}

impl<S> Own<S> {
    fn new(shared: Arc<Shared<S>>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            _apart: [0; 13],
        })
    }
}

impl<S> Deref for Own<S> {
    type Target = Shared<S>;

    #[inline]
    fn deref(&self) -> &Shared<S> {
        &self.shared
    }
}

/// Waiting in `poll_ready`, where the builder asked for it.
#[derive(Default)]
struct Wait {
    changed: Option<Changed>,
    /// Promised until the next call.
    ready: bool,
}

type Changed = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl Balance<(), ()> {
    /// Begins to build a balancer.
    pub fn builder() -> Builder {
        Builder::new()
    }
}

impl<S, T> Balance<S, T> {
    pub(super) fn new(shared: Arc<Shared<S>>, track: T, wait_in_poll_ready: bool) -> Self {
        let rng = shared.next_rng();
        Self {
            shared: Own::new(shared),
            track,
            rng,
            wait: wait_in_poll_ready.then(Wait::default),
        }
    }

    pub(super) fn own(&self) -> &Arc<Own<S>> {
        &self.shared
    }

    pub(super) fn shared(&self) -> &Shared<S> {
        &self.shared
    }

    /// The state of the whole: `Ready` if any endpoint is, else `Connecting` if any may become so,
    /// else `TransientFailure`; `Shutdown` once it is [shut down](Self::shutdown), or the background task is gone
    /// with its runtime.
    pub fn state(&self) -> ConnectivityState {
        self.shared.load().summary.state()
    }

    /// The state, and every change of it. Does not keep the balancer alive.
    pub fn watch_state(&self) -> StateWatch {
        StateWatch(self.shared.state())
    }

    /// Every endpoint at this moment: its state, load, health and last error. Costs time and memory
    /// in the number of endpoints, and calls nothing but time.
    pub fn report(&self) -> Report {
        self.shared.report(Instant::now())
    }
}

impl<S, T: Clone> Clone for Balance<S, T> {
    fn clone(&self) -> Self {
        let shared = self.shared.shared.clone();
        Self::new(shared, self.track.clone(), self.wait.is_some())
    }
}

impl<S, T> fmt::Debug for Balance<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balance")
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

impl<S, T, Req> Service<Req> for Balance<S, T>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<crate::error::BoxError>,
    T: Track<Req, S>,
{
    type Response = T::Response;
    type Error = Error;
    type Future = ResponseFuture<S, Req, T>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match &mut self.wait {
            Some(wait) => wait.poll_ready(&self.shared, cx).map(Ok),
            None => Poll::Ready(Ok(())),
        }
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        if let Some(wait) = &mut self.wait {
            *wait = Wait::default();
        }
        let rng = Rng::new(self.rng.next_u64());
        ResponseFuture::new(self.shared.clone(), self.track.clone(), rng, request)
    }
}

impl Wait {
    fn poll_ready<S: Send + Sync + 'static>(
        &mut self,
        shared: &Shared<S>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        while !self.ready {
            // Subscribed before the look, so that a change between the two is not missed.
            let changed = self.changed.get_or_insert_with(|| {
                let mut versions = shared.subscribe();
                Box::pin(async move {
                    let _ = versions.changed().await;
                })
            });
            if is_usable(&shared.load()) {
                self.ready = true;
            } else {
                std::task::ready!(changed.as_mut().poll(cx));
            }
            self.changed = None;
        }
        Poll::Ready(())
    }
}

/// Whether a call would find an endpoint, or could only fail for good.
fn is_usable<S>(snapshot: &Snapshot<S>) -> bool {
    let summary = &snapshot.summary;
    summary.closed
        || snapshot.candidates.usable().iter().any(|candidate| {
            let health = candidate.subchannel().health();
            candidate.is_connected()
                && (summary.ignores_ejections || health.admits())
                && (!summary.halted || !health.gate().is_open())
        })
}

/// The state of a balancer and its changes; see [`Balance::watch_state`].
#[derive(Debug, Clone)]
pub struct StateWatch(watch::Receiver<ConnectivityState>);

impl StateWatch {
    /// The state now.
    pub fn get(&self) -> ConnectivityState {
        if self.0.has_changed().is_err() {
            return ConnectivityState::Shutdown;
        }
        *self.0.borrow()
    }

    /// Waits for the next change since the last one that was seen, and returns the new state. `None`
    /// when the balancer has ended and that was seen. Cancel-safe.
    pub async fn changed(&mut self) -> Option<ConnectivityState> {
        // The last state of all; the handles that are left keep the sender.
        if *self.0.borrow() == ConnectivityState::Shutdown && !self.has_unseen() {
            return None;
        }
        self.0.changed().await.ok()?;
        Some(*self.0.borrow_and_update())
    }

    /// Waits until the state is `wanted`. `false` if the balancer ended before. Cancel-safe.
    pub async fn wait_for(&mut self, wanted: ConnectivityState) -> bool {
        let end = ConnectivityState::Shutdown;
        let seen = self.0.wait_for(|state| *state == wanted || *state == end);
        let last = seen.await.map_or(end, |state| *state);
        last == wanted
    }

    fn has_unseen(&self) -> bool {
        self.0.has_changed().unwrap_or(false)
    }
}
