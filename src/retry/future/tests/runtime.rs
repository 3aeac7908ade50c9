//! Where there are no timers.

use std::sync::atomic::{AtomicUsize, Ordering};

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
async fn without_timers(mut service: Retry<Scripted>) -> Response<ResponseBody<Empty<Bytes>>> {
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

/// How often this thread panics, caught or not, while `f` runs.
fn panics(f: impl FnOnce()) -> usize {
    let me = std::thread::current().id();
    let count = Arc::new(AtomicUsize::new(0));
    let before = Arc::new(std::panic::take_hook());
    let (counter, others) = (count.clone(), before.clone());
    std::panic::set_hook(Box::new(move |panic| {
        match std::thread::current().id() == me {
            true => drop(counter.fetch_add(1, Ordering::Relaxed)),
            false => others(panic),
        }
    }));
    f();
    std::panic::set_hook(Box::new(move |panic| before(panic)));
    count.load(Ordering::Relaxed)
}

#[test]
fn a_runtime_without_timers_is_asked_for_one_once_a_call() {
    let script = Scripted::of([Hang]);
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.build().unwrap();
    let _context = runtime.enter();
    let limited = policy().with_attempt_timeout(Duration::from_millis(30));
    let mut service = retry(&script, limited);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut call = std::pin::pin!(service.call(request()));
    let told = panics(|| {
        for _ in 0..10 {
            assert!(call.as_mut().poll(&mut cx).is_pending(), "it hangs");
        }
    });
    assert_eq!(told, 1, "tokio says it by a panic, and prints that");
}
