//! Which failures are tried again, how often and when.

use super::*;
use crate::call::NoRetry;

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
async fn what_the_caller_says_of_earlier_attempts_is_not_passed_on() {
    let name = "grpc-previous-rpc-attempts";
    let forwarded = || {
        let mut request = request();
        (request.headers_mut()).insert(name, HeaderValue::from_static("7"));
        request
    };
    let script = Scripted::of([UNAVAILABLE, Answer]);
    let answer = call(&mut retry(&script, policy()), forwarded()).await;
    assert_eq!(answer.unwrap(), None);
    assert_eq!(
        script.header(name),
        [None, Some("1".to_owned())],
        "that of another call, which this one was made for"
    );
    let script = Scripted::of([Answer]);
    let mut once = forwarded();
    once.extensions_mut().insert(NoRetry);
    let answer = call(&mut retry(&script, policy()), once).await;
    assert_eq!(answer.unwrap(), None);
    assert_eq!(script.header(name), [None], "nor where there is no other");
}
