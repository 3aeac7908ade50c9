//! What a type promises by its traits is part of the API: code of users stops compiling without it.

use std::fmt::Debug;
use std::future::{Ready, ready};
use std::hash::Hash;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use evenkeel::balance::{
    BalanceLayer, Builder, Http, Order, Plain, Reclaiming, ResponseFuture, Shutdown, Silent,
    StateWatch, TrackedBody,
};
use evenkeel::call::{
    ChosenEndpoint, HashKey, NoRetry, PreviousEndpoints, RequestInfo, SourceIp, WaitForReady,
};
use evenkeel::connection::{ConnectionEvents, Connector, Discovered};
use evenkeel::discovery::{BoxDiscovery, Discovery, Handle, Target, Targets, Update, Updates};
use evenkeel::endpoint::{Authority, RefreshHint};
use evenkeel::health::{
    Cause, Counts, Ejection, Ejections, FailurePercentage, Gate, Health, OutlierDetection,
    SuccessRate,
};
use evenkeel::load::{
    InFlight, LatencyEstimate, ProbeRules, Rate, ReportRules, Reports, ServerQueue,
};
use evenkeel::math::stride::Sequence;
use evenkeel::math::{
    Alias, Backoff, MaglevTable, Moment, RendezvousTable, Ring, Rng, StaticStride,
};
use evenkeel::observe::{Drained, Ejected, EndpointReport, Report};
use evenkeel::outcome::{ByResult, ByStatusCode, Classify, LoadReport, Outcome};
use evenkeel::policy::{
    Adaptive, BoundedLoad, Candidate, Candidates, Claim, Connects, EndpointHashKey, HashSource,
    IpHash, LeastRequest, Maglev, OrcaWeightedRoundRobin, PeakEwma, Pick, PickContext, PickFirst,
    Picker, Policy, Prequal, ProbeRequests, Random, Rendezvous, RingHash, RoundRobin, Subchannel,
    Tried, WeightedRandom, WeightedRoundRobin,
};
use evenkeel::probe::{Answer, NoProbe, NoWatch, Probe, ProbeFn, Watch, WatchError};
use evenkeel::{Balance, BoxError, ConnectivityState, Endpoint, EndpointId, Error};
use http_body_util::Full;
use tower::{Layer, Service};

fn send<T: Send + 'static>() {}
fn sync<T: Sync>() {}
fn unpin<T: Unpin>() {}
fn clone<T: Clone>() {}
fn copy<T: Copy>() {}
fn debug<T: Debug>() {}
fn value<T: Eq + Hash + Ord + Clone>() {}

/// What nearly every type should be.
fn ordinary<T: Send + Sync + Unpin + Debug + 'static>() {}

/// The service of an endpoint that promises no more than it must.
#[derive(Clone, Debug)]
struct Plainest;

impl Service<u32> for Plainest {
    type Response = u32;
    type Error = std::io::Error;
    type Future = Ready<Result<u32, std::io::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, n: u32) -> Self::Future {
        ready(Ok(n))
    }
}

type PlainBalance = Balance<Plainest, Plain>;

#[test]
fn a_balancer_can_be_shared_stored_and_cloned_anywhere() {
    ordinary::<PlainBalance>();
    clone::<PlainBalance>();
    ordinary::<StateWatch>();
    ordinary::<Shutdown>();
    ordinary::<Order<Drained>>();
    clone::<StateWatch>();
    ordinary::<BalanceLayer<Plain>>();
    clone::<BalanceLayer<Plain>>();
    send::<Builder>();
    debug::<Builder>();
}

