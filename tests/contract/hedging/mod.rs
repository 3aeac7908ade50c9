//! Hedging over a balancer: when a second attempt is made, where it goes, and what becomes of the others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use evenkeel::balance::Http;
use evenkeel::call::NoRetry;
use evenkeel::health::{Ejection, Limits};
use evenkeel::outcome::ByStatusCode;
use evenkeel::policy::{LeastRequest, PickFirst, Policy, RingHash, RoundRobin};
use evenkeel::retry::{
    BudgetSettings, ErrorKind, Hedge, HedgeLayer, HedgePolicy, RetryBody, RetryLayer, RetryPolicy,
    ThrottleSettings,
};
use evenkeel::{Balance, Error};
use futures::channel::mpsc;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt, service_fn};

use crate::world::{at_the_first_failure, connected, endpoint, serving, settle, until, within};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What a server does with an attempt, once it has the whole request.
#[derive(Debug, Clone, Copy)]
struct Does {
    after: Duration,
    /// The gRPC status alone; none begins a response.
    status: Option<i32>,
    http: u16,
    pushback: Option<&'static str>,
}

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

fn answers(after: Duration) -> Does {
    Does {
        after,
        status: None,
        http: 200,
        pushback: None,
    }
}

fn fails(after: Duration, status: i32) -> Does {
    Does {
        status: Some(status),
        ..answers(after)
    }
}

/// Longer than any call here waits.
fn hangs() -> Does {
    answers(SECOND * 100_000)
}

/// An attempt that reached a server.
#[derive(Debug, Clone)]
struct Seen {
    server: String,
    at: Instant,
    previous: Option<String>,
    timeout: Option<String>,
}

#[derive(Clone, Default)]
struct Servers {
    does: Arc<Mutex<HashMap<String, Does>>>,
    /// In the order in which attempts reached them.
    reached: Arc<Mutex<Vec<Seen>>>,
    /// The requests that came to their end.
    got: Arc<Mutex<Vec<(String, String)>>>,
    /// Those that were given up.
    dropped: Arc<Mutex<Vec<String>>>,
}

/// Notes that an attempt was dropped.
struct UnderWay(Servers, String);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.dropped.lock().unwrap().push(self.1.clone());
    }
}

impl Servers {
    fn of<const N: usize>(does: [(&str, Does); N]) -> Self {
        let servers = Self::default();
        for (name, does) in does {
            servers.set(name, does);
        }
        servers
    }

    fn set(&self, name: &str, does: Does) {
        self.does.lock().unwrap().insert(name.to_owned(), does);
    }

    fn count(&self) -> usize {
        self.reached.lock().unwrap().len()
    }

    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.reached.lock().unwrap())
    }

    /// The servers and the milliseconds from the first attempt on.
    fn take_times(&self) -> Vec<(String, u128)> {
        let seen = self.take();
        let since = |at: Instant| (at - seen[0].at).as_millis();
        let times = seen
            .iter()
            .map(|seen| (seen.server.clone(), since(seen.at)));
        times.collect()
    }

    /// The servers that had a whole request, each with what it had.
    fn take_got(&self) -> Vec<(String, String)> {
        std::mem::take(&mut *self.got.lock().unwrap())
    }

    fn take_dropped(&self) -> Vec<String> {
        std::mem::take(&mut *self.dropped.lock().unwrap())
    }

    async fn serve(
        self,
        server: String,
        request: Request<RetryBody<Body>>,
    ) -> Result<Response<Full<Bytes>>, std::io::Error> {
        let (head, body) = request.into_parts();
        let header = |name: &str| Some(head.headers.get(name)?.to_str().unwrap().to_owned());
        self.reached.lock().unwrap().push(Seen {
            server: server.clone(),
            at: Instant::now(),
            previous: header("grpc-previous-rpc-attempts"),
            timeout: header("grpc-timeout"),
        });
        let does = self.does.lock().unwrap()[&server];
        let under_way = UnderWay(self.clone(), server.clone());
        let body = body.collect().await;
        let body = body.map_err(std::io::Error::other)?.to_bytes();
        let body = String::from_utf8_lossy(&body).into_owned();
        let got = (server.clone(), body.clone());
        self.got.lock().unwrap().push(got);
        tokio::time::sleep(does.after).await;
        std::mem::forget(under_way);
        let mut response = Response::builder().status(does.http);
        if let Some(status) = does.status {
            response = response.header("grpc-status", status);
        }
        if let Some(pushback) = does.pushback {
            response = response.header("grpc-retry-pushback-ms", pushback);
        }
        let said = format!("{server} got {body}");
        Ok(response.body(Full::new(said.into())).unwrap())
    }
}

