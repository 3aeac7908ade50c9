//! The delay by what calls took lately.

use super::*;

/// `calls` calls, one after the other, of which each `slow`th takes long.
async fn calls<S, R>(hedged: &S, servers: &Servers, calls: usize, usual: Duration, slow: usize)
where
    S: Service<Request<Body>, Response = Response<R>, Error = Error> + Clone,
    R: http_body::Body<Data = Bytes>,
    R::Error: std::fmt::Debug,
{
    for n in 0..calls {
        let takes = if n % slow == 0 { SECOND } else { usual };
        for name in ["a", "b"] {
            servers.set(name, answers(takes));
        }
        let calling = call(hedged);
        let quick = async {
            tokio::time::sleep(MILLI).await;
            for name in ["a", "b"] {
                servers.set(name, answers(usual));
            }
        };
        tokio::join!(calling, quick);
    }
}

#[tokio::test(start_paused = true)]
async fn the_delay_follows_the_95th_percentile() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(MILLI))));
    let initial = 77 * MILLI;
    let hedge = HedgePolicy::default()
        .with_initial_delay(initial)
        .with_budget(None);
    let (_balance, hedged) = hedging!(servers, names, hedge);
    calls(&hedged, &servers, 99, 20 * MILLI, 30).await;
    assert_eq!(hedged.delay(), initial, "99 calls say too little");
    servers.take();
    calls(&hedged, &servers, 1_000, 20 * MILLI, 30).await;
    let delay = |hedged: &Hedge<_>| hedged.delay().as_micros();
    assert!(
        (20_000..22_000).contains(&delay(&hedged)),
        "19 of 20 calls take 20 ms: {:?}",
        hedged.delay()
    );
    let attempts = servers.take().len();
    assert!(
        (1_000 + 30..1_000 + 60).contains(&attempts),
        "one in thirty is hedged: {attempts}"
    );
    // That the slow ones are hedged does not make them count as fast.
    calls(&hedged, &servers, 3_000, 20 * MILLI, 10).await;
    assert!(
        delay(&hedged) >= 40_000,
        "one in ten takes the delay and the hedge's 20 ms: {:?}",
        hedged.delay()
    );
    servers.take();
    calls(&hedged, &servers, 12_000, 5 * MILLI, 30).await;
    assert!(
        (5_000..7_000).contains(&delay(&hedged)),
        "servers that are faster now: {:?}",
        hedged.delay()
    );
}

#[tokio::test(start_paused = true)]
async fn calls_that_are_given_up_count_as_long_as_they_took() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(5 * MILLI))));
    let none = BudgetSettings::default()
        .with_percent(0)
        .with_min_per_second(0);
    let (_balance, hedged) = hedging!(servers, names, HedgePolicy::default().with_budget(none));
    calls(&hedged, &servers, 300, 5 * MILLI, 1_000).await;
    let before = hedged.delay();
    assert!(before < 10 * MILLI, "{before:?}");
    for name in names {
        servers.set(name, hangs());
    }
    for _ in 0..100 {
        let call = call(&hedged);
        assert!(tokio::time::timeout(40 * MILLI, call).await.is_err());
    }
    let delay = hedged.delay();
    assert!(
        (40 * MILLI..45 * MILLI).contains(&delay),
        "the servers are slow for all, and more hedges would not help: {delay:?}"
    );
    // Enough to be nearly all that is remembered, in less time than it takes to be forgotten.
    for _ in 0..3_000 {
        let call = call(&hedged);
        assert!(tokio::time::timeout(3 * MILLI, call).await.is_err());
    }
    assert!(
        hedged.delay() >= 40 * MILLI,
        "less than the delay says nothing: {:?}",
        hedged.delay()
    );
}

#[tokio::test(start_paused = true)]
async fn the_delay_has_a_floor() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(5 * MILLI))));
    let floored = HedgePolicy::default().with_min_delay(30 * MILLI);
    let (_balance, hedged) = hedging!(servers, names, floored);
    calls(&hedged, &servers, 300, 5 * MILLI, 1_000).await;
    assert_eq!(hedged.delay(), 30 * MILLI);
}
