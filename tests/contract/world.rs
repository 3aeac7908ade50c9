//! Servers without sockets: a test says how each one dials, gets ready and answers, and counts what
//! reached it.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use evenkeel::balance::{Plain, Reclaiming};
use evenkeel::call::{Reclaim, RequestInfo};
use evenkeel::connection::{ConnectionEvents, Connector, connector_fn};
use evenkeel::health::Ejection;
use evenkeel::math::Backoff;
use evenkeel::observe::{EndpointReport, Report};
use evenkeel::outcome::ByResult;
use evenkeel::policy::Policy;
use evenkeel::{Balance, BoxError, ConnectivityState, Endpoint};
use tokio::sync::watch;
use tokio::time::Instant;
use tower::util::ServiceFn;
use tower::{Service, service_fn};

/// A call of these tests. `wait` is wait-for-ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) text: &'static str,
    pub(crate) wait: bool,
}

pub(crate) fn ask(text: &'static str) -> Ask {
    Ask { text, wait: false }
}

pub(crate) fn ask_and_wait(text: &'static str) -> Ask {
    Ask { text, wait: true }
}

/// Why a server failed a call.
#[derive(Debug)]
pub(crate) enum Refusal {
    Failed,
    /// The request comes back, untouched.
    HandedBack(Ask),
    /// From `poll_ready`.
    NotReady,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed => f.write_str("failed"),
            Self::HandedBack(_) => f.write_str("handed back"),
            Self::NotReady => f.write_str("not ready any more"),
        }
    }
}

impl std::error::Error for Refusal {}

impl Reclaim<Ask> for Refusal {
    fn reclaim(self) -> Result<Ask, Self> {
        match self {
            Self::HandedBack(ask) => Ok(ask),
            other => Err(other),
        }
    }
}

/// What a dial does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dial {
    Connect,
    Refuse,
    Hang,
}

/// What `poll_ready` of a server's services says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    Ready,
    /// Each clone queues for itself and is let in by [`Server::admit`], in the order of asking.
    Queue,
    Broken,
}

/// How a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Name,
    Fail,
    HandBack,
    Hang,
}

pub(crate) struct Server {
    pub(crate) name: String,
    dial: watch::Sender<Dial>,
    answer: watch::Sender<Answer>,
    readiness: Mutex<Readiness>,
    queue: Mutex<VecDeque<(usize, Waker)>>,
    admitted: Mutex<Vec<usize>>,
    clones_made: AtomicUsize,
    clones_alive: AtomicUsize,
    calls: AtomicUsize,
    under_way: AtomicUsize,
    dials: Mutex<Vec<Instant>>,
    connections: Mutex<Vec<ConnectionEvents>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds this")
}

impl Server {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dial: watch::Sender::new(Dial::Connect),
            answer: watch::Sender::new(Answer::Name),
            readiness: Mutex::new(Readiness::Ready),
            queue: Mutex::default(),
            admitted: Mutex::default(),
            clones_made: AtomicUsize::new(0),
            clones_alive: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            under_way: AtomicUsize::new(0),
            dials: Mutex::default(),
            connections: Mutex::default(),
        }
    }

    pub(crate) fn set_dial(&self, dial: Dial) {
        self.dial.send_replace(dial);
    }

    pub(crate) fn set_answer(&self, answer: Answer) {
        self.answer.send_replace(answer);
    }

    /// Takes effect at the next `poll_ready`, and wakes who queues.
    pub(crate) fn set_readiness(&self, readiness: Readiness) {
        *lock(&self.readiness) = readiness;
        if readiness != Readiness::Queue {
            for (_, waker) in lock(&self.queue).drain(..) {
                waker.wake();
            }
        }
    }

    /// Lets the clone in that has queued longest. `false` if none does.
    pub(crate) fn admit(&self) -> bool {
        let Some((clone, waker)) = lock(&self.queue).pop_front() else {
            return false;
        };
        lock(&self.admitted).push(clone);
        waker.wake();
        true
    }

    /// How many clones queue, dropped ones included.
    pub(crate) fn queued(&self) -> usize {
        lock(&self.queue).len()
    }

    /// Requests that reached it.
    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// Requests that it has neither answered nor seen cancelled.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::SeqCst)
    }

    pub(crate) fn clones_alive(&self) -> usize {
        self.clones_alive.load(Ordering::SeqCst)
    }

    /// When each dial began.
    pub(crate) fn dials(&self) -> Vec<Instant> {
        lock(&self.dials).clone()
    }

    /// The latest connection.
    pub(crate) fn connection(&self) -> ConnectionEvents {
        self.last_connection().expect("it was dialled")
    }

    pub(crate) fn last_connection(&self) -> Option<ConnectionEvents> {
        lock(&self.connections).last().cloned()
    }

    fn stub(self: &Arc<Self>) -> Stub {
        self.clones_alive.fetch_add(1, Ordering::SeqCst);
        Stub {
            said_ready: false,
            number: self.clones_made.fetch_add(1, Ordering::SeqCst),
            server: self.clone(),
        }
    }
}

