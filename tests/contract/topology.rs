//! Calls spread over priorities and localities, and what a report says of it.

use evenkeel::balance::{Plain, Reclaiming};
use evenkeel::call::RequestInfo;
use evenkeel::discovery::Handle;
use evenkeel::endpoint::Locality;
use evenkeel::health::Ejection;
use evenkeel::observe::{PassedOver, Report};
use evenkeel::policy::{PickFirst, RoundRobin};
use evenkeel::topology::{
    MetadataSubsets, NearestFirst, RandomSubset, SubsetFallback, Topology, WeightedLocalities,
};
use evenkeel::{Balance, Endpoint};
use tower::ServiceExt;

use crate::builder;
use crate::world::*;

fn of_priority(name: &'static str, priority: u32) -> Endpoint {
    Endpoint::new(name).with_priority(priority)
}

fn at(name: &'static str, locality: &str) -> Endpoint {
    Endpoint::new(name).with_locality(locality.parse().expect(locality))
}

fn locality(text: &str) -> Locality {
    text.parse().expect(text)
}

/// How many of 1,000 calls, none of which may fail, went to each.
async fn shares<const N: usize>(balance: &Balanced, names: [&str; N]) -> [usize; N] {
    let before = names.map(|name| endpoint(balance, name).calls);
    for _ in 0..1_000 {
        let answer = within("a call", balance.clone().oneshot(ask("x"))).await;
        answer.expect("somebody can take it");
    }
    let mut before = before.into_iter();
    names.map(|name| (endpoint(balance, name).calls - before.next().unwrap_or(0)) as usize)
}

/// Five times the standard deviation of a binomial of 1,000.
#[track_caller]
fn assert_near(count: usize, share: f64, rule: &str) {
    let off = (count as f64 - 1_000.0 * share).abs();
    let most = 5.0 * (1_000.0 * share * (1.0 - share)).sqrt();
    assert!(off <= most, "{rule}: {count} of 1,000 for {share}");
}

fn stages(report: &Report) -> Vec<(&'static str, usize, usize)> {
    let stages = report.stages.iter();
    stages
        .map(|s| (s.name, s.endpoints_in, s.endpoints_out))
        .collect()
}

/// The stages by how many endpoints there are before, between and after them.
fn pipeline(counts: [usize; 6]) -> Vec<(&'static str, usize, usize)> {
    let names = ["subset", "metadata", "priority", "locality", "policy"];
    let steps = counts.windows(2).zip(names);
    steps.map(|(step, name)| (name, step[0], step[1])).collect()
}

/// Its connection ends, and it cannot be dialled.
async fn lose<T>(world: &World, balance: &Balance<Stub, T>, name: &str, left: usize) {
    let server = world.server(name);
    server.set_dial(Dial::Refuse);
    server.connection().closed(None);
    connected(balance, left).await;
}

#[tokio::test(start_paused = true)]
async fn calls_spill_over_to_the_next_priority_as_endpoints_are_lost() {
    let world = World::new();
    let names = ["a", "b", "c", "d"];
    let endpoints = names.into_iter().zip([0, 0, 1, 1]);
    let balance = builder!(world)
        .endpoints(endpoints.map(|(name, priority)| of_priority(name, priority)))
        .policy(RoundRobin::default())
        .build()
        .unwrap();
    connected(&balance, 4).await;
    assert_eq!(
        shares(&balance, names).await,
        [500, 500, 0, 0],
        "the highest carries all"
    );
    let report = balance.report();
    let wanted = pipeline([4, 4, 4, 2, 2, 2]);
    assert_eq!(stages(&report), wanted);
    let passed_over = endpoint(&balance, "c").passed_over;
    assert_eq!(
        passed_over,
        Some(PassedOver::Priority),
        "and the report says why"
    );
    assert_eq!(endpoint(&balance, "a").passed_over, None);

    lose(&world, &balance, "a", 3).await;
    let [a, b, c, d] = shares(&balance, names).await;
    assert_eq!(
        (a, c.abs_diff(d) <= 1),
        (0, true),
        "turns are taken in each priority"
    );
    assert_near(b, 0.7, "one of two is worth 70 %");
    let groups = balance.report().groups;
    let seen: Vec<_> = groups
        .iter()
        .map(|g| (g.priority, g.usable, g.total, g.share))
        .collect();
    assert_eq!(seen, [(0, 1, 2, 0.7), (1, 2, 2, 0.3)]);

    lose(&world, &balance, "b", 2).await;
    assert_eq!(
        shares(&balance, names).await,
        [0, 0, 500, 500],
        "nobody is left above"
    );
    world.server("a").set_dial(Dial::Connect);
    world.server("b").set_dial(Dial::Connect);
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    connected(&balance, 4).await;
    assert_eq!(
        shares(&balance, names).await,
        [500, 500, 0, 0],
        "and all are back"
    );
}

