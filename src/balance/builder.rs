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
use crate::health::{Ejection, Limits, SlowStart, Verdict};
use crate::math::Backoff;
use crate::outcome::{ByStatusCode, LoadReport};
use crate::policy::{Adaptive, Policy};
use crate::probe::{NoCheck, NoProbe, NoWatch, Probe, Watch};
use crate::topology::{ClientSubset, Topology};

/// Builds a [`Balance`]: where endpoints come from, how to reach them, and by what rules.
///
/// | setting | default | source |
/// |---|---|---|
/// | [`policy`](Self::policy) | [`Adaptive`] | Finagle's peak EWMA; Prequal, NSDI '24 |
/// | [`backoff`](Self::backoff) | 1 s × 1.6 ± 20 %, at most 120 s | gRPC connection backoff |
/// | [`connect_timeout`](Self::connect_timeout) | 20 s | gRPC connection backoff |
/// | [`max_concurrent_dials`](Self::max_concurrent_dials) | 100 | ours |
/// | [`max_connection_age`](Self::max_connection_age) | none | gRPC's servers: none, and a jitter of 10 % |
/// | [`ejection`](Self::ejection) | 5 failures in a row, 30 s | see [`Ejection`] |
/// | [`limits`](Self::limits) | off | Envoy's circuit breakers |
/// | [`slow_start`](Self::slow_start) | off | see [`SlowStart`] |
/// | [`subset`](Self::subset) | off | gRFC A68 |
/// | [`topology`](Self::topology) | priorities spill over at 140 % | Envoy |
/// | [`probe`](Self::probe) | none | for policies that ask servers for their load |
/// | [`load_reports`](Self::load_reports) | none | for policies that have servers report beside the calls |
/// | [`health_check`](Self::health_check) | none | gRFC A17 |
#[must_use = "a builder does nothing until it is built"]
pub struct Builder<C = (), T = Plain, P = NoProbe, W = NoWatch, H = NoCheck> {
    source: Source,
    connector: C,
    track: T,
    probe: Option<P>,
    load_reports: Option<W>,
    health_check: Option<H>,
    /// The default, if none is named: one for each balancer.
    policy: Option<Arc<dyn Policy>>,
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
            load_reports: None,
            health_check: None,
            policy: None,
            settings: Settings::default(),
            wait_in_poll_ready: false,
        }
    }
}

