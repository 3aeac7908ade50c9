use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tower_layer::Layer;

use super::*;
use crate::call::NoRetry;
use crate::math::Backoff;
use crate::retry::{BudgetSettings, Retry, RetryLayer, RetryPolicy, ThrottleSettings};

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

#[tokio::test(start_paused = true)]
async fn a_failed_call_is_tried_again_with_growing_delays() {
    let script = Scripted::of([UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, UNAVAILABLE, Answer]);
    let answer = call(&mut retry(&script, policy()), request()).await;
    assert_eq!(answer.unwrap(), None, "the fifth attempt has answered");
    assert_eq!(
        script.gaps(),
        [50, 100, 150, 150],
        "50 ms, × 2, at most 150 ms"
    );
    let said = script.header("grpc-previous-rpc-attempts");
    let want = [None, Some("1"), Some("2"), Some("3"), Some("4")];
    assert_eq!(said, want.map(|s| s.map(str::to_owned)), "gRFC A6");
    let seen = script.seen.lock().unwrap();
    assert!(
        seen.iter().all(|seen| seen.body == "ping"),
        "each attempt has the whole request"
    );
}

#[tokio::test(start_paused = true)]
async fn delays_have_jitter_of_a_fifth() {
    let policy = RetryPolicy::default().with_budget(None);
    let mut gaps = Vec::new();
    for seed in 0..200 {
        let script = Scripted::of([UNAVAILABLE, Answer]);
        let answer = call(&mut retry(&script, policy.with_seed(seed)), request()).await;
        assert_eq!(answer.unwrap(), None);
        gaps.extend(script.gaps());
    }
    // Tokio's timers round up to a millisecond.
    assert!(gaps.iter().all(|gap| (40..=61).contains(gap)), "{gaps:?}");
    let (min, max) = (gaps.iter().min().unwrap(), gaps.iter().max().unwrap());
    assert!(*min < 45 && *max > 56, "all of 50 ms ± 20 %: {min}..{max}");
}

