//! Which answers end a call, and what holds back further attempts.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_not_fatal_sends_the_next_at_once() {
    let names = ["a", "b", "c"];
    let servers = Servers::of([
        ("a", fails(10 * MILLI, 14)),
        ("b", fails(10 * MILLI, 14)),
        ("c", answers(10 * MILLI)),
    ]);
    let (balance, hedged) = hedging!(servers, names, policy(3));
    for _ in 0..9 {
        let got = call(&hedged).await;
        assert_eq!(got.said, "c got ping", "two bad ones, three attempts");
        let at: Vec<u128> = servers.take_times().iter().map(|(_, at)| *at).collect();
        assert!(
            [0, 10, 20].starts_with(&at),
            "no wait for the delay: {at:?}"
        );
    }
    assert_eq!(endpoint(&balance, "c").in_flight, 0);

    // While another is under way, too, and the delay goes on from there.
    let servers = Servers::of([
        ("a", hangs()),
        ("b", fails(20 * MILLI, 14)),
        ("c", answers(300 * MILLI)),
        ("d", answers(10 * MILLI)),
    ]);
    let names = ["a", "b", "c", "d"];
    let (_balance, hedged) = hedging!(servers, names, policy(4));
    let mut found = false;
    for _ in 0..8 {
        call(&hedged).await;
        let times = servers.take_times();
        if times[0].0 == "a" {
            let expected = [("a", 0), ("b", 100), ("c", 120), ("d", 220)];
            assert_eq!(times, expected.map(|(name, at)| (name.to_owned(), at)));
            found = true;
        }
    }
    assert!(found, "a has its turn");
}

