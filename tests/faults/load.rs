//! Callers that never stop, and an account of every call that failed.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evenkeel::ConnectivityState;
use evenkeel::grpc::Channel;
use evenkeel::math::Backoff;
use evenkeel::observe::EndpointReport;
use evenkeel::policy::RoundRobin;
use futures::stream;
use tokio::sync::MutexGuard;
use tokio::task::JoinSet;
use tonic::Status;

use crate::support::proto::EchoRequest;
use crate::support::proto::demo_client::DemoClient;
use crate::support::{Behaviour, TestServer, eventually, within};

/// How many callers there are. Each has one call under way at a time.
pub const CALLERS: usize = 64;

static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Waits for the other rows to be done. Unbounded, since each of them is bounded.
pub async fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().await
}

/// Three servers that do the same.
pub fn three(behaviour: Behaviour) -> [TestServer; 3] {
    ["a", "b", "c"].map(|name| TestServer::start(name, behaviour))
}

/// Re-dials promptly, so that a row does not spend its time in backoff.
pub fn prompt_backoff() -> Backoff {
    Backoff::default()
        .with_base(Duration::from_millis(5))
        .with_max(Duration::from_millis(20))
}

/// A channel that calls each of `servers` in turn, and is back with them promptly.
pub fn in_turn(servers: &[TestServer]) -> Channel {
    Channel::builder()
        .endpoints(servers.iter().map(TestServer::uri))
        .policy(RoundRobin::default())
        .backoff(prompt_backoff())
        .build()
        .unwrap()
}

/// What the channel says of the endpoint with this id.
pub fn endpoint(channel: &Channel, id: &str) -> Option<EndpointReport> {
    let report = channel.report();
    report.endpoints.into_iter().find(|e| e.id.as_str() == id)
}

/// Whether the channel is connected to `server`.
pub fn is_ready(channel: &Channel, server: &TestServer) -> bool {
    endpoint(channel, &server.uri()).is_some_and(|e| e.state == ConnectivityState::Ready)
}

/// Waits until the channel is connected to all `servers`.
pub async fn ready<'a>(channel: &Channel, servers: impl IntoIterator<Item = &'a TestServer>) {
    for server in servers {
        eventually("the endpoint is ready", || is_ready(channel, server)).await;
    }
}

/// What a caller does over and over.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// One request of this many bytes, one reply.
    Echo(usize),
    /// One request, three replies.
    ServerStream,
    /// Three requests, the first of so many bytes, one small reply.
    ClientStream(usize),
    /// Three of each.
    BidiStream,
}

impl Kind {
    async fn call(self, client: &mut DemoClient<Channel>) -> Result<String, Status> {
        let request = |bytes| EchoRequest {
            payload: vec![1; bytes].into(),
            replies: 3,
            ..EchoRequest::default()
        };
        let requests = |first| stream::iter([first, 200, 300].map(request));
        let (mut replies, wanted) = match self {
            Self::Echo(bytes) => {
                let reply = client.echo(request(bytes)).await?.into_inner();
                assert_eq!(reply.payload.len(), bytes, "the reply is the request's");
                return Ok(reply.server);
            }
            Self::ClientStream(first) => {
                let reply = client.client_stream(requests(first)).await?.into_inner();
                assert_eq!(reply.count, 3, "the server reads each request once");
                return Ok(reply.server);
            }
            Self::ServerStream => (client.server_stream(request(10)).await?.into_inner(), 3),
            Self::BidiStream => (client.bidi_stream(requests(100)).await?.into_inner(), 3),
        };
        let mut seen = 0;
        let mut server = String::new();
        while let Some(reply) = replies.message().await? {
            seen += 1;
            assert_eq!(reply.count, seen, "replies come in order, each once");
            server = reply.server;
        }
        assert_eq!(seen, wanted, "a stream that ends well is whole");
        Ok(server)
    }
}

/// A call that failed.
#[derive(Debug)]
pub struct Failure {
    /// Whose call it was.
    pub caller: usize,
    /// What kind of call.
    pub kind: Kind,
    /// The moment of its begin, in one sequence over all callers.
    pub begun: u64,
    /// The moment of its end, in the same sequence.
    pub ended: u64,
    /// When it ended, since the load began.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// Why it failed.
    pub status: Status,
}

/// All callers' account.
#[derive(Debug)]
pub struct Log {
    since: Instant,
    moment: AtomicU64,
    ok: AtomicU64,
    by_server: Mutex<BTreeMap<String, u64>>,
    failures: Mutex<Vec<Failure>>,
}

