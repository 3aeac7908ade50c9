use proptest::collection::{btree_map, vec};
use proptest::num::f64::ANY;
use proptest::prelude::*;

use super::*;
use crate::math::testing::seeded;

fn headers(pairs: &[(&'static str, &[u8])]) -> HeaderMap {
    pairs
        .iter()
        .map(|(name, value)| {
            let value = HeaderValue::from_bytes(value).expect("a header may have it");
            (HeaderName::from_static(name), value)
        })
        .collect()
}

fn carrying(value: &[u8]) -> HeaderMap {
    headers(&[("endpoint-load-metrics-bin", value)])
}

fn full() -> LoadReport {
    LoadReport::new()
        .with_cpu_utilization(0.25)
        .with_memory_utilization(0.5)
        .with_application_utilization(1.5)
        .with_qps(100.0)
        .with_eps(2.0)
        .with_request_cost("rows", 17.0)
        .with_utilization("disk", 0.75)
        .with_named_metric("queue", -1.0)
        .with_in_flight(7)
        .with_latency(Duration::from_micros(1_500))
}

/// The number of each field of ORCA is a fact of the protocol, so its bytes are written out here.
#[test]
fn a_report_is_orca_in_base64_without_padding() {
    // Field 1 and field 6, of wire type 1 (8 bytes, little-endian).
    let mut bytes = vec![1 << 3 | 1];
    bytes.extend(0.5_f64.to_le_bytes());
    bytes.push(6 << 3 | 1);
    bytes.extend(10.0_f64.to_le_bytes());
    let report = LoadReport::new().with_cpu_utilization(0.5).with_qps(10.0);
    let text = BASE64.encode(&bytes);
    assert_eq!(text, "CQAAAAAAAOA/MQAAAAAAACRA");
    assert_eq!(report.to_header_value(), text);
    assert_eq!(
        LoadReport::from_headers(&carrying(text.as_bytes())),
        Some(report)
    );
    assert!(
        !full().to_header_value().as_bytes().contains(&b'='),
        "gRPC writes no padding"
    );
}

#[test]
fn padding_and_further_values_are_taken() {
    let report = LoadReport::new().with_cpu_utilization(0.5);
    let plain = report.to_header_value();
    let plain = plain.to_str().expect("base64 is text");
    let padded = format!("{plain}{}", "=".repeat((4 - plain.len() % 4) % 4));
    for text in [
        plain,
        &padded,
        &format!("{plain},{plain}"),
        &format!(" {plain} "),
    ] {
        let read = LoadReport::from_headers(&carrying(text.as_bytes()));
        assert_eq!(read.as_ref(), Some(&report), "{text:?}");
    }
}

#[test]
fn everything_comes_back() {
    let value = full().to_header_value();
    let back = LoadReport::from_headers(&carrying(value.as_bytes())).expect("a report");
    assert_eq!(back.in_flight(), Some(7));
    assert_eq!(back.latency(), Some(Duration::from_micros(1_500)));
    // The two that have names of ours travel as named metrics, and stay there.
    assert_eq!(back.metric("named_metrics.prequal.rif"), Some(7.0));
    let with_names = full()
        .with_named_metric(IN_FLIGHT, 7.0)
        .with_named_metric(LATENCY_US, 1_500.0);
    assert_eq!(back, with_names);
}

#[test]
fn an_empty_report_is_a_report() {
    assert_eq!(LoadReport::new().to_header_value(), "");
    assert_eq!(
        LoadReport::from_headers(&carrying(b"")),
        Some(LoadReport::new())
    );
    assert_eq!(
        LoadReport::from_headers(&HeaderMap::new()),
        None,
        "no header"
    );
}

#[test]
fn plain_headers_count_alone_and_before_orca() {
    let rif: (_, &[u8]) = ("x-prequal-rif", b"3");
    let latency: (_, &[u8]) = ("x-prequal-latency-us", b"2500");
    let alone = LoadReport::from_headers(&headers(&[rif, latency])).expect("two numbers");
    let expected = LoadReport::new()
        .with_in_flight(3)
        .with_latency(Duration::from_micros(2_500));
    assert_eq!(alone, expected);

    let value = full().to_header_value();
    let mut both = carrying(value.as_bytes());
    both.extend(headers(&[rif]));
    let both = LoadReport::from_headers(&both).expect("a report");
    assert_eq!(both.in_flight(), Some(3), "the header's");
    assert_eq!(both.latency(), Some(Duration::from_micros(1_500)), "ORCA's");
    assert_eq!(both.cpu_utilization(), 0.25, "ORCA's");

    for bad in ["", "-1", "NaN", "inf", "1e30", "three", "5000000000000"] {
        let bad = bad.as_bytes();
        let read = headers(&[("x-prequal-rif", bad), ("x-prequal-latency-us", bad)]);
        assert_eq!(
            LoadReport::from_headers(&read),
            None,
            "{bad:?} is no number"
        );
    }
}

#[test]
fn rubbish_is_as_if_it_were_not_there() {
    for bad in [
        &b"!"[..],
        b"CQ",
        b"CQAAAAAAAOA",
        b"\xff\xfe",
        b",CQAAAAAAAOA/",
        b"====",
    ] {
        let read = LoadReport::from_headers(&carrying(bad));
        let nothing = read.is_none() || read == Some(LoadReport::new());
        assert!(nothing, "{bad:?}: {read:?}");
    }
    let huge = "A".repeat(MOST_BYTES + 1);
    assert_eq!(LoadReport::from_headers(&carrying(huge.as_bytes())), None);
}

fn amounts() -> impl Strategy<Value = f64> {
    prop_oneof![
        ANY,
        0.0..2.0,
        Just(f64::NAN),
        Just(f64::INFINITY),
        Just(-1.0)
    ]
}

prop_compose! {
    fn any_orca()(
        numbers in vec(amounts(), 5),
        request_cost in btree_map(".{0,5}", amounts(), 0..4),
        utilization in btree_map(".{0,5}", amounts(), 0..4),
        mut named_metrics in btree_map(".{0,5}", amounts(), 0..60),
        own in vec(amounts(), 2),
    ) -> OrcaLoadReport {
        named_metrics.insert(IN_FLIGHT.to_owned(), own[0]);
        named_metrics.insert(LATENCY_US.to_owned(), own[1]);
        OrcaLoadReport {
            cpu_utilization: numbers[0],
            mem_utilization: numbers[1],
            rps_fractional: numbers[2],
            eps: numbers[3],
            application_utilization: numbers[4],
            request_cost,
            utilization,
            named_metrics,
            ..OrcaLoadReport::default()
        }
    }
}

/// What holds of every report, whoever sent it.
fn check(report: &LoadReport) -> Result<(), TestCaseError> {
    for number in [
        report.cpu_utilization(),
        report.memory_utilization(),
        report.application_utilization(),
        report.qps(),
        report.eps(),
        report.utilization(&["named_metrics.a", "utilization.b", "eps"]),
    ] {
        prop_assert!(
            number.is_finite() && number >= 0.0,
            "{number} in {report:?}"
        );
    }
    let named = report.named_metrics.values();
    let mut all = named.chain(report.request_costs.values());
    prop_assert!(all.all(|number| number.is_finite()), "{report:?}");
    let shares = &report.utilizations;
    prop_assert!(shares.values().all(|share| (0.0..=1.0).contains(share)));
    Ok(())
}

proptest! {
    #![proptest_config(seeded(256, 31))]

    #[test]
    fn no_header_whatever_does_harm(value in vec(any::<u8>(), 0..200)) {
        if let Ok(value) = HeaderValue::from_bytes(&value)
            && let Some(report) = LoadReport::from_headers(&carrying(value.as_bytes()))
        {
            check(&report)?;
        }
    }

    #[test]
    fn no_message_whatever_does_harm(bytes in vec(any::<u8>(), 0..1_500)) {
        let text = BASE64.encode(bytes);
        if let Some(report) = LoadReport::from_headers(&carrying(text.as_bytes())) {
            check(&report)?;
        }
    }

    #[test]
    fn no_number_whatever_does_harm(orca in any_orca()) {
        let text = BASE64.encode(orca.encode_to_vec());
        let report = LoadReport::from_headers(&carrying(text.as_bytes()));
        let report = report.expect("well-formed ORCA is a report");
        check(&report)?;
        let again = LoadReport::from_headers(&carrying(report.to_header_value().as_bytes()));
        let again = again.expect("so is what is made of it");
        prop_assert_eq!(again.qps(), report.qps());
        prop_assert_eq!(again.in_flight(), report.in_flight());
        prop_assert_eq!(again.utilizations, report.utilizations);
    }

    #[test]
    fn no_plain_header_whatever_does_harm(rif in "\\PC{0,20}", latency in "-?[0-9]{0,20}(e[0-9]{1,3})?") {
        let read = |name, text: &str| {
            let mut map = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_str(text) {
                map.insert(HeaderName::from_static(name), value);
            }
            map
        };
        let mut map = read("x-prequal-rif", &rif);
        map.extend(read("x-prequal-latency-us", &latency));
        if let Some(report) = LoadReport::from_headers(&map) {
            prop_assert!(report.latency() <= Some(Duration::from_secs(3_600)));
        }
    }
}
