//! Probes of real servers: `grpc::Channel` asks, and a tonic server under `LoadReportLayer` answers.
#![cfg(feature = "grpc")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use evenkeel::grpc::Channel;
use evenkeel::outcome::LoadReport;
use evenkeel::policy::{Adaptive, Prequal};
use evenkeel::server::LoadReportLayer;
use futures::StreamExt;
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};

use support::asked::Asked;
use support::proto::demo_client::DemoClient;
use support::proto::{EchoReply, EchoRequest};
use support::unary::{Answers, unary};
use support::{all_ready, eventually, within};

#[path = "support/mod.rs"]
pub mod support;

/// What any client of the proto has.
pub mod load {
    include!("../proto/generated/load/evenkeel.load.v1.rs");
}

const PATH: &str = "/evenkeel.load.v1.LoadProbe/Probe";

/// So long that only a server which does not answer runs into it, on a busy machine too.
const PATIENT: Duration = Duration::from_secs(15);

/// Answers after its time; a message `hold` when it is let go. Has unary calls only.
#[derive(Clone)]
struct Echo(Arc<State>);

struct State {
    time: Duration,
    calls: AtomicUsize,
    held: watch::Sender<usize>,
    open: watch::Sender<bool>,
    /// For a message `stall`, which stops its whole thread.
    moves_on: Mutex<mpsc::Receiver<()>>,
    stalls: mpsc::Sender<()>,
}

#[tonic::async_trait]
impl Answers for Echo {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        self.0.calls.fetch_add(1, Ordering::SeqCst);
        if request.get_ref().message == "hold" {
            let mut open = self.0.open.subscribe();
            self.0.held.send_modify(|held| *held += 1);
            let _ = open.wait_for(|open| *open).await;
        } else if request.get_ref().message == "stall" {
            self.0.held.send_modify(|held| *held += 1);
            let moves_on = self.0.moves_on.lock().unwrap();
            let _ = moves_on.recv_timeout(support::PATIENCE);
        } else if !self.0.time.is_zero() {
            tokio::time::sleep(self.0.time).await;
        }
        Ok(Response::new(EchoReply::default()))
    }
}

