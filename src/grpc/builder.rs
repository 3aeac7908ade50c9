use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Uri};
use tokio::runtime::Handle as Runtime;
use tower_service::Service;

use crate::balance::{self, Http, Reclaiming};
use crate::connection::Connector;
use crate::discovery::Discovery;
use crate::endpoint::Endpoint;
use crate::error::{BoxError, Error};
use crate::grpc::calls::Calls;
use crate::grpc::channel::Channel;
use crate::grpc::classify::ByGrpcStatus;
use crate::grpc::configured::Configured;
use crate::grpc::health_check::HealthCheck;
use crate::grpc::http2::{Http2Connector, Http2Settings};
use crate::grpc::load_reports::LoadReports;
use crate::grpc::probe::LoadProbe;
use crate::grpc::source::{Own, Source};
#[cfg(feature = "tls")]
use crate::grpc::tls::Tls;
use crate::health::{Ejection, Limits, SlowStart};
use crate::math::Backoff;
use crate::policy::Policy;
use crate::retry::{HedgeLayer, HedgePolicy, RetryLayer, RetryPolicy};
use crate::topology::{ClientSubset, Topology};

pub(super) const USER_AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"));

/// Builds a [`Channel`].
///
/// | setting | default | source |
/// |---|---|---|
/// | [`policy`](Self::policy) | [`Adaptive`](crate::policy::Adaptive) | Finagle's peak EWMA; Prequal, NSDI '24 |
/// | [`connect_timeout`](Self::connect_timeout) | 20 s | gRPC connection backoff |
/// | [`backoff`](Self::backoff) | 1 s × 1.6 ± 20 %, at most 120 s | gRPC connection backoff |
/// | [`max_concurrent_dials`](Self::max_concurrent_dials) | 100 | ours |
/// | [`max_connection_age`](Self::max_connection_age) | none | gRPC's servers: none, and a jitter of 10 % |
/// | [`ejection`](Self::ejection) | 5 failures in a row, 30 s | see [`Ejection`] |
/// | [`limits`](Self::limits) | off | Envoy's circuit breakers |
/// | [`slow_start`](Self::slow_start) | off | see [`SlowStart`] |
/// | [`subset`](Self::subset) | off | gRFC A68 |
/// | [`topology`](Self::topology) | priorities spill over at 140 % | Envoy |
/// | [`retry`](Self::retry) | off | the caller's to say: see [`RetryPolicy`] |
/// | [`hedge`](Self::hedge) | off | the caller's to say: see [`HedgePolicy`] |
/// | [`health_check`](Self::health_check) | off | gRFC A17 |
/// | [`timeout`](Self::timeout) | none | gRPC |
/// | `service_config`, feature `service-config` | none | gRPC |
/// | HTTP/2 and TCP | see [`Http2Settings`] | |
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<C = Own> {
    balance: balance::Builder,
    /// A fixed list, kept for a check of its addresses; or why there is no source.
    pub(super) endpoints: Result<Vec<Endpoint>, Error>,
    source: C,
    timeout: Option<Duration>,
    user_agent: Option<String>,
    expose_endpoint: bool,
    policy: Option<Arc<dyn Policy>>,
    ejection: Option<Ejection>,
    subset: Option<ClientSubset>,
    retry: Option<RetryPolicy>,
    hedge: Option<HedgePolicy>,
    health_check: Option<HealthCheck>,
    /// What holds where nothing is set here.
    pub(super) configured: Result<Configured, Error>,
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            balance: balance::Balance::builder(),
            endpoints: Ok(Vec::new()),
            source: Own::default(),
            timeout: None,
            user_agent: None,
            expose_endpoint: false,
            policy: None,
            ejection: None,
            subset: None,
            retry: None,
            hedge: None,
            health_check: None,
            configured: Ok(Configured::default()),
        }
    }

    /// A fixed list of endpoints (`http://host:port`, `https://host:port`, `unix:path`), in place of any other source.
    pub fn endpoints<E: Into<Endpoint>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        let endpoints: Vec<Endpoint> = endpoints.into_iter().map(Into::into).collect();
        self.balance = self.balance.endpoints(endpoints.clone());
        self.endpoints = Ok(endpoints);
        self
    }

    /// Endpoints from a stream of full states, in place of any other source: the updates of a
    /// [`Handle`](crate::discovery::Handle), or a source of one's own.
    pub fn discovery(mut self, discovery: impl Discovery) -> Self {
        self.endpoints = Ok(Vec::new());
        self.balance = self.balance.discovery(discovery);
        self
    }

    /// All HTTP/2 and TCP settings at once.
    pub fn http2(mut self, settings: Http2Settings) -> Self {
        self.source.settings = settings;
        self
    }

    /// Changes HTTP/2 and TCP settings.
    ///
    /// ```
    /// # use std::time::Duration;
    /// let builder = evenkeel::grpc::Channel::builder().http2_with(|http2| {
    ///     http2.keep_alive_interval = Some(Duration::from_secs(30));
    ///     http2.adaptive_window = true;
    /// });
    /// # let _ = builder;
    /// ```
    pub fn http2_with(mut self, change: impl FnOnce(&mut Http2Settings)) -> Self {
        change(&mut self.source.settings);
        self
    }

    /// Speaks TLS to every endpoint, by these settings. Without it, endpoints at `https://` are
    /// trusted by the roots that the features `tls-native-roots` and `tls-webpki-roots` bring.
    #[cfg(feature = "tls")]
    pub fn tls(mut self, tls: Tls) -> Self {
        self.source.tls = Some(tls);
        self
    }

    /// The scheme and authority that requests carry in place of the endpoint's own.
    pub fn origin(self, origin: Uri) -> Self {
        self.http2_with(|http2| http2.origin = Some(origin))
    }

    /// A transport of one's own: a service from the endpoint's URI to a byte stream, as tonic's
    /// `connect_with_connector` takes it. Tunnels and in-memory pipes go this way.
    pub fn connector<C>(mut self, connector: C) -> Self
    where
        C: Service<Uri> + Clone + Send + 'static,
        C::Response: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
        C::Future: Send,
        C::Error: Into<BoxError>,
    {
        self.source.connect = Some(Box::new(move |settings| {
            Http2Connector::with_connector(settings, connector)
        }));
        self
    }
}

