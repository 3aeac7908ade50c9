use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_layer::Layer;
use tower_service::Service;

use crate::cluster::moment;
use crate::error::{BoxError, Error};
use crate::math::RunningQuantile;
use crate::retry::bounds::Bounds;
use crate::retry::hedge::HedgeFuture;
use crate::retry::hedge::call::Call;
use crate::retry::hedge::policy::{Delay, HedgePolicy};
use crate::retry::repeat::Repeat;
use crate::retry::shared;
use crate::retry::{ByError, ReadError, ResponseBody, RetryBody, RetryLayer};

/// Puts a [`Hedge`] around services. All services of one layer share its budget, its throttle and what it
/// knows of the latency.
///
/// Calls of one kind should share a layer, and others not: a percentile over lookups of 1 ms and reports of
/// 1 s says little of either.
#[derive(Debug, Clone)]
pub struct HedgeLayer<E = ByError> {
    rules: Arc<Rules>,
    read: E,
}

impl HedgeLayer {
    /// Hedges by `policy` over a [`Balance`](crate::Balance), or another service with its errors.
    ///
    /// # Errors
    /// Names the setting of the policy that cannot be used.
    pub fn new(policy: HedgePolicy) -> Result<Self, Error> {
        Ok(Self {
            rules: Arc::new(Rules::new(policy)?),
            read: ByError,
        })
    }
}

impl<E> HedgeLayer<E> {
    /// Reads the errors of the service by `read`: a function from `&Error` to
    /// [`ErrorKind`](crate::retry::ErrorKind), or an implementation of [`ReadError`]. Of errors with
    /// [`is_no_other`](Error::is_no_other) it is to say [`NotSent`](crate::retry::ErrorKind::NotSent).
    pub fn reading_errors<E2>(self, read: E2) -> HedgeLayer<E2> {
        HedgeLayer {
            rules: self.rules,
            read,
        }
    }

    /// Shares the budget and the throttle of `retries`, in place of its own: for calls to the same backend of
    /// which some are tried again and others hedged. Begins to measure anew.
    ///
    /// ```
    /// use evenkeel::retry::{HedgeLayer, HedgePolicy, RetryLayer, RetryPolicy};
    ///
    /// let writes = RetryLayer::new(RetryPolicy::default())?;
    /// let reads = HedgeLayer::new(HedgePolicy::default())?.within_bounds_of(&writes);
    /// # drop(reads);
    /// # Ok::<_, evenkeel::Error>(())
    /// ```
    #[must_use]
    pub fn within_bounds_of<E2>(self, retries: &RetryLayer<E2>) -> Self {
        let bounds = self.rules.bounds.within(retries.bounds());
        Self {
            rules: Arc::new(Rules::bounded(self.rules.policy, bounds)),
            read: self.read,
        }
    }
}

impl<S: Clone, E: Clone> Layer<S> for HedgeLayer<E> {
    type Service = Hedge<S, E>;

    fn layer(&self, inner: S) -> Hedge<S, E> {
        Hedge {
            shared: Shared::of(&inner, &self.read, &self.rules),
            inner,
        }
    }
}

/// What all calls of a layer go by.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) policy: HedgePolicy,
    pub(super) bounds: Arc<Bounds>,
    /// `None` if the delay is fixed.
    latency: Option<RunningQuantile>,
}

impl Rules {
    pub(super) fn new(policy: HedgePolicy) -> Result<Self, Error> {
        policy.validate()?;
        Ok(Self::bounded(policy, Bounds::new(&policy.attempts)?))
    }

    fn bounded(policy: HedgePolicy, bounds: Bounds) -> Self {
        Self {
            policy,
            bounds: Arc::new(bounds),
            latency: match policy.delay {
                Delay::Fixed(_) => None,
                Delay::Quantile(quantile) => Some(RunningQuantile::new(quantile)),
            },
        }
    }

    /// The time between one attempt and the next, as of now.
    pub(super) fn delay(&self) -> Duration {
        match (self.policy.delay, &self.latency) {
            (Delay::Fixed(delay), _) => delay,
            (_, latency) => {
                let known = latency.as_ref().and_then(RunningQuantile::value);
                known.map_or(self.policy.initial_delay, |known| {
                    known.max(self.policy.min_delay)
                })
            }
        }
    }

    /// A call that began then has its response's head now.
    pub(super) fn answered(&self, begun: Instant) {
        if let Some(latency) = &self.latency {
            let now = Instant::now();
            latency.record(now.saturating_duration_since(begun), moment(now));
        }
    }

