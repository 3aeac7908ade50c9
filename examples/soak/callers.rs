//! Who calls, and what became of the calls.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use evenkeel::BoxError;
use evenkeel::grpc::Channel;
use evenkeel::math::Rng;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::{Request, Status};

use crate::support::proto::EchoRequest;
use crate::support::proto::demo_client::DemoClient;

/// What a call may take.
const DEADLINE: Duration = Duration::from_secs(1);

/// A call that is not back this long after its deadline hangs.
const HANGS_AFTER: Duration = Duration::from_secs(10);

/// Callers that go on until they are told to stop, each with one call at a time.
pub(crate) struct Callers {
    tasks: JoinSet<Calls>,
    /// A call has one of these; who has all of them has paused everybody.
    permits: Arc<Semaphore>,
    paused: Option<OwnedSemaphorePermit>,
    stop: Arc<AtomicBool>,
    count: u16,
}

impl Callers {
    pub(crate) fn start(channel: &Channel, count: u16, seed: u64) -> Self {
        let permits = Arc::new(Semaphore::new(count.into()));
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for caller in 0..count {
            let rng = Rng::stream(seed, u64::from(caller) + 1);
            let client = DemoClient::new(channel.clone());
            tasks.spawn(call(client, rng, permits.clone(), stop.clone()));
        }
        Self {
            tasks,
            permits,
            paused: None,
            stop,
            count,
        }
    }

    /// Nobody calls from when this returns.
    pub(crate) async fn pause(&mut self) -> Result<(), BoxError> {
        let all = self.permits.clone().acquire_many_owned(self.count.into());
        let all = timeout(DEADLINE + 2 * HANGS_AFTER, all).await;
        self.paused = Some(all.map_err(|_| "the callers never pause")??);
        Ok(())
    }

    pub(crate) fn go_on(&mut self) {
        self.paused = None;
    }

    pub(crate) async fn stop(mut self) -> Result<Calls, BoxError> {
        self.stop.store(true, Ordering::Relaxed);
        self.paused = None;
        let mut all = Calls::default();
        while let Some(calls) = self.tasks.join_next().await {
            all.add(calls?);
        }
        Ok(all)
    }
}

/// What became of the calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    answered: u64,
    given_up: u64,
    hung: u64,
    failed: BTreeMap<String, u64>,
}

impl Calls {
    fn add(&mut self, other: Self) {
        self.answered += other.answered;
        self.given_up += other.given_up;
        self.hung += other.hung;
        for (why, count) in other.failed {
            *self.failed.entry(why).or_default() += count;
        }
    }

    /// The rules that do not hold.
    pub(crate) fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        if self.hung > 0 {
            broken.push(format!("{} calls hung", self.hung));
        }
        // With three of ten servers bad and two attempts more for each call, far fewer fail.
        let failed: u64 = self.failed.values().sum();
        if failed * 10 > self.answered {
            broken.push(format!(
                "{failed} calls failed, {} were answered",
                self.answered
            ));
        }
        broken
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed: u64 = self.failed.values().sum();
        write!(
            f,
            "calls: {} answered, {failed} failed, {} given up by their callers, {} hung",
            self.answered, self.given_up, self.hung
        )?;
        for (why, count) in &self.failed {
            write!(f, "\n  {count} × {why}")?;
        }
        Ok(())
    }
}

async fn call(
    client: DemoClient<Channel>,
    mut rng: Rng,
    permits: Arc<Semaphore>,
    stop: Arc<AtomicBool>,
) -> Calls {
    let mut calls = Calls::default();
    while let Ok(permit) = permits.acquire().await {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let once = once(client.clone(), &mut rng);
        match timeout(DEADLINE + HANGS_AFTER, once).await {
            Ok(Ok(true)) => calls.answered += 1,
            Ok(Ok(false)) => calls.given_up += 1,
            Ok(Err(status)) => *calls.failed.entry(why(&status)).or_default() += 1,
            Err(_) => calls.hung += 1,
        }
        drop(permit);
    }
    calls
}

/// A call of some kind. `false`: its caller gave it up.
async fn once(mut client: DemoClient<Channel>, rng: &mut Rng) -> Result<bool, Status> {
    let mut request = Request::new(EchoRequest {
        payload: vec![0; rng.below(4_096)].into(),
        replies: 3,
        ..EchoRequest::default()
    });
    request.set_timeout(DEADLINE);
    match rng.below(20) {
        0 => {
            let patience = Duration::from_micros(rng.below(5_000) as u64);
            match timeout(patience, client.echo(request)).await {
                Ok(reply) => reply.map(|_| true),
                Err(_) => Ok(false),
            }
        }
        1 | 2 => {
            let mut replies = client.server_stream(request).await?.into_inner();
            while replies.message().await?.is_some() {}
            Ok(true)
        }
        _ => client.echo(request).await.map(|_| true),
    }
}

/// Without numbers, so that the same reason is one row.
fn why(status: &Status) -> String {
    let message: String = status
        .message()
        .chars()
        .filter(|c| !c.is_ascii_digit())
        .take(60)
        .collect();
    format!("{:?}: {message}", status.code())
}
