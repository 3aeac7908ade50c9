use super::*;
use crate::load::ReportSource;
use crate::math::{Moment, Rng};
use crate::policy::testing::pick;

const PICKS: u32 = 100_000;

fn at(seconds: u64) -> Moment {
    Moment::from_origin(Duration::from_secs(seconds))
}

fn prompt() -> OrcaWeightedRoundRobin {
    OrcaWeightedRoundRobin::default().with_blackout_period(Duration::ZERO)
}

/// Endpoints whose servers report, each in turn, with the clock at the test's hand.
struct Fleet {
    policy: OrcaWeightedRoundRobin,
    candidates: Candidates,
    picker: Option<Arc<dyn Picker>>,
    rng: Rng,
}

impl Fleet {
    fn new(policy: OrcaWeightedRoundRobin, count: usize) -> Self {
        let names = (0..count).map(|i| format!("e{i}"));
        Self {
            candidates: Candidates::connected_for(names, policy.measures()),
            policy,
            picker: None,
            rng: Rng::new(11),
        }
    }

    fn report(&self, slot: usize, report: &LoadReport, now: Moment) {
        let claim = self.candidates.all()[slot].claim(false).expect("usable");
        claim.reported(report, now);
    }

    fn report_all(&self, reports: &[LoadReport], now: Moment) {
        for (slot, report) in reports.iter().enumerate() {
            self.report(slot, report, now);
        }
    }

    /// Picks of each endpoint, by a picker that is built at `now`.
    fn picks(&mut self, now: Moment, picks: u32) -> Vec<u32> {
        let candidates = self.candidates.clone().with_now(now);
        let picker = self.policy.build(&candidates, self.picker.as_deref());
        let mut counts = vec![0; candidates.all().len()];
        for _ in 0..picks {
            counts[pick(&*picker, &mut self.rng)] += 1;
        }
        self.picker = Some(picker);
        counts
    }

    /// Checks the shares. Each entry of the order is picked its weight over the greatest times a
    /// generation, rounded to 16 bits and to whole picks: a part in 65,535, and one pick.
    fn expect(&mut self, now: Moment, shares: &[f64], why: &str) {
        let counts = self.picks(now, PICKS);
        for (slot, share) in shares.iter().enumerate() {
            let expected = share * f64::from(PICKS);
            assert!(
                (f64::from(counts[slot]) - expected).abs() <= 4.0,
                "{why}: {slot} has a share of {share}: {counts:?}"
            );
        }
    }
}

fn cpu(utilization: f64, qps: f64) -> LoadReport {
    LoadReport::new()
        .with_cpu_utilization(utilization)
        .with_qps(qps)
}

fn application(utilization: f64, qps: f64) -> LoadReport {
    LoadReport::new()
        .with_application_utilization(utilization)
        .with_qps(qps)
}

#[test]
fn shares_follow_requests_over_utilization() {
    let mut fleet = Fleet::new(prompt(), 3);
    let loads = [(0.12, 22.0), (0.28, 40.0), (0.86, 100.0)];
    let by_cpu = loads.map(|(utilization, qps)| cpu(utilization, qps));
    fleet.report_all(&by_cpu, at(0));
    let shares = [0.41434, 0.32286, 0.26280];
    fleet.expect(at(0), &shares, "by the processors");

    let by_application = loads.map(|(utilization, qps)| {
        application(utilization, qps).with_cpu_utilization(1.0 - utilization)
    });
    fleet.report_all(&by_application, at(1));
    fleet.expect(at(1), &shares, "the application's word comes first");
}

#[test]
fn errors_count_as_utilization() {
    let mut fleet = Fleet::new(prompt(), 3);
    let reports = [
        cpu(0.12, 22.0).with_eps(19.7),
        cpu(0.28, 40.0).with_eps(0.998),
        cpu(0.86, 100.0).with_eps(std::f64::consts::PI),
    ];
    fleet.report_all(&reports, at(0));
    fleet.expect(at(0), &[0.08175, 0.49495, 0.42330], "a penalty of 1");

    let policy = prompt().with_error_penalty(0.0).expect("0 is a penalty");
    let mut fleet = Fleet::new(policy, 3);
    fleet.report_all(&reports, at(0));
    fleet.expect(at(0), &[0.41434, 0.32286, 0.26280], "no penalty");
}

#[test]
fn weights_count_from_the_end_of_the_blackout_until_they_expire() {
    let mut fleet = Fleet::new(OrcaWeightedRoundRobin::default(), 2);
    let reports = [cpu(0.1, 1.0), cpu(0.2, 1.0)];
    fleet.report_all(&reports, at(0));
    let (even, weighted) = ([0.5, 0.5], [2.0 / 3.0, 1.0 / 3.0]);
    fleet.expect(at(5), &even, "the blackout");
    fleet.report_all(&reports, at(5));
    fleet.expect(at(10), &weighted, "10 s after the first report");
    fleet.expect(at(310), &even, "300 s later all is expired");
}