#[tokio::test(start_paused = true)]
async fn a_fatal_answer_is_the_callers_at_once() {
    let servers = Servers::of([("a", hangs()), ("b", fails(10 * MILLI, 3))]);
    let (balance, hedged) = hedging!(servers, ["a", "b"], policy(2));
    let mut hedges = 0;
    for _ in 0..4 {
        let answer = call(&hedged).await;
        assert_eq!(answer.status.as_deref(), Some("3"), "b's word");
        assert!([10, 110].contains(&answer.millis), "{answer:?}");
        hedges += usize::from(answer.millis == 110);
    }
    settle().await;
    let dropped = servers.take_dropped();
    assert!(hedges > 0, "a had its turn");
    assert_eq!(dropped, vec!["a"; hedges], "the others are cancelled");
    assert_eq!(endpoint(&balance, "a").failures, 0);

    let unavailable_too = policy(2).with_codes([0_i32; 0]);
    let servers = Servers::of([("a", fails(10 * MILLI, 14)), ("b", answers(MILLI))]);
    let (_balance, hedged) = hedging!(servers, ["a", "b"], unavailable_too);
    let answers = [call(&hedged).await, call(&hedged).await];
    let failed = answers.iter().filter(|answer| answer.status.is_some());
    assert_eq!(
        failed.count(),
        1,
        "gRFC A6 names none by itself: {answers:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn of_two_slow_ones_the_first_to_answer_wins() {
    let servers = Servers::of([("a", answers(150 * MILLI)), ("b", answers(300 * MILLI))]);
    let (_balance, hedged) = hedging!(servers, ["a", "b"], policy(2));
    for _ in 0..4 {
        let got = call(&hedged).await;
        let first = servers.take()[0].server.clone();
        let expected = match first.as_str() {
            // The hedge at 101 ms would have it at 400.
            "a" => answer("a got ping", 150),
            _ => answer("a got ping", 100 + 150),
        };
        assert_eq!(got, expected, "{first} was first");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_may_push_back() {
    let names = ["a", "b"];
    for (pushback, want) in [
        ("-1", vec![0]),
        ("soon", vec![0]),
        ("250", vec![0, 260]),
        ("0", vec![0, 10]),
    ] {
        let does = Does {
            pushback: Some(pushback),
            ..fails(10 * MILLI, 14)
        };
        let servers = Servers::of(names.map(|name| (name, does)));
        let (_balance, hedged) = hedging!(servers, names, policy(2));
        let answer = call(&hedged).await;
        assert_eq!(answer.status.as_deref(), Some("14"), "{pushback}");
        let at: Vec<u128> = servers.take_times().iter().map(|(_, at)| *at).collect();
        assert_eq!(at, want, "{pushback}");
    }
    // One that stops further hedges ends none that are under way.
    let refuses = Does {
        pushback: Some("-1"),
        ..fails(10 * MILLI, 14)
    };
    let servers = Servers::of([("a", answers(400 * MILLI)), ("b", refuses), ("c", refuses)]);
    let (_balance, hedged) = hedging!(servers, ["a", "b", "c"], policy(3));
    let mut waited = false;
    for _ in 0..6 {
        let got = call(&hedged).await;
        let seen = servers.take();
        if seen[0].server == "a" {
            assert_eq!(got, answer("a got ping", 400), "its answer counts still");
            assert_eq!(seen.len(), 2, "and no third was sent");
            waited = true;
        }
    }
    assert!(waited, "a has its turn");
}

#[tokio::test(start_paused = true)]
async fn the_budget_bounds_hedges_and_the_calls_go_on_without() {
    let names = ["a", "b", "c"];
    let servers = Servers::of(names.map(|name| (name, answers(200 * MILLI))));
    let budget = BudgetSettings::default().with_min_per_second(0);
    let (_balance, hedged) = hedging!(servers, names, policy(5).with_budget(budget));
    let calls = 1_000;
    let all = futures::future::join_all((0..calls).map(|_| call(&hedged))).await;
    assert!(all.iter().all(|answer| answer.millis == 200), "none fails");
    let attempts = servers.take().len();
    assert_eq!(
        attempts,
        calls + calls / 5,
        "a fifth more, and not three times"
    );

    let none = budget.with_percent(0);
    let failing = Servers::of(names.map(|name| (name, fails(MILLI, 14))));
    let (_balance, hedged) = hedging!(failing, names, policy(5).with_budget(none));
    assert_eq!(call(&hedged).await.status.as_deref(), Some("14"));
    assert_eq!(failing.count(), 1, "nor after a failure");
}

#[tokio::test(start_paused = true)]
async fn the_throttle_stops_hedges_while_most_calls_fail() {
    let names = ["a", "b", "c"];
    let servers = Servers::of(names.map(|name| (name, fails(MILLI, 14))));
    let throttled = policy(2).with_throttle(ThrottleSettings::new(4, 0.5));
    let (_balance, hedged) = hedging!(servers, names, throttled);
    call(&hedged).await;
    assert_eq!(servers.take().len(), 2, "3 of 4 tokens are left: again");
    call(&hedged).await;
    assert_eq!(servers.take().len(), 1, "1 token: no more");
    for name in names {
        servers.set(name, answers(200 * MILLI));
    }
    call(&hedged).await;
    assert_eq!(servers.take().len(), 1, "nor for one that is slow");
    // 1.5 so far; 3 more calls make it 3.
    for _ in 0..3 {
        call(&hedged).await;
    }
    servers.take();
    call(&hedged).await;
    assert_eq!(servers.take().len(), 2, "successes pay it back");
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_finds_nobody_does_not_hide_why_the_call_failed() {
    for pushback in [Some("-1"), None] {
        let attempts = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = attempts.clone();
        let service = service_fn(move |_: Request<RetryBody<Body>>| {
            let attempt = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async move {
                if attempt == 1 {
                    tokio::time::sleep(200 * MILLI).await;
                    return Err(Error::connect("the service that it waited for is gone"));
                }
                tokio::time::sleep(150 * MILLI).await;
                let mut response = Response::builder().header("grpc-status", "14");
                if let Some(pushback) = pushback {
                    response = response.header("grpc-retry-pushback-ms", pushback);
                }
                let why = format!("attempt {attempt}: closed for today");
                let response = response.header("grpc-message", why);
                Ok(response.body(Full::new(Bytes::new())).unwrap())
            }
        });
        let nobody = |error: &Error| match error.is_connect() {
            true => ErrorKind::NotSent,
            false => ErrorKind::Final,
        };
        let hedge = HedgeLayer::new(policy(2)).unwrap().reading_errors(nobody);
        let began = Instant::now();
        let answer = within("a call", hedge.layer(service).oneshot(request())).await;
        let answer = answer.expect("the server's own words");
        assert_eq!(answer.headers()["grpc-status"], "14", "{pushback:?}");
        let (said, millis) = match pushback {
            Some(_) => ("attempt 0: closed for today", 300),
            None => ("attempt 2: closed for today", 300 + 150),
        };
        let word = &answer.headers()["grpc-message"];
        assert_eq!(word, said, "the last that a server had");
        let took = began.elapsed().as_millis();
        assert_eq!(took, millis, "once nobody is left to answer");
    }
}

#[tokio::test(start_paused = true)]
async fn a_next_attempt_that_finds_no_endpoint_does_not_hide_why_the_call_failed() {
    let attempts = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = attempts.clone();
    let service = service_fn(move |_: Request<RetryBody<Body>>| {
        let attempt = counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            if attempt > 0 {
                return Err(Error::connect("no endpoint is left"));
            }
            let response = Response::builder()
                .header("grpc-status", "14")
                .header("grpc-message", "closed for today");
            Ok(response.body(Full::new(Bytes::new())).unwrap())
        }
    });
    let hedge = HedgeLayer::new(policy(3)).unwrap();
    let answer = within("a call", hedge.layer(service).oneshot(request())).await;
    let answer = answer.expect("the server's own words, and not that later attempts had none");
    assert_eq!(answer.headers()["grpc-message"], "closed for today");
    let attempts = attempts.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(attempts, 3, "all that the call may have");
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_came_with_a_page_leaves_its_endpoint_while_another_attempt_goes_on() {
    let names = ["a", "b"];
    let page = Does {
        http: 503,
        ..answers(10 * MILLI)
    };
    let servers = Servers::of([("a", hangs()), ("b", hangs())]);
    let (balance, hedged) = hedging!(servers, names, policy(2));
    let call = tokio::spawn(hedged.clone().oneshot(request()));
    until("the first attempt is under way", || servers.count() == 1).await;
    let first = servers.take_times().remove(0).0;
    let second = if first == "a" { "b" } else { "a" };
    servers.set(second, page);
    tokio::time::sleep(200 * MILLI).await;
    settle().await;
    assert_eq!(servers.count(), 1, "the hedge was sent");
    assert!(!call.is_finished(), "the first attempt may answer yet");
    let report = endpoint(&balance, second);
    assert_eq!(
        (report.in_flight, report.failures),
        (0, 1),
        "what failed is over for its endpoint, and counts: {report}"
    );
    assert_eq!(endpoint(&balance, &first).in_flight, 1, "the other one");
    call.abort();
}

#[tokio::test(start_paused = true)]
async fn one_budget_may_be_shared_with_retries() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(200 * MILLI))));
    let budget = BudgetSettings::default()
        .with_min_per_second(0)
        .with_percent(50);
    let retries = RetryLayer::new(RetryPolicy::default().with_budget(budget)).unwrap();
    let layer = HedgeLayer::new(policy(2)).unwrap();
    let layer = layer.within_bounds_of(&retries);
    let (balance, hedged) = hedging!(
        servers,
        names,
        RoundRobin::default(),
        Ejection::off(),
        layer
    );
    call(&hedged).await;
    assert_eq!(servers.take().len(), 1, "one call pays for half a hedge");
    let failing = tower::util::MapResponse::new(balance, |mut response: Response<_>| {
        (response.headers_mut()).insert("grpc-status", 14.into());
        response
    });
    let retried = retries.layer(failing);
    let response = within("a call", retried.oneshot(request())).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(
        servers.take().len(),
        2,
        "with what the hedged call has paid in, for one retry"
    );
    for attempts in [1, 2] {
        call(&hedged).await;
        assert_eq!(
            servers.take().len(),
            attempts,
            "the retry has spent all there was"
        );
    }
}
