use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_layer::Layer;
use tower_service::Service;

use crate::error::{BoxError, Error};
use crate::math::Rng;
use crate::math::atomic::{AtomicU64, Ordering};
use crate::retry::bounds::Bounds;
use crate::retry::future::Call;
use crate::retry::repeat::Repeat;
use crate::retry::shared;
use crate::retry::{ByError, ReadError, ResponseBody, ResponseFuture, RetryBody, RetryPolicy};

/// Puts a [`Retry`] around services. All services of one layer share its budget and its throttle.
#[derive(Debug, Clone)]
pub struct RetryLayer<E = ByError> {
    rules: Arc<Rules>,
    read: E,
}

impl RetryLayer {
    /// Retries by `policy` over a [`Balance`](crate::Balance), or another service with its errors.
    ///
    /// # Errors
    /// Names the setting of the policy that cannot be used.
    pub fn new(policy: RetryPolicy) -> Result<Self, Error> {
        Ok(Self {
            rules: Arc::new(Rules::new(policy)?),
            read: ByError,
        })
    }
}

impl<E> RetryLayer<E> {
    pub(super) fn bounds(&self) -> &Bounds {
        &self.rules.bounds
    }

    /// Reads the errors of the service by `read`: a function from `&Error` to
    /// [`ErrorKind`](crate::retry::ErrorKind), or an implementation of [`ReadError`].
    pub fn reading_errors<E2>(self, read: E2) -> RetryLayer<E2> {
        RetryLayer {
            rules: self.rules,
            read,
        }
    }
}

impl<S: Clone, E: Clone> Layer<S> for RetryLayer<E> {
    type Service = Retry<S, E>;

    fn layer(&self, inner: S) -> Retry<S, E> {
        Retry {
            shared: Shared::of(&inner, &self.read, &self.rules),
            inner,
        }
    }
}

/// What all calls of a layer go by.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) policy: RetryPolicy,
    pub(super) bounds: Arc<Bounds>,
    seed: u64,
    streams: AtomicU64,
}

impl Rules {
    pub(super) fn new(policy: RetryPolicy) -> Result<Self, Error> {
        policy.validate()?;
        Ok(Self {
            policy,
            bounds: Arc::new(Bounds::new(&policy.attempts)?),
            seed: policy.seed.unwrap_or_else(|| fastrand::u64(..)),
            streams: AtomicU64::new(0),
        })
    }

    /// A generator for one delay: made only where it is needed, so that a first attempt does not pay.
    pub(super) fn rng(&self) -> Rng {
        Rng::stream(self.seed, self.streams.fetch_add(1, Ordering::Relaxed))
    }
}

pub(super) type Shared<S, E> = shared::Shared<S, E, Rules>;

