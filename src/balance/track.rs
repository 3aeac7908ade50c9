//! What a protocol's requests say, and when its responses end.

use std::error::Error as StdError;
use std::marker::PhantomData;

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::balance::body::TrackedBody;
use crate::balance::clock;
use crate::call::{ChosenEndpoint, Reclaim, RequestInfo};
use crate::outcome::{ByResult, ByStatusCode, Classify, Outcome};
use crate::policy::Claim;

/// How a [`Balance`](crate::Balance) reads the requests and responses of the services of type `S`.
///
/// Load and outcome belong to the *end* of a response: that is the end of the stream of an HTTP
/// body, and of anything else the moment that the service's future resolves. An implementation
/// takes the call's [`Claim`] and gives it back at that end.
///
/// Use [`Plain`], [`Http`], or [`Reclaiming`] around one of them.
pub trait Track<Req, S: Service<Req>>: Clone + Send + Sync + 'static {
    /// What the caller gets.
    type Response;

    /// What the request says about how it wants to be balanced.
    fn request<'a>(&self, request: &'a Req) -> RequestInfo<'a>;

    /// A response has come: passes it on, and finishes `claim` when the response ends.
    fn response(&self, response: S::Response, claim: Claim) -> Self::Response;

    /// What an error in place of a response says about the endpoint.
    fn error(&self, error: &S::Error) -> Outcome;

    /// The request, if the error holds it and the server certainly did not process it.
    ///
    /// # Errors
    /// The error, if it does not.
    fn reclaim(&self, error: S::Error) -> Result<Req, S::Error> {
        Err(error)
    }
}

/// Reads what a request says. Implemented for functions from `&Req` to [`RequestInfo`].
pub trait ReadRequest<Req>: Send + Sync + 'static {
    /// What `request` says.
    fn read<'a>(&self, request: &'a Req) -> RequestInfo<'a>;
}

/// Requests that say nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl<Req> ReadRequest<Req> for Silent {
    #[inline]
    fn read<'a>(&self, _: &'a Req) -> RequestInfo<'a> {
        RequestInfo::new()
    }
}

impl<Req, F> ReadRequest<Req> for F
where
    F: for<'a> Fn(&'a Req) -> RequestInfo<'a> + Send + Sync + 'static,
{
    #[inline]
    fn read<'a>(&self, request: &'a Req) -> RequestInfo<'a> {
        self(request)
    }
}

/// Any service: a response ends when the service's future resolves.
///
/// `C` judges the outcome; the default takes `Ok` for a success and `Err` for a failure. `R` reads
/// what a request says; by default it says nothing.
///
/// ```
/// use evenkeel::balance::Plain;
/// use evenkeel::call::RequestInfo;
///
/// struct Get { user: u64 }
///
/// let track = Plain::new().reading(|get: &Get| RequestInfo::new().with_hash_key(get.user));
/// # let _ = track;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain<C = ByResult, R = Silent> {
    classify: C,
    read: R,
}

impl Plain {
    /// Requests that say nothing; `Ok` is a success, `Err` a failure.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<C, R> Plain<C, R> {
    /// Judges responses by `classify`'s `response` and `error`.
    pub fn classified<C2>(self, classify: C2) -> Plain<C2, R> {
        Plain {
            classify,
            read: self.read,
        }
    }

    /// Reads what a request says by this function: its hash key, its caller's address, whether to
    /// wait.
    pub fn reading<F, Req>(self, read: F) -> Plain<C, F>
    where
        F: for<'a> Fn(&'a Req) -> RequestInfo<'a> + Send + Sync + 'static,
    {
        Plain {
            classify: self.classify,
            read,
        }
    }
}

impl<Req, S, C, R> Track<Req, S> for Plain<C, R>
where
    S: Service<Req>,
    C: Classify<S::Response, S::Error> + Clone,
    R: ReadRequest<Req> + Clone,
{
    type Response = S::Response;

    #[inline]
    fn request<'a>(&self, request: &'a Req) -> RequestInfo<'a> {
        self.read.read(request)
    }

    #[inline]
    fn response(&self, response: S::Response, claim: Claim) -> S::Response {
        let verdict = self.classify.response(&response);
        clock::finish(claim, verdict.unwrap_or(Outcome::Success));
        response
    }

    fn error(&self, error: &S::Error) -> Outcome {
        self.classify.error(error)
    }
}

/// HTTP: a response ends with its body. Requests are read by [`RequestInfo::http`].
///
/// `C` judges the outcome; the default goes by the status code.
#[derive(Debug, Clone)]
pub struct Http<C = ByStatusCode> {
    classify: C,
    expose_endpoint: bool,
}

impl<C> Http<C> {
    /// Judges outcomes by `classify`.
    pub fn new(classify: C) -> Self {
        Self {
            classify,
            expose_endpoint: false,
        }
    }

    /// Puts the endpoint that answered into each response's extensions, as
    /// [`ChosenEndpoint`]. Costs an allocation for each call; off by default.
    #[must_use]
    pub fn with_exposed_endpoint(mut self, expose: bool) -> Self {
        self.expose_endpoint = expose;
        self
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new(ByStatusCode)
    }
}

impl<ReqBody, ResBody, S, C> Track<Request<ReqBody>, S> for Http<C>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    S::Error: 'static,
    ResBody: Body,
    ResBody::Error: StdError + 'static,
    C: Classify<Response<ResBody>, S::Error> + Clone,
{
    type Response = Response<TrackedBody<ResBody, C, S::Error>>;

    fn request<'a>(&self, request: &'a Request<ReqBody>) -> RequestInfo<'a> {
        RequestInfo::http(request)
    }

    fn response(&self, mut response: Response<ResBody>, claim: Claim) -> Self::Response {
        if self.expose_endpoint {
            let id = claim.endpoint().clone();
            response.extensions_mut().insert(ChosenEndpoint(id));
        }
        clock::reported(&claim, || self.classify.load_report(response.headers()));
        let verdict = self.classify.response(&response);
        response.map(|body| TrackedBody::new(body, claim, self.classify.clone(), verdict))
    }

    fn error(&self, error: &S::Error) -> Outcome {
        self.classify.error(error)
    }
}

/// As `T`, for services whose errors may hand the request back: such a call goes to an endpoint not
/// yet tried, at most three times.
#[derive(Debug, Clone, Default)]
pub struct Reclaiming<T>(pub T);

impl<Req, S, T> Track<Req, S> for Reclaiming<T>
where
    S: Service<Req>,
    S::Error: Reclaim<Req>,
    T: Track<Req, S>,
{
    type Response = T::Response;

    fn request<'a>(&self, request: &'a Req) -> RequestInfo<'a> {
        self.0.request(request)
    }

    fn response(&self, response: S::Response, claim: Claim) -> Self::Response {
        self.0.response(response, claim)
    }

    fn error(&self, error: &S::Error) -> Outcome {
        self.0.error(error)
    }

    fn reclaim(&self, error: S::Error) -> Result<Req, S::Error> {
        error.reclaim()
    }
}

/// Marks the error type that a body's classifier is for.
pub(super) type Of<E> = PhantomData<fn() -> E>;
