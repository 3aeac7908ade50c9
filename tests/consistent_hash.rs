//! Who moves when the set changes, under policies that hash.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use evenkeel::Endpoint;
use evenkeel::call::{HashKey, RequestInfo, SourceIp};
use evenkeel::math::Rng;
use evenkeel::policy::{Candidates, IpHash, Pick, PickContext, Picker, Policy, Tried};

fn names(n: usize) -> Vec<String> {
    (0..n).map(|i| format!("http://10.0.0.{i}:50051")).collect()
}

fn callers(count: usize) -> Vec<IpAddr> {
    let mut rng = Rng::new(61);
    (0..count)
        .map(|_| IpAddr::V4(Ipv4Addr::from_bits(rng.next_u64() as u32)))
        .collect()
}

fn pick(picker: &dyn Picker, seed: u64, request: RequestInfo<'_>) -> Option<usize> {
    let mut rng = Rng::new(seed);
    match picker.pick(&mut PickContext::new(&mut rng).with_request(request)) {
        Pick::Endpoint(slot) => Some(slot),
        _ => None,
    }
}

fn from(ip: IpAddr) -> RequestInfo<'static> {
    RequestInfo::new().with_source_ip(ip)
}

/// The id that each caller reaches.
fn mapping(picker: &dyn Picker, set: &Candidates, callers: &[IpAddr]) -> Vec<String> {
    callers
        .iter()
        .map(|&ip| {
            let slot = pick(picker, 1, from(ip)).expect("one is usable");
            set.all()[slot].endpoint().id().to_string()
        })
        .collect()
}

fn map_of(names: &[String], callers: &[IpAddr]) -> Vec<String> {
    let set = Candidates::connected(names.iter().cloned());
    mapping(&*IpHash::default().build(&set, None), &set, callers)
}

#[test]
fn only_the_callers_of_an_endpoint_that_goes_move() {
    let callers = callers(4000);
    for n in [2, 3, 9, 10, 100] {
        let names = names(n);
        let before = map_of(&names, &callers);
        for gone in [0, n / 2, n - 1] {
            let mut left = names.clone();
            left.remove(gone);
            let after = map_of(&left, &callers);
            let mut inherited = vec![0; n];
            for (before, after) in before.iter().zip(&after) {
                assert_eq!(
                    before != after,
                    *before == names[gone],
                    "of {n}, {} goes: its callers move, no others: {before} to {after}",
                    names[gone]
                );
                if before != after {
                    inherited[names.iter().position(|name| name == after).unwrap()] += 1;
                }
            }
            let total: i32 = inherited.iter().sum();
            assert!(total > 0, "it had callers");
            // Its 160 gaps go to the owners of the places behind them: among 9 others a share of 1/9
            // has a standard deviation of sqrt(1/9 * 8/9 / 160) = 2.5 %; five of them.
            if n == 10 {
                let most = *inherited.iter().max().unwrap();
                assert!(
                    f64::from(most) < f64::from(total) * (0.11 + 5.0 * 0.025),
                    "its callers are spread over the others: {inherited:?}"
                );
            }
        }
    }
}

#[test]
fn a_change_of_weight_moves_callers_only_to_or_from_that_endpoint() {
    let callers = callers(4000);
    let set = |weight| {
        let mut endpoints: Vec<_> = names(5).into_iter().map(Endpoint::new).collect();
        endpoints[2] = endpoints[2].clone().with_weight(weight);
        Candidates::connected(endpoints)
    };
    let (one, three) = (set(1), set(3));
    let policy = IpHash::default();
    let picker = policy.build(&one, None);
    let before = mapping(&*picker, &one, &callers);
    let after = mapping(&*policy.build(&three, Some(&*picker)), &three, &callers);
    let heavy = &names(5)[2];
    assert!(
        before.iter().zip(&after).all(|(b, a)| b == a || a == heavy),
        "more weight only draws callers to it"
    );
    // 3/7 of 4,000, with 480 of 1,120 places: 4.6 % * sqrt(4/7) of that, or 59, and
    // sqrt(4000 * 3/7 * 4/7) = 31 from the callers; six of both together.
    let got = after.iter().filter(|id| *id == heavy).count();
    assert!(got.abs_diff(1714) < 6 * 67, "3 of 7 in weight: {got}");
}