impl Log {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            moment: AtomicU64::new(0),
            ok: AtomicU64::new(0),
            by_server: Mutex::default(),
            failures: Mutex::default(),
        }
    }

    /// Calls that went well so far.
    pub fn ok(&self) -> u64 {
        self.ok.load(Ordering::SeqCst)
    }

    /// Calls that went well by the server that answered.
    pub fn by_server(&self) -> BTreeMap<String, u64> {
        let by_server = self.by_server.lock();
        by_server.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes out the calls that failed so far.
    pub fn take_failures(&self) -> Vec<Failure> {
        let failures = self.failures.lock();
        std::mem::take(&mut *failures.unwrap_or_else(PoisonError::into_inner))
    }

    /// A point in the callers' sequence: what begins after this returns has a greater `begun`.
    pub fn moment(&self) -> u64 {
        self.moment.fetch_add(1, Ordering::SeqCst)
    }

    async fn one(&self, caller: usize, kind: Kind, client: &mut DemoClient<Channel>) -> bool {
        let began = Instant::now();
        let begun = self.moment();
        let result = within("a call ends", kind.call(client)).await;
        match result {
            Ok(server) => {
                self.ok.fetch_add(1, Ordering::SeqCst);
                let by_server = self.by_server.lock();
                *by_server
                    .unwrap_or_else(PoisonError::into_inner)
                    .entry(server)
                    .or_default() += 1;
                true
            }
            Err(status) => {
                let failure = Failure {
                    caller,
                    kind,
                    begun,
                    ended: self.moment(),
                    at: self.since.elapsed(),
                    took: began.elapsed(),
                    status,
                };
                let failures = self.failures.lock();
                failures
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(failure);
                false
            }
        }
    }
}

/// A load under way.
pub struct Load {
    /// The account so far.
    pub log: Arc<Log>,
    stop: Arc<AtomicBool>,
    callers: JoinSet<()>,
}

impl Load {
    /// Each of the callers makes small unary calls.
    pub fn start(channel: &Channel) -> Self {
        Self::mixed(channel, |_| Kind::Echo(100))
    }

    /// Each caller makes the calls that `kind` says.
    pub fn mixed(channel: &Channel, kind: impl Fn(usize) -> Kind) -> Self {
        let log = Arc::new(Log::new());
        let stop = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let mut client = DemoClient::new(channel.clone());
            let (log, stop, kind) = (Arc::clone(&log), Arc::clone(&stop), kind(caller));
            callers.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    if !log.one(caller, kind, &mut client).await {
                        // A caller that fails at once must not keep the others from running.
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
        Self { log, stop, callers }
    }

    /// Waits until `calls` more calls went well.
    pub async fn runs(&self, calls: u64) {
        let goal = self.log.ok() + calls;
        eventually("the load goes on", || self.log.ok() >= goal).await;
    }

    /// Lets each caller end its call.
    pub async fn stop(mut self) -> Arc<Log> {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.callers.join_next().await {
            ended.expect("a caller ends well");
        }
        Arc::clone(&self.log)
    }
}

/// All callers together make `calls` calls.
pub async fn make_calls(channel: &Channel, calls: usize) -> Arc<Log> {
    let log = Arc::new(Log::new());
    let left = Arc::new(AtomicU64::new(calls as u64));
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let mut client = DemoClient::new(channel.clone());
        let (log, left) = (Arc::clone(&log), Arc::clone(&left));
        callers.spawn(async move {
            let take = |left: u64| left.checked_sub(1);
            while left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, take)
                .is_ok()
            {
                log.one(caller, Kind::Echo(100), &mut client).await;
                tokio::task::yield_now().await;
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("a caller ends well");
    }
    log
}

/// The failures, one a line, each with all its causes.
pub fn list(failures: &[Failure]) -> String {
    let mut text = String::new();
    for failure in failures {
        let Failure { caller, kind, .. } = failure;
        let (begun, ended) = (failure.begun, failure.ended);
        let (at, took) = (failure.at, failure.took);
        let _ = write!(
            text,
            "\n  caller {caller} {kind:?}, moments {begun} to {ended}, at {at:?} after {took:?}: {:?} {:?}",
            failure.status.code(),
            failure.status.message(),
        );
        let mut cause = failure.status.source();
        while let Some(error) = cause {
            let _ = write!(text, "\n    caused by {error:?}");
            cause = error.source();
        }
    }
    text
}

/// # Panics
/// If a call failed, with all of them.
pub fn assert_none_failed(rule: &str, failures: &[Failure]) {
    assert!(
        failures.is_empty(),
        "{rule}; {} failed:{}",
        failures.len(),
        list(failures)
    );
}