/// Tries failed calls again; see the [module](crate::retry) for the rules. Made by [`RetryLayer`].
///
/// `S` takes requests with a [`RetryBody`], and its errors can be made of an [`Error`], as those of
/// [`Balance`](crate::Balance) and any boxed error can. The response passes through as it is, with a
/// [`ResponseBody`] around its body, by which a throttle hears of the call's end. A request's body is read
/// as the service asks for it, and kept on the side.
///
/// # Deadlines
/// The caller's `grpc-timeout` is read once: no wait begins that would end after it, no attempt but
/// the first begins after it, and each later one is sent what is left of it. Cutting an attempt at that
/// moment is left to what stands around or inside this; `grpc::Channel` does it for the call as a whole.
///
/// # Errors
/// Those of the last attempt, as they are. An attempt over its own time limit is an [`Error`] with
/// [`is_timeout`](Error::is_timeout), and so is a deadline that passes while the service for the next
/// attempt is not ready.
///
/// # Cancellation
/// Dropping the returned future cancels the attempt under way or the wait for the next one.
///
/// # Cost
/// A call that needs no retry costs a copy of the request's head (of its headers and extensions, where it
/// has any), an allocation for the body and one for the record of endpoints, one to put that record among
/// the request's extensions (three where it had none), a look at the clock, an atomic addition to the
/// budget, and with a throttle the reading of another atomic. `grpc::Channel` adds two: for tonic's type of
/// body, and for the future. No service is cloned, and no timer is made unless attempts have a time limit.
///
/// # Runtime
/// A tokio runtime with timers, there when the layer is applied or when the call is polled. Without one
/// only what needs no wait is tried again, and attempts have no time limit. That a runtime has no timers
/// tokio says by a panic, which is caught; its message is printed once for each call that wants one.
///
/// ```
/// use evenkeel::Balance;
/// use evenkeel::retry::{RetryLayer, RetryPolicy};
/// use http::{Request, Response};
/// use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};
///
/// # type Body = http_body_util::Full<bytes::Bytes>;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), BoxError> {
/// let services = [("bad", 503), ("good", 200)].map(|(name, status)| {
///     (name, service_fn(move |_request: Request<_>| async move {
///         Ok::<_, std::io::Error>(Response::builder().status(status).body(Body::default()).unwrap())
///     }))
/// });
/// let balance = Balance::builder().services(services).http().build()?;
/// let retry = ServiceBuilder::new()
///     .layer(RetryLayer::new(RetryPolicy::default().with_max_attempts(2))?)
///     .service(balance);
/// for _ in 0..20 {
///     let response = retry.clone().oneshot(Request::new(Body::default())).await?;
///     assert_eq!(response.status(), 200, "the second attempt goes to the other one");
/// }
/// # Ok(())
/// # }
/// ```
pub struct Retry<S, E = ByError> {
    inner: S,
    shared: Arc<Shared<S, E>>,
}

impl<S, E> Retry<S, E> {
    /// The service inside.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

/// Another policy for some of the calls of a [`Retry`].
#[cfg(feature = "grpc")]
pub(crate) struct OtherPolicy<S, E>(Arc<Shared<S, E>>);

#[cfg(feature = "grpc")]
impl<S: Clone, E: Clone> Retry<S, E> {
    /// Another policy for some of the calls, within the budget and the throttle of all.
    pub(crate) fn other_policy(&self, policy: RetryPolicy) -> Result<OtherPolicy<S, E>, Error> {
        let mut rules = Rules::new(policy)?;
        rules.bounds = Arc::new(rules.bounds.within(&self.shared.rules.bounds));
        Ok(OtherPolicy(Arc::new(Shared {
            again: self.shared.again.clone(),
            read: self.shared.read.clone(),
            rules: Arc::new(rules),
            timers: self.shared.timers.clone(),
        })))
    }

    /// The service inside, for calls that are made once.
    pub(crate) fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }
}

impl<S: Clone, E> Clone for Retry<S, E> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<S: fmt::Debug, E> fmt::Debug for Retry<S, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retry")
            .field("inner", &self.inner)
            .field("policy", &self.shared.rules.policy)
            .finish_non_exhaustive()
    }
}

impl<S, E, B, R> Service<Request<B>> for Retry<S, E>
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
    type Future = ResponseFuture<S::Future, S, B, E>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        begin(&mut self.inner, &self.shared, request)
    }
}

#[cfg(feature = "grpc")]
impl<S, E> Retry<S, E> {
    /// The call, by another policy.
    pub(crate) fn call_by<B>(
        &mut self,
        policy: &OtherPolicy<S, E>,
        request: Request<B>,
    ) -> ResponseFuture<S::Future, S, B, E>
    where
        S: Service<Request<RetryBody<B>>>,
        B: Body + Unpin,
        B::Error: Into<BoxError>,
    {
        begin(&mut self.inner, &policy.0, request)
    }
}

fn begin<S, E, B>(
    inner: &mut S,
    shared: &Arc<Shared<S, E>>,
    request: Request<B>,
) -> ResponseFuture<S::Future, S, B, E>
where
    S: Service<Request<RetryBody<B>>>,
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let rules = &shared.rules;
    let (repeat, request) = Repeat::begin(request, &rules.policy.attempts, &rules.bounds);
    let call = repeat.map(|repeat| Call::new(shared.clone(), repeat));
    ResponseFuture::new(inner.call(request), call)
}