/// The service of one connection.
pub(crate) struct Stub {
    number: usize,
    /// This very clone has said that it is ready.
    said_ready: bool,
    server: Arc<Server>,
}

impl Stub {
    /// Its server's.
    pub(crate) fn name(&self) -> &str {
        &self.server.name
    }
}

impl Clone for Stub {
    fn clone(&self) -> Self {
        self.server.stub()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.server.clones_alive.fetch_sub(1, Ordering::SeqCst);
    }
}

struct UnderWay(Arc<Server>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service<Ask> for Stub {
    type Response = String;
    type Error = Refusal;
    type Future = Pin<Box<dyn Future<Output = Result<String, Refusal>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Refusal>> {
        match *lock(&self.server.readiness) {
            Readiness::Ready => {
                self.said_ready = true;
                Poll::Ready(Ok(()))
            }
            Readiness::Broken => Poll::Ready(Err(Refusal::NotReady)),
            Readiness::Queue => {
                if lock(&self.server.admitted).contains(&self.number) {
                    self.said_ready = true;
                    return Poll::Ready(Ok(()));
                }
                let mut queue = lock(&self.server.queue);
                match queue.iter_mut().find(|(clone, _)| *clone == self.number) {
                    Some((_, waker)) => waker.clone_from(cx.waker()),
                    None => queue.push_back((self.number, cx.waker().clone())),
                }
                Poll::Pending
            }
        }
    }

    fn call(&mut self, ask: Ask) -> Self::Future {
        assert!(
            std::mem::take(&mut self.said_ready),
            "the clone that is called is the clone that was polled ready"
        );
        let server = self.server.clone();
        server.calls.fetch_add(1, Ordering::SeqCst);
        server.under_way.fetch_add(1, Ordering::SeqCst);
        let under_way = UnderWay(server.clone());
        let mut answer = server.answer.subscribe();
        Box::pin(async move {
            let answer = *answer
                .wait_for(|answer| *answer != Answer::Hang)
                .await
                .expect("the server outlives its calls");
            drop(under_way);
            match answer {
                Answer::Name => Ok(server.name.clone()),
                Answer::Fail => Err(Refusal::Failed),
                Answer::HandBack => Err(Refusal::HandedBack(ask)),
                Answer::Hang => unreachable!("waited for another answer"),
            }
        })
    }
}

/// All servers, by address. A server is there from when it is first named.
#[derive(Clone, Default)]
pub(crate) struct World {
    servers: Arc<Mutex<HashMap<String, Arc<Server>>>>,
    dialing: Arc<AtomicUsize>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn server(&self, address: &str) -> Arc<Server> {
        lock(&self.servers)
            .entry(address.to_owned())
            .or_insert_with(|| Arc::new(Server::new(address)))
            .clone()
    }

    pub(crate) fn servers<const N: usize>(&self, addresses: [&str; N]) -> [Arc<Server>; N] {
        addresses.map(|address| self.server(address))
    }

    /// Dials under way.
    pub(crate) fn dialing(&self) -> usize {
        self.dialing.load(Ordering::SeqCst)
    }
}

struct Dialing(Arc<AtomicUsize>);

impl Drop for Dialing {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Connector for World {
    type Service = Stub;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stub, BoxError>> + Send>>;

    fn connect(&self, endpoint: &Endpoint, events: ConnectionEvents) -> Self::Future {
        let server = self.server(endpoint.address());
        lock(&server.dials).push(Instant::now());
        self.dialing.fetch_add(1, Ordering::SeqCst);
        let dialing = Dialing(self.dialing.clone());
        let mut dial = server.dial.subscribe();
        Box::pin(async move {
            let dial = *dial
                .wait_for(|dial| *dial != Dial::Hang)
                .await
                .expect("the server outlives its dials");
            drop(dialing);
            match dial {
                Dial::Refuse => Err(format!("{} refused", server.name).into()),
                _ => {
                    lock(&server.connections).push(events);
                    Ok(server.stub())
                }
            }
        })
    }
}

/// Requests that say whether to wait for ready.
pub(crate) fn track() -> AskTrack {
    let read: ReadAsk = |ask| RequestInfo::new().with_wait_for_ready(ask.wait);
    Reclaiming(Plain::new().reading(read))
}

type ReadAsk = for<'a> fn(&'a Ask) -> RequestInfo<'a>;
type AskTrack = Reclaiming<Plain<ByResult, ReadAsk>>;

/// A balancer over servers of a [`World`].
pub(crate) type Balanced<S = Stub> = Balance<S, AskTrack>;

/// A balancer over these servers by this policy, with all of them connected.
pub(crate) async fn balanced<C: Connector + Clone, const N: usize>(
    world: &C,
    names: [&str; N],
    policy: impl Policy,
) -> Balanced<C::Service> {
    let balance = crate::builder!(world)
        .endpoints(names)
        .policy(policy)
        .build()
        .expect("the settings are right");
    connected(&balance, N).await;
    balance
}

/// gRPC's delays without the jitter, so that a test can name them.
pub(crate) fn backoff() -> Backoff {
    Backoff::default().with_jitter(0.0)
}

/// A builder over `world` with one seed, known delays and the tests' requests.
#[macro_export]
macro_rules! builder {
    ($world:expr) => {
        evenkeel::Balance::builder()
            .connector($world.clone())
            .track($crate::world::track())
            .backoff($crate::world::backoff())
            .seed(7)
    };
}

/// Connects each endpoint to `serve`, which gets the endpoint's address with each request.
pub(crate) fn serving<Req, R, E, F, Fut>(
    serve: F,
) -> impl Connector<
    Service = ServiceFn<impl FnMut(Req) -> Fut + Clone + Send + Sync + 'static>,
    Error = Infallible,
>
where
    F: Fn(String, Req) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = Result<R, E>>,
{
    connector_fn(move |endpoint: &Endpoint, _| {
        let (serve, address) = (serve.clone(), endpoint.address().to_owned());
        let service = service_fn(move |request| serve(address.clone(), request));
        async move { Ok::<_, Infallible>(service) }
    })
}

/// Ejects any endpoint at its first failure, and lets no panic spare it.
pub(crate) fn at_the_first_failure() -> Ejection {
    Ejection::default()
        .with_consecutive_failures(1)
        .with_max_percent(100)
        .with_panic_threshold_percent(0)
}

/// Waits, in real turns of the scheduler and no time at all, until `done` holds. Of a runtime with
/// several threads the others may be held up by the machine, so there it takes up to a real minute.
#[track_caller]
pub(crate) fn until<'a>(
    rule: &'a str,
    mut done: impl FnMut() -> bool + 'a,
) -> impl Future<Output = ()> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let flavor = tokio::runtime::Handle::current().runtime_flavor();
        let alone = flavor == tokio::runtime::RuntimeFlavor::CurrentThread;
        let start = std::time::Instant::now();
        let mut turns = 0;
        while !done() {
            turns += 1;
            let over = turns > 10_000 && (alone || start.elapsed() > Duration::from_secs(60));
            assert!(!over, "never came to be at {caller}: {rule}");
            tokio::task::yield_now().await;
        }
    }
}

