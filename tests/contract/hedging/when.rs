//! When attempts are made, where they go, and what becomes of those that lost.

use super::*;

#[tokio::test(start_paused = true)]
async fn after_the_delay_another_endpoint_has_the_call_and_the_first_good_answer_wins() {
    let servers = Servers::of([("a", hangs()), ("b", answers(5 * MILLI))]);
    let (balance, hedged) = hedging!(servers, ["a", "b"], policy(2));
    let mut hedges = 0;
    for _ in 0..10 {
        let answer = call(&hedged).await;
        assert_eq!(answer.said, "b got ping", "the whole request");
        let seen = servers.take();
        match seen.len() {
            1 => assert_eq!(answer.millis, 5, "b had it first: no hedge"),
            _ => {
                hedges += 1;
                assert_eq!(answer.millis, 100 + 5, "the delay, and an answer");
                assert_eq!(seen[1].previous.as_deref(), Some("1"), "gRFC A6");
                assert_eq!(servers.take_dropped(), ["a"], "the loser is cancelled");
            }
        }
    }
    assert!(hedges >= 5, "a had its turn: {hedges}");
    settle().await;
    for name in ["a", "b"] {
        let report = endpoint(&balance, name);
        assert_eq!(
            (report.failures, report.in_flight),
            (0, 0),
            "a lost attempt is no failure, and gives its load back: {report}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_answered_in_time_has_no_hedge() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(99 * MILLI))));
    let (_balance, hedged) = hedging!(servers, names, policy(2));
    for calls in 1..=10 {
        call(&hedged).await;
        assert_eq!(servers.count(), calls, "one attempt for each call");
    }
}

#[tokio::test(start_paused = true)]
async fn hedges_follow_each_other_at_the_delay_each_to_an_endpoint_not_yet_tried() {
    async fn over<P: Policy>(policy: P, hedge: HedgePolicy) {
        let name = policy.name();
        let names = ["a", "b", "c", "d"];
        let servers = Servers::of(names.map(|name| (name, answers(SECOND))));
        let (_balance, hedged) = hedging!(
            servers,
            names,
            policy,
            Ejection::off(),
            HedgeLayer::new(hedge).unwrap()
        );
        for _ in 0..5 {
            let answer = call(&hedged).await;
            assert!(answer.millis == 1_000, "the first to answer: {answer:?}");
            let times = servers.take_times();
            let at: Vec<u128> = times.iter().map(|(_, at)| *at).collect();
            assert_eq!(at, [0, 100, 200, 300], "{name}");
            assert!(answer.said.starts_with(&times[0].0), "the first was first");
            let mut reached: Vec<_> = times.into_iter().map(|(server, _)| server).collect();
            reached.sort();
            assert_eq!(reached, names, "{name}: four attempts, four endpoints");
        }
    }
    over(RoundRobin::default(), policy(4)).await;
    over(LeastRequest::default(), policy(4)).await;
    over(RingHash::default(), policy(9).with_max_attempts(4)).await;
}

#[tokio::test(start_paused = true)]
async fn without_an_endpoint_that_was_not_tried_no_hedge_is_sent() {
    let servers = Servers::of([("a", answers(SECOND))]);
    let (_balance, hedged) = hedging!(servers, ["a"], policy(3));
    assert_eq!(call(&hedged).await, answer("a got ping", 1_000));
    assert_eq!(servers.count(), 1, "no second one for the slow endpoint");

    let servers = Servers::of([("a", answers(SECOND)), ("b", answers(SECOND))]);
    let (_balance, hedged) = hedging!(servers, ["a", "b"], policy(5));
    call(&hedged).await;
    assert_eq!(servers.count(), 2, "two endpoints, two attempts");

    let servers = Servers::of([("a", answers(SECOND))]);
    let hedge = HedgeLayer::new(policy(2)).unwrap();
    let pick_first = PickFirst::default();
    let (_balance, hedged) = hedging!(servers, ["a"], pick_first, Ejection::off(), hedge);
    assert_eq!(call(&hedged).await, answer("a got ping", 1_000));
    assert_eq!(servers.count(), 1, "one connection, one attempt");
}

#[tokio::test(start_paused = true)]
async fn who_reads_errors_can_tell_that_nobody_had_a_hedge() {
    let servers = Servers::of([("a", answers(SECOND))]);
    let read = |error: &Error| match error.is_no_other() {
        true => ErrorKind::NotSent,
        false => ErrorKind::Final,
    };
    let layer = HedgeLayer::new(policy(3)).unwrap().reading_errors(read);
    let round_robin = RoundRobin::default();
    let (_balance, hedged) = hedging!(servers, ["a"], round_robin, Ejection::off(), layer);
    let got = call(&hedged).await;
    assert_eq!(got, answer("a got ping", 1_000), "the call goes on without");
}

#[tokio::test(start_paused = true)]
async fn when_all_have_failed_one_may_go_to_an_endpoint_that_had_the_call() {
    let servers = Servers::of([("a", fails(10 * MILLI, 14))]);
    let (_balance, hedged) = hedging!(servers, ["a"], policy(3));
    let answer = call(&hedged).await;
    assert_eq!(answer.status.as_deref(), Some("14"), "the last failure");
    let at: Vec<u128> = servers.take_times().iter().map(|(_, at)| *at).collect();
    assert_eq!(at, [0, 10, 20], "one after the other, at once");

    // A hedge that found no other endpoint is none of the attempts.
    let servers = Servers::of([("a", fails(500 * MILLI, 14))]);
    let (_balance, hedged) = hedging!(servers, ["a"], policy(2));
    call(&hedged).await;
    assert_eq!(servers.count(), 2, "it was not sent");
}

#[tokio::test(start_paused = true)]
async fn dropping_a_call_gives_everything_back() {
    let names = ["a", "b", "c"];
    let servers = Servers::of(names.map(|name| (name, hangs())));
    let (balance, hedged) = hedging!(servers, names, policy(3), at_the_first_failure());
    for wait in [0, 50, 150, 250] {
        let calling = tokio::spawn(hedged.clone().oneshot(request()));
        let begun = 1 + wait / 100;
        let reached = servers.clone();
        tokio::time::sleep(wait as u32 * MILLI).await;
        until("the attempts are under way", || reached.count() == begun).await;
        calling.abort();
        settle().await;
        assert_eq!(servers.take_dropped().len(), begun, "all are cancelled");
        tokio::time::sleep(SECOND).await;
        assert_eq!(servers.take().len(), begun, "and none comes after");
        for name in names {
            let report = endpoint(&balance, name);
            assert_eq!((report.failures, report.in_flight), (0, 0), "{report}");
            assert!(report.ejected.is_none(), "nobody is at fault: {report}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_hedge_is_sent_after_the_callers_deadline_and_each_is_told_what_is_left() {
    let names = ["a", "b", "c"];
    let servers = Servers::of(names.map(|name| (name, answers(SECOND))));
    let (_balance, hedged) = hedging!(servers, names, policy(3));
    let mut request = request();
    let timeout = "150m".parse().unwrap();
    request.headers_mut().insert("grpc-timeout", timeout);
    call_with(&hedged, request).await.unwrap();
    let seen = servers.take();
    let told: Vec<_> = seen.iter().map(|seen| seen.timeout.as_deref()).collect();
    assert_eq!(told, [Some("150m"), Some("50000000n")], "100 ms later");
}

#[tokio::test(start_paused = true)]
async fn a_request_may_say_that_it_is_not_hedged() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(SECOND))));
    let (_balance, hedged) = hedging!(servers, names, policy(2));
    let mut once = request();
    once.extensions_mut().insert(NoRetry);
    let answer = call_with(&hedged, once).await.unwrap();
    assert_eq!(answer.millis, 1_000);
    assert_eq!(servers.count(), 1, "one attempt");
}

#[tokio::test(start_paused = true)]
async fn all_attempts_may_be_sent_at_once() {
    let names = ["a", "b", "c"];
    let servers = Servers::of(names.map(|name| (name, answers(10 * MILLI))));
    let (_balance, hedged) = hedging!(servers, names, policy(3).with_delay(Duration::ZERO));
    assert_eq!(call(&hedged).await.millis, 10);
    let at: Vec<u128> = servers.take_times().iter().map(|(_, at)| *at).collect();
    assert_eq!(at, [0, 0, 0], "gRFC A6: no delay");
}

#[tokio::test(start_paused = true)]
async fn a_hedge_that_finds_no_room_does_the_call_no_harm() {
    let each = Limits::default().with_max_in_flight_per_endpoint(1);
    let all = Limits::default().with_max_in_flight(1);
    for (limits, names) in [(each, vec!["a"]), (all, vec!["a"]), (all, vec!["a", "b"])] {
        let servers = Servers::of(["a", "b"].map(|name| (name, answers(SECOND))));
        // No code is good enough to go on after.
        let hedge = policy(2).with_codes([0_i32; 0]);
        let (_balance, hedged) = hedging!(
            servers,
            names.clone(),
            RoundRobin::default(),
            Ejection::off(),
            HedgeLayer::new(hedge).unwrap(),
            limits
        );
        let got = call(&hedged).await;
        let seen = servers.take();
        assert_eq!(seen.len(), 1, "{names:?}: no room for another, {limits:?}");
        let said = format!("{} got ping", seen[0].server);
        assert_eq!(got, answer(&said, 1_000), "{names:?}: {limits:?}");
    }
}