#[test]
fn callers_of_a_flapping_endpoint_leave_and_come_back() {
    let callers = callers(3000);
    let set = Candidates::connected(names(10));
    let policy = IpHash::default();
    let mut picker = policy.build(&set, None);
    let before = mapping(&*picker, &set, &callers);
    let flapping = &set.all()[3];
    let id = flapping.endpoint().id().to_string();

    flapping.subchannel().disconnected(flapping.connection());
    let lost = mapping(&*picker, &set, &callers);
    for (before, lost) in before.iter().zip(&lost) {
        assert_eq!(before != lost, *before == id, "only its callers leave");
    }
    let rebuilt = Candidates::new(set.all().clone(), false);
    picker = policy.build(&rebuilt, Some(&*picker));
    assert_eq!(
        mapping(&*picker, &rebuilt, &callers),
        lost,
        "a set made anew without it says the same as the live look at it"
    );

    flapping.subchannel().connected(flapping.connection());
    let rebuilt = Candidates::new(set.all().clone(), false);
    picker = policy.build(&rebuilt, Some(&*picker));
    assert_eq!(
        mapping(&*picker, &rebuilt, &callers),
        before,
        "all are back"
    );

    assert!(flapping.subchannel().health().gate().eject());
    assert_eq!(
        mapping(&*picker, &set, &callers),
        lost,
        "an ejection moves the same callers to the same places"
    );
}

#[test]
fn the_order_of_the_set_does_not_matter() {
    let callers = callers(2000);
    let mut names = names(10);
    let policy = IpHash::default();
    let want = map_of(&names, &callers);
    let mut previous: Option<Arc<dyn Picker>> = None;
    let mut rng = Rng::new(67);
    for _ in 0..10 {
        for i in (1..names.len()).rev() {
            names.swap(i, rng.below(i + 1));
        }
        assert_eq!(map_of(&names, &callers), want, "built anew: {names:?}");
        let set = Candidates::connected(names.iter().cloned());
        let picker = policy.build(&set, previous.as_deref());
        assert_eq!(
            mapping(&*picker, &set, &callers),
            want,
            "with the ring of another order: {names:?}"
        );
        previous = Some(picker);
    }
}

#[test]
fn the_fullest_endpoint_is_no_fuller_than_documented() {
    // A share has a standard deviation of sqrt((1 - 1/n) / 160), relative to the mean; counting it by
    // 100,000 callers adds a variance of n / 100,000: 6.5, 7.6 and 8.5 %. The largest of one set is
    // expected 0.85, 1.54, 2.51 deviations above the mean; the largest of ten sets, of 30, 100, 1000
    // shares, 2.0, 2.5, 3.2, and one more for the spread of that.
    let callers = callers(100_000);
    for (n, bound) in [(3, 1.20), (10, 1.27), (100, 1.36)] {
        let mut worst = 0.0_f64;
        for set in 0..10 {
            let names: Vec<_> = (0..n).map(|i| format!("10.{set}.0.{i}:443")).collect();
            let set = Candidates::connected(names);
            let picker = IpHash::default().build(&set, None);
            let mut counts = vec![0_u32; n];
            for &ip in &callers {
                counts[pick(&*picker, 1, from(ip)).unwrap()] += 1;
            }
            let most = f64::from(*counts.iter().max().unwrap());
            worst = worst.max(most * n as f64 / callers.len() as f64);
        }
        assert!(worst < bound, "of {n}, the fullest has {worst} of the mean");
    }
}

