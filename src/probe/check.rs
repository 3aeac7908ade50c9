//! Health checks that ask again and again: by a function, a TCP connection, or an HTTP GET.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
#[cfg(feature = "tcp")]
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_util::FutureExt;
use futures_util::stream::{self, Pending};
#[cfg(feature = "tcp")]
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::header::{Entry, HOST};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body::Body;
#[cfg(feature = "tcp")]
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{sleep, timeout};
use tower_service::Service;

use crate::error::{BoxError, Error, describe};
use crate::health::check::Answers;
use crate::health::{CheckRules, Verdict};
use crate::math::Rng;
use crate::probe::{Target, Watch, WatchError};

/// How much of the body of an answer is read, so that its connection can be used again.
const MOST_BODY_BYTES: usize = 64 * 1024;

/// In place of a health check where there is none. It has no values.
#[derive(Debug, Clone, Copy)]
pub enum NoCheck {}

impl<S> Watch<S> for NoCheck {
    type Terms = ();
    type Word = Verdict;
    type Stream = Pending<Result<Verdict, WatchError>>;

    fn watch(&self, _: Target<S>, (): &()) -> Self::Stream {
        match *self {}
    }
}

type Verdicts = Pin<Box<dyn Stream<Item = Result<Verdict, WatchError>> + Send>>;

/// A health check by a function that asks once: `Ok` if the endpoint may get calls, an error that says why
/// not otherwise. It gets the endpoint and its service, and is given up after the timeout of the
/// [rules](CheckRules). One that panics failed. If it finds that the service's `poll_ready` errs, it should say
/// so by [`Target::not_ready`].
///
/// # Errors
/// What [`CheckRules::validate`] says.
///
/// ```
/// use evenkeel::Balance;
/// use evenkeel::health::CheckRules;
/// use evenkeel::probe::{Target, check_fn};
/// use tower::{BoxError, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let services = ["a", "b"].map(|name| {
///     (name, service_fn(move |_: u32| async move { Ok::<_, BoxError>(name) }))
/// });
/// let check = check_fn(CheckRules::default(), |target: Target<_>| async move {
///     match target.endpoint().id().as_str() {
///         "a" => Err("in maintenance".into()),
///         _ => Ok(()),
///     }
/// })?;
/// let balance = Balance::builder().services(services).health_check(check).build()?;
/// for call in 0..10 {
///     assert_eq!(balance.clone().oneshot(call).await?, "b");
/// }
/// # Ok(())
/// # }
/// ```
pub fn check_fn<F>(rules: CheckRules, check: F) -> Result<CheckFn<F>, Error> {
    rules.validate()?;
    let check = Arc::new(check);
    Ok(CheckFn { rules, check })
}

/// See [`check_fn`].
pub struct CheckFn<F> {
    rules: CheckRules,
    check: Arc<F>,
}

impl<F> fmt::Debug for CheckFn<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckFn")
            .field("rules", &self.rules)
            .finish_non_exhaustive()
    }
}

impl<S, F, Fut> Watch<S> for CheckFn<F>
where
    S: Clone + Send + Sync + 'static,
    F: Fn(Target<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    type Terms = ();
    type Word = Verdict;
    type Stream = Verdicts;

    fn watch(&self, target: Target<S>, (): &()) -> Verdicts {
        let check = self.check.clone();
        ask_again(self.rules, target, move |target| check(target))
    }
}

