use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tower::discover::Discover;
use tower_service::Service;

use crate::balance::layer::Make;
use crate::balance::{Balance, BalanceLayer, Http, Plain, Reclaiming};
use crate::cluster::{Launch, Settings, launch};
use crate::connection::{Connector, Discovered};
use crate::discovery::{Discovery, Update, from_discover, validate};
use crate::endpoint::{Endpoint, EndpointId};
use crate::error::{BoxError, Error};
use crate::health::Ejection;
use crate::math::Backoff;
use crate::outcome::ByStatusCode;
use crate::policy::{Adaptive, Policy};
use crate::probe::{NoProbe, Probe};
use crate::topology::RandomSubset;

/// Builds a [`Balance`]: where endpoints come from, how to reach them, and by what rules.
///
/// | setting | default | source |
/// |---|---|---|
/// | [`policy`](Self::policy) | [`Adaptive`] | Finagle's peak EWMA; Prequal, NSDI '24 |
/// | [`backoff`](Self::backoff) | 1 s × 1.6 ± 20 %, at most 120 s | gRPC connection backoff |
/// | [`connect_timeout`](Self::connect_timeout) | 20 s | gRPC connection backoff |
/// | [`max_concurrent_dials`](Self::max_concurrent_dials) | 100 | ours |
/// | [`ejection`](Self::ejection) | 5 failures in a row, 30 s | see [`Ejection`] |
/// | [`subset`](Self::subset) | off | gRFC A68 |
/// | [`probe`](Self::probe) | none | for policies that ask servers for their load |
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<C = (), T = Plain, P = NoProbe> {
    source: Source,
    connector: C,
    track: T,
    probe: Option<P>,
    policy: Arc<dyn Policy>,
    settings: Settings,
    wait_in_poll_ready: bool,
}

enum Source {
    Missing,
    List(Vec<Endpoint>),
    Stream(Pin<Box<dyn Discovery>>),
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            source: Source::Missing,
            connector: (),
            track: Plain::new(),
            probe: None,
            policy: Arc::new(Adaptive::default()),
            settings: Settings::default(),
            wait_in_poll_ready: false,
        }
    }
}

impl<C, T, P> Builder<C, T, P> {
    /// A fixed list of endpoints, in place of any other source.
    pub fn endpoints<E: Into<Endpoint>>(mut self, endpoints: impl IntoIterator<Item = E>) -> Self {
        self.source = Source::List(endpoints.into_iter().map(Into::into).collect());
        self
    }

    /// Endpoints from a stream of full states, in place of any other source: the updates of a
    /// [`Handle`](crate::discovery::Handle), or a source of one's own.
    pub fn discovery(mut self, discovery: impl Discovery) -> Self {
        self.source = Source::Stream(Box::pin(discovery));
        self
    }

    /// A fixed list of services that are there already, each with its id.
    pub fn services<I, S>(
        self,
        services: impl IntoIterator<Item = (I, S)>,
    ) -> Builder<Discovered<S>, T, P>
    where
        I: Into<EndpointId>,
        S: Clone + Send + Sync + 'static,
    {
        let endpoints: Vec<Endpoint> = services
            .into_iter()
            .map(|(id, service)| Discovered::endpoint(id, service))
            .collect();
        self.endpoints(endpoints).connector(Discovered::new())
    }

    /// Services from a tower `Discover`. Its keys' text is the endpoints' ids.
    pub fn discover<D>(self, discover: D) -> Builder<Discovered<D::Service>, T, P>
    where
        D: Discover + Send + Unpin + 'static,
        D::Key: ToString + Send,
        D::Service: Clone + Send + Sync + 'static,
        D::Error: Into<BoxError>,
    {
        self.discovery(from_discover(discover))
            .connector(Discovered::new())
    }

    /// How an endpoint becomes a service.
    pub fn connector<C2: Connector>(self, connector: C2) -> Builder<C2, T, P> {
        Builder {
            source: self.source,
            connector,
            track: self.track,
            probe: self.probe,
            policy: self.policy,
            settings: self.settings,
            wait_in_poll_ready: self.wait_in_poll_ready,
        }
    }

