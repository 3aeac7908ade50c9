//! Load reports beside the calls, of real servers: `grpc::Channel` listens to tonic servers under
//! `LoadReportLayer`, over the calls' own connections.
#![cfg(feature = "grpc")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel::discovery::Handle;
use evenkeel::grpc::{Channel, LoadReports};
use evenkeel::load::ReportRules;
use evenkeel::outcome::LoadReport;
use evenkeel::policy::{Candidate, Candidates, OrcaWeightedRoundRobin};
use evenkeel::probe::{Target, Watch, WatchError};
use evenkeel::server::{CallReport, LoadReportLayer, LoadReporter};
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Endpoint;
use tonic::{Request, Response, Status};

use support::asked::Asked;
use support::proto::demo_client::DemoClient;
use support::proto::{EchoReply, EchoRequest};
use support::unary::{Answers, unary};
use support::watched::Watched;
use support::{all_ready, eventually, within};

#[path = "support/mod.rs"]
pub mod support;

const PATH: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

/// How often reports are wanted, and at most sent.
const EVERY: Duration = Duration::from_millis(20);

/// Answers at once, and says in the trailers that it is as busy as it is not.
struct Contrary {
    utilization: f64,
    calls: Arc<AtomicUsize>,
}

#[tonic::async_trait]
impl Answers for Contrary {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if let Some(call) = request.extensions().get::<CallReport>() {
            let busy = 1.0 - self.utilization;
            call.add(LoadReport::new().with_application_utilization(busy));
        }
        Ok(Response::new(EchoReply::default()))
    }
}