/// Asks by `check`, again and again, and tells each new verdict.
fn ask_again<S, F, Fut>(rules: CheckRules, target: Target<S>, check: F) -> Verdicts
where
    S: Clone + Send + Sync + 'static,
    F: Fn(Target<S>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), BoxError>> + Send,
{
    struct State<S, F> {
        target: Target<S>,
        check: F,
        answers: Answers,
        rng: Rng,
        asked: bool,
    }
    let state = State {
        check,
        answers: Answers::new(rules),
        rng: Rng::new(target.seed()),
        target,
        asked: false,
    };
    let verdicts = stream::unfold(state, move |mut state| async move {
        loop {
            if std::mem::replace(&mut state.asked, true) {
                let calls = state.target.calls();
                let mut waited = Duration::ZERO;
                loop {
                    let pause = state.answers.pause(&mut state.rng);
                    sleep(pause).await;
                    waited += pause;
                    if calls != state.target.calls() || !state.answers.may_pause_on(waited) {
                        break;
                    }
                }
            }
            // Inside of what catches panics, since the function may panic before it gives a future.
            let asked = async { (state.check)(state.target.clone()).await };
            let asked = AssertUnwindSafe(timeout(rules.timeout(), asked)).catch_unwind();
            let answer = match asked.await {
                Ok(Ok(answer)) => answer.map_err(|error| describe(&*error)),
                Ok(Err(_)) => Err(format!("no answer within {:?}", rules.timeout())),
                Err(_) => Err("the check panicked".to_owned()),
            };
            if let Some(verdict) = state.answers.take(answer) {
                return Some((Ok(verdict), state));
            }
        }
    });
    Box::pin(verdicts)
}

/// Checks an endpoint by a TCP connection to its address, which is closed at once. For servers that speak
/// nothing else that could be asked: it says that the port is open, no more.
///
/// The address is `host:port`, or a URI with both; `http` and `https` have their usual ports. Of several
/// [addresses](crate::Endpoint::with_addresses), and of several that a name stands for, one is enough: they are
/// tried all at once.
///
/// ```
/// use evenkeel::health::CheckRules;
/// use evenkeel::probe::TcpConnect;
///
/// let check = TcpConnect::new(CheckRules::default())?;
/// # let _ = check;
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[cfg(feature = "tcp")]
#[derive(Debug, Clone, Copy)]
pub struct TcpConnect {
    rules: CheckRules,
}

#[cfg(feature = "tcp")]
impl TcpConnect {
    /// Checks by these rules.
    ///
    /// # Errors
    /// What [`CheckRules::validate`] says.
    pub fn new(rules: CheckRules) -> Result<Self, Error> {
        rules.validate()?;
        Ok(Self { rules })
    }
}

#[cfg(feature = "tcp")]
impl<S: Clone + Send + Sync + 'static> Watch<S> for TcpConnect {
    type Terms = ();
    type Word = Verdict;
    type Stream = Verdicts;

    fn watch(&self, target: Target<S>, (): &()) -> Verdicts {
        ask_again(self.rules, target, |target| async move {
            first_well(target.endpoint().addresses().map(connect)).await
        })
    }
}

