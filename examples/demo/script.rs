//! The servers and what happens to them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use evenkeel::discovery::{Handle, Updates};
use evenkeel::grpc::{Builder, Channel};
use evenkeel::health::Ejection;
use evenkeel::math::Backoff;
use evenkeel::server::LoadReportLayer;
use evenkeel::{Endpoint, EndpointId, Error};
use tokio::time::Instant;
use tonic::Code;
use tonic::service::Routes;

use crate::calls::DEADLINE;
use crate::ledger::Ledger;
use crate::notice::{Fault, Notices, Sign};
use crate::support::{Behaviour, TestServer};

/// Failures in a row that eject; evenkeel's default.
pub(crate) const EJECT_AFTER: u32 = 5;

/// What a call costs a healthy server.
const DELAY: Duration = Duration::from_millis(10);

// When things happen, as shares of the run.
const KILL: f64 = 0.08;
const RESTART: f64 = 0.20;
const FAIL: f64 = 0.32;
const HEAL: f64 = 0.42;
/// How long an ejection lasts. The default of 30 s would outlast the run; the server is healed long
/// before its probing call.
const EJECTED: f64 = 0.20;
const SLOW: f64 = 0.58;
const ADD: f64 = 0.72;
const REMOVE: f64 = 0.80;

/// The demo's own servers.
pub(crate) struct Stage {
    servers: Vec<TestServer>,
    added: OnceLock<TestServer>,
    handle: Handle,
}

impl Stage {
    /// Starts five servers.
    pub(crate) fn open() -> Result<(Self, Updates), Error> {
        let servers: Vec<TestServer> = (1..=5).map(start).collect();
        let (handle, updates) = Handle::new(servers.iter().map(endpoint))?;
        let stage = Self {
            servers,
            added: OnceLock::new(),
            handle,
        };
        Ok((stage, updates))
    }
}

fn start(number: usize) -> TestServer {
    TestServer::builder(format!("server-{number}"), Behaviour::after(DELAY))
        .own_thread()
        .wrap(report_load)
        .start()
}

/// So that policies which go by reports have some.
fn report_load(routes: Routes) -> Routes {
    Routes::from(routes.into_axum_router().layer(LoadReportLayer::new()))
}

fn endpoint(server: &TestServer) -> Endpoint {
    Endpoint::new(server.uri()).with_id(server.name())
}

/// Fits the times that gRPC would have in minutes into the run.
pub(crate) fn compress(builder: Builder, run: Duration) -> Builder {
    let base = run.mul_f64(0.05).min(Duration::from_secs(1));
    let backoff = Backoff::default().with_base(base).with_max(2 * base);
    let ejection = Ejection::default()
        .with_consecutive_failures(EJECT_AFTER)
        .with_base_time(run.mul_f64(EJECTED));
    builder.backoff(backoff).ejection(ejection)
}

/// The faults in their order.
pub(crate) fn faults() -> Vec<Fault> {
    vec![
        Fault::new("killed", "server-2", Sign::LeftReady),
        Fault::new("restarted", "server-2", Sign::BackReady),
        Fault::new("unavailable", "server-3", Sign::Ejected),
        Fault::new("slow", "server-4", Sign::ShareHalved),
        Fault::new("added", "server-6", Sign::FirstCall),
        Fault::new("removed", "server-5", Sign::Gone),
    ]
}

/// Plays the script once.
pub(crate) async fn play(
    stage: Arc<Stage>,
    channel: Channel,
    ledger: Arc<Ledger>,
    notices: Arc<Notices>,
    run: Duration,
) {
    let began = Instant::now();
    let at = |share: f64| tokio::time::sleep_until(began + run.mul_f64(share));
    let [_, second, third, fourth, fifth] = &stage.servers[..] else {
        return;
    };

    at(KILL).await;
    notices.begin("killed", "is killed", &channel.report());
    second.kill().await;

    at(RESTART).await;
    notices.begin("restarted", "restarts", &channel.report());
    second.restart().await;

    at(FAIL).await;
    ledger.watch(Some(EndpointId::from(third.name())));
    notices.begin("unavailable", "answers UNAVAILABLE", &channel.report());
    third.set(Behaviour::after(DELAY).failing_share(1.0, Code::Unavailable));

    at(HEAL).await;
    third.set(Behaviour::after(DELAY));
    ledger.watch(None);
    notices.tell(format!("{} would answer again", third.name()));

    at(SLOW).await;
    notices.begin("slow", "gets 20 times slower", &channel.report());
    fourth.set(Behaviour::after(DELAY).slower(20.0));

    at(ADD).await;
    let sixth = stage.added.get_or_init(|| start(6));
    notices.begin("added", "is added", &channel.report());
    if let Err(error) = stage.handle.insert(endpoint(sixth)) {
        notices.tell(format!("{} was not added: {error}", sixth.name()));
    }

    at(REMOVE).await;
    notices.begin("removed", "is removed", &channel.report());
    stage.handle.remove(fifth.name());
    leave(fifth, &notices).await;
}

/// Ends a server that is called no more, once its calls and its connection have ended by themselves.
async fn leave(server: &TestServer, notices: &Notices) {
    let began = Instant::now();
    while server.open() > 0 && began.elapsed() < DEADLINE {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let after = began.elapsed().as_secs_f64() * 1000.0;
    let event = match server.open() {
        0 => format!("finished its calls and was disconnected {after:.1} ms later"),
        open => format!("still has {open} connections after {after:.1} ms"),
    };
    notices.tell(format!("{} {event}", server.name()));
    server.shutdown_within(DEADLINE).await;
}
