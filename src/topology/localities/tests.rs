use proptest::prelude::*;

use super::zone_aware::spares_of;
use super::*;

fn at(text: &str) -> Locality {
    text.parse().expect(text)
}

fn state(text: &str, usable: usize, total: usize) -> LocalityState {
    LocalityState {
        locality: at(text),
        weight: None,
        availability: Availability { usable, total },
    }
}

/// Shares by the names of their first localities.
fn shares(rule: impl Into<Localities>, own: &str, of: &[LocalityState]) -> Vec<(String, f64)> {
    let shares = rule.into().shares(&at(own), of).into_iter();
    let name = |share: &LocalityShare| of[share.members[0]].locality.to_string();
    let rounded = |share: f64| (share * 1e6).round() / 1e6;
    let mut shares: Vec<_> = shares.map(|s| (name(&s), rounded(s.share))).collect();
    shares.sort_by(|a, b| a.0.cmp(&b.0));
    shares
}

fn named(shares: &[(&str, f64)]) -> Vec<(String, f64)> {
    shares
        .iter()
        .map(|(name, share)| ((*name).to_owned(), *share))
        .collect()
}

#[test]
fn zone_aware_gives_envoys_shares() {
    // Zones A to E, the client in A.
    let (local, parts) = spares_of(&[2, 2, 1, 1, 0], &[1, 0, 3, 3, 1]);
    assert_eq!(local, 3_750, "of 10,000 stay in the zone");
    let spares = parts[1..].iter().scan(0, |sum, part| {
        *sum += part;
        Some(*sum)
    });
    // Residuals add up to 2084, 4168 and 5418, and 6,250 of the calls leave the zone.
    let wanted = [0, 2_084, 4_168, 5_418].map(|residual| 6_250 * residual / 5_418);
    assert_eq!(
        spares.collect::<Vec<_>>(),
        wanted,
        "by what each zone can spare"
    );
}

#[test]
fn zone_aware_keeps_all_calls_where_the_zone_has_its_part() {
    let even = [state("r/a", 3, 3), state("r/b", 3, 3)];
    let rule = ZoneAware::default();
    assert_eq!(
        shares(rule.clone(), "r/a", &even),
        named(&[("r/a", 1.0), ("r/b", 0.0)])
    );
    let lost = [state("r/a", 1, 3), state("r/b", 3, 3), state("r/c", 3, 3)];
    let wanted = named(&[("r/a", 0.4284), ("r/b", 0.2858), ("r/c", 0.2858)]);
    assert_eq!(
        shares(rule.clone(), "r/a", &lost),
        wanted,
        "one of seven endpoints for a third of the clients"
    );
    let few = [state("r/a", 2, 2), state("r/b", 3, 3)];
    let alike = named(&[("r/a", 1.0)]);
    assert_eq!(
        shares(rule.clone(), "r/a", &few),
        alike,
        "5 endpoints are too few: all are one"
    );
    let none = [state("r/b", 2, 2), state("r/c", 6, 6)];
    let alike = named(&[("r/b", 1.0)]);
    assert_eq!(shares(rule, "r/a", &none), alike, "none in its own zone");
}

#[test]
fn zone_aware_can_be_told_of_the_clients_and_be_enabled_in_part() {
    let even = [state("r/a", 3, 3), state("r/b", 3, 3)];
    let crowd = [(at("r/a"), 90), (at("r/a/rack"), 5), (at("r/b"), 5)];
    let rule = ZoneAware::default().with_clients(crowd);
    let wanted = named(&[("r/a", 0.5263), ("r/b", 0.4737)]);
    assert_eq!(
        shares(rule.clone(), "r/a", &even),
        wanted,
        "95 % of the clients for half of the servers"
    );
    let half = ZoneAware::default().with_enabled_percent(50);
    let wanted = named(&[("r/a", 0.75), ("r/b", 0.25)]);
    assert_eq!(
        shares(half, "r/a", &even),
        wanted,
        "the other half goes anywhere"
    );
    let elsewhere = ZoneAware::default().with_clients([(at("r/a"), 1), (at("r/z"), 3)]);
    assert_eq!(
        shares(elsewhere, "r/a", &even),
        named(&[("r/a", 1.0), ("r/b", 0.0)]),
        "clients in a zone without servers count"
    );
}

#[test]
fn nearest_first_goes_outwards_by_what_is_missing() {
    let all = |a, b, far| [state("r/a", a, 4), state("r/b", b, 4), state("q/a", far, 4)];
    let rule = NearestFirst::default();
    for (endpoints, wanted) in [
        (all(4, 4, 4), [0.0, 1.0, 0.0]),
        (all(3, 4, 4), [0.0, 1.0, 0.0]),
        (all(2, 4, 4), [0.0, 0.7, 0.3]),
        (all(0, 2, 4), [0.3, 0.0, 0.7]),
        (all(0, 0, 1), [1.0, 0.0, 0.0]),
    ] {
        let [q, a, b] = wanted;
        let wanted = named(&[("q/a", q), ("r/a", a), ("r/b", b)]);
        assert_eq!(
            shares(rule, "r/a/rack", &endpoints),
            wanted,
            "{endpoints:?}"
        );
    }
}

