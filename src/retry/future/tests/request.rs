//! What becomes of the request.

use http_body::Frame;
use http_body_util::StreamBody;

use super::*;
use crate::call::NoRetry;
use crate::retry::repeat::PREVIOUS_ATTEMPTS;

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