#[tokio::test(start_paused = true)]
async fn the_last_failure_is_the_callers() {
    for attempts in [2, 3, 5, 9] {
        let script = Scripted::of([(); 9].map(|()| UNAVAILABLE));
        let policy = policy().with_max_attempts(attempts);
        let answer = call(&mut retry(&script, policy), request()).await;
        assert_eq!(answer.unwrap(), Some(14), "as the server said it");
        let most = attempts.min(5) as usize;
        assert_eq!(script.attempts(), most, "at most five");
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_codes_of_the_policy_are_tried_again() {
    for code in (0..=16).filter(|code| *code != 14) {
        let script = Scripted::of([Status(code, &[])]);
        let answer = call(&mut retry(&script, policy()), request()).await;
        assert_eq!((answer.unwrap(), script.attempts()), (Some(code), 1));
    }
    let script = Scripted::of([Status(8, &[]), UNAVAILABLE]);
    let policy = policy().with_codes([8]);
    let answer = call(&mut retry(&script, policy), request()).await;
    assert_eq!((answer.unwrap(), script.attempts()), (Some(14), 2));
}

#[tokio::test(start_paused = true)]
async fn errors_are_tried_again_by_their_kind() {
    let lost = || Fail(Error::endpoint("lost"));
    let script = Scripted::of([lost(), Fail(Error::unavailable("none", None)), Answer]);
    let answer = call(&mut retry(&script, policy()), request()).await;
    assert_eq!((answer.unwrap(), script.attempts()), (None, 3));

    let script = Scripted::of([lost()]);
    let without = policy().with_transport_errors(false);
    let error = call(&mut retry(&script, without), request()).await;
    assert!(
        error.unwrap_err().is_endpoint(),
        "where they are not wanted"
    );

    let script = Scripted::of([Fail(Error::closed())]);
    let error = call(&mut retry(&script, policy()), request()).await;
    assert!(error.unwrap_err().is_closed(), "nothing can help any more");

    let script = Scripted::of([Fail(Error::unavailable("none", None))]);
    let without = policy().with_codes([0_i32; 0]);
    let error = call(&mut retry(&script, without), request()).await;
    assert!(error.unwrap_err().is_unavailable(), "by its code");
}

#[tokio::test(start_paused = true)]
async fn pushback_is_exact_and_the_backoff_starts_over() {
    let pushback = Status(14, &[("grpc-retry-pushback-ms", "777")]);
    let script = Scripted::of([UNAVAILABLE, UNAVAILABLE, pushback, UNAVAILABLE, Answer]);
    let answer = call(&mut retry(&script, policy()), request()).await;
    assert_eq!(answer.unwrap(), None);
    assert_eq!(
        script.gaps(),
        [50, 100, 777, 50],
        "the server's delay, then the first one again"
    );
}

#[tokio::test(start_paused = true)]
async fn pushback_may_say_no() {
    for headers in [
        &[("grpc-retry-pushback-ms", "-1")],
        &[("grpc-retry-pushback-ms", "soon")],
    ] {
        let script = Scripted::of([Status(14, headers)]);
        let answer = call(&mut retry(&script, policy()), request()).await;
        assert_eq!((answer.unwrap(), script.attempts()), (Some(14), 1));
    }
    let script = Scripted::of([Status(3, &[("grpc-retry-pushback-ms", "5")])]);
    let answer = call(&mut retry(&script, policy()), request()).await;
    assert_eq!(
        (answer.unwrap(), script.attempts()),
        (Some(3), 1),
        "it makes no other code one to try again"
    );
    let script = Scripted::of([Status(14, &[("grpc-retry-pushback-ms", "0")]), Answer]);
    call(&mut retry(&script, policy()), request())
        .await
        .unwrap();
    assert_eq!(script.gaps(), [0], "at once");
}

#[tokio::test(start_paused = true)]
async fn the_deadline_is_the_callers() {
    let script = Scripted::of([UNAVAILABLE, UNAVAILABLE, UNAVAILABLE]);
    let mut request = request();
    request
        .headers_mut()
        .insert("grpc-timeout", "200m".parse().unwrap());
    let began = Instant::now();
    let answer = call(&mut retry(&script, policy()), request).await;
    assert_eq!(answer.unwrap(), Some(14), "the last failure");
    assert_eq!(
        began.elapsed().as_millis(),
        150,
        "a wait beyond the deadline is not begun"
    );
    let said = script.header("grpc-timeout");
    let want = ["200m", "150000u", "50000000n"].map(|s| Some(s.to_owned()));
    assert_eq!(said, want, "each attempt is told what is left");
}

#[tokio::test(start_paused = true)]
async fn no_attempt_begins_after_the_deadline() {
    let script = Scripted::of([UNAVAILABLE, Answer]);
    script.busy_for(Duration::from_secs(1));
    let mut request = request();
    request
        .headers_mut()
        .insert("grpc-timeout", "200m".parse().unwrap());
    let error = call(&mut retry(&script, policy()), request).await;
    assert!(error.unwrap_err().is_timeout(), "the caller's time is over");
    assert_eq!(script.attempts(), 1, "nobody is asked for nothing");
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_service_is_a_part_of_its_attempts_time() {
    let limited = policy().with_attempt_timeout(Duration::from_millis(30));
    let script = Scripted::of([UNAVAILABLE]);
    script.busy_for(Duration::from_secs(1));
    let began = Instant::now();
    let error = call(&mut retry(&script, limited.with_max_attempts(3)), request()).await;
    assert!(error.unwrap_err().is_timeout(), "no attempt is left");
    let want = 50 + 30 + 100 + 30;
    assert_eq!(began.elapsed().as_millis(), want, "two waits, two limits");

    let script = Scripted::of([UNAVAILABLE, Answer]);
    script.busy_for(Duration::from_millis(60));
    let answer = call(&mut retry(&script, limited), request()).await;
    assert_eq!(answer.unwrap(), None, "10 ms of its 30 are enough");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_over_its_time_is_its_endpoints_failure_and_tried_again() {
    let limited = policy().with_attempt_timeout(Duration::from_millis(30));
    let script = Scripted::of([Hang, Answer]);
    let answer = call(&mut retry(&script, limited), request()).await;
    assert_eq!(answer.unwrap(), None);
    assert_eq!(script.gaps(), [80], "30 ms, and the delay");
    assert_eq!(*script.dropped.lock().unwrap(), [true], "for its time");

    let script = Scripted::of([Hang, Hang]);
    let limited = limited.with_max_attempts(2);
    let error = call(&mut retry(&script, limited), request()).await;
    assert!(error.unwrap_err().is_timeout(), "no attempt is left");
    assert_eq!(*script.dropped.lock().unwrap(), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_cancels_the_attempt_and_the_wait() {
    let script = Scripted::of([Hang, UNAVAILABLE]);
    let mut service = retry(&script, policy());
    for (attempts, dropped) in [(1, 1), (2, 1)] {
        let given_up = call(&mut service, request());
        let limit = Duration::from_millis(10);
        assert!(tokio::time::timeout(limit, given_up).await.is_err());
        assert_eq!(script.attempts(), attempts);
        assert_eq!(script.dropped.lock().unwrap().len(), dropped);
    }
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(script.attempts(), 2, "nothing goes on behind its back");
    assert_eq!(*script.dropped.lock().unwrap(), [false], "not for its time");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_say_that_it_is_not_tried_again() {
    let script = Scripted::of([UNAVAILABLE]);
    let mut once = request();
    once.extensions_mut().insert(NoRetry);
    let answer = call(&mut retry(&script, policy()), once).await;
    assert_eq!((answer.unwrap(), script.attempts()), (Some(14), 1));
    assert_eq!(script.seen.lock().unwrap()[0].body, "ping");
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_the_buffer_is_sent_once_and_whole() {
    let script = Scripted::of([UNAVAILABLE]);
    let small = policy().with_buffer_limit_bytes(3);
    let answer = call(&mut retry(&script, small), request()).await;
    assert_eq!((answer.unwrap(), script.attempts()), (Some(14), 1));
    assert_eq!(script.seen.lock().unwrap()[0].body, "ping");
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_does_not_read_on_while_the_next_one_waits() {
    let (frames, body) = futures::channel::mpsc::unbounded();
    let frame = |text: &'static str| Ok::<_, std::io::Error>(Frame::data(Bytes::from(text)));
    frames.unbounded_send(frame("ab")).unwrap();
    let sent = Arc::new(Mutex::new(Vec::new()));
    let attempts = sent.clone();
    // Answers at once, and has the body read on the side, as connections do.
    let service = tower::service_fn(move |request: Request<RetryBody<_>>| {
        let first = !request.headers().contains_key(PREVIOUS_ATTEMPTS);
        let body = tokio::spawn(request.into_body().collect());
        attempts.lock().unwrap().push(body);
        let response = Response::builder().header("grpc-status", if first { 14 } else { 0 });
        std::future::ready(Ok::<_, Error>(
            response.body(Empty::<Bytes>::new()).unwrap(),
        ))
    });
    let layer = RetryLayer::new(policy().with_buffer_limit_bytes(3)).unwrap();
    let call = layer
        .layer(service)
        .call(Request::new(StreamBody::new(body)));
    let later = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        frames.unbounded_send(frame("cd")).unwrap();
        drop(frames);
    };
    let (response, ()) = tokio::join!(call, later);
    let response = response.expect("the request was whole when the attempt failed");
    assert_eq!(response.headers()["grpc-status"], "0", "the second attempt");
    let second = sent.lock().unwrap().pop().unwrap();
    let body = second.await.unwrap().expect("the body is whole");
    assert_eq!(body.to_bytes(), "abcd", "what came during the wait, too");
}

#[tokio::test(start_paused = true)]
async fn the_throttle_stops_retries_while_most_calls_fail() {
    let script = Scripted::default();
    let throttled = policy().with_throttle(ThrottleSettings::new(4, 0.8));
    let mut service = retry(&script, throttled);
    script.add([UNAVAILABLE, UNAVAILABLE]);
    assert_eq!(call(&mut service, request()).await.unwrap(), Some(14));
    assert_eq!(script.attempts(), 2, "3 tokens: again; 2: no more");
    // The server's refusal of a retry takes a token, too.
    script.add([Status(14, &[("grpc-retry-pushback-ms", "-1")])]);
    call(&mut service, request()).await.unwrap();
    // 1 token; two successes are not enough, three are (3.4).
    script.add([Answer, Answer]);
    call(&mut service, request()).await.unwrap();
    call(&mut service, request()).await.unwrap();
    script.add([UNAVAILABLE]);
    call(&mut service, request()).await.unwrap();
    assert_eq!(script.attempts(), 6, "2.6, less one: no retry");
    script.add([Answer, Answer]);
    call(&mut service, request()).await.unwrap();
    call(&mut service, request()).await.unwrap();
    script.add([UNAVAILABLE, Answer]);
    let answer = call(&mut service, request()).await;
    assert_eq!(answer.unwrap(), None, "3.2, less one: again");
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_a_storm() {
    let budget = BudgetSettings::default().with_min_per_second(1);
    let script = Scripted::of((0..5_000).map(|_| UNAVAILABLE));
    let mut service = retry(&script, policy().with_budget(budget));
    let mut calls = 0;
    let began = Instant::now();
    while calls < 1_000 {
        assert_eq!(call(&mut service, request()).await.unwrap(), Some(14));
        calls += 1;
    }
    let took = began.elapsed();
    let retries = script.attempts() - calls;
    // A retry for each five calls, and ten in reserve, over and over: one more each second.
    let most = calls / 5 + 10 + took.as_secs() as usize;
    assert!(
        retries <= most && retries > calls / 10,
        "{retries} retries for {calls} calls in {took:?}, at most {most}"
    );
}

#[tokio::test(start_paused = true)]
async fn services_of_one_layer_share_a_budget() {
    let script = Scripted::of((0..100).map(|_| UNAVAILABLE));
    let budget = BudgetSettings::default()
        .with_min_per_second(0)
        .with_percent(100);
    let layer = RetryLayer::new(policy().with_max_attempts(2).with_budget(budget)).unwrap();
    let mut services = [(); 4].map(|()| layer.layer(script.clone()));
    for service in &mut services {
        call(service, request()).await.unwrap();
    }
    assert_eq!(script.attempts(), 8, "each call pays for its own retry");
    script.seen.lock().unwrap().clear();
    let throttled = BudgetSettings::default()
        .with_min_per_second(0)
        .with_percent(50);
    let layer = RetryLayer::new(policy().with_max_attempts(2).with_budget(throttled)).unwrap();
    let mut services = [(); 4].map(|()| layer.layer(script.clone()));
    for service in &mut services {
        call(service, request()).await.unwrap();
    }
    assert_eq!(script.attempts(), 6, "two calls of two services for each");
}

#[test]
fn outside_of_a_runtime_what_needs_a_wait_is_not_tried_again() {
    let script = Scripted::of([UNAVAILABLE]);
    let mut service = retry(&script, policy());
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut call = std::pin::pin!(service.call(request()));
    let Poll::Ready(answer) = call.as_mut().poll(&mut cx) else {
        panic!("there is nothing to wait with");
    };
    assert_eq!(answer.unwrap().headers()["grpc-status"], "14");
}

/// The answer of a service that fails, in whatever runtime is here.
async fn without_timers(mut service: Retry<Scripted>) -> Response<Empty<Bytes>> {
    std::future::poll_fn(|cx| service.poll_ready(cx))
        .await
        .unwrap();
    service.call(request()).await.unwrap()
}

#[test]
fn in_a_runtime_without_timers_what_needs_a_wait_is_not_tried_again() {
    let script = Scripted::of([UNAVAILABLE]);
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.build().unwrap();
    let answer = runtime.block_on(async { without_timers(retry(&script, policy())).await });
    assert_eq!(answer.headers()["grpc-status"], "14", "the failure itself");
}

#[test]
fn with_a_runtime_that_is_gone_what_needs_a_wait_is_not_tried_again() {
    let script = Scripted::of([UNAVAILABLE]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let service = runtime.block_on(async { retry(&script, policy()) });
    drop(runtime);
    let answer = futures::executor::block_on(without_timers(service));
    assert_eq!(answer.headers()["grpc-status"], "14", "the failure itself");
}