#[tokio::test(start_paused = true)]
async fn each_priority_has_its_own_limit_of_ejections_and_its_own_panic() {
    let world = World::new();
    let [a, b, c] = world.servers(["a", "b", "c"]);
    let rules = Ejection::default()
        .with_consecutive_failures(1)
        .with_max_percent(100);
    let balance = builder!(world)
        .endpoints([
            of_priority("a", 0),
            of_priority("b", 1),
            of_priority("c", 1),
        ])
        .policy(RoundRobin::default())
        .ejection(rules.with_max_percent(10))
        .build()
        .unwrap();
    connected(&balance, 3).await;
    a.set_answer(Answer::Fail);
    b.set_answer(Answer::Fail);
    c.set_answer(Answer::Fail);
    for _ in 0..20 {
        let _ = within("a call", balance.clone().oneshot(ask("x"))).await;
        settle().await;
    }
    let out = |name| usize::from(endpoint(&balance, name).ejected.is_some());
    assert_eq!(
        out("a"),
        1,
        "the only one of its priority may be out, since there are others"
    );
    assert_eq!(
        out("b") + out("c"),
        1,
        "one of each priority, though 10 % of three are none"
    );
    assert!(
        balance.report().panic,
        "nobody of the first is usable, and the second is not worth all calls"
    );
}

