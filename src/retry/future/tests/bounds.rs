//! What holds for all calls together: the throttle and the budget.

use http_body::Frame;
use http_body_util::StreamBody;

use super::*;
use crate::retry::{BudgetSettings, ThrottleSettings};

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

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_by_itself_takes_no_token() {
    let layer = RetryLayer::new(policy().with_throttle(ThrottleSettings::new(4, 0.1))).unwrap();
    let broken = futures::stream::iter([
        Ok(Frame::data(Bytes::from("ping"))),
        Err(std::io::Error::other("the caller's own")),
    ]);
    let service = tower::service_fn(async |request: Request<RetryBody<_>>| {
        let body = request.into_body().collect().await;
        let error = body.expect_err("the body is broken");
        Err::<Response<Empty<Bytes>>, _>(Error::endpoint(error))
    });
    let call_of_broken = layer
        .layer(service)
        .call(Request::new(StreamBody::new(broken)));
    let error = call_of_broken.await.expect_err("there is no request");
    assert!(error.is_endpoint(), "as it was: {error}");

    let script = Scripted::of([UNAVAILABLE, Answer]);
    let answer = call(&mut layer.layer(script), request()).await;
    assert_eq!(answer.unwrap(), None, "3 of 4 tokens are left: again");
}

#[tokio::test(start_paused = true)]
async fn a_begun_response_pays_the_throttle_by_its_end() {
    let layer = RetryLayer::new(policy().with_throttle(ThrottleSettings::new(4, 1.0))).unwrap();
    let status = Arc::new(Mutex::new("14"));
    let said = status.clone();
    let service = tower::service_fn(move |_: Request<RetryBody<Full<Bytes>>>| {
        let mut trailers = http::HeaderMap::new();
        trailers.insert(
            "grpc-status",
            HeaderValue::from_static(*said.lock().unwrap()),
        );
        let data = Frame::data(Bytes::from("pong"));
        let frames = [data, Frame::trailers(trailers)].map(Ok::<_, std::io::Error>);
        let body = StreamBody::new(futures::stream::iter(frames));
        std::future::ready(Ok::<_, Error>(Response::new(body)))
    });
    let mut streams = layer.layer(service);
    let mut stream = async || {
        let response = streams.call(request()).await.expect("it begins");
        let body = response.into_body().collect().await;
        assert!(body.unwrap().trailers().is_some(), "as it came");
    };
    stream().await;
    let script = Scripted::of([UNAVAILABLE]);
    let answer = call(&mut layer.layer(script), request()).await;
    assert_eq!(answer.unwrap(), Some(14), "3 tokens, less one: no retry");
    *status.lock().unwrap() = "0";
    stream().await;
    stream().await;
    let script = Scripted::of([UNAVAILABLE, Answer]);
    let answer = call(&mut layer.layer(script), request()).await;
    assert_eq!(answer.unwrap(), None, "4, less one: again");
}