#[test]
fn futures_and_bodies_can_be_spawned() {
    send::<ResponseFuture<Plainest, u32, Plain>>();
    sync::<ResponseFuture<Plainest, u32, Plain>>();
    debug::<ResponseFuture<Plainest, u32, Plain>>();
    ordinary::<TrackedBody<Full<Bytes>, ByStatusCode, std::io::Error>>();
    send::<<Discovered<Plainest> as Connector>::Future>();
    fn of_a_wait<'a>(watch: &'a mut StateWatch) -> impl Future<Output = bool> + Send + 'a {
        watch.wait_for(ConnectivityState::Ready)
    }
    fn of_a_change<'a>(
        watch: &'a mut StateWatch,
    ) -> impl Future<Output = Option<ConnectivityState>> + Send + 'a {
        watch.changed()
    }
    let _ = (of_a_wait, of_a_change);
}

#[test]
fn a_balancer_is_a_service_that_generic_code_can_hold() {
    fn is_service<S, R>()
    where
        S: Service<R, Error = Error> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
    {
    }
    is_service::<PlainBalance, u32>();
    type Boxed = tower::util::BoxCloneSyncService<u32, u32, std::io::Error>;
    is_service::<Balance<Boxed, Plain>, u32>();
    fn boxes(balance: PlainBalance) -> tower::util::BoxCloneSyncService<u32, u32, Error> {
        tower::util::BoxCloneSyncService::new(balance)
    }
    let _ = boxes;
    fn is_layer<L: Layer<M>, M>() {}
    type Make = tower::util::BoxCloneSyncService<Endpoint, Plainest, std::io::Error>;
    is_layer::<BalanceLayer<Plain>, Make>();
}

#[test]
fn the_seams_are_object_safe() {
    fn policy(_: &dyn Policy) {}
    fn picker(_: &dyn Picker) {}
    fn shared(_: Arc<dyn Policy>, _: Arc<dyn Picker>) {}
    fn classify(_: &dyn Classify<(), std::io::Error>) {}
    fn discovery(_: Box<dyn Discovery<Item = Result<Update, BoxError>>>) {}
    let _ = (policy, picker, shared, classify, discovery);
    send::<Arc<dyn Policy>>();
    sync::<Arc<dyn Policy>>();
    send::<Arc<dyn Picker>>();
    sync::<Arc<dyn Picker>>();
    debug::<Box<dyn Policy>>();
    debug::<Box<dyn Picker>>();
}

#[test]
fn errors_cross_threads_and_become_boxed_errors() {
    ordinary::<Error>();
    fn is_error<E: std::error::Error + Into<BoxError>>() {}
    is_error::<Error>();
}

#[test]
fn plain_data_is_plain() {
    ordinary::<Endpoint>();
    clone::<Endpoint>();
    ordinary::<EndpointId>();
    value::<EndpointId>();
    ordinary::<ConnectivityState>();
    copy::<ConnectivityState>();
    ordinary::<Handle>();
    clone::<Handle>();
    ordinary::<Updates>();
    #[cfg(feature = "dns")]
    {
        use evenkeel::discovery::{Dns, DnsUpdates};
        ordinary::<Dns>();
        clone::<Dns>();
        send::<DnsUpdates>();
        unpin::<DnsUpdates>();
        debug::<DnsUpdates>();
    }
    ordinary::<Authority>();
    clone::<Authority>();
    ordinary::<RefreshHint>();
    clone::<RefreshHint>();
    ordinary::<Target>();
    clone::<Target>();
    sync::<Targets>();
    send::<Targets>();
    clone::<Targets>();
    debug::<Targets>();
    unpin::<BoxDiscovery>();
    send::<BoxDiscovery>();
    ordinary::<Update>();
    clone::<Update>();
    ordinary::<ConnectionEvents>();
    clone::<ConnectionEvents>();
    ordinary::<Report>();
    clone::<Report>();
    ordinary::<EndpointReport>();
    ordinary::<Ejected>();
    ordinary::<Drained>();
    copy::<Drained>();
    ordinary::<Outcome>();
    copy::<Outcome>();
    ordinary::<ByResult>();
    copy::<ByResult>();
    copy::<ByStatusCode>();
    ordinary::<Ejection>();
    ordinary::<OutlierDetection>();
    copy::<OutlierDetection>();
    ordinary::<SuccessRate>();
    ordinary::<FailurePercentage>();
    ordinary::<Counts>();
    ordinary::<Cause>();
    copy::<Ejection>();
    ordinary::<Backoff>();
    copy::<Backoff>();
    ordinary::<Rng>();
    clone::<Rng>();
    ordinary::<Alias>();
    clone::<Alias>();
    ordinary::<StaticStride>();
    ordinary::<Sequence>();
    copy::<HashKey>();
    copy::<SourceIp>();
    copy::<WaitForReady>();
    clone::<ChosenEndpoint>();
    copy::<RequestInfo<'static>>();
    ordinary::<RequestInfo<'static>>();
    ordinary::<Plain>();
    copy::<Plain>();
    ordinary::<Http>();
    clone::<Http>();
    ordinary::<Reclaiming<Plain>>();
    clone::<Reclaiming<Plain>>();
    copy::<Silent>();
    ordinary::<Discovered<Plainest>>();
}