    /// How an endpoint becomes a service: by a tower service that makes services.
    pub fn make_service<M>(self, make: M) -> Builder<impl Connector<Service = M::Response>, T, P>
    where
        M: Service<Endpoint> + Clone + Send + Sync + 'static,
        M::Response: Clone + Send + Sync + 'static,
        M::Error: Into<BoxError> + Send + 'static,
        M::Future: Send + 'static,
    {
        self.connector(Make(make))
    }

    /// How requests and responses are read; the default is [`Plain`].
    pub fn track<T2>(self, track: T2) -> Builder<C, T2, P> {
        Builder {
            source: self.source,
            connector: self.connector,
            track,
            probe: self.probe,
            policy: self.policy,
            settings: self.settings,
            wait_in_poll_ready: self.wait_in_poll_ready,
        }
    }

    /// The services speak HTTP: load and outcome go to the end of the response's body, and a status
    /// of 500 or more is the endpoint's fault.
    pub fn http(self) -> Builder<C, Http<ByStatusCode>, P> {
        self.track(Http::default())
    }

    /// How servers are asked for their load, for a policy that [wants them
    /// asked](crate::load::ProbeRules); by default they are not. With another policy nothing is asked,
    /// and nothing runs.
    ///
    /// A call whose pick names servers to ask leaves a request for each in a queue of 64, and waits for
    /// nothing: what finds no room is not asked. That costs the call a clone of the endpoint's service and
    /// a few atomic operations for each request, and the waking of a task that sleeps, which takes a lock
    /// of the runtime's only where a call is polled outside of its threads. That task, one for the
    /// balancer and all its clones, asks as the [module](crate::probe) says.
    pub fn probe<P2>(self, probe: P2) -> Builder<C, T, P2> {
        Builder {
            source: self.source,
            connector: self.connector,
            track: self.track,
            probe: Some(probe),
            policy: self.policy,
            settings: self.settings,
            wait_in_poll_ready: self.wait_in_poll_ready,
        }
    }

    /// The services' errors may hand requests back; see [`Reclaiming`].
    pub fn reclaiming(self) -> Builder<C, Reclaiming<T>, P>
    where
        T: Clone,
    {
        let track = Reclaiming(self.track.clone());
        self.track(track)
    }

    /// The algorithm; the default is [`Adaptive`].
    pub fn policy(mut self, policy: impl Policy) -> Self {
        self.settings.measures = policy.measures();
        self.settings.connects = policy.connects();
        self.policy = Arc::new(policy);
        self.settings.listener = (self.settings.measures.reports)
            .is_some()
            .then(|| self.policy.clone());
        self
    }

    /// The delays between attempts to connect.
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// How long one attempt to connect may take, up to a connection that can take calls. Default
    /// 20 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.settings.connect_timeout = timeout;
        self
    }

    /// How many attempts to connect may be under way at once, at least 1. Default 100, so that a
    /// cold start on thousands of endpoints does not open them all together.
    pub fn max_concurrent_dials(mut self, dials: usize) -> Self {
        self.settings.max_concurrent_dials = dials;
        self
    }

    /// When an endpoint whose calls fail is taken out, and for how long.
    pub fn ejection(mut self, ejection: Ejection) -> Self {
        self.settings.ejection = ejection;
        self
    }

    /// Uses a random subset of the endpoints, of this size; by default all of them.
    pub fn subset(mut self, subset: RandomSubset) -> Self {
        self.settings.subset = Some(subset);
        self
    }

    /// Seeds all randomness: with the same seed, clock and events, the same endpoints are picked.
    /// Default: a different one each time.
    pub fn seed(mut self, seed: u64) -> Self {
        self.settings.seed = seed;
        self
    }

    /// Makes `poll_ready` wait until some endpoint can take a call, without a time limit, for
    /// layers above that shed or queue by readiness. Once ready a handle stays so until its next
    /// call. Default `false`: calls wait in their own future.
    pub fn wait_in_poll_ready(mut self, wait: bool) -> Self {
        self.wait_in_poll_ready = wait;
        self
    }

    fn validate(&self) -> Result<Runtime, Error> {
        match &self.source {
            Source::Missing => return Err(Error::config("endpoints", "none were given")),
            Source::List(list) if list.is_empty() => {
                return Err(Error::config("endpoints", "the list is empty"));
            }
            Source::List(list) => validate(list)?,
            Source::Stream(_) => {}
        }
        self.settings.validate()?;
        let needs_probe = (self.settings.measures.probes).is_some_and(|rules| rules.required);
        if needs_probe && self.probe.is_none() {
            let policy = self.policy.name();
            let mistake = format!("none was given, and the policy {policy} goes by its answers");
            return Err(Error::config("probe", mistake));
        }
        let runtime = Runtime::try_current().map_err(|_| Error::no_runtime())?;
        // tokio does not say whether it has timers, other than by this panic: better here than in
        // the driver, whose end looks like that of its runtime.
        std::panic::catch_unwind(|| drop(tokio::time::sleep(Duration::ZERO)))
            .map_err(|_| Error::no_timers())?;
        Ok(runtime)
    }
}

