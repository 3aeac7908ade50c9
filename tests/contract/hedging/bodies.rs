//! Requests that stream while several attempts read them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_body_streams_to_two_attempts_at_once() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(50 * MILLI))));
    let (_balance, hedged) = hedging!(servers, names, policy(2));
    let (pieces, request) = request_in_pieces();
    pieces.send("one ");
    let calling = tokio::spawn(async move { call_with(&hedged, request).await });
    let reached = servers.clone();
    tokio::time::sleep(150 * MILLI).await;
    assert_eq!(reached.count(), 2, "both have it, and wait for the rest");
    pieces.send("two ");
    settle().await;
    pieces.send("three");
    drop(pieces);
    let answer = within("the call", calling).await.unwrap().unwrap();
    let said = answer.said.split_once(' ').unwrap().1;
    assert_eq!(said, "got one two three", "the winner has all of it");
    let mut got = servers.take_got();
    got.sort();
    let whole = names.map(|name| (name.to_owned(), "one two three".to_owned()));
    assert_eq!(got, whole, "and so has the other one");
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_what_is_kept_goes_on_at_one_endpoint_and_none_is_at_fault() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(50 * MILLI))));
    let hedge = policy(2).with_buffer_limit_bytes(8);
    let (balance, hedged) = hedging!(servers, names, hedge, at_the_first_failure());
    let (pieces, request) = request_in_pieces();
    pieces.send("12345678");
    let calling = tokio::spawn(async move { call_with(&hedged, request).await });
    tokio::time::sleep(150 * MILLI).await;
    assert_eq!(servers.count(), 2, "two attempts");
    pieces.send("9");
    settle().await;
    assert_eq!(servers.take_dropped().len(), 1, "one goes on");
    drop(pieces);
    let answer = within("the call", calling).await.unwrap().unwrap();
    assert!(answer.said.ends_with("got 123456789"), "{answer:?}");
    for name in names {
        assert_eq!(endpoint(&balance, name).failures, 0, "no fault of {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_by_itself_ends_the_call_and_sends_no_hedge() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(50 * MILLI))));
    let (_balance, hedged) = hedging!(servers, names, policy(3));
    let (pieces, request) = request_in_pieces();
    let calling = tokio::spawn(async move { call_with(&hedged, request).await });
    tokio::time::sleep(150 * MILLI).await;
    pieces.fail("the caller's own");
    let error = within("the call", calling).await.unwrap().unwrap_err();
    assert!(error.is_endpoint(), "as it was: {error}");
    settle().await;
    assert_eq!(servers.count(), 2, "no third attempt");
}

#[tokio::test(start_paused = true)]
async fn who_alone_had_the_whole_request_has_the_last_word() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    // The first reads nothing for long; the second reads more than is kept, and fails.
    let service = service_fn(move |request: Request<RetryBody<Body>>| {
        let attempt = counted.fetch_add(1, Ordering::SeqCst);
        async move {
            if attempt == 0 {
                tokio::time::sleep(SECOND).await;
            }
            let body = request.into_body().collect().await;
            let whole = body.is_ok_and(|body| body.to_bytes().len() == 4_000);
            assert!(whole, "all of it");
            let mut response = Response::new(Full::new(Bytes::from_static(b"?")));
            if attempt > 0 {
                let unavailable = http::HeaderValue::from_static("14");
                response.headers_mut().insert("grpc-status", unavailable);
            }
            Ok::<_, Error>(response)
        }
    });
    let hedge = HedgeLayer::new(policy(2).with_buffer_limit_bytes(1_000)).unwrap();
    let frames = (0..4).map(|_| Ok(Frame::data(Bytes::from(vec![7; 1_000]))));
    let body = StreamBody::new(futures::stream::iter(frames)).boxed_unsync();
    let answer = call_with(&hedge.layer(service), Request::new(body))
        .await
        .unwrap();
    assert_eq!(
        answer.status.as_deref(),
        Some("14"),
        "no other could have answered"
    );
    assert_eq!(
        answer.millis, 100,
        "and nobody waits for one that never can"
    );
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_have_the_whole_request_is_not_the_answer() {
    let began = Instant::now();
    let first = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let service = service_fn(move |request: Request<RetryBody<Body>>| {
        let first = first.swap(false, std::sync::atomic::Ordering::SeqCst);
        async move {
            // Both go on in the same poll of the call.
            tokio::time::sleep_until(began + 150 * MILLI).await;
            let body = request.into_body();
            let body = match first {
                // Reads more than is kept, and answers later.
                true => {
                    let body = body.collect().await.expect("it has the request");
                    tokio::time::sleep(SECOND).await;
                    Full::new(body.to_bytes())
                        .map_err(|never| match never {})
                        .boxed_unsync()
                }
                // Answers at once, and reads on as it is read from.
                false => body.boxed_unsync(),
            };
            Ok::<_, Error>(Response::new(body))
        }
    });
    let hedge = HedgeLayer::new(policy(2).with_buffer_limit_bytes(4)).unwrap();
    let (pieces, request) = request_in_pieces();
    pieces.send("this ");
    pieces.send("is ");
    pieces.send("whole");
    drop(pieces);
    let got = call_with(&hedge.layer(service), request).await.unwrap();
    assert_eq!(
        got,
        answer("this is whole", 1_150),
        "the early answer came from one that could not have it"
    );
}
