//! Calls over a service that does what a script says.

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::HeaderValue;
use http::request::Parts;
use http_body_util::{BodyExt, Empty, Full};
use tokio::time::Sleep;
use tower_layer::Layer;

use super::*;
use crate::call::PreviousEndpoints;
use crate::math::Backoff;
use crate::retry::read::code_of_head;
use crate::retry::{Retry, RetryLayer, RetryPolicy};

mod attempts;
mod bounds;
mod request;
mod runtime;
mod time;

/// What the service does with one attempt.
enum Step {
    /// Answers with a status alone, and these headers.
    Status(u32, &'static [(&'static str, &'static str)]),
    /// Begins a response.
    Answer,
    Fail(Error),
    Hang,
}

use Step::{Answer, Fail, Hang, Status};

/// An attempt that the service saw.
struct Seen {
    at: Instant,
    head: Parts,
    body: Bytes,
}

#[derive(Clone, Default)]
struct Scripted {
    steps: Arc<Mutex<VecDeque<Step>>>,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// Attempts that were dropped before they had an answer, and whether for their time.
    dropped: Arc<Mutex<Vec<bool>>>,
    /// Until then nothing is ready for a second attempt.
    busy: Arc<Mutex<Option<Pin<Box<Sleep>>>>>,
    /// This very clone has said that it is ready.
    ready: bool,
}

struct UnderWay {
    script: Scripted,
    previous: Option<PreviousEndpoints>,
    ended: bool,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if !self.ended {
            let timed_out = (self.previous.as_ref()).is_some_and(PreviousEndpoints::has_timed_out);
            self.script.dropped.lock().unwrap().push(timed_out);
        }
    }
}

impl Service<Request<RetryBody<Full<Bytes>>>> for Scripted {
    type Response = Response<Empty<Bytes>>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Self::Response, Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.attempts() > 0
            && let Some(busy) = &mut *self.busy.lock().unwrap()
        {
            ready!(busy.as_mut().poll(cx));
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<RetryBody<Full<Bytes>>>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "polled ready before");
        let script = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let mut under_way = UnderWay {
                previous: head.extensions.get().cloned(),
                script: script.clone(),
                ended: false,
            };
            let body = body.collect().await.expect("the body is whole").to_bytes();
            let at = Instant::now();
            script.seen.lock().unwrap().push(Seen { at, head, body });
            let step = script.steps.lock().unwrap().pop_front();
            let result = match step.expect("no more attempts than the script has") {
                Hang => std::future::pending().await,
                Answer => Ok(Response::new(Empty::new())),
                Fail(error) => Err(error),
                Status(code, headers) => {
                    let mut response = Response::builder().header("grpc-status", code);
                    for (name, value) in headers {
                        response = response.header(*name, *value);
                    }
                    Ok(response.body(Empty::new()).unwrap())
                }
            };
            under_way.ended = true;
            result
        })
    }
}

impl Scripted {
    fn of(steps: impl IntoIterator<Item = Step>) -> Self {
        let script = Self::default();
        script.add(steps);
        script
    }

    fn add(&self, steps: impl IntoIterator<Item = Step>) {
        self.steps.lock().unwrap().extend(steps);
    }

    /// After its first attempt it is not ready before this time has passed.
    fn busy_for(&self, time: Duration) {
        *self.busy.lock().unwrap() = Some(Box::pin(tokio::time::sleep(time)));
    }

    fn attempts(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    /// The times between attempts, in milliseconds.
    fn gaps(&self) -> Vec<u128> {
        let seen = self.seen.lock().unwrap();
        let pairs = seen.windows(2);
        pairs
            .map(|pair| (pair[1].at - pair[0].at).as_millis())
            .collect()
    }

    /// A header of each attempt.
    fn header(&self, name: &str) -> Vec<Option<String>> {
        let seen = self.seen.lock().unwrap();
        let text = |seen: &Seen| Some(seen.head.headers.get(name)?.to_str().unwrap().to_owned());
        seen.iter().map(text).collect()
    }
}

const UNAVAILABLE: Step = Status(14, &[]);

/// Five attempts, no jitter, nothing that holds back.
fn policy() -> RetryPolicy {
    RetryPolicy::default()
        .with_max_attempts(5)
        .with_backoff(
            Backoff::default()
                .with_base(Duration::from_millis(50))
                .with_multiplier(2.0)
                .with_max(Duration::from_millis(150))
                .with_jitter(0.0),
        )
        .with_budget(None)
}

fn retry(script: &Scripted, policy: RetryPolicy) -> Retry<Scripted> {
    RetryLayer::new(policy).unwrap().layer(script.clone())
}

fn request() -> Request<Full<Bytes>> {
    Request::new(Full::new(Bytes::from_static(b"ping")))
}

/// The status of a call, `None` for a response that has begun.
async fn call(
    retry: &mut Retry<Scripted>,
    request: Request<Full<Bytes>>,
) -> Result<Option<u32>, Error> {
    let call = async {
        std::future::poll_fn(|cx| retry.poll_ready(cx)).await?;
        let response = retry.call(request).await?;
        Ok(code_of_head(response.status(), response.headers()))
    };
    let limit = Duration::from_secs(3600);
    tokio::time::timeout(limit, call).await.expect("it ends")
}
