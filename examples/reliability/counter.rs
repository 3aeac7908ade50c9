//! A server that does one call after the other, as a shop with one counter: it has a capacity, and a queue that
//! refuses calls when it is full.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use evenkeel::BoxError;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::fault::WORK;
use crate::support::proto::{EchoReply, EchoRequest};
use crate::support::unary::{Answers, unary};

/// How many calls wait at most; one more is refused.
const QUEUE: usize = 20;

/// What a test sees of the server and sets.
#[derive(Debug, Clone)]
pub(crate) struct Counter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    served_by: Semaphore,
    queue: AtomicUsize,
    /// Microseconds for each call.
    work: AtomicU32,
    started: AtomicU64,
}

impl Counter {
    fn new(work: Duration) -> Self {
        let work = u32::try_from(work.as_micros()).unwrap_or(u32::MAX);
        Self(Arc::new(Inner {
            served_by: Semaphore::new(1),
            queue: AtomicUsize::new(0),
            work: AtomicU32::new(work),
            started: AtomicU64::new(0),
        }))
    }

    /// Calls that came.
    pub(crate) fn started(&self) -> u64 {
        self.0.started.load(Ordering::Relaxed)
    }

    pub(crate) fn set_work(&self, work: Duration) {
        let work = u32::try_from(work.as_micros()).unwrap_or(u32::MAX);
        self.0.work.store(work, Ordering::Relaxed);
    }
}

struct Queued<'a>(&'a AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Answers for Counter {
    async fn echo(&self, _: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        let inner = &*self.0;
        inner.started.fetch_add(1, Ordering::Relaxed);
        let place = Queued(&inner.queue);
        if inner.queue.fetch_add(1, Ordering::Relaxed) >= QUEUE {
            return Err(Status::resource_exhausted("the queue is full"));
        }
        let turn = inner.served_by.acquire().await;
        let work = inner.work.load(Ordering::Relaxed);
        sleep(Duration::from_micros(work.into())).await;
        drop((turn, place));
        Ok(Response::new(EchoReply::default()))
    }
}

/// Starts one on a free port.
pub(crate) fn start(work: Duration) -> Result<(String, Counter, JoinHandle<()>), BoxError> {
    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    let uri = format!("http://{}", incoming.local_addr()?);
    let counter = Counter::new(work);
    let server = Server::builder().add_service(unary(counter.clone()));
    let task = tokio::spawn(async move {
        // It ends with its task.
        let _ = server.serve_with_incoming(incoming).await;
    });
    Ok((uri, counter, task))
}

struct Prompt;

#[tonic::async_trait]
impl Answers for Prompt {
    async fn echo(&self, _: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        sleep(WORK).await;
        Ok(Response::new(EchoReply::default()))
    }
}

/// Serves on this address until it is killed.
pub(crate) async fn serve(address: SocketAddr) -> Result<(), BoxError> {
    let incoming = TcpIncoming::bind(address)?.with_nodelay(Some(true));
    println!("{}", incoming.local_addr()?);
    let server = Server::builder().add_service(unary(Prompt));
    Ok(server.serve_with_incoming(incoming).await?)
}