impl<C> Builder<C> {
    /// Exchanges where connections come from.
    pub(super) fn with_source<C2>(self, endpoints: Vec<Endpoint>, source: C2) -> Builder<C2> {
        Builder {
            balance: self.balance.endpoints(endpoints.clone()),
            endpoints: Ok(endpoints),
            source,
            timeout: self.timeout,
            user_agent: self.user_agent,
            expose_endpoint: self.expose_endpoint,
            policy: self.policy,
            ejection: self.ejection,
            subset: self.subset,
            retry: self.retry,
            hedge: self.hedge,
            health_check: self.health_check,
            configured: self.configured,
        }
    }

    fn balance(mut self, change: impl FnOnce(balance::Builder) -> balance::Builder) -> Self {
        self.balance = change(self.balance);
        self
    }

    /// The algorithm; the default is [`Adaptive`](crate::policy::Adaptive).
    pub fn policy(mut self, policy: impl Policy) -> Self {
        self.policy = Some(Arc::new(policy));
        self
    }

    /// How long a call may take up to its response head, the wait for an endpoint included. Default
    /// none. A shorter `grpc-timeout` of the request holds before it.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Tries failed calls again, by this policy; see [`retry`](crate::retry). By default a call that a
    /// server may have acted on is made once.
    ///
    /// ```
    /// use evenkeel::retry::RetryPolicy;
    /// use tonic::Code;
    ///
    /// let builder = evenkeel::grpc::Channel::builder()
    ///     .retry(RetryPolicy::default().with_codes([Code::Unavailable, Code::ResourceExhausted]));
    /// # let _ = builder;
    /// ```
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.retry = Some(policy);
        self
    }

    /// Sends calls that take longer than nearly all do to a second endpoint, too, by this policy, and takes the
    /// first good answer; see [`Hedge`](crate::retry::Hedge). By default a call is not made again before it
    /// has failed. With hedging there are no [retries](Self::retry): gRPC has one or the other.
    ///
    /// ```
    /// use evenkeel::retry::HedgePolicy;
    ///
    /// let builder = evenkeel::grpc::Channel::builder().hedge(HedgePolicy::default());
    /// # let _ = builder;
    /// ```
    pub fn hedge(mut self, policy: HedgePolicy) -> Self {
        self.hedge = Some(policy);
        self
    }

    /// Asks every server how it is, and gives calls only to those that say that they are serving; see
    /// [`HealthCheck`]. By default a server that is connected gets calls.
    ///
    /// An endpoint is CONNECTING until the first answer and TRANSIENT_FAILURE while it is not serving. A server
    /// that says nothing within the [`connect_timeout`](Self::connect_timeout) is not serving. With
    /// [`PickFirst`](crate::policy::PickFirst) nobody is asked, as in gRPC.
    pub fn health_check(mut self, health_check: HealthCheck) -> Self {
        self.health_check = Some(health_check);
        self
    }

    /// How long one attempt to connect may take: TCP, TLS and the server's SETTINGS. Default 20 s.
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        self.balance(|balance| balance.connect_timeout(timeout))
    }

    /// The delays between attempts to connect.
    pub fn backoff(self, backoff: Backoff) -> Self {
        self.balance(|balance| balance.backoff(backoff))
    }

    /// How many attempts to connect may be under way at once, at least 1. Default 100.
    pub fn max_concurrent_dials(self, dials: usize) -> Self {
        self.balance(|balance| balance.max_concurrent_dials(dials))
    }

    /// After how long a connection is replaced, give or take a tenth at random; by default never. See
    /// [`balance::Builder::max_connection_age`](crate::balance::Builder::max_connection_age).
    pub fn max_connection_age(self, age: Duration) -> Self {
        self.balance(|balance| balance.max_connection_age(age))
    }

    /// When an endpoint whose calls fail is taken out, and for how long.
    pub fn ejection(mut self, ejection: Ejection) -> Self {
        self.ejection = Some(ejection);
        self
    }

    /// How many calls may be under way and wait at once; by default as many as there are. See [`Limits`].
    pub fn limits(self, limits: Limits) -> Self {
        self.balance(|balance| balance.limits(limits))
    }

    /// Has an endpoint that is new, or back, get its part of the calls little by little; by default at once. For
    /// the policies that look at weights.
    pub fn slow_start(self, slow_start: SlowStart) -> Self {
        self.balance(|balance| balance.slow_start(slow_start))
    }

    /// Uses a subset of the endpoints, by a [`RandomSubset`](crate::topology::RandomSubset) or an
    /// [`Aperture`](crate::topology::Aperture); by default all of them.
    pub fn subset(mut self, subset: impl Into<ClientSubset>) -> Self {
        self.subset = Some(subset.into());
        self
    }

    /// How calls are spread over priorities and localities of endpoints; by default over priorities, as
    /// [`Priorities::default`](crate::topology::Priorities::default) says.
    pub fn topology(self, topology: Topology) -> Self {
        self.balance(|balance| balance.topology(topology))
    }

    /// Seeds all randomness; default a different seed each time.
    pub fn seed(self, seed: u64) -> Self {
        self.balance(|balance| balance.seed(seed))
    }

    /// What requests name as `user-agent`, before `evenkeel/VERSION`. A request that has the header
    /// already keeps its own.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// Puts the endpoint that answered into each response's extensions, as
    /// [`ChosenEndpoint`](crate::call::ChosenEndpoint). Costs an allocation for each call; default
    /// off.
    pub fn expose_endpoint(mut self, expose: bool) -> Self {
        self.expose_endpoint = expose;
        self
    }
}