#[tokio::test(start_paused = true)]
async fn a_priority_in_a_panic_gets_calls_to_its_ejected_endpoints_and_others_do_not() {
    let world = World::new();
    let names = ["a", "b", "c", "d", "e"];
    let [a, b, c, ..] = world.servers(names);
    let endpoints = names.into_iter().zip([0, 0, 0, 1, 1]);
    let balance = builder!(world)
        .endpoints(endpoints.map(|(name, priority)| of_priority(name, priority)))
        .policy(RoundRobin::default())
        .ejection(
            Ejection::default()
                .with_consecutive_failures(1)
                .with_max_percent(100),
        )
        .build()
        .unwrap();
    connected(&balance, 5).await;
    let failing = [a, b, c];
    failing
        .iter()
        .for_each(|server| server.set_answer(Answer::Fail));
    for _ in 0..3 {
        let _ = within("a call", balance.clone().oneshot(ask("x"))).await;
        settle().await;
    }
    failing
        .iter()
        .for_each(|server| server.set_answer(Answer::Name));
    let report = balance.report();
    assert!(
        !report.panic,
        "the second priority carries all calls: {report:?}"
    );
    let [x, y, z, d, e] = shares(&balance, names).await;
    assert_eq!(([x, y, z], d, e), ([0; 3], 500, 500));

    lose(&world, &balance, "d", 4).await;
    let report = balance.report();
    let panics: Vec<_> = report.groups.iter().map(|g| (g.panic, g.share)).collect();
    assert_eq!(
        panics,
        [(true, 0.0), (false, 1.0)],
        "0 of 3 and 1 of 2: {report:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn calls_stay_near_and_spill_over_outwards() {
    let world = World::new();
    let names = ["a", "b", "c", "d"];
    let places = ["r/near", "r/near", "r/far", "q/far"];
    let (handle, updates) =
        Handle::new(names.into_iter().zip(places).map(|(n, p)| at(n, p))).unwrap();
    let topology = Topology::default()
        .with_locality(locality("r/near"))
        .with_localities(NearestFirst::default());
    let balance = builder!(world)
        .discovery(updates)
        .policy(RoundRobin::default())
        .topology(topology)
        .build()
        .unwrap();
    connected(&balance, 4).await;
    assert_eq!(
        shares(&balance, names).await,
        [500, 500, 0, 0],
        "the zone carries all"
    );
    let far = endpoint(&balance, "d");
    assert_eq!(far.passed_over, Some(PassedOver::Locality), "{far}");
    assert_eq!(far.locality, locality("q/far"));

    lose(&world, &balance, "a", 3).await;
    let [_, b, c, d] = shares(&balance, names).await;
    assert_near(b, 0.7, "half of the zone is worth 70 %");
    assert_eq!((b + c, d), (1_000, 0), "the region comes before the rest");

    // Endpoints that move keep their connections.
    let dials = world.server("d").dials().len();
    let moved = ["r/far", "r/far", "r/far", "r/near"];
    handle
        .replace(names.into_iter().zip(moved).map(|(n, p)| at(n, p)))
        .unwrap();
    until("it has moved", || {
        endpoint(&balance, "d").locality == locality("r/near")
    })
    .await;
    assert_eq!(
        shares(&balance, names).await,
        [0, 0, 0, 1_000],
        "it is the near one now"
    );
    assert_eq!(
        world.server("d").dials().len(),
        dials,
        "and was not dialled anew"
    );
}

#[tokio::test(start_paused = true)]
async fn weights_of_localities_are_shares_and_a_subset_comes_before_them() {
    let world = World::new();
    let names = ["a", "b", "c"];
    let rule = WeightedLocalities::default().with_weight(locality("r/x"), 3);
    let balance = builder!(world)
        .endpoints([at("a", "r/x"), at("b", "r/y"), at("c", "r/y")])
        .policy(RoundRobin::default())
        .topology(Topology::default().with_localities(rule))
        .build()
        .unwrap();
    connected(&balance, 3).await;
    let [a, b, c] = shares(&balance, names).await;
    assert_near(a, 0.75, "3 against 1");
    assert!(b.abs_diff(c) <= 1, "the policy has the rest: {b} and {c}");

    let small = builder!(world)
        .endpoints((0..10).map(|n| at(["a", "b"][n % 2], "r/x").with_id(format!("{n}"))))
        .subset(RandomSubset::new(4).unwrap())
        .policy(RoundRobin::default())
        .build()
        .unwrap();
    connected(&small, 4).await;
    let report = small.report();
    let wanted = pipeline([10, 4, 4, 4, 4, 4]);
    assert_eq!(stages(&report), wanted);
    assert_eq!(
        report.left_out.len(),
        6,
        "and the report names who is left out"
    );
    assert!(
        report.groups.is_empty(),
        "all are alike: {:?}",
        report.groups
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_in_its_own_order_has_no_priorities() {
    let world = World::new();
    let balance = builder!(world)
        .endpoints([of_priority("a", 1), of_priority("b", 0)])
        .policy(PickFirst::default())
        .build()
        .unwrap();
    connected(&balance, 1).await;
    assert_eq!(
        shares(&balance, ["a", "b"]).await,
        [1_000, 0],
        "the first of the list"
    );
}

#[tokio::test]
async fn a_topology_that_cannot_be_is_refused_by_its_field() {
    let world = World::new();
    let build = |topology: Topology| builder!(world).endpoints(["a"]).topology(topology).build();
    let nowhere = Topology::default().with_localities(NearestFirst::default());
    let error = build(nowhere).expect_err("it goes by the client's zone");
    assert_eq!(error.field(), Some("locality"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_to_the_subset_that_it_names_and_to_no_other_even_as_a_last_resort() {
    let world = World::new();
    let names = ["a", "b", "canary"];
    let versions = ["stable", "stable", "canary"];
    let endpoint_of = |(name, version)| Endpoint::new(name).with_metadata([("version", version)]);
    let rules = MetadataSubsets::by("version")
        .from_path_prefix("/new", "canary")
        .with_fallback(SubsetFallback::Subset("stable".into()));
    let balance = builder!(world)
        .endpoints(names.into_iter().zip(versions).map(endpoint_of))
        .policy(RoundRobin::default())
        .ejection(at_the_first_failure().with_panic_threshold_percent(50))
        .topology(Topology::default().with_subsets(rules))
        .track(Reclaiming(Plain::new().reading(
            (|ask| RequestInfo::new().with_path(ask.text))
                as for<'a> fn(&'a Ask) -> RequestInfo<'a>,
        )))
        .build()
        .unwrap();
    connected(&balance, 3).await;
    let call = |path| within("a call", balance.clone().oneshot(ask(path)));
    for _ in 0..10 {
        assert_eq!(call("/new/x").await.unwrap(), "canary");
        assert_ne!(call("/old").await.unwrap(), "canary");
    }
    let report = balance.report();
    let subsets: Vec<_> = report
        .groups
        .iter()
        .map(|g| (g.subset.as_deref(), g.total))
        .collect();
    assert_eq!(subsets, [(Some("canary"), 1), (Some("stable"), 2)]);

    lose(&world, &balance, "canary", 2).await;
    let error = call("/new/x").await.expect_err("its subset has nobody");
    assert!(error.is_unavailable(), "{error}");
    let says = "the call is for version=canary";
    assert!(error.to_string().contains(says), "{error}");
    for name in ["a", "b"] {
        world.server(name).set_answer(Answer::Fail);
    }
    for _ in 0..6 {
        let _ = call("/old").await;
        settle().await;
    }
    let [a, b] = world.servers(["a", "b"]);
    let before = a.calls() + b.calls();
    let error = call("/new/x").await.expect_err("nobody of it is connected");
    assert!(error.is_unavailable(), "{error}");
    assert_eq!(
        a.calls() + b.calls(),
        before,
        "not even where all are ejected"
    );
    // One that connects for ever is of another subset, and no reason to wait.
    world.server("canary").set_dial(Dial::Refuse);
    a.set_dial(Dial::Hang);
    a.connection().closed(None);
    connected(&balance, 1).await;
    let began = tokio::time::Instant::now();
    let _ = call("/new/x").await.expect_err("still nobody");
    assert_eq!(
        began.elapsed(),
        std::time::Duration::ZERO,
        "and it fails at once"
    );
}

#[tokio::test(start_paused = true)]
async fn a_canary_that_is_down_costs_no_call_that_named_no_version() {
    let world = World::new();
    let versions = [("a", "stable"), ("canary", "canary")];
    let endpoint_of = |(name, version)| Endpoint::new(name).with_metadata([("version", version)]);
    for fallback in [SubsetFallback::None, SubsetFallback::Any] {
        let rules = MetadataSubsets::by("version")
            .with_split([("stable", 1), ("canary", 1)])
            .with_fallback(fallback);
        let balance = builder!(world)
            .endpoints(versions.map(endpoint_of))
            .policy(RoundRobin::default())
            .topology(Topology::default().with_subsets(rules))
            .build()
            .unwrap();
        world.server("canary").set_dial(Dial::Connect);
        connected(&balance, 2).await;
        let [stable, canary] = shares(&balance, ["a", "canary"]).await;
        assert_near(canary, 0.5, "half of the calls are drawn to it");
        assert_eq!(stable + canary, 1_000);
        lose(&world, &balance, "canary", 1).await;
        assert_eq!(shares(&balance, ["a", "canary"]).await, [1_000, 0]);
    }
}
