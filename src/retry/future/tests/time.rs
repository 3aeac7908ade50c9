//! Deadlines, the time limit of an attempt, and callers that give up.

use super::*;

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