    /// A call that began then was given up. That it would have taken longer is worth to know only if that
    /// is longer than what is known of.
    pub(super) fn given_up(&self, begun: Instant) {
        if let Some(latency) = &self.latency {
            let now = Instant::now();
            let took = now.saturating_duration_since(begun);
            if took > self.delay() {
                latency.record(took, moment(now));
            }
        }
    }
}

pub(super) type Shared<S, E> = shared::Shared<S, E, Rules>;

/// Sends calls that take long to a second endpoint, too. Made by [`HedgeLayer`]; see [`HedgePolicy`] for the
/// settings.
///
/// A server that is slow for a moment, or stuck, makes the slowest calls many times as slow as the rest, and
/// no retry helps, since nothing has failed yet. A hedge is the same request sent to another endpoint once
/// the first attempt takes longer than nearly all calls do; the first good answer is the caller's. The delay
/// is by default the 95th percentile of the time that calls took lately, so that about one in twenty is
/// hedged.
///
/// - **First good answer**: a response that begins, or a status that the policy does not name as
///   [not fatal](HedgePolicy::with_codes). After one that it names, or a lost connection, the next attempt is
///   sent at once, and the call fails when all have failed.
/// - **Other endpoints**: a hedge goes to an endpoint that no attempt of the call went to, or nowhere; see
///   [`PreviousEndpoints`](crate::call::PreviousEndpoints). Only when every attempt has failed may one go to
///   an endpoint that had one.
/// - **The others** are dropped when one has answered, which cancels them, and count as neither success nor
///   failure of their endpoints.
/// - **Bounds**: a [`Budget`](crate::retry::Budget) of 20 % of the calls, and gRPC's
///   [`Throttle`](crate::retry::Throttle) on wish. A call that is refused a hedge goes on without.
/// - **Pushback** (gRFC A6): a negative `grpc-retry-pushback-ms` stops further hedges, another one says when
///   the next is sent.
/// - [`NoRetry`](crate::call::NoRetry) on a request keeps it to one attempt, which is not measured either.
///
/// `S` takes requests with a [`RetryBody`], and its errors can be made of an [`Error`], as those of
/// [`Balance`](crate::Balance) and any boxed error can. Each attempt reads the request from its beginning while it is
/// kept, up to [256 KiB](HedgePolicy::with_buffer_limit_bytes). Who reads beyond that is the only attempt from
/// then on. Hedges say in `grpc-previous-rpc-attempts` how many attempts were before them, and in
/// `grpc-timeout` what is left of the caller's time.
///
/// # Deadlines
/// No hedge is sent after the caller's `grpc-timeout`. Cutting the call at that moment is left to what stands
/// around this; `grpc::Channel` does it for the call as a whole.
///
/// # Errors
/// Those of the attempt that ended the call, as they are: the first that is fatal, else the last of those that
/// went to an endpoint. While there are other attempts, or there is one to come, a failure whose response has a body is
/// dropped, since its endpoint would be held until it is read; it is nobody's answer then. Of an error that is read as
/// `UNAVAILABLE` it is taken that no endpoint had the attempt. With [`is_timeout`](Error::is_timeout), where the deadline passed while the service for
/// the only attempt left was not ready.
///
/// # Cancellation
/// Dropping the returned future cancels all attempts.
///
/// # Cost
/// A call that is not hedged costs what one with [`Retry`](crate::retry::Retry) costs, another look at the clock, a
/// timer unless it is answered at once, and, where the delay is a quantile, one more look at the clock and an
/// atomic addition when it is answered. The lock of the request's body, which only those who read the body take too, is
/// taken once each time it is polled in vain, and three times at its answer, four if that is an error. A hedge costs a clone of the service and of
/// the request's head, and a few allocations; while there is one, a poll in vain takes that lock twice.
///
/// # Runtime
/// A tokio runtime with timers, there when the layer is applied or when the call is polled. Without one an
/// attempt is sent only after one that failed.
///
/// ```
/// use std::time::Duration;
///
/// use evenkeel::Balance;
/// use evenkeel::retry::{HedgeLayer, HedgePolicy};
/// use http::{Request, Response};
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// # type Body = http_body_util::Full<bytes::Bytes>;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), BoxError> {
/// let services = [("stuck", 1_000_000), ("good", 1)].map(|(name, millis)| {
///     (name, service_fn(move |_request: Request<_>| async move {
///         tokio::time::sleep(Duration::from_millis(millis)).await;
///         Ok::<_, std::io::Error>(Response::new(Body::default()))
///     }))
/// });
/// let balance = Balance::builder().services(services).http().build()?;
/// let hedged = ServiceBuilder::new()
///     .layer(HedgeLayer::new(HedgePolicy::default())?)
///     .service(balance);
/// let began = tokio::time::Instant::now();
/// for _ in 0..20 {
///     hedged.clone().oneshot(Request::new(Body::default())).await?;
/// }
/// assert!(began.elapsed() < Duration::from_secs(3), "at most 100 ms more for each");
/// # Ok(())
/// # }
/// ```
pub struct Hedge<S, E = ByError> {
    inner: S,
    shared: Arc<Shared<S, E>>,
}