#[test]
fn records_and_sets_are_shared_between_threads() {
    ordinary::<Ejections>();
    ordinary::<Gate>();
    ordinary::<Health>();
    ordinary::<InFlight>();
    ordinary::<Subchannel>();
    ordinary::<Candidate>();
    clone::<Candidate>();
    ordinary::<Candidates>();
    clone::<Candidates>();
    ordinary::<Claim>();
    copy::<Pick>();
    copy::<Tried>();
    unpin::<PickContext<'static>>();
    ordinary::<LeastRequest>();
    copy::<LeastRequest>();
    ordinary::<RoundRobin>();
    ordinary::<Random>();
    ordinary::<WeightedRandom>();
    copy::<WeightedRandom>();
    ordinary::<WeightedRoundRobin>();
    copy::<WeightedRoundRobin>();
    ordinary::<OrcaWeightedRoundRobin>();
    copy::<OrcaWeightedRoundRobin>();
    ordinary::<LoadReport>();
    clone::<LoadReport>();
    ordinary::<Reports>();
    ordinary::<LatencyEstimate>();
    clone::<LatencyEstimate>();
    ordinary::<Rate>();
    clone::<Rate>();
    copy::<ReportRules>();
    copy::<ServerQueue>();
    ordinary::<PeakEwma>();
    copy::<PeakEwma>();
    ordinary::<PickFirst>();
    copy::<PickFirst>();
    ordinary::<Connects>();
    copy::<Connects>();
    copy::<Moment>();
}

#[test]
fn policies_that_hash_can_be_cloned_and_their_settings_too() {
    fn policy<T: Policy + Clone + Unpin>() {
        ordinary::<T>();
    }
    policy::<RingHash>();
    policy::<Maglev>();
    policy::<Rendezvous>();
    policy::<IpHash>();
    ordinary::<HashSource>();
    clone::<HashSource>();
    ordinary::<BoundedLoad>();
    copy::<BoundedLoad>();
    ordinary::<EndpointHashKey>();
    clone::<EndpointHashKey>();
    ordinary::<MaglevTable>();
    ordinary::<RendezvousTable>();
    ordinary::<Ring>();
}

#[test]
fn probes_can_be_stored_and_are_seams_of_their_own() {
    type Asks = fn(Plainest) -> Ready<Answer>;
    fn is_probe<P: Probe<Plainest>>() {}
    is_probe::<NoProbe>();
    is_probe::<ProbeFn<Asks>>();
    ordinary::<NoProbe>();
    copy::<NoProbe>();
    copy::<ProbeFn<Asks>>();
    ordinary::<Answer>();
    clone::<Answer>();
    fn any(_: &dyn Probe<Plainest, Future = Ready<Answer>>) {}
    let _ = any;
    copy::<ProbeRules>();
    ordinary::<Prequal>();
    ordinary::<Adaptive>();
    copy::<ProbeRequests>();
}