impl<C, T, P, W, H> Builder<C, T, P, W, H> {
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
    ) -> Builder<Discovered<S>, T, P, W, H>
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
    pub fn discover<D>(self, discover: D) -> Builder<Discovered<D::Service>, T, P, W, H>
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
    pub fn connector<C2: Connector>(self, connector: C2) -> Builder<C2, T, P, W, H> {
        Builder {
            source: self.source,
            connector,
            track: self.track,
            probe: self.probe,
            load_reports: self.load_reports,
            health_check: self.health_check,
            policy: self.policy,
            settings: self.settings,
            wait_in_poll_ready: self.wait_in_poll_ready,
        }
    }

    /// How an endpoint becomes a service: by a tower service that makes services.
    pub fn make_service<M>(
        self,
        make: M,
    ) -> Builder<impl Connector<Service = M::Response>, T, P, W, H>
    where
        M: Service<Endpoint> + Clone + Send + Sync + 'static,
        M::Response: Clone + Send + Sync + 'static,
        M::Error: Into<BoxError> + Send + 'static,
        M::Future: Send + 'static,
    {
        self.connector(Make(make))
    }

    /// How requests and responses are read; the default is [`Plain`].
    pub fn track<T2>(self, track: T2) -> Builder<C, T2, P, W, H> {
        Builder {
            source: self.source,
            connector: self.connector,
            track,
            probe: self.probe,
            load_reports: self.load_reports,
            health_check: self.health_check,
            policy: self.policy,
            settings: self.settings,
            wait_in_poll_ready: self.wait_in_poll_ready,
        }
    }

    /// The services speak HTTP: load and outcome go to the end of the response's body, and a status
    /// of 500 or more is the endpoint's fault.
    pub fn http(self) -> Builder<C, Http<ByStatusCode>, P, W, H> {
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
    pub fn probe<P2>(self, probe: P2) -> Builder<C, T, P2, W, H> {
        Builder {
            source: self.source,
            connector: self.connector,
            track: self.track,
            probe: Some(probe),
            load_reports: self.load_reports,
            health_check: self.health_check,
            policy: self.policy,
            settings: self.settings,
            wait_in_poll_ready: self.wait_in_poll_ready,
        }
    }

    /// How servers report their load beside the calls, for a policy that [wants them
    /// to](crate::load::ReportRules::out_of_band); by default they do not. With another policy nothing runs.
    ///
    /// A task for each endpoint that is connected keeps a stream open over its connection, as [`Watch`]
    /// says. Calls have nothing to do with it.
    pub fn load_reports<W2>(self, load_reports: W2) -> Builder<C, T, P, W2, H> {
        Builder {
            source: self.source,
            connector: self.connector,
            track: self.track,
            probe: self.probe,
            load_reports: Some(load_reports),
            health_check: self.health_check,
            policy: self.policy,
            settings: self.settings,
            wait_in_poll_ready: self.wait_in_poll_ready,
        }
    }

    /// How endpoints are checked, beside what their calls show; by default they are not. Each one of
    /// [`check_fn`](crate::probe::check_fn), [`HttpGet`](crate::probe::HttpGet), `probe::TcpConnect`, or a
    /// [`Watch`] that hears [`Verdict`]s.
    ///
    /// An endpoint that is connected is CONNECTING until its first verdict, and TRANSIENT_FAILURE while it is
    /// not serving (gRFC A17): it gets no call, also in a panic, and the calls it has go on. A check that says
    /// nothing within the [`connect_timeout`](Self::connect_timeout), that ends with an error or panics counts
    /// as not serving; a server that does not know the question, as serving. A policy that wants one connection
    /// only ([`PickFirst`](crate::policy::PickFirst)) has nobody checked, as in gRPC.
    ///
    /// A task for each endpoint that is connected checks it. Calls have nothing to do with it.
    pub fn health_check<H2>(self, health_check: H2) -> Builder<C, T, P, W, H2> {
        self.health_checks(Some(health_check))
    }

    pub(crate) fn health_checks<H2>(self, health_check: Option<H2>) -> Builder<C, T, P, W, H2> {
        Builder {
            source: self.source,
            connector: self.connector,
            track: self.track,
            probe: self.probe,
            load_reports: self.load_reports,
            health_check,
            policy: self.policy,
            settings: self.settings,
            wait_in_poll_ready: self.wait_in_poll_ready,
        }
    }

    /// The services' errors may hand requests back; see [`Reclaiming`].
    pub fn reclaiming(self) -> Builder<C, Reclaiming<T>, P, W, H>
    where
        T: Clone,
    {
        let track = Reclaiming(self.track.clone());
        self.track(track)
    }

    /// The algorithm; the default is [`Adaptive`].
    pub fn policy(mut self, policy: impl Policy) -> Self {
        self.policy = Some(Arc::new(policy));
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

    /// After how long a connection is replaced, give or take a tenth at random; by default never. It then takes no
    /// new calls, as after a GOAWAY: those under way finish on it, and the endpoint is dialled anew at once. So
    /// calls find their way to servers that have come up behind one address (a load balancer in front, a
    /// service's virtual address), and to names that lead elsewhere by now. Until the next connection is up, and its
    /// health check if there is one has passed, the endpoint takes no call; a lone one has its calls wait.
    pub fn max_connection_age(mut self, age: Duration) -> Self {
        self.settings.max_connection_age = Some(age);
        self
    }

    /// When an endpoint whose calls fail is taken out, and for how long.
    pub fn ejection(mut self, ejection: Ejection) -> Self {
        self.settings.ejection = ejection;
        self
    }

    /// How many calls may be under way and wait at once; by default as many as there are. See [`Limits`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Has an endpoint that is new, or back, get its part of the calls little by little; by default at once. For
    /// the policies that look at weights.
    pub fn slow_start(mut self, slow_start: SlowStart) -> Self {
        self.settings.slow_start = Some(slow_start);
        self
    }

    /// Uses a subset of the endpoints, by a [`RandomSubset`](crate::topology::RandomSubset) or an
    /// [`Aperture`](crate::topology::Aperture); by default all of them.
    pub fn subset(mut self, subset: impl Into<ClientSubset>) -> Self {
        self.settings.subset = Some(subset.into());
        self
    }

    /// How calls are spread over priorities and localities of endpoints; by default over priorities, as
    /// [`Priorities::default`](crate::topology::Priorities::default) says.
    pub fn topology(mut self, topology: Topology) -> Self {
        self.settings.topology = topology;
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

    /// Takes over what the policy wants, and checks the whole.
    fn validate(&mut self, policy: &Arc<dyn Policy>) -> Result<Runtime, Error> {
        self.settings.adopt(policy);
        match &self.source {
            Source::Missing => return Err(Error::config("endpoints", "none were given")),
            Source::List(list) if list.is_empty() => {
                return Err(Error::config("endpoints", "the list is empty"));
            }
            Source::List(list) => validate(list)?,
            Source::Stream(_) => {}
        }
        self.settings.validate()?;
        let measures = &self.settings.measures;
        let needs_probe = (measures.probes).is_some_and(|rules| rules.required);
        if needs_probe && self.probe.is_none() {
            let policy = policy.name();
            let mistake = format!("none was given, and the policy {policy} goes by its answers");
            return Err(Error::config("probe", mistake));
        }
        if measures.out_of_band().is_some() && self.load_reports.is_none() {
            let policy = policy.name();
            let mistake =
                format!("none were given, and the policy {policy} goes by those out of band");
            return Err(Error::config("load_reports", mistake));
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
    /// A layer that puts a balancer over a service that makes services: that is its connector, and one that was set
    /// is not used. It needs a fixed list of endpoints, since a layer may be applied many times and a stream can be
    /// read once. A builder that was given a probe, load reports out of band or a health check makes no layer.
    ///
    /// # Errors
    /// As [`build`](Builder::build), and for a source that is a stream.
    pub fn layer(mut self) -> Result<BalanceLayer<T>, Error> {
        let runtime = self.validate(&or_default(self.policy.clone()))?;
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

impl<C, T, P, W, H> Builder<C, T, P, W, H>
where
    C: Connector,
    P: Probe<C::Service>,
    W: Watch<C::Service, Terms = Duration, Word = LoadReport>,
    H: Watch<C::Service, Terms = (), Word = Verdict>,
{
    /// Starts the balancer on the current tokio runtime. Does not wait for a connection.
    ///
    /// # Errors
    /// Names the setting that cannot be used: no endpoints, an endpoint with an empty id or a weight
    /// of 0, two endpoints with one id, a percentage over 100, a delay or a window of zero, a policy that goes by probes
    /// or by load reports out of band without such; or no tokio runtime, or one without timers.
    pub fn build(mut self) -> Result<Balance<C::Service, T>, Error> {
        let policy = or_default(self.policy.clone());
        let runtime = self.validate(&policy)?;
        let (initial, discovery) = match self.source {
            Source::List(list) => (Some(Update::new(list)), None),
            Source::Stream(stream) => (None, Some(stream)),
            Source::Missing => (None, None),
        };
        let shared = launch(
            Launch {
                settings: self.settings,
                probe: self.probe,
                load_reports: self.load_reports,
                health_check: self.health_check,
                connector: self.connector,
                policy,
                initial,
                discovery,
            },
            &runtime,
        );
        Ok(Balance::new(shared, self.track, self.wait_in_poll_ready))
    }
}

impl<C, T, P, W, H> fmt::Debug for Builder<C, T, P, W, H> {
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
    policy: Option<Arc<dyn Policy>>,
    settings: Settings,
    wait_in_poll_ready: bool,
    runtime: Runtime,
}

/// A policy of the balancer's own, if none is named: what servers answer one client is not for another.
fn or_default(policy: Option<Arc<dyn Policy>>) -> Arc<dyn Policy> {
    policy.unwrap_or_else(|| Arc::new(Adaptive::default()))
}

impl<T> Parts<T> {
    pub(super) fn start<C: Connector>(mut self, connector: C) -> Balance<C::Service, T> {
        let policy = or_default(self.policy);
        self.settings.adopt(&policy);
        let shared = launch(
            Launch {
                settings: self.settings,
                probe: None::<NoProbe>,
                load_reports: None::<NoWatch>,
                health_check: None::<NoCheck>,
                connector,
                policy,
                initial: Some(Update::new(self.endpoints)),
                discovery: None,
            },
            &self.runtime,
        );
        Balance::new(shared, self.track, self.wait_in_poll_ready)
    }
}