impl<C, T> Builder<C, T> {
    /// A layer that puts a balancer over a service that makes services. It needs a fixed list of
    /// endpoints, since a layer may be applied many times and a stream can be read once, and has no probe.
    ///
    /// # Errors
    /// As [`build`](Builder::build), and for a source that is a stream.
    pub fn layer(self) -> Result<BalanceLayer<T>, Error> {
        let runtime = self.validate()?;
        let Source::List(endpoints) = self.source else {
            return Err(Error::config(
                "discovery",
                "a layer takes a fixed list of endpoints, not a stream",
            ));
        };
        Ok(BalanceLayer::new(Parts {
            endpoints,
            track: self.track,
            policy: self.policy,
            settings: self.settings,
            wait_in_poll_ready: self.wait_in_poll_ready,
            runtime,
        }))
    }
}

impl<C: Connector, T, P: Probe<C::Service>> Builder<C, T, P> {
    /// Starts the balancer on the current tokio runtime. Does not wait for a connection.
    ///
    /// # Errors
    /// Names the setting that cannot be used: no endpoints, an endpoint with an empty id or a weight
    /// of 0, two endpoints with one id, a percentage over 100, a delay of zero, a policy that goes by probes
    /// without one; or no tokio runtime, or one without timers.
    pub fn build(self) -> Result<Balance<C::Service, T>, Error> {
        let runtime = self.validate()?;
        let (initial, discovery) = match self.source {
            Source::List(list) => (Some(Update::new(list)), None),
            Source::Stream(stream) => (None, Some(stream)),
            Source::Missing => (None, None),
        };
        let shared = launch(
            Launch {
                settings: self.settings,
                probe: self.probe,
                connector: self.connector,
                policy: self.policy,
                initial,
                discovery,
            },
            &runtime,
        );
        Ok(Balance::new(shared, self.track, self.wait_in_poll_ready))
    }
}

impl<C, T, P> fmt::Debug for Builder<C, T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder")
            .field("policy", &self.policy)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A builder's settings, checked, without a connector.
#[derive(Clone)]
pub(super) struct Parts<T> {
    endpoints: Vec<Endpoint>,
    track: T,
    policy: Arc<dyn Policy>,
    settings: Settings,
    wait_in_poll_ready: bool,
    runtime: Runtime,
}

impl<T> Parts<T> {
    pub(super) fn start<C: Connector>(self, connector: C) -> Balance<C::Service, T> {
        let shared = launch(
            Launch {
                settings: self.settings,
                probe: None::<NoProbe>,
                connector,
                policy: self.policy,
                initial: Some(Update::new(self.endpoints)),
                discovery: None,
            },
            &self.runtime,
        );
        Balance::new(shared, self.track, self.wait_in_poll_ready)
    }
}
