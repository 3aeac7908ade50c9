//! The servers' process.

use std::collections::VecDeque;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use evenkeel::BoxError;
use evenkeel::math::Rng;
use evenkeel::outcome::LoadReport;
use evenkeel::server::{LoadReportLayer, LoadReporter};
use futures::stream::Empty;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::machine::{Done, Machine};
use crate::proto::demo_server::{Demo, DemoServer};
use crate::proto::{EchoReply, EchoRequest};
use crate::scenario::{SERVERS, Scenario, WORKERS};

/// How often a server says how busy it is, and of how many such spells that is the mean: a second.
const REPORT_EVERY: Duration = Duration::from_millis(50);
const SPELLS: usize = 20;

/// The least utilisation reported: 0 means that the application does not say.
const LEAST_BUSY: f64 = 0.001;

/// Serves until stdin ends, which it does too when the parent dies. Prints the servers' URIs first, a line
/// each.
pub(crate) async fn serve(scenario: Scenario, seed: u64) -> Result<(), BoxError> {
    let machines: Vec<Arc<Machine>> = (0..SERVERS).map(|_| Arc::new(Machine::new())).collect();
    let mut servers = JoinSet::new();
    for (server, machine) in machines.iter().enumerate() {
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let incoming = incoming.with_nodelay(Some(true));
        println!("http://{}", incoming.local_addr()?);
        let layer = LoadReportLayer::new();
        tokio::spawn(report(machine.clone(), layer.reporter()));
        let service = DemoServer::new(Worker {
            machine: machine.clone(),
            fails: scenario.fails(server),
        });
        let server = Server::builder().layer(layer).add_service(service);
        servers.spawn(server.serve_with_incoming(incoming));
    }
    std::io::stdout().flush()?;
    tokio::spawn(change(scenario, machines, Rng::new(seed)));
    let ended = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        while std::io::stdin()
            .read_line(&mut line)
            .is_ok_and(|read| read > 0)
        {}
    });
    tokio::select! {
        ended = ended => Ok(ended?),
        Some(ended) = servers.join_next() => {
            ended??;
            Err("a server ended by itself".into())
        }
    }
}

/// Makes the machines as fast as the scenario wants them, as long as it wants that.
async fn change(scenario: Scenario, machines: Vec<Arc<Machine>>, mut rng: Rng) {
    loop {
        let (speeds, stay) = scenario.speeds(&mut rng);
        for (machine, speed) in machines.iter().zip(speeds) {
            machine.set_speed(speed);
        }
        match stay {
            Some(stay) => sleep(stay).await,
            None => return,
        }
    }
}

/// Says how busy the machine was in the last second. The layer would say how busy the process was, which
/// all servers share and which does no work.
async fn report(machine: Arc<Machine>, reporter: LoadReporter) {
    let mut ticks = interval(REPORT_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: VecDeque<(Instant, Done)> = VecDeque::new();
    loop {
        let at = ticks.tick().await;
        let now = machine.done();
        if let Some(&(since, then)) = seen.front() {
            let seconds = (at - since).as_secs_f64();
            let busy = (now.busy - then.busy).as_secs_f64() / seconds / WORKERS as f64;
            let report = LoadReport::new()
                .with_application_utilization(busy.max(LEAST_BUSY))
                .with_qps((now.calls - then.calls) as f64 / seconds);
            reporter.set(report);
        }
        seen.push_back((at, now));
        if seen.len() > SPELLS {
            seen.pop_front();
        }
    }
}

/// Does the work that a call says it is.
struct Worker {
    machine: Arc<Machine>,
    fails: bool,
}

type Never = Empty<Result<EchoReply, Status>>;

#[tonic::async_trait]
impl Demo for Worker {
    type ServerStreamStream = Never;
    type BidiStreamStream = Never;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        if self.fails {
            return Err(Status::unavailable("as the scenario has it"));
        }
        let work = request.get_ref().message.parse().map(Duration::from_micros);
        let work = work.map_err(|_| Status::invalid_argument("the work is in microseconds"))?;
        self.machine.work(work).await;
        Ok(Response::new(EchoReply::default()))
    }

    async fn server_stream(
        &self,
        _: Request<EchoRequest>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
        Err(Status::unimplemented("only unary calls are compared"))
    }

    async fn client_stream(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoReply>, Status> {
        Err(Status::unimplemented("only unary calls are compared"))
    }

    async fn bidi_stream(
        &self,
        _: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::BidiStreamStream>, Status> {
        Err(Status::unimplemented("only unary calls are compared"))
    }
}
