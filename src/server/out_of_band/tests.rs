use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use proptest::prelude::*;
use prost::Message;
use tokio::time::{Instant, timeout};

use super::*;
use crate::outcome::{LoadReport, request_for};
use crate::server::LoadReporter;

const LEAST: Duration = Duration::from_secs(5);

fn record() -> Arc<Record> {
    Arc::new(Record::new())
}

fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a short one");
    [&[0][..], &length.to_be_bytes(), message].concat().into()
}

fn asking(interval: Duration) -> Bytes {
    framed(&request_for(interval).encode_to_vec())
}

/// The next report; none at the end.
async fn next_report(reports: &mut Reports) -> Option<LoadReport> {
    let frame = timeout(Duration::from_secs(3_600), reports.frame()).await;
    let frame = frame.expect("one within the hour")?;
    let data = frame.expect("errors are statuses").into_data().ok()?;
    let orca = OrcaLoadReport::decode(&data[5..]).expect("after its prefix");
    Some(LoadReport::from_orca(orca))
}

/// The time from the first report to the second; the first has to come at once.
async fn interval(request: Bytes) -> Duration {
    let mut reports = reports(Full::new(request), record(), LEAST);
    let start = Instant::now();
    next_report(&mut reports).await.expect("the first");
    assert_eq!(start.elapsed(), Duration::ZERO, "the first comes at once");
    next_report(&mut reports).await.expect("the second");
    start.elapsed()
}

/// Tokio's timers are a millisecond late at most.
fn is(time: Duration, expected: Duration) -> bool {
    (expected..expected + Duration::from_millis(2)).contains(&time)
}

#[tokio::test(start_paused = true)]
async fn reports_come_as_often_as_asked_for_but_not_more_often_than_allowed() {
    for (asked, expected) in [(10, 10), (5, 5), (4, 5), (0, 5)] {
        let time = interval(asking(Duration::from_secs(asked))).await;
        assert!(is(time, Duration::from_secs(expected)), "{asked}: {time:?}");
    }
    let barely = interval(asking(Duration::from_nanos(1))).await;
    assert!(is(barely, LEAST), "{barely:?}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_understood_asks_for_the_least() {
    let negative = OrcaLoadReportRequest {
        report_interval: Some(prost_types::Duration {
            seconds: -60,
            nanos: 0,
        }),
        ..OrcaLoadReportRequest::default()
    };
    let long = vec![0; MOST_MESSAGE_BYTES + 1];
    for (request, why) in [
        (Bytes::new(), "no message"),
        (framed(&[]), "no interval"),
        (framed(&negative.encode_to_vec()), "a negative one"),
        (framed(&[0xff; 9]), "rubbish in a frame"),
        (Bytes::from_static(&[7; 40]), "rubbish"),
        (asking(Duration::from_secs(60)).slice(..7), "half of one"),
        (framed(&long), "too long a message"),
    ] {
        let time = interval(request).await;
        assert!(is(time, LEAST), "{why}: {time:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_interval_that_no_clock_reaches_gives_one_report() {
    let mut reports = reports(Full::new(asking(Duration::MAX)), record(), LEAST);
    next_report(&mut reports).await.expect("the first");
    let year = Duration::from_secs(365 * 24 * 3_600);
    let next = timeout(year, reports.frame()).await;
    assert!(next.is_err(), "not in a year: {next:?}");
}

#[tokio::test(start_paused = true)]
async fn each_report_says_what_is_true_then() {
    let record = record();
    let reporter = LoadReporter(record.clone());
    let mut reports = reports(Full::new(asking(LEAST)), record, LEAST);
    for utilization in [0.25, 0.5] {
        reporter.set(
            LoadReport::new()
                .with_application_utilization(utilization)
                .with_memory_utilization(0.1)
                .with_utilization("disk", 0.2)
                .with_named_metric("queue", 3.0),
        );
        let report = next_report(&mut reports).await.expect("a report");
        assert_eq!(
            report.application_utilization(),
            utilization,
            "as it was set"
        );
        assert_eq!(report.memory_utilization(), 0.1);
        assert_eq!(report.metric("utilization.disk"), Some(0.2));
        assert_eq!(report.metric("named_metrics.queue"), Some(3.0));
        assert_eq!(report.in_flight(), Some(0), "a stream is no request");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_end_when_they_are_told_to_and_none_begins() {
    let record = record();
    let reporter = LoadReporter(record.clone());
    let mut begun = reports(Full::new(asking(LEAST)), record.clone(), LEAST);
    next_report(&mut begun).await.expect("a report");
    let silent = stream::pending::<Result<Frame<Bytes>, Status>>();
    let unasked = reports(StreamBody::new(silent), record.clone(), LEAST);
    let start = Instant::now();
    reporter.end_streams();
    let late = reports(Full::new(asking(LEAST)), record, LEAST);
    for (stream, which) in [(begun, "under way"), (unasked, "not asked"), (late, "late")] {
        let rest = stream.collect().await.expect("errors are statuses");
        let status = rest.trailers().and_then(|t| t.get("grpc-status"));
        let status = status.expect("gRPC ends with a status");
        assert_eq!(status, "14", "{which}: UNAVAILABLE");
        assert!(rest.to_bytes().is_empty(), "{which}: no report any more");
    }
    assert_eq!(start.elapsed(), Duration::ZERO, "at once");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_request_gets_a_report_at_once_and_none_before_its_time(bytes: Vec<u8>, in_frame: bool) {
        let request = if in_frame { framed(&bytes) } else { bytes.into() };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let mut reports = reports(Full::new(request), record(), LEAST);
            let start = Instant::now();
            assert!(next_report(&mut reports).await.is_some(), "the first");
            assert_eq!(start.elapsed(), Duration::ZERO, "at once");
            let early = timeout(LEAST - Duration::from_millis(1), reports.frame()).await;
            assert!(early.is_err(), "the next is not due: {early:?}");
        });
    }
}
