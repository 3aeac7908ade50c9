//! A client whose instructions can be counted: one thread, servers in the same process behind
//! in-memory pipes, and nothing random that matters. `benches/callgrind.sh` runs it.
//!
//! ```text
//! grpc_instructions ARM CALLERS CALLS
//! ```
//!
//! Everything that the servers do happens inside [`server_turn`], so that a profiler can leave it
//! out. Start-up is in both of two runs with different `CALLS`; their difference has the calls alone.

pub mod support;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use evenkeel::policy::RoundRobin;
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::DuplexStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use support::proto::demo_client::DemoClient;
use support::proto::demo_server::DemoServer;
use support::{Arm, Echo, SERVERS, bare};

const PIPE_BYTES: usize = 256 * 1024;

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let [arm, callers, calls] = args.as_slice() else {
        // `cargo bench` without arguments runs every bench; this one measures only by its script.
        println!(
            "usage: grpc_instructions by-hand|balance-list|evenkeel-round-robin|evenkeel|bare CALLERS CALLS"
        );
        return;
    };
    let callers: usize = callers.parse().expect("CALLERS is a number");
    let calls: usize = calls.parse().expect("CALLS is a number");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be built");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let arm = connect(arm).await;
        let left = Rc::new(Cell::new(calls));
        let tasks: Vec<_> = (0..callers)
            .map(|caller| {
                let (arm, left) = (arm.clone(), left.clone());
                tokio::task::spawn_local(arm.call_while(caller, move || {
                    let some = left.get() > 0;
                    left.set(left.get().saturating_sub(1));
                    some
                }))
            })
            .collect();
        for task in tasks {
            task.await.expect("a caller does not panic");
        }
    });
}

async fn connect(arm: &str) -> Arm {
    let endpoints = || (0..SERVERS).map(|i| format!("http://server-{i}"));
    match arm {
        "by-hand" => {
            let channels = endpoints().map(|uri| {
                Endpoint::from_shared(uri)
                    .expect("a valid address")
                    .connect_with_connector_lazy(service_fn(dial))
            });
            let channels: Vec<Channel> = channels.collect();
            Arm::by_hand(channels.try_into().expect("as many as servers"))
        }
        "evenkeel" | "evenkeel-round-robin" => {
            let builder = evenkeel::grpc::Channel::builder()
                .endpoints(endpoints())
                .connector(service_fn(dial))
                .seed(1);
            let channel = if arm == "evenkeel" {
                builder.build()
            } else {
                builder.policy(RoundRobin::default()).build()
            };
            let channel = channel.expect("the settings are good");
            let all = || {
                let report = channel.report();
                report
                    .endpoints
                    .iter()
                    .all(|e| e.state == evenkeel::ConnectivityState::Ready)
            };
            while !all() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Arm::Evenkeel(DemoClient::new(channel))
        }
        "bare" => {
            let mut senders = Vec::new();
            for _ in 0..SERVERS {
                let io = dial(Uri::from_static("http://server"))
                    .await
                    .expect("a pipe opens");
                senders.push(bare::Sender::handshake(io).await);
            }
            Arm::bare(senders.try_into().ok().expect("as many as servers"))
        }
        other => panic!("no arm {other}"),
    }
}

/// A pipe to a server of its own.
async fn dial(_: Uri) -> io::Result<TokioIo<DuplexStream>> {
    let (client, server) = tokio::io::duplex(PIPE_BYTES);
    let service = TowerToHyperService::new(DemoServer::new(Echo));
    let connection = hyper::server::conn::http2::Builder::new(ServerTasks)
        .serve_connection(TokioIo::new(server), service);
    ServerTasks.execute(async move {
        // Ends with an error or without one when the client goes.
        let _ = connection.await;
    });
    Ok(TokioIo::new(client))
}

#[derive(Clone, Copy)]
struct ServerTasks;

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for ServerTasks {
    fn execute(&self, future: F) {
        tokio::spawn(ServerTask(Box::pin(future)));
    }
}

struct ServerTask(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for ServerTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        server_turn(self.0.as_mut(), cx)
    }
}

/// All work of all servers.
#[inline(never)]
fn server_turn(
    future: Pin<&mut (dyn Future<Output = ()> + Send)>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    // Not the last thing done here, so that no tail call hides the end of the turn.
    let polled = future.poll(cx);
    std::hint::black_box(polled)
}
