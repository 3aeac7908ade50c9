//! Where there are no timers.

use super::*;

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