impl<S, E> Hedge<S, E> {
    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// How long an attempt has now before the next one is sent beside it.
    pub fn delay(&self) -> Duration {
        self.shared.rules.delay()
    }
}

impl<S: Clone, E> Clone for Hedge<S, E> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<S: fmt::Debug, E> fmt::Debug for Hedge<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hedge")
            .field("inner", &self.inner)
            .field("policy", &self.shared.rules.policy)
            .field("delay", &self.delay())
            .finish_non_exhaustive()
    }
}

impl<S, E, B, R> Service<Request<B>> for Hedge<S, E>
where
    S: Service<Request<RetryBody<B>>, Response = Response<R>> + Clone,
    S::Error: From<Error>,
    E: ReadError<S::Error>,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
    R: Body,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = HedgeFuture<S::Future, S, B, E, Result<Response<R>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        begin(&mut self.inner, &self.shared, request)
    }
}

/// How some of the calls are hedged of a service that something else stands around.
#[cfg(feature = "grpc")]
pub(crate) struct HedgedCalls<S, E>(Arc<Shared<S, E>>);

#[cfg(feature = "grpc")]
impl<E: Clone> HedgeLayer<E> {
    /// For some of the calls of `service`.
    pub(crate) fn calls_of<S: Clone>(&self, service: &S) -> HedgedCalls<S, E> {
        HedgedCalls(Shared::of(service, &self.read, &self.rules))
    }
}

#[cfg(feature = "grpc")]
impl<S, E> HedgedCalls<S, E> {
    /// The call, by a handle of the service: no other is made for the first attempt.
    pub(crate) fn call<B, O>(
        &self,
        service: &mut S,
        request: Request<B>,
    ) -> HedgeFuture<S::Future, S, B, E, O>
    where
        S: Service<Request<RetryBody<B>>>,
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        begin(service, &self.0, request)
    }
}

fn begin<S, E, B, O>(
    inner: &mut S,
    shared: &Arc<Shared<S, E>>,
    request: Request<B>,
) -> HedgeFuture<S::Future, S, B, E, O>
where
    S: Service<Request<RetryBody<B>>>,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let rules = &shared.rules;
    let (repeat, request) = Repeat::begin(request, &rules.policy.attempts, &rules.bounds);
    let call = repeat.map(|repeat| Call::new(shared.clone(), repeat));
    HedgeFuture::new(inner.call(request), call)
}

#[cfg(all(test, feature = "grpc"))]
mod tests {
    use std::convert::Infallible;
    use std::future::{Ready, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use http_body_util::Full;

    use super::*;

    /// Counts its clones.
    #[derive(Default)]
    struct Counted(Arc<AtomicUsize>);

    impl Clone for Counted {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Ordering::SeqCst);
            Self(self.0.clone())
        }
    }

    impl<B> Service<Request<B>> for Counted {
        type Response = Response<B>;
        type Error = Infallible;
        type Future = Ready<Result<Response<B>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<B>) -> Self::Future {
            ready(Ok(Response::new(request.into_body())))
        }
    }

    #[tokio::test]
    async fn hedged_calls_of_a_service_clone_none_for_the_first_attempt() {
        let mut service = Counted::default();
        let hedged = HedgeLayer::new(HedgePolicy::default())
            .unwrap()
            .calls_of(&service);
        let before = service.0.load(Ordering::SeqCst);
        for _ in 0..10 {
            let request = Request::new(Full::new(Bytes::new()));
            drop(hedged.call::<_, ()>(&mut service, request));
        }
        let after = service.0.load(Ordering::SeqCst);
        assert_eq!(after, before, "a clone is for a hedge");
    }
}
