//! Two servers that report their load out of band: utilisation 0.1 and 0.9, as many requests a second. In the
//! trailers of calls they say the contrary, so that it shows what a client goes by.
//!
//! `tests/interop` has other makers' clients call them. Prints their ports; for each line on stdin, how many
//! calls each has had since the last one. Ends with stdin.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel::BoxError;
use evenkeel::outcome::LoadReport;
use evenkeel::server::{CallReport, LoadReportLayer};
use tokio::io::{AsyncBufReadExt, BufReader, stdin};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use proto::{EchoReply, EchoRequest};
use unary::{Answers, unary};

#[path = "../tests/support/proto.rs"]
pub mod proto;
#[path = "../tests/support/unary.rs"]
pub mod unary;

const UTILIZATIONS: [f64; 2] = [0.1, 0.9];

/// So that a client may ask for them each second.
const MIN_REPORT_INTERVAL: Duration = Duration::from_millis(500);

struct Counting {
    calls: Arc<AtomicUsize>,
    utilization: f64,
}

#[tonic::async_trait]
impl Answers for Counting {
    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if let Some(call) = request.extensions().get::<CallReport>() {
            call.add(LoadReport::new().with_application_utilization(1.0 - self.utilization));
        }
        let EchoRequest {
            message, payload, ..
        } = request.into_inner();
        Ok(Response::new(EchoReply {
            message,
            payload,
            count: 1,
            ..EchoReply::default()
        }))
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut ports = Vec::new();
    let mut counts = Vec::new();
    for utilization in UTILIZATIONS {
        let layer = LoadReportLayer::new().with_min_report_interval(MIN_REPORT_INTERVAL)?;
        layer.reporter().set(
            LoadReport::new()
                .with_application_utilization(utilization)
                .with_qps(100.0),
        );
        let calls = Arc::new(AtomicUsize::new(0));
        let service = unary(Counting {
            calls: calls.clone(),
            utilization,
        });
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let incoming = incoming.with_nodelay(Some(true));
        ports.push(incoming.local_addr()?.port());
        counts.push(calls);
        let server = Server::builder().layer(layer).add_service(service);
        tokio::spawn(server.serve_with_incoming(incoming));
    }
    println!("{}", serde_json::to_string(&ports)?);
    let mut lines = BufReader::new(stdin()).lines();
    while lines.next_line().await?.is_some() {
        let counts = counts.iter().map(|calls| calls.swap(0, Ordering::Relaxed));
        println!("{}", serde_json::to_string(&counts.collect::<Vec<_>>())?);
    }
    Ok(())
}