#[test]
fn metrics_of_ones_choice_stand_in_for_the_application() {
    let policy = prompt()
        .with_utilization_metrics(&["named_metrics.queue", "mem_utilization"])
        .expect("both are names of metrics");
    let mut fleet = Fleet::new(policy, 2);
    let reports = [
        cpu(0.9, 10.0).with_named_metric("queue", 0.1),
        cpu(0.1, 10.0)
            .with_named_metric("queue", 0.2)
            .with_memory_utilization(0.3),
    ];
    fleet.report_all(&reports, at(0));
    fleet.expect(at(0), &[0.75, 0.25], "0.3 is the greater of the second's");
}

#[test]
fn who_has_no_weight_gets_the_mean_and_one_alone_is_no_weight() {
    let mut fleet = Fleet::new(prompt(), 3);
    fleet.report(0, &cpu(0.1, 10.0), at(0));
    fleet.expect(at(0), &[1.0 / 3.0; 3], "one weight tells nothing");
    fleet.report(1, &cpu(0.5, 10.0), at(0));
    fleet.expect(
        at(0),
        &[100.0 / 180.0, 20.0 / 180.0, 60.0 / 180.0],
        "the mean",
    );
    for no_weight in [
        LoadReport::new(),
        cpu(0.0, 10.0),
        cpu(0.5, 0.0),
        cpu(f64::NAN, 10.0),
    ] {
        fleet.report(1, &no_weight, at(1));
    }
    fleet.expect(
        at(1),
        &[100.0 / 180.0, 20.0 / 180.0, 60.0 / 180.0],
        "a report without a weight changes none",
    );
}

#[test]
fn new_weights_go_on_where_the_order_was() {
    let mut fleet = Fleet::new(prompt(), 2);
    fleet.report_all(&[cpu(0.5, 10.0), cpu(0.5, 10.0)], at(0));
    let mut counts = [0; 2];
    for second in 0..100 {
        for (slot, count) in fleet.picks(at(second), 1).iter().enumerate() {
            counts[slot] += count;
        }
    }
    assert_eq!(
        counts,
        [50, 50],
        "a rebuild after each pick starts nothing over"
    );
}

#[test]
fn a_lost_endpoint_is_passed_over_and_its_share_goes_by_weight() {
    let policy = prompt();
    let mut fleet = Fleet::new(policy, 3);
    let reports = [0.1, 0.2, 0.0001].map(|utilization| cpu(utilization, 0.001));
    fleet.report_all(&reports, at(0));
    let candidates = fleet.candidates.clone();
    let picker = policy.build(&candidates, None);
    candidates.all()[2].subchannel().disconnected(3);
    let mut counts = [0_i32; 3];
    for _ in 0..9_000 {
        counts[pick(&*picker, &mut fleet.rng)] += 1;
    }
    // Drawn by weight: standard deviation sqrt(9,000 * 2/9) = 45; six of them.
    assert!((counts[0] - 6_000).abs() < 270, "2 : 1: {counts:?}");
    assert_eq!(counts[2], 0, "it cannot be used");
}

#[test]
fn with_reports_out_of_band_those_in_trailers_make_no_weight() {
    let policy = prompt().with_out_of_band_reports(true);
    let mut fleet = Fleet::new(policy, 2);
    fleet.report_all(&[cpu(0.9, 10.0), cpu(0.1, 10.0)], at(0));
    fleet.expect(at(0), &[0.5, 0.5], "those came with responses");
    for (slot, utilization) in [0.1, 0.9].into_iter().enumerate() {
        let subchannel = fleet.candidates.all()[slot].subchannel().clone();
        subchannel.reported(&cpu(utilization, 10.0), ReportSource::OutOfBand, at(1));
    }
    fleet.expect(at(1), &[0.9, 0.1], "these came beside them");
}

#[test]
fn settings_that_cannot_be_are_refused_or_raised() {
    let policy = OrcaWeightedRoundRobin::default();
    let error = policy.with_out_of_band_period(Duration::ZERO).unwrap_err();
    assert_eq!(error.field(), Some("oob_reporting_period"));
    for penalty in [-0.1, f64::NAN, f64::INFINITY] {
        let error = policy.with_error_penalty(penalty).unwrap_err();
        assert_eq!(error.field(), Some("error_utilization_penalty"));
    }
    let error = policy.with_weight_expiration(Duration::ZERO).unwrap_err();
    assert_eq!(error.field(), Some("weight_expiration_period"));
    let error = policy.with_utilization_metrics(&["queue"]).unwrap_err();
    assert_eq!(
        error.field(),
        Some("metric_names_for_computing_utilization")
    );
    assert_eq!(policy.refresh(), Some(Duration::from_secs(1)));
    let fast = policy.with_update_period(Duration::from_millis(1));
    assert_eq!(
        fast.refresh(),
        Some(Duration::from_millis(100)),
        "the floor"
    );
}
