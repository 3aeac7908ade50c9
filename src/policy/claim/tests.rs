use super::*;
use crate::endpoint::ConnectivityState;
use crate::health::limits::Limiter;
use crate::health::{Ejection, Ejections, Limit, Limits};
use crate::load::{Measures, ReportRules};
use crate::policy::{Candidate, Candidates};

#[test]
fn a_word_holds_the_terms_apart() {
    let connection = (1 << 59) - 1;
    let ends = [
        End::Unsent,
        End::Ignored,
        End::Success,
        End::Failure,
        End::Overload,
        End::Failed,
    ];
    let entries = [Entry::Normal, Entry::Probe];
    for (entry, counted) in entries.into_iter().flat_map(|e| [(e, false), (e, true)]) {
        let mut terms = Terms::new(connection, entry);
        assert!(!terms.is_counted(), "so it begins");
        if counted {
            terms = Terms(terms.0 | Terms::COUNTED);
        }
        assert_eq!(terms.end(), End::Unsent, "so it begins");
        for end in ends {
            terms = terms.with_end(end);
            assert_eq!(terms.end(), end, "the end is the last one set");
            assert_eq!(terms.entry(), entry, "the end leaves the entry as it was");
            let passed = terms.with_entry(Entry::Normal);
            assert_eq!(passed.entry(), Entry::Normal, "a probe that passed is none");
            assert_eq!(passed.end(), end, "the entry leaves the end as it was");
            assert_eq!(passed.connection(), connection, "nothing spills over");
            for terms in [terms, passed] {
                assert_eq!(terms.is_counted(), counted, "its place stays its own");
            }
        }
    }
}

#[test]
fn leaving_out_the_details_changes_neither_counts_nor_ejection() {
    let overload = Outcome::Overload { retry_after: None };
    for outcome in [
        Outcome::Success,
        Outcome::Failure,
        Outcome::ConnectionLost,
        Outcome::Ignored,
        overload,
    ] {
        let end = End::of(outcome).outcome();
        assert_eq!(end.is_failed(), outcome.is_failed(), "{outcome:?}");
        for judged in [Outcome::Success, Outcome::Failure, overload] {
            assert_eq!(end == judged, outcome == judged, "{outcome:?}");
        }
    }
}

#[test]
fn the_time_is_wanted_only_where_it_ends_a_latency() {
    let latency = LatencyRules::default();
    let until_end = LatencyRules {
        until: Until::End,
        ..latency
    };
    let nothing = Measures::NOTHING;
    for (measures, outcome, at_data, at_end) in [
        (nothing.with_latency(latency), Outcome::Success, true, true),
        (nothing.with_latency(latency), Outcome::Failure, false, true),
        (
            nothing.with_latency(until_end),
            Outcome::Success,
            false,
            true,
        ),
        (
            nothing.with_reports(ReportRules::default()),
            Outcome::Success,
            false,
            false,
        ),
    ] {
        let candidates = Candidates::connected_for(["a"], measures);
        let mut claim = candidates.all()[0].claim(false).expect("it is usable");
        assert!(
            !claim.awaits_response() && !claim.is_timed(),
            "not begun, not timed"
        );
        claim.begun(Moment::from_nanos(1));
        claim.judged(outcome);
        assert_eq!(claim.awaits_response(), at_data, "{measures:?} {outcome:?}");
        claim.responded(Moment::from_nanos(2));
        assert!(!claim.awaits_response(), "only the first data counts");
        assert_eq!(claim.is_timed(), at_end, "{measures:?} {outcome:?}");
    }
}

#[test]
fn what_comes_by_a_connection_that_has_ended_says_nothing_of_the_next() {
    let measures = Measures::NOTHING
        .with_latency(LatencyRules::default())
        .with_reports(ReportRules::default());
    let candidates = Candidates::connected_for(["a"], measures);
    let candidate = &candidates.all()[0];
    let subchannel = candidate.subchannel();
    let now = Moment::from_nanos(1_000);
    let latency = || {
        subchannel
            .latency()
            .seconds(now, Duration::from_secs(10).into())
    };
    let begun = || {
        let mut claim = candidate.claim(false).expect("it is usable");
        claim.begun(Moment::from_nanos(2));
        claim
    };
    let (mut first, second, third) = (begun(), begun(), begun());
    subchannel.connected(candidate.connection() + 1);
    first.responded(now);
    first.reported(&LoadReport::new().with_in_flight(1), now);
    second.finish_at(Outcome::Success, now);
    third.finish_at(Outcome::Failure, now);
    assert_eq!(latency(), None, "no answer by the new connection yet");
    assert_eq!(subchannel.reports().queue(), None, "nor a report");
}

#[test]
fn a_report_is_kept_only_if_the_policy_has_reports_measured() {
    let report = LoadReport::new()
        .with_in_flight(1)
        .with_latency(Duration::from_millis(1));
    for (measures, wanted) in [
        (Measures::NOTHING.with_reports(ReportRules::default()), true),
        (
            Measures::NOTHING.with_reports(ReportRules {
                out_of_band: Some(Duration::from_secs(10)),
                ..ReportRules::default()
            }),
            false,
        ),
        (
            Measures::NOTHING.with_latency(LatencyRules::default()),
            false,
        ),
        (Measures::NOTHING, false),
    ] {
        let candidates = Candidates::connected_for(["a"], measures);
        let candidate = &candidates.all()[0];
        let mut claim = candidate.claim(false).expect("it is usable");
        if measures.need_clock() {
            claim.begun(Moment::from_nanos(1));
        }
        assert_eq!(claim.wants_report(), wanted, "{measures:?}");
        claim.reported(&report, Moment::from_nanos(2));
        let kept = candidate.subchannel().reports().queue().is_some();
        assert_eq!(kept, wanted, "{measures:?}");
    }
}

#[test]
fn a_claim_that_is_refused_says_for_which_limit_or_that_the_endpoint_is_out() {
    let limits = Limits::default()
        .with_max_in_flight(2)
        .with_max_in_flight_per_endpoint(1);
    let limiter = Arc::new(Limiter::new(limits));
    let rules = Arc::new(Ejections::new(Ejection::default()));
    rules.set_endpoints(3);
    let [a, b, c] = ["a", "b", "c"].map(|name| {
        let subchannel = Subchannel::new(1, name.into(), rules.clone());
        let subchannel = Arc::new(subchannel.limited_by(limiter.clone()));
        Candidate::new(0, name.into(), subchannel, 1, ConnectivityState::Ready)
    });
    let limit = |candidate: &Candidate| candidate.claim_within(false).err();
    let first = a.claim_within(false).expect("there is room");
    assert_eq!(
        limit(&a),
        Some(Limit::InFlightPerEndpoint(1)),
        "one at each"
    );
    assert!(c.subchannel().health().eject(&rules), "one of three may be");
    let refused = c.claim_within(false).expect("no limit is met");
    assert!(refused.is_none(), "it is out");
    let second = b.claim_within(false).expect("there is room");
    assert_eq!(limit(&c), Some(Limit::InFlight(2)), "two of all");
    drop((first, second));
    assert_eq!(limit(&a), None, "the places are given back");
}