#[test]
fn weights_are_worth_less_where_endpoints_are_lost() {
    let rule = WeightedLocalities::default()
        .with_weight(at("a"), 3)
        .with_weight(at("b"), 1);
    let both = |a| [state("a", a, 4), state("b", 4, 4)];
    for (endpoints, wanted) in [
        (both(4), [0.75, 0.25]),
        (both(3), [0.75, 0.25]),
        (both(2), [2.1 / 3.1, 1.0 / 3.1]),
        (both(0), [0.0, 1.0]),
        ([state("a", 0, 4), state("b", 0, 4)], [0.75, 0.25]),
    ] {
        let rounded = wanted.map(|share: f64| (share * 1e6).round() / 1e6);
        let wanted = named(&[("a", rounded[0]), ("b", rounded[1])]);
        assert_eq!(
            shares(rule.clone(), "", &endpoints),
            wanted,
            "{endpoints:?}"
        );
    }
    let mut named_by_source = both(4);
    named_by_source[1].weight = Some(6);
    let by_source = WeightedLocalities::default();
    let wanted = named(&[("a", 0.142857), ("b", 0.857143)]);
    assert_eq!(
        shares(by_source, "", &named_by_source),
        wanted,
        "1 where nobody names one"
    );
    named_by_source[0].weight = Some(0);
    named_by_source[1].weight = Some(0);
    assert_eq!(
        shares(WeightedLocalities::default(), "", &named_by_source),
        named(&[("a", 0.5), ("b", 0.5)]),
        "a source that gives nobody anything still means somebody"
    );
}

#[test]
fn mistakes_name_their_field() {
    let (a, b) = (at("r/a"), at("r/b"));
    let weighted = WeightedLocalities::default();
    let zones = ZoneAware::default();
    for (rule, own, field) in [
        (NearestFirst::default().into(), "", "locality"),
        (NearestFirst::default().into(), "r", "locality"),
        (zones.clone().into(), "", "locality"),
        (
            NearestFirst::default()
                .with_overprovisioning_percent(1)
                .into(),
            "r/a",
            "localities.overprovisioning_percent",
        ),
        (
            Localities::from(zones.clone().with_enabled_percent(101)),
            "r/a",
            "localities.enabled_percent",
        ),
        (
            zones
                .clone()
                .with_clients([(a.clone(), 1), (a.clone(), 2)])
                .into(),
            "r/a",
            "localities.clients",
        ),
        (
            zones.with_clients([(a.clone(), 0)]).into(),
            "r/a",
            "localities.clients",
        ),
        (
            weighted
                .clone()
                .with_weight(a.clone(), 1)
                .with_weight(a.clone(), 1)
                .into(),
            "",
            "localities.weights",
        ),
        (
            weighted.clone().with_weight(a, 0).with_weight(b, 0).into(),
            "",
            "localities.weights",
        ),
        (
            weighted.with_overprovisioning_percent(99).into(),
            "",
            "localities.overprovisioning_percent",
        ),
    ] {
        let error = rule.validate(&at(own)).expect_err(field);
        assert_eq!(error.field(), Some(field), "{error}");
    }
}

fn any_state() -> impl Strategy<Value = LocalityState> {
    let name = proptest::sample::select(vec!["", "/a", "r/a", "r/a/s", "r/b", "q/a", "q/c"]);
    (name, 0_usize..5, 0_usize..5, proptest::option::of(0_u32..5)).prop_map(
        |(name, a, b, weight)| LocalityState {
            weight,
            ..state(name, a.min(b), a.max(b))
        },
    )
}

proptest! {
    #[test]
    fn each_locality_is_in_one_share_and_the_shares_are_all(
        mut states in proptest::collection::vec(any_state(), 0..7),
        clients in proptest::collection::vec(0_u32..9, 3),
        enabled in 0_u32..=100,
    ) {
        states.sort_by(|a, b| a.locality.cmp(&b.locality));
        states.dedup_by(|a, b| a.locality == b.locality);
        let clients = ["r/a", "r/b", "z/z"].into_iter().map(at).zip(clients);
        let zones = ZoneAware::default().with_min_endpoints(2).with_enabled_percent(enabled);
        let rules: [Localities; 4] = [
            NearestFirst::default().into(),
            zones.clone().into(),
            zones.with_clients(clients).into(),
            WeightedLocalities::default().with_weight(at("r/a"), 0).into(),
        ];
        for rule in rules {
            let shares = rule.shares(&at("r/a"), &states);
            let mut members: Vec<usize> = shares.iter().flat_map(|s| s.members.clone()).collect();
            members.sort_unstable();
            prop_assert_eq!(members, (0..states.len()).collect::<Vec<_>>(), "each in one share");
            let sum: f64 = shares.iter().map(|share| share.share).sum();
            let any = states.iter().any(|state| state.availability.total > 0);
            let wanted = if any { 1.0 } else { 0.0 };
            prop_assert!((sum - wanted).abs() < 1e-9, "{:?} gives {:?}", rule, shares);
            prop_assert!(shares.iter().all(|share| (0.0..=1.0).contains(&share.share)));
        }
    }
}