/// Hedging over a balancer over these servers, all connected.
macro_rules! hedging {
    ($servers:expr, $names:expr, $policy:expr, $ejection:expr, $layer:expr) => {
        hedging!(
            $servers,
            $names,
            $policy,
            $ejection,
            $layer,
            Limits::default()
        )
    };
    ($servers:expr, $names:expr, $policy:expr, $ejection:expr, $layer:expr, $limits:expr) => {{
        let servers: Servers = $servers.clone();
        let balance = Balance::builder()
            .endpoints($names)
            .connector(serving(move |name, request| {
                servers.clone().serve(name, request)
            }))
            .track(Http::new(ByStatusCode))
            .policy($policy)
            .ejection($ejection)
            .limits($limits)
            .seed(7)
            .build()
            .unwrap();
        connected(&balance, $names.len()).await;
        (balance.clone(), $layer.layer(balance))
    }};
    ($servers:expr, $names:expr, $hedge:expr) => {
        hedging!($servers, $names, $hedge, Ejection::off())
    };
    ($servers:expr, $names:expr, $hedge:expr, $ejection:expr) => {
        hedging!(
            $servers,
            $names,
            RoundRobin::default(),
            $ejection,
            HedgeLayer::new($hedge).unwrap()
        )
    };
}

mod bodies;
mod delay;
mod ends;
mod when;

/// A hedge each 100 ms, and nothing holds it back but the number of attempts.
fn policy(attempts: u32) -> HedgePolicy {
    HedgePolicy::default()
        .with_max_attempts(attempts)
        .with_delay(100 * MILLI)
        .with_budget(None)
}

fn request() -> Request<Body> {
    let body = Full::new(Bytes::from_static(b"ping"));
    Request::new(body.map_err(|never| match never {}).boxed_unsync())
}

/// The pieces of a request's body, which ends when this is dropped.
struct Pieces(mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>);

impl Pieces {
    fn send(&self, text: &'static str) {
        let frame = Frame::data(Bytes::from(text));
        self.0.unbounded_send(Ok(frame)).unwrap();
    }

    fn fail(&self, why: &'static str) {
        let broken = Err(std::io::Error::other(why));
        self.0.unbounded_send(broken).unwrap();
    }
}

/// A request that is sent piece by piece.
fn request_in_pieces() -> (Pieces, Request<Body>) {
    let (pieces, body) = mpsc::unbounded();
    let request = Request::new(StreamBody::new(body).boxed_unsync());
    (Pieces(pieces), request)
}

/// What a call came to.
#[derive(Debug, PartialEq)]
struct Answer {
    said: String,
    status: Option<String>,
    millis: u128,
}

async fn call_with<S, R>(hedged: &S, request: Request<Body>) -> Result<Answer, Error>
where
    S: Service<Request<Body>, Response = Response<R>, Error = Error> + Clone,
    R: http_body::Body<Data = Bytes>,
    R::Error: std::fmt::Debug,
{
    let began = Instant::now();
    let response = within("a call", hedged.clone().oneshot(request)).await?;
    let millis = began.elapsed().as_millis();
    let status = response.headers().get("grpc-status");
    let status = status.map(|status| status.to_str().unwrap().to_owned());
    let said = response.into_body().collect().await.unwrap().to_bytes();
    Ok(Answer {
        said: String::from_utf8(said.to_vec()).unwrap(),
        status,
        millis,
    })
}

async fn call<S, R>(hedged: &S) -> Answer
where
    S: Service<Request<Body>, Response = Response<R>, Error = Error> + Clone,
    R: http_body::Body<Data = Bytes>,
    R::Error: std::fmt::Debug,
{
    call_with(hedged, request()).await.expect("an answer")
}

fn answer(said: &str, millis: u128) -> Answer {
    Answer {
        said: said.to_owned(),
        status: None,
        millis,
    }
}