/// A server that stops when dropped.
struct Running {
    uri: String,
    reporter: LoadReporter,
    calls: Arc<AtomicUsize>,
    asked: Asked,
    connections: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Running {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn asked(&self) -> usize {
        self.asked.asked()
    }

    fn open(&self) -> usize {
        self.asked.open()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Begins to shut down gracefully.
    fn stop(&mut self) {
        let stop = self.stop.take().expect("it is stopped once");
        stop.send(()).expect("it runs");
    }

    async fn stopped(&mut self, rule: &str) {
        within(rule, &mut self.task).await.expect("it ends well");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start(utilization: f64, layered: bool) -> Running {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let layer = LoadReportLayer::new()
        .with_min_report_interval(EVERY)
        .expect("not zero");
    let reporter = layer.reporter();
    // As many requests a second each, however many calls they get, so that the weights stand still.
    reporter.set(
        LoadReport::new()
            .with_application_utilization(utilization)
            .with_qps(100.0),
    );
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let incoming = TcpListenerStream::new(listener).inspect(move |stream| {
        count.fetch_add(1, Ordering::SeqCst);
        if let Ok(stream) = stream {
            stream.set_nodelay(true).unwrap();
        }
    });
    let calls = Arc::new(AtomicUsize::new(0));
    let service = unary(Contrary {
        utilization,
        calls: calls.clone(),
    });
    let asked = Asked::new(PATH);
    let (stop, stopped) = oneshot::channel();
    let stopped = async {
        let _ = stopped.await;
    };
    let mut builder = tonic::transport::Server::builder().layer(asked.clone());
    let task = tokio::spawn(async move {
        let served = if layered {
            let server = builder.layer(layer).add_service(service);
            server.serve_with_incoming_shutdown(incoming, stopped).await
        } else {
            let server = builder.add_service(service);
            server.serve_with_incoming_shutdown(incoming, stopped).await
        };
        served.expect("it serves");
    });
    Running {
        uri,
        reporter,
        calls,
        asked,
        connections,
        stop: Some(stop),
        task,
    }
}

/// ORCA weighted round robin by reports out of band.
type Weighted = Watched<OrcaWeightedRoundRobin>;

fn weighted() -> Weighted {
    let policy = OrcaWeightedRoundRobin::default()
        .with_out_of_band_reports(true)
        .with_out_of_band_period(EVERY)
        .expect("not zero")
        .with_blackout_period(Duration::ZERO)
        .with_update_period(Duration::from_millis(100));
    Watched::new(policy)
}

/// The weights that the endpoints have, in their order.
fn weights(candidates: &Candidates) -> Vec<Option<f64>> {
    let weight = |candidate: &Candidate| {
        let reports = candidate.subchannel().reports();
        // Later than any report, and long before any expires.
        let now = candidates.now() + Duration::from_secs(30);
        reports.weight(now, Duration::ZERO, &ReportRules::default())
    };
    candidates.all().iter().map(weight).collect()
}

/// Waits until `wanted` are what the picker goes by.
async fn settled(policy: &Weighted, wanted: &[Option<f64>]) {
    let heard = |candidates: &Candidates| weights(candidates) == wanted;
    policy.until("the servers' reports are heard", heard).await;
    policy.rebuilt().await;
}

/// The shares of 1,000 calls.
async fn shares(channel: &Channel, servers: [&Running; 2]) -> [i64; 2] {
    let before = servers.map(Running::calls);
    let mut client = DemoClient::new(channel.clone());
    within("the calls", async {
        for _ in 0..1_000 {
            client.echo(EchoRequest::default()).await.unwrap();
        }
    })
    .await;
    [0, 1].map(|n| (servers[n].calls() - before[n]) as i64)
}

#[tokio::test]
async fn two_servers_at_a_tenth_and_nine_tenths_get_nine_calls_to_one() {
    let (idle, full) = (start(0.1, true).await, start(0.9, true).await);
    let policy = weighted();
    let channel = Channel::builder()
        .endpoints([idle.uri.clone(), full.uri.clone()])
        .policy(policy.clone())
        .build()
        .unwrap();
    // Before any call.
    settled(&policy, &[Some(100.0 / 0.1), Some(100.0 / 0.9)]).await;
    let calls = shares(&channel, [&idle, &full]).await;
    // The order goes on through each rebuild: a call more or less where the count begins and ends.
    assert!(
        (calls[0] - 900).abs() <= 2,
        "9 : 1 is {calls:?}, whatever the trailers say"
    );

    for (server, utilization) in [(&idle, 0.8), (&full, 0.2)] {
        let report = LoadReport::new().with_application_utilization(utilization);
        server.reporter.set(report.with_qps(100.0));
    }
    settled(&policy, &[Some(100.0 / 0.8), Some(100.0 / 0.2)]).await;
    let calls = shares(&channel, [&idle, &full]).await;
    assert!((calls[0] - 200).abs() <= 2, "1 : 4 now: {calls:?}");

    let report = channel.report();
    for (server, endpoint) in [&idle, &full].into_iter().zip(&report.endpoints) {
        assert_eq!(server.asked(), 1, "one stream each");
        assert_eq!(server.connections(), 1, "over the calls' own connection");
        assert_eq!(endpoint.in_flight, 0, "which is no call: {endpoint}");
        assert_eq!(endpoint.calls, server.calls() as u64, "{endpoint}");
        let told = server.reporter.report();
        assert_eq!(told.in_flight(), Some(0), "neither at the server");
    }
}

#[tokio::test]
async fn a_server_without_the_service_gets_its_calls_all_the_same() {
    let (one, two) = (start(0.1, false).await, start(0.9, false).await);
    let policy = weighted();
    let channel = Channel::builder()
        .endpoints([one.uri.clone(), two.uri.clone()])
        .policy(policy.clone())
        .build()
        .unwrap();
    all_ready(&channel).await;
    eventually("both are asked", || one.asked() == 1 && two.asked() == 1).await;
    settled(&policy, &[None, None]).await;
    let calls = shares(&channel, [&one, &two]).await;
    assert!((calls[0] - 500).abs() <= 2, "equal shares: {calls:?}");
    assert_eq!([one.asked(), two.asked()], [1, 1], "they have said it");
    let report = channel.report();
    let failures: u64 = report.endpoints.iter().map(|e| e.failures).sum();
    assert_eq!(failures, 0, "which is no failure: {report:?}");
}

#[tokio::test]
async fn tonics_own_endpoints_are_listened_to_too() {
    let server = start(0.25, true).await;
    let policy = weighted();
    let channel = Channel::builder()
        .tonic_endpoints([Endpoint::from_shared(server.uri.clone()).unwrap()])
        .policy(policy.clone())
        .build()
        .unwrap();
    all_ready(&channel).await;
    settled(&policy, &[Some(400.0)]).await;
    assert_eq!(server.connections(), 1, "over the calls' own connection");
    drop(channel);
    eventually("the stream ends with the last handle", || {
        server.open() == 0
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_with_its_endpoint_and_with_the_last_handle() {
    let (a, b) = (start(0.1, true).await, start(0.9, true).await);
    let (endpoints, updates) = Handle::new([a.uri.as_str(), b.uri.as_str()]).unwrap();
    let channel = Channel::builder()
        .discovery(updates)
        .policy(weighted())
        .build()
        .unwrap();
    eventually("both are heard", || a.open() == 1 && b.open() == 1).await;
    endpoints.remove(a.uri.as_str());
    eventually("nobody listens to who left", || a.open() == 0).await;
    assert_eq!(b.open(), 1, "the other goes on");
    drop(channel);
    eventually("nobody listens any more", || b.open() == 0).await;
    assert_eq!([a.asked(), b.asked()], [1, 1], "nor was anew");
}

#[tokio::test]
async fn a_stream_of_ours_does_not_hold_up_a_server_that_shuts_down() {
    let mut server = start(0.5, true).await;
    let policy = weighted();
    let channel = Channel::builder()
        .endpoints([server.uri.clone()])
        .policy(policy.clone())
        .build()
        .unwrap();
    settled(&policy, &[Some(200.0)]).await;
    server.stop();
    server.stopped("the client hangs up when it is told").await;
    assert_eq!(server.open(), 0, "that is how it ended");
    drop(channel);
}

/// A client that does not listen to what the connection says.
async fn stubborn(uri: String) -> BoxStream<'static, Result<LoadReport, WatchError>> {
    let endpoint = Endpoint::from_shared(uri).unwrap();
    let channel = within("a connection", endpoint.connect()).await.unwrap();
    LoadReports::new().watch(Target::new("a", channel), &Duration::ZERO)
}

#[tokio::test]
async fn a_server_may_end_streams_that_do_not_end_by_themselves() {
    let mut server = start(0.5, true).await;
    let mut reports = stubborn(server.uri.clone()).await;
    for _ in 0..3 {
        let report = within("a report", reports.next()).await;
        let report = report.expect("it goes on").expect("it is well");
        assert_eq!(report.application_utilization(), 0.5);
    }
    server.stop();
    for _ in 0..3 {
        let report = within("a report", reports.next()).await;
        assert!(
            matches!(report, Some(Ok(_))),
            "the server waits: {report:?}"
        );
    }
    assert!(!server.task.is_finished(), "for as long as it takes");
    server.reporter.end_streams();
    let end = within("the end", async {
        loop {
            match reports.next().await {
                Some(Ok(_)) => {}
                end => return end,
            }
        }
    })
    .await;
    match end {
        Some(Err(WatchError::Ended(status))) => {
            let text = status.to_string();
            assert!(text.contains("ends its streams"), "it says why: {text}");
        }
        end => panic!("UNAVAILABLE, not {end:?}"),
    }
    server.stopped("nothing holds it up any more").await;
}