#[test]
fn watches_can_be_stored_and_are_seams_of_their_own() {
    type Words = futures::stream::Empty<Result<LoadReport, WatchError>>;
    fn is_watch<W: Watch<Plainest>>() {}
    is_watch::<NoWatch>();
    ordinary::<NoWatch>();
    copy::<NoWatch>();
    ordinary::<WatchError>();
    fn any(_: &dyn Watch<Plainest, Terms = Duration, Word = LoadReport, Stream = Words>) {}
    let _ = any;
}

#[cfg(feature = "grpc")]
#[test]
fn what_servers_add_can_be_shared_and_stored() {
    use evenkeel::server::{
        CallReport, LoadReportLayer, LoadReporter, LoadReporting, ReportingBody,
    };
    ordinary::<evenkeel::grpc::LoadProbe>();
    clone::<evenkeel::grpc::LoadProbe>();
    ordinary::<evenkeel::grpc::LoadReports>();
    clone::<evenkeel::grpc::LoadReports>();
    ordinary::<LoadReportLayer>();
    clone::<LoadReportLayer>();
    ordinary::<LoadReporter>();
    clone::<LoadReporter>();
    ordinary::<CallReport>();
    clone::<CallReport>();
    ordinary::<LoadReporting<Plainest>>();
    clone::<LoadReporting<Plainest>>();
    ordinary::<ReportingBody<Full<Bytes>>>();
    ordinary::<evenkeel::server::ResponseFuture<Ready<()>>>();
}

#[test]
fn hedging_is_shared_stored_and_spawned() {
    use evenkeel::math::RunningQuantile;
    use evenkeel::retry::{ByError, Hedge, HedgeFuture, HedgeLayer, HedgePolicy};
    ordinary::<HedgePolicy>();
    copy::<HedgePolicy>();
    ordinary::<HedgeLayer>();
    clone::<HedgeLayer>();
    ordinary::<Hedge<PlainBalance>>();
    clone::<Hedge<PlainBalance>>();
    ordinary::<HedgeFuture<Ready<()>, PlainBalance, Full<Bytes>, ByError, ()>>();
    ordinary::<RunningQuantile>();
    type SendOnly = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;
    send::<HedgeFuture<Ready<()>, PlainBalance, SendOnly, ByError, ()>>();
}

#[test]
fn retries_are_shared_stored_and_spawned() {
    use evenkeel::retry::{
        Budget, BudgetSettings, ByError, ErrorKind, ReadError, ResponseBody,
        ResponseFuture as Retried, Retry, RetryBody, RetryLayer, RetryPolicy, Throttle,
        ThrottleSettings,
    };
    ordinary::<RetryPolicy>();
    copy::<RetryPolicy>();
    copy::<BudgetSettings>();
    copy::<ThrottleSettings>();
    ordinary::<Budget>();
    ordinary::<Throttle>();
    ordinary::<RetryLayer>();
    clone::<RetryLayer>();
    ordinary::<Retry<PlainBalance>>();
    clone::<Retry<PlainBalance>>();
    ordinary::<RetryBody<Full<Bytes>>>();
    ordinary::<ResponseBody<Full<Bytes>>>();
    ordinary::<Retried<Ready<()>, PlainBalance, Full<Bytes>, ByError>>();
    // Bodies that are Send only, as tonic's, are enough.
    type SendOnly = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;
    sync::<RetryBody<std::sync::Mutex<SendOnly>>>();
    send::<Retried<Ready<()>, PlainBalance, SendOnly, ByError>>();
    copy::<ByError>();
    copy::<ErrorKind>();
    fn reads(_: &dyn ReadError<Error>) {}
    let _ = reads;
    copy::<NoRetry>();
    ordinary::<PreviousEndpoints>();
    clone::<PreviousEndpoints>();
}

/// A claim that could be cloned would give its load back twice.
#[test]
fn a_claim_is_not_clone() {
    trait Ambiguous<A> {
        fn some() {}
    }
    impl<T: ?Sized> Ambiguous<()> for T {}
    impl<T: Clone> Ambiguous<u8> for T {}
    // Compiles only while just one of the two applies.
    let _ = <Claim as Ambiguous<_>>::some;
}