/// All at once: one that is never answered must not use up the time of the others.
#[cfg(feature = "tcp")]
async fn first_well<F>(attempts: impl IntoIterator<Item = F>) -> Result<(), BoxError>
where
    F: Future<Output = Result<(), BoxError>>,
{
    let mut attempts: FuturesUnordered<F> = attempts.into_iter().collect();
    let mut failure = "it has no address".into();
    while let Some(attempt) = attempts.next().await {
        match attempt {
            Ok(()) => return Ok(()),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

#[cfg(feature = "tcp")]
async fn connect(address: &str) -> Result<(), BoxError> {
    let uri: Option<Uri> = address.parse().ok();
    let port = uri.as_ref().and_then(|uri| match uri.port_u16() {
        None if uri.scheme() == Some(&Scheme::HTTP) => Some(80),
        None if uri.scheme() == Some(&Scheme::HTTPS) => Some(443),
        port => port,
    });
    let host = uri.as_ref().and_then(Uri::host);
    let found: Vec<SocketAddr> = match host.zip(port) {
        Some((host, port)) => {
            let host = host.trim_start_matches('[').trim_end_matches(']');
            lookup_host((host, port)).await?.collect()
        }
        None => lookup_host(address).await?.collect(),
    };
    let open = |address| async move { Ok(TcpStream::connect(address).await.map(drop)?) };
    first_well(found.into_iter().map(open)).await
}

/// Checks an endpoint by an HTTP GET over its own service: an answer from 200 to 299 is well.
///
/// The request has the body `B::default()`, an empty one. Its URI is the endpoint's address with this path;
/// where the address is no `host:port` and no URI, the path alone. A redirect is not followed.
///
/// It has a `host`, as HTTP/1.1 asks for: that of its URI, unless one was [set](Self::with_header). Where the
/// address has none, it is to be set. Over HTTP/2 the URI's goes out as `:authority`, and one that is set beside it must
/// be the same, or servers may refuse the request (RFC 9113 section 8.3.1).
///
/// ```
/// use bytes::Bytes;
/// use evenkeel::health::CheckRules;
/// use evenkeel::probe::HttpGet;
/// use http_body_util::Full;
///
/// let check = HttpGet::<Full<Bytes>>::new("/healthz", CheckRules::default())?;
/// # let _ = check;
/// # Ok::<(), evenkeel::Error>(())
/// ```
pub struct HttpGet<B> {
    path: PathAndQuery,
    headers: HeaderMap,
    rules: CheckRules,
    body: PhantomData<fn() -> B>,
}

impl<B> HttpGet<B> {
    /// Asks for this path, with a query if it has one, by these rules.
    ///
    /// # Errors
    /// A path that is none, and what [`CheckRules::validate`] says.
    pub fn new(path: &str, rules: CheckRules) -> Result<Self, Error> {
        rules.validate()?;
        let mistake = |why: &str| Error::config("health_check.path", format!("{path:?} {why}"));
        if !path.starts_with('/') {
            return Err(mistake("does not begin with /"));
        }
        let path = (path.parse()).map_err(|error| mistake(&format!("is no path: {error}")))?;
        Ok(Self {
            path,
            headers: HeaderMap::new(),
            rules,
            body: PhantomData,
        })
    }

    /// Adds a header to the request, in place of one with this name; by default there is `host` alone.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }
}

impl<B> fmt::Debug for HttpGet<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpGet")
            .field("path", &self.path)
            .field("rules", &self.rules)
            .finish()
    }
}

impl<S, B, R> Watch<S> for HttpGet<B>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    B: Default + Send + 'static,
    R: Body + Send,
    R::Data: Send,
{
    type Terms = ();
    type Word = Verdict;
    type Stream = Verdicts;

    fn watch(&self, target: Target<S>, (): &()) -> Verdicts {
        let uri = uri_of(target.endpoint().address(), &self.path);
        let mut headers = self.headers.clone();
        if let Entry::Vacant(host) = headers.entry(HOST)
            && let Some(named) = host_of(&uri)
        {
            host.insert(named);
        }
        ask_again(self.rules, target, move |target| {
            let (uri, headers) = (uri.clone(), headers.clone());
            async move {
                let mut service = target.service();
                let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
                if let Err(error) = ready.map_err(Into::<BoxError>::into) {
                    let why = describe(&*error);
                    target.not_ready(error);
                    return Err(why.into());
                }
                let mut request = Request::new(B::default());
                *request.uri_mut() = uri;
                *request.headers_mut() = headers;
                let response = service.call(request).await.map_err(Into::into)?;
                let status = response.status();
                drain(response.into_body()).await;
                judge(status)
            }
        })
    }
}

fn judge(status: StatusCode) -> Result<(), BoxError> {
    if status.is_success() {
        Ok(())
    } else {
        Err(format!("HTTP status {status}").into())
    }
}

/// Reads the rest of an answer, since a connection of HTTP/1 whose answer was not read is not used again.
async fn drain<R: Body>(body: R) {
    let mut body = pin!(body);
    let mut read = 0;
    while read < MOST_BODY_BYTES
        && let Some(Ok(frame)) = std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)).await
    {
        read += frame.data_ref().map_or(0, bytes::Buf::remaining);
    }
}

/// What a `host` says: the authority without a user.
fn host_of(uri: &Uri) -> Option<HeaderValue> {
    let authority = uri.authority()?.as_str();
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    HeaderValue::from_str(host).ok()
}

fn uri_of(address: &str, path: &PathAndQuery) -> Uri {
    let absolute = |scheme: Scheme, authority: Authority| {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(scheme);
        parts.authority = Some(authority);
        parts.path_and_query = Some(path.clone());
        Uri::from_parts(parts).ok()
    };
    let parts = address.parse().map(Uri::into_parts).unwrap_or_default();
    parts
        .authority
        .filter(|authority| parts.scheme.is_some() || authority.port().is_some())
        .and_then(|authority| absolute(parts.scheme.unwrap_or(Scheme::HTTP), authority))
        .unwrap_or_else(|| Uri::from(path.clone()))
}

#[cfg(test)]
mod tests;