/// A server that stops when dropped.
struct Running {
    uri: String,
    echo: Echo,
    layer: LoadReportLayer,
    probes: Asked,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Running {
    fn calls(&self) -> usize {
        self.echo.0.calls.load(Ordering::SeqCst)
    }

    fn asked(&self) -> usize {
        self.probes.asked()
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reports,
    /// Has no layer.
    Plain,
    /// Leaves probes without an answer.
    Swallows,
}

async fn start(kind: Kind, time: Duration) -> Running {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let uri = format!("http://{}", listener.local_addr().unwrap());
    let (stalls, moves_on) = mpsc::channel();
    let echo = Echo(Arc::new(State {
        moves_on: Mutex::new(moves_on),
        stalls,
        time,
        calls: AtomicUsize::new(0),
        held: watch::Sender::new(0),
        open: watch::Sender::new(false),
    }));
    let layer = LoadReportLayer::new();
    let probes = Asked::new(PATH).swallowing(kind == Kind::Swallows);
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let incoming = TcpListenerStream::new(listener).inspect(move |stream| {
        count.fetch_add(1, Ordering::SeqCst);
        // As tonic does where it listens itself: else answers wait 40 ms for the client's word that it
        // has got the ones before.
        if let Ok(stream) = stream {
            stream.set_nodelay(true).unwrap();
        }
    });
    let mut builder = tonic::transport::Server::builder().layer(probes.clone());
    let service = unary(echo.clone());
    let task = if kind == Kind::Plain {
        let server = builder.add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming))
    } else {
        let server = builder.layer(layer.clone()).add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming))
    };
    Running {
        uri,
        echo,
        layer,
        probes,
        connections,
        task: task.abort_handle(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_prequal_a_server_that_others_keep_busy_gets_few_calls() {
    let busy = start(Kind::Reports, Duration::from_millis(200)).await;
    let quick = [
        start(Kind::Reports, Duration::ZERO).await,
        start(Kind::Reports, Duration::ZERO).await,
    ];
    let mut others = JoinSet::new();
    for _ in 0..4 {
        let channel = Channel::builder()
            .endpoints([busy.uri.as_str()])
            .build()
            .unwrap();
        let mut client = DemoClient::new(channel);
        others.spawn(async move { while client.echo(EchoRequest::default()).await.is_ok() {} });
    }
    eventually("it knows how slow it is", || {
        busy.layer.reporter().report().latency().is_some()
    })
    .await;
    let servers = [&busy, &quick[0], &quick[1]];
    let channel = Channel::builder()
        .endpoints(servers.map(|server| server.uri.as_str()))
        .policy(Prequal::default().with_probe_timeout(PATIENT))
        .seed(1)
        .build()
        .unwrap();
    all_ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    within("the calls", async {
        for _ in 0..200 {
            client.echo(EchoRequest::default()).await.unwrap();
        }
    })
    .await;
    let report = channel.report();
    let calls: Vec<u64> = report.endpoints.iter().map(|e| e.calls).collect();
    assert_eq!(calls.iter().sum::<u64>(), 200, "a probe is no call");
    assert!(
        calls[0] * 8 < calls[1] + calls[2],
        "less than a quarter of what the others get each: {calls:?}"
    );
    for server in servers {
        assert!(server.asked() > 50, "each is asked: {}", server.asked());
    }
    for (server, calls) in servers.iter().zip(calls).skip(1) {
        assert_eq!(server.connections(), 1, "over the calls' own connection");
        assert_eq!(server.calls() as u64, calls, "no probe reaches the service");
        // Over the last ten seconds, or a second if it has not served for so long.
        let qps = server.layer.reporter().report().qps();
        assert!(qps <= calls as f64, "nor is it counted: {qps} of {calls}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonics_own_endpoints_are_asked_too() {
    let servers = [
        start(Kind::Reports, Duration::ZERO).await,
        start(Kind::Reports, Duration::ZERO).await,
    ];
    let endpoints = servers
        .each_ref()
        .map(|server| tonic::transport::Endpoint::from_shared(server.uri.clone()).unwrap());
    let channel = Channel::builder()
        .tonic_endpoints(endpoints)
        .policy(Prequal::default().with_probe_timeout(PATIENT))
        .build()
        .unwrap();
    all_ready(&channel).await;
    let mut client = DemoClient::new(channel);
    within("both are asked again and again, so they answer", async {
        while servers.iter().any(|server| server.asked() < 20) {
            client.echo(EchoRequest::default()).await.unwrap();
        }
    })
    .await;
    assert!(servers.iter().all(|server| server.connections() == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adaptive_goes_by_reports_once_nearly_all_servers_report() {
    // What they say is not so: then only who listens follows it.
    let mut servers = Vec::new();
    for number in 0..10 {
        let kind = if number == 9 {
            Kind::Plain
        } else {
            Kind::Reports
        };
        let server = start(kind, Duration::ZERO).await;
        let (in_flight, ms) = if number == 0 { (0, 1) } else { (100, 1_000) };
        let report = LoadReport::new()
            .with_in_flight(in_flight)
            .with_latency(Duration::from_millis(ms));
        server.layer.reporter().set(report);
        servers.push(server);
    }
    let channel = Channel::builder()
        .endpoints(servers.iter().map(|server| server.uri.as_str()))
        .policy(Adaptive::default().with_probe_timeout(PATIENT))
        .seed(1)
        .build()
        .unwrap();
    all_ready(&channel).await;
    let mut client = DemoClient::new(channel);
    // Two choices give the best of ten at most a fifth of the calls.
    within(
        "most calls go where the servers say that it is idle",
        async {
            loop {
                let before = servers[0].calls();
                for _ in 0..100 {
                    client.echo(EchoRequest::default()).await.unwrap();
                }
                if servers[0].calls() - before > 60 {
                    return;
                }
            }
        },
    )
    .await;
    let asked: usize = servers[..9].iter().map(Running::asked).sum();
    assert!(asked > 9, "those that report are asked: {asked}");
    let plain = &servers[9];
    within("the one without the layer is asked", async {
        while plain.asked() == 0 {
            client.echo(EchoRequest::default()).await.unwrap();
        }
    })
    .await;
    for _ in 0..200 {
        within("a call", client.echo(EchoRequest::default()))
            .await
            .unwrap();
    }
    assert_eq!(plain.connections(), 1);
    assert_eq!(plain.asked(), 1, "once a connection is enough to know");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_that_are_given_up_leave_their_connection_alone() {
    let server = start(Kind::Swallows, Duration::ZERO).await;
    let channel = Channel::builder()
        .endpoints([server.uri.as_str()])
        .policy(Prequal::default().with_probe_timeout(Duration::from_millis(1)))
        .build()
        .unwrap();
    all_ready(&channel).await;
    let mut client = DemoClient::new(channel.clone());
    let over = || server.probes.over();
    within("calls, until some probes were given up", async {
        while over() < 6 {
            client.echo(EchoRequest::default()).await.unwrap();
        }
    })
    .await;
    drop(client);
    let report = channel.report();
    assert_eq!(report.endpoints[0].failures, 0, "{report:?}");
    assert_eq!(report.endpoints[0].in_flight, 0, "{report:?}");
    assert_eq!(server.connections(), 1, "no connection was lost");
    drop(channel);
    eventually("no stream is left open at the server", || {
        server.probes.open() == 0
    })
    .await;
}

/// A server on a thread of its own.
async fn start_apart() -> (Running, oneshot::Sender<()>) {
    let (started, running) = oneshot::channel();
    let (end, ends) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let _ = started.send(start(Kind::Reports, Duration::ZERO).await);
            let _ = ends.await;
        });
    });
    (within("a server", running).await.unwrap(), end)
}

/// A server that was not there for a moment, and then sees all at once what was given up meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stalls_does_not_hang_up_for_the_probes_it_missed() {
    let (stalling, _end) = start_apart().await;
    let quick = start(Kind::Reports, Duration::ZERO).await;
    let channel = Channel::builder()
        .endpoints([&stalling.uri, &quick.uri].map(String::as_str))
        .policy(Prequal::default().with_probe_timeout(Duration::from_millis(5)))
        .build()
        .unwrap();
    all_ready(&channel).await;
    let client = DemoClient::new(channel.clone());
    let echo = || {
        let mut client = client.clone();
        async move { client.echo(EchoRequest::default()).await }
    };
    within("it answers probes at first", async {
        while stalling.asked() < 20 {
            echo().await.unwrap();
        }
    })
    .await;

    let direct = tonic::transport::Endpoint::from_shared(stalling.uri.clone()).unwrap();
    let mut direct = DemoClient::new(within("a connection", direct.connect()).await.unwrap());
    let stall = tokio::spawn(async move {
        let request = EchoRequest {
            message: "stall".to_owned(),
            ..EchoRequest::default()
        };
        direct.echo(request).await
    });
    let mut held = stalling.echo.0.held.subscribe();
    within("its thread stands still", held.wait_for(|held| *held == 1))
        .await
        .unwrap();
    // More probes would be given up in a second than the 20 that it lets pass.
    let mut calls = JoinSet::new();
    let began = Instant::now();
    let before = quick.calls();
    while quick.calls() - before < 500 && began.elapsed() < Duration::from_secs(1) {
        let call = calls.spawn(echo());
        // Those that went to the one that stalls wait.
        let enough = Duration::from_millis(50);
        let _ = tokio::time::timeout(enough, async {
            while !call.is_finished() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    stalling.echo.0.stalls.send(()).unwrap();
    within("the stall is over", stall).await.unwrap().unwrap();
    while let Some(result) = within("a call", calls.join_next()).await {
        result.unwrap().expect("no call is lost");
    }
    within("it is asked, and called, as before", async {
        let before = stalling.asked();
        while stalling.asked() < before + 20 {
            echo().await.unwrap();
        }
    })
    .await;
    // Two, since the one that made it stall came by its own.
    assert_eq!(stalling.connections(), 2, "no connection was lost");
    let report = channel.report();
    assert!(
        report.endpoints.iter().all(|e| e.failures == 0),
        "{report:?}"
    );
}

/// As a client in any language would ask: by the proto alone.
async fn probe(uri: &str, path: &'static str) -> Result<Response<load::ProbeReply>, Status> {
    let channel = tonic::transport::Endpoint::from_shared(uri.to_owned()).unwrap();
    let channel = within("a connection", channel.connect()).await.unwrap();
    let mut grpc = tonic::client::Grpc::new(channel);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<load::ProbeRequest, load::ProbeReply>::default();
    let path = http::uri::PathAndQuery::from_static(path);
    let call = grpc.unary(Request::new(load::ProbeRequest {}), path, codec);
    within("an answer", call).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_client_of_the_proto_gets_an_answer() {
    let server = start(Kind::Reports, Duration::ZERO).await;
    let reply = probe(&server.uri, PATH).await.unwrap().into_inner();
    let idle = load::ProbeReply {
        requests_in_flight: 0,
        latency_microseconds: None,
    };
    assert_eq!(reply, idle, "it has answered nothing yet");

    let channel = Channel::builder()
        .endpoints([server.uri.as_str()])
        .build()
        .unwrap();
    let client = DemoClient::new(channel);
    let echo = |message: &'static str| {
        let mut client = client.clone();
        async move {
            let message = message.to_owned();
            let request = EchoRequest {
                message,
                ..EchoRequest::default()
            };
            client.echo(request).await
        }
    };
    within("a call", echo("")).await.unwrap();
    let held = [tokio::spawn(echo("hold")), tokio::spawn(echo("hold"))];
    let mut under_way = server.echo.0.held.subscribe();
    within("both are under way", under_way.wait_for(|held| *held == 2))
        .await
        .unwrap();
    let response = probe(&server.uri, PATH).await.unwrap();
    assert_eq!(
        response.get_ref().requests_in_flight,
        2,
        "not the probe itself"
    );
    let trailers = response.metadata().clone().into_headers();
    let report = LoadReport::from_headers(&trailers).expect("the report is there too");
    assert_eq!(report.in_flight(), Some(2));
    server.echo.0.open.send_replace(true);
    for call in held {
        within("it is let go", call).await.unwrap().unwrap();
    }
    assert_eq!(server.calls(), 3, "no probe reaches the service");

    let other = probe(&server.uri, "/evenkeel.load.v1.LoadProbe/Other").await;
    assert_eq!(
        other.unwrap_err().code(),
        Code::Unimplemented,
        "only the one method is the layer's"
    );
    let plain = start(Kind::Plain, Duration::ZERO).await;
    let unknown = probe(&plain.uri, PATH).await;
    assert_eq!(unknown.unwrap_err().code(), Code::Unimplemented);
}