impl<C: Source> Builder<C> {
    /// Starts the channel on the current tokio runtime. Does not wait for a connection: calls made
    /// at once wait for the first.
    ///
    /// # Errors
    /// Names the setting that cannot be used: no endpoints, a target that cannot be, an address of another form, a
    /// weight of 0, two endpoints with one id, a percentage over 100, a time of zero, a certificate that cannot be read,
    /// what the policy of retries or of hedging cannot be, or both, a mistake in a service config; or no tokio runtime.
    pub fn build(self) -> Result<Channel<<C::Connector as Connector>::Service>, Error> {
        let configured = self.configured?;
        for endpoint in &self.endpoints? {
            self.source.check(endpoint)?;
        }
        if self.timeout == Some(Duration::ZERO) {
            return Err(Error::config("timeout", "is zero"));
        }
        if self.retry.is_some() && self.hedge.is_some() {
            let message = "retries are set, too, and a call has one or the other (gRFC A6)";
            return Err(Error::config("hedge", message));
        }
        let retry = self.retry.map(RetryLayer::new).transpose()?;
        let hedge = self.hedge.map(HedgeLayer::new).transpose()?;
        let user_agent = match self.user_agent {
            None => HeaderValue::from_static(USER_AGENT),
            Some(prefix) => {
                HeaderValue::try_from(format!("{prefix} {USER_AGENT}")).map_err(|error| {
                    Error::config_because("user_agent", "is no header value", error)
                })?
            }
        };
        let track = Http::new(ByGrpcStatus).with_exposed_endpoint(self.expose_endpoint);
        let health_check = self.health_check.or(configured.health_check);
        let health_check = health_check.map(|check| check.by(user_agent.clone()));
        let mut balance = self.balance;
        if let Some(policy) = self.policy.or(configured.policy) {
            balance = balance.policy(policy);
        }
        if let Some(ejection) = self.ejection.or(configured.ejection) {
            balance = balance.ejection(ejection);
        }
        if let Some(subset) = self.subset.or(configured.subset.map(Into::into)) {
            balance = balance.subset(subset);
        }
        let balance = balance
            .connector(self.source.connector(configured.max_connections)?)
            .track(Reclaiming(track))
            .probe(C::Probe::from(LoadProbe::by(user_agent.clone())))
            .load_reports(C::LoadReports::from(LoadReports::by(user_agent.clone())))
            .health_checks(health_check.map(C::HealthCheck::from))
            .build()?;
        let runtime = Runtime::try_current().map_err(|_| Error::no_runtime())?;
        let calls = Calls::new(
            balance,
            retry,
            hedge,
            &configured.repeats,
            configured.throttle,
        )?;
        let methods = configured.methods;
        Ok(Channel::new(
            calls,
            methods,
            user_agent,
            self.timeout,
            runtime,
        ))
    }
}

impl<C> fmt::Debug for Builder<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("balance", &self.balance)
            .field("policy", &self.policy)
            .field("ejection", &self.ejection)
            .field("subset", &self.subset)
            .finish_non_exhaustive()
    }
}
