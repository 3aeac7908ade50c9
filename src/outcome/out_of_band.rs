//! Reports beside the calls, as they are asked for: ORCA's `OpenRcaService` (gRFC A51).

use std::time::Duration;

use crate::proto::orca_service::OrcaLoadReportRequest;

/// Where servers are asked to report.
pub(crate) const OUT_OF_BAND_PATH: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";

/// The most that one message may have: several times what goes into the trailers of a call.
pub(crate) const MOST_MESSAGE_BYTES: usize = 64 * 1024;

/// The longest interval that protobuf's `Duration` allows, of 10,000 years.
const LONGEST: prost_types::Duration = prost_types::Duration {
    seconds: 315_576_000_000,
    nanos: 0,
};

/// Asks for a report each `interval`.
pub(crate) fn request_for(interval: Duration) -> OrcaLoadReportRequest {
    let interval = prost_types::Duration::try_from(interval).ok();
    let interval = interval.filter(|interval| interval.seconds < LONGEST.seconds);
    OrcaLoadReportRequest {
        report_interval: Some(interval.unwrap_or(LONGEST)),
        request_cost_names: Vec::new(),
    }
}

/// The interval that `request` asks for; none if it says none, or one that is negative.
pub(crate) fn interval_of(request: &OrcaLoadReportRequest) -> Option<Duration> {
    // Not by its own conversion, which panics at the least of all times.
    let interval = request.report_interval?.normalized();
    let seconds = u64::try_from(interval.seconds).ok()?;
    let nanos = u32::try_from(interval.nanos).ok()?;
    Some(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    fn asking(seconds: i64, nanos: i32) -> OrcaLoadReportRequest {
        OrcaLoadReportRequest {
            report_interval: Some(prost_types::Duration { seconds, nanos }),
            ..OrcaLoadReportRequest::default()
        }
    }

    #[test]
    fn what_a_client_asks_for_is_what_a_server_hears() {
        for interval in [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_millis(1_500),
            Duration::from_secs(10),
        ] {
            assert_eq!(interval_of(&request_for(interval)), Some(interval));
        }
        let longest = Duration::from_secs(315_576_000_000);
        for beyond in [longest + Duration::from_nanos(1), Duration::MAX] {
            let heard = interval_of(&request_for(beyond));
            assert_eq!(
                heard,
                Some(longest),
                "no more fits into a protobuf Duration"
            );
        }
    }

    #[test]
    fn the_bytes_are_those_of_the_proto() {
        let request = request_for(Duration::from_millis(1_500));
        let bytes = [0x0a, 8, 0x08, 1, 0x10, 0x80, 0xca, 0xb5, 0xee, 0x01];
        assert_eq!(request.encode_to_vec(), bytes);
    }

    #[test]
    fn no_time_and_a_negative_one_are_none() {
        let silent = OrcaLoadReportRequest::default();
        assert_eq!(interval_of(&silent), None, "nothing said");
        for (seconds, nanos) in [
            (-1, 0),
            (0, -1),
            (i64::MIN, i32::MIN),
            (-1, 999_999_999),
            (i64::MIN, 0),
        ] {
            assert_eq!(
                interval_of(&asking(seconds, nanos)),
                None,
                "{seconds} {nanos}"
            );
        }
        assert_eq!(interval_of(&asking(0, 0)), Some(Duration::ZERO));
        let carried = interval_of(&asking(1, 1_500_000_000));
        assert_eq!(
            carried,
            Some(Duration::from_millis(2_500)),
            "not normal, but clear"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_request_or_none(bytes: Vec<u8>, seconds: i64, nanos: i32) {
            // That alone is the proof: nothing panics, not even in arithmetic.
            if let Ok(request) = OrcaLoadReportRequest::decode(&*bytes) {
                let _ = interval_of(&request);
            }
            if let Some(interval) = interval_of(&asking(seconds, nanos)) {
                let _ = request_for(interval);
            }
        }
    }
}