/// What `poll_ready` says now.
pub(crate) async fn ready_now<S, T>(
    balance: &mut Balance<S, T>,
) -> Poll<Result<(), evenkeel::Error>>
where
    Balance<S, T>: Service<Ask, Error = evenkeel::Error>,
{
    std::future::poll_fn(|cx| Poll::Ready(balance.poll_ready(cx))).await
}

/// Lets everything happen that can happen without time passing.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// `future`, or a panic when it takes longer than ten minutes: of paused time, so at once.
pub(crate) async fn within<F: Future>(rule: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(600), future).await {
        Ok(output) => output,
        Err(_) => panic!("took for ever: {rule}"),
    }
}

/// The report on the endpoint with this id.
pub(crate) fn endpoint<S, T>(balance: &Balance<S, T>, id: &str) -> EndpointReport {
    find(balance.report(), id).unwrap_or_else(|| panic!("{id} is in the report"))
}

pub(crate) fn find(report: Report, id: &str) -> Option<EndpointReport> {
    report
        .endpoints
        .into_iter()
        .find(|endpoint| endpoint.id.as_str() == id)
}

/// Waits until `count` endpoints are connected.
pub(crate) async fn connected<S, T>(balance: &Balance<S, T>, count: usize) {
    until("all that can connect do so without time passing", || {
        let report = balance.report();
        let ready = |e: &&EndpointReport| e.state == ConnectivityState::Ready;
        report.endpoints.iter().filter(ready).count() == count
    })
    .await;
}