#[test]
fn a_caller_may_be_named_in_several_ways() {
    let set = Candidates::connected(names(50));
    let picker = IpHash::default().build(&set, None);
    let ip: Ipv4Addr = "192.0.2.7".parse().unwrap();
    let want = pick(&*picker, 1, from(ip.into()));
    assert_ne!(want, pick(&*picker, 1, from("192.0.2.8".parse().unwrap())));
    let request = |name: &'static str, value: &str| {
        http::Request::builder()
            .header(name, value)
            .body(())
            .unwrap()
    };
    for request in [
        request("forwarded", "for=1.1.1.1, for=\"192.0.2.7:80\";proto=http"),
        request("x-forwarded-for", "1.1.1.1, 192.0.2.7:80"),
        request("x-forwarded-for", "::ffff:192.0.2.7"),
    ] {
        let found = pick(&*picker, 1, RequestInfo::http(&request));
        assert_eq!(found, want, "{:?}", request.headers());
    }
    let mapped = ip.to_ipv6_mapped();
    assert_eq!(
        pick(&*picker, 1, from(mapped.into())),
        want,
        "the same host"
    );

    let mut request = request("x-forwarded-for", "1.1.1.1");
    request.extensions_mut().insert(SourceIp(ip.into()));
    let found = pick(&*picker, 1, RequestInfo::http(&request));
    assert_eq!(found, want, "what was set by hand comes before headers");
    let key = |key| RequestInfo::http(&request).with_hash_key(key);
    assert_eq!(
        pick(&*picker, 1, key(5)),
        pick(&*picker, 1, RequestInfo::new().with_hash_key(5)),
        "a key comes before everything"
    );
    let mut keyed = http::Request::new(());
    keyed.extensions_mut().insert(HashKey(5));
    assert_eq!(
        pick(&*picker, 1, RequestInfo::http(&keyed)),
        pick(&*picker, 1, key(5)),
        "as an extension too"
    );
    let spread: std::collections::HashSet<_> = (0..50).map(|i| pick(&*picker, 1, key(i))).collect();
    assert!(spread.len() > 20, "keys in a row are spread: {spread:?}");
}

#[test]
fn trusted_hops_and_functions_change_where_the_address_comes_from() {
    let set = Candidates::connected(names(50));
    let pick_by = |policy: IpHash, request: &http::Request<()>| {
        pick(&*policy.build(&set, None), 1, RequestInfo::http(request))
    };
    let want = |ip: &str| {
        let picker = IpHash::default().build(&set, None);
        pick(&*picker, 1, from(ip.parse().unwrap()))
    };
    let request = http::Request::builder()
        .header("x-forwarded-for", "1.2.3.4, 192.0.2.1, 10.0.0.1")
        .header("x-real-ip", "192.0.2.99")
        .body(())
        .unwrap();
    for (hops, ip) in [(0, "10.0.0.1"), (1, "192.0.2.1"), (2, "1.2.3.4")] {
        let policy = IpHash::default().with_trusted_hops(hops);
        assert_eq!(pick_by(policy, &request), want(ip), "{hops} trusted hops");
    }
    let by_real_ip = IpHash::from_fn(|request| {
        let value = request.headers()?.get("x-real-ip")?;
        value.to_str().ok()?.parse().ok()
    });
    assert_eq!(pick_by(by_real_ip, &request), want("192.0.2.99"));
}

#[test]
fn a_call_without_an_address_goes_anywhere() {
    let set = Candidates::connected(names(5));
    let picker = IpHash::default().build(&set, None);
    let request = http::Request::builder()
        .header("forwarded", "for=unknown")
        .body(())
        .unwrap();
    let mut counts = [0_i32; 5];
    for seed in 0..5000 {
        let slot = pick(&*picker, seed, RequestInfo::http(&request)).unwrap();
        counts[slot] += 1;
    }
    // 1,000 each, standard deviation sqrt(5000 * 1/5 * 4/5) = 28; six of them.
    assert!(
        counts.iter().all(|count| (count - 1000).abs() < 170),
        "shares are even: {counts:?}"
    );
}

#[test]
fn a_second_try_goes_to_the_next_on_the_ring_with_the_hash_of_the_first() {
    let set = Candidates::connected(names(10));
    let picker = IpHash::default().build(&set, None);
    for ip in callers(200) {
        let mut rng = Rng::new(1);
        let mut first = PickContext::new(&mut rng).with_request(from(ip));
        let Pick::Endpoint(slot) = picker.pick(&mut first) else {
            panic!("all are usable");
        };
        let hash = first.hash();
        assert!(hash.is_some(), "the first try leaves its hash");
        let mut tried = Tried::new();
        tried.insert(set.all()[slot].connection());

        let mut second = PickContext::new(&mut rng)
            .with_tried(&tried)
            .with_hash(hash);
        let second = picker.pick(&mut second);
        let left = Candidates::connected(names(10));
        left.all()[slot].subchannel().disconnected(slot as u64 + 1);
        let without = pick(&*IpHash::default().build(&left, None), 1, from(ip));
        assert_eq!(
            second,
            Pick::Endpoint(without.unwrap()),
            "where the caller would go if the first one were lost"
        );
    }
}
