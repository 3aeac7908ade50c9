//! The task that asks.

use std::future::{Future, pending};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use crate::load::{ProbeRules, ReportSource};
use crate::math::Moment;
use crate::policy::{Candidate, Subchannel};
use crate::probe::limits::Limits;
use crate::probe::{Answer, Probe};

/// How many requests wait, and how many probes are under way, at most.
const MOST: usize = 64;

/// The runtime's timer knows no shorter time.
const SHORTEST_IDLE: Duration = Duration::from_millis(1);

/// A server that is to be asked.
pub(crate) struct Request<S> {
    service: S,
    subchannel: Arc<Subchannel>,
    connection: u64,
}

impl<S: Clone> Request<S> {
    /// `service` is that of `candidate`.
    pub(crate) fn new(candidate: &Candidate, service: &S) -> Self {
        Self {
            service: service.clone(),
            subchannel: candidate.subchannel().clone(),
            connection: candidate.connection(),
        }
    }
}

/// The handles' end of a schedule, which ends when this is dropped.
pub(crate) struct Prober<S> {
    requests: mpsc::Sender<Request<S>>,
    /// The channel's own end would wait for what it holds.
    _alive: oneshot::Sender<()>,
}

impl<S: Clone> Prober<S> {
    /// Has the server of `candidate` asked, if it can be. `false`: there is no room for any more.
    pub(crate) fn ask(&self, candidate: &Candidate, service: &S) -> bool {
        if !can_be_asked(candidate) {
            return true;
        }
        // The room first: a clone for nothing may cost an allocation.
        let Ok(room) = self.requests.try_reserve() else {
            return false;
        };
        room.send(Request::new(candidate, service));
        true
    }
}

/// Whether the server is there, and may know the question.
pub(crate) fn can_be_asked(candidate: &Candidate) -> bool {
    let connection = candidate.connection();
    candidate.is_connected() && !candidate.subchannel().is_unprobed(connection)
}

/// What asks, until the [`Prober`] is gone.
pub(crate) struct Schedule<S, P> {
    probe: Arc<P>,
    rules: ProbeRules,
    requests: mpsc::Receiver<Request<S>>,
    gone: oneshot::Receiver<()>,
}

/// Both ends of a new schedule.
pub(crate) fn schedule<S, P>(probe: P, rules: ProbeRules) -> (Prober<S>, Schedule<S, P>) {
    let (sender, requests) = mpsc::channel(MOST);
    let (alive, gone) = oneshot::channel();
    let prober = Prober {
        requests: sender,
        _alive: alive,
    };
    let schedule = Schedule {
        probe: Arc::new(probe),
        rules,
        requests,
        gone,
    };
    (prober, schedule)
}

/// A probe that has ended.
struct Done {
    subchannel: Arc<Subchannel>,
    connection: u64,
    answer: Answer,
}

impl<S, P> Schedule<S, P>
where
    S: Send + 'static,
    P: Probe<S>,
{
    /// Asks. `anyone` gives an endpoint at random to ask when nobody was asked for long; `clock` tells the
    /// time of answers. What is under way when the prober goes is dropped.
    pub(crate) async fn run(
        self,
        mut anyone: impl FnMut() -> Option<Request<S>>,
        clock: impl Fn() -> Moment,
    ) {
        let Self {
            probe,
            rules,
            mut requests,
            mut gone,
        } = self;
        let idle = rules.idle.map(|idle| idle.max(SHORTEST_IDLE));
        // A time that no clock reaches is none.
        let idle_from = |now: Instant| idle.and_then(|idle| now.checked_add(idle));
        let mut idle_at = idle_from(Instant::now());
        let mut limits = Limits::new(rules.timeout);
        let mut under_way = FuturesUnordered::new();
        loop {
            let has_room = under_way.len() < MOST;
            let request = tokio::select! {
                biased;
                _ = &mut gone => return,
                Some(done) = under_way.next() => {
                    note(done, &mut limits, clock());
                    continue;
                }
                request = requests.recv(), if has_room => match request {
                    Some(request) => Some(request),
                    None => return,
                },
                () = at(idle_at), if has_room => {
                    idle_at = idle_from(Instant::now());
                    anyone()
                }
            };
            if let Some(request) = request
                && limits.begin(&request.subchannel, request.connection, clock())
            {
                idle_at = idle_from(Instant::now());
                under_way.push(ask(probe.clone(), request, rules.timeout));
            }
        }
    }
}

/// One probe.
fn ask<S, P: Probe<S>>(
    probe: Arc<P>,
    request: Request<S>,
    limit: Duration,
) -> impl Future<Output = Done> {
    let Request {
        service,
        subchannel,
        connection,
    } = request;
    // In here, so that a probe which panics takes no other with it.
    let answer = AssertUnwindSafe(async move { probe.probe(service).await }).catch_unwind();
    async move {
        let answer = match timeout(limit, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Answer::Silent,
        };
        Done {
            subchannel,
            connection,
            answer,
        }
    }
}

fn note(done: Done, limits: &mut Limits, now: Moment) {
    let Done {
        subchannel,
        connection,
        answer,
    } = done;
    limits.end(connection, answer != Answer::Silent, now);
    match answer {
        // What the server of a connection that is gone said is not true of the next one.
        Answer::Load(report) if subchannel.connection() == connection => {
            subchannel.reported(&report, ReportSource::Probe, now);
        }
        Answer::Load(_) | Answer::Silent => {}
        Answer::Unsupported => {
            debug!(endpoint = %subchannel.id(), connection, "its server answers no probes");
            subchannel.set_unprobed(connection);
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests;
