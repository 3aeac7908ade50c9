//! Load reports as they travel: ORCA in binary metadata (gRFC A51), and two plain headers.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName, HeaderValue};
use prost::Message;

use crate::outcome::LoadReport;
use crate::proto::orca::OrcaLoadReport;

/// As gRPC writes binary metadata: without padding. It may be read with or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reports of usual size are decoded without a buffer on the heap.
const USUAL_BYTES: usize = 768;

/// The most that is decoded: what HTTP/2 servers commonly allow all headers together.
const MOST_BYTES: usize = 16 * 1024;

const IN_FLIGHT: &str = "prequal.rif";
const LATENCY_US: &str = "prequal.latency_us";
const IN_FLIGHT_HEADER: &str = "x-prequal-rif";
const LATENCY_US_HEADER: &str = "x-prequal-latency-us";

/// An hour: a server that expects more does not expect an answer at all.
const MOST_LATENCY_US: f64 = 3.6e9;

impl LoadReport {
    /// The trailer that carries a report.
    pub const HEADER: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");

    /// The report in these trailers or headers, if there is one.
    ///
    /// It is ORCA's `OrcaLoadReport` in `endpoint-load-metrics-bin`. Requests under way and the latency
    /// expected at this many are its named metrics `prequal.rif` and `prequal.latency_us`
    /// (microseconds), or the headers `x-prequal-rif` and `x-prequal-latency-us`, which also count alone
    /// and before those. Whatever cannot be read is as if it were not there. Costs an
    /// allocation or two for each number that has a name, and none otherwise.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let orca = headers.get(Self::HEADER).and_then(decode);
        let in_flight = number(headers, IN_FLIGHT_HEADER).and_then(to_count);
        let latency = number(headers, LATENCY_US_HEADER).and_then(to_latency);
        if orca.is_none() && in_flight.is_none() && latency.is_none() {
            return None;
        }
        let mut report = orca.map(Self::from_orca).unwrap_or_default();
        if let Some(in_flight) = in_flight {
            report = report.with_in_flight(in_flight);
        }
        if let Some(latency) = latency {
            report = report.with_latency(latency);
        }
        Some(report)
    }

    /// The value of [`HEADER`](Self::HEADER) that carries this report.
    pub fn to_header_value(&self) -> HeaderValue {
        let text = BASE64.encode(self.to_orca().encode_to_vec());
        // Cannot fail: base64 is made of characters that a header may have.
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    pub(crate) fn from_orca(orca: OrcaLoadReport) -> Self {
        let in_flight = orca.named_metrics.get(IN_FLIGHT).copied();
        let latency = orca.named_metrics.get(LATENCY_US).copied();
        let finite = |_: &String, value: &mut f64| value.is_finite();
        let mut report = Self::new()
            .with_cpu_utilization(orca.cpu_utilization)
            .with_memory_utilization(orca.mem_utilization)
            .with_application_utilization(orca.application_utilization)
            .with_qps(orca.rps_fractional)
            .with_eps(orca.eps);
        report.request_costs = kept(orca.request_cost, finite);
        report.named_metrics = kept(orca.named_metrics, finite);
        report.utilizations = kept(orca.utilization, |_, share| (0.0..=1.0).contains(share));
        if let Some(in_flight) = in_flight.and_then(to_count) {
            report = report.with_in_flight(in_flight);
        }
        if let Some(latency) = latency.and_then(to_latency) {
            report = report.with_latency(latency);
        }
        report
    }

    pub(crate) fn to_orca(&self) -> OrcaLoadReport {
        let mut named_metrics = self.named_metrics.clone();
        if let Some(in_flight) = self.in_flight() {
            named_metrics.insert(IN_FLIGHT.to_owned(), f64::from(in_flight));
        }
        if let Some(latency) = self.latency() {
            named_metrics.insert(LATENCY_US.to_owned(), latency.as_secs_f64() * 1e6);
        }
        OrcaLoadReport {
            cpu_utilization: self.cpu_utilization(),
            mem_utilization: self.memory_utilization(),
            request_cost: self.request_costs.clone(),
            utilization: self.utilizations.clone(),
            rps_fractional: self.qps(),
            eps: self.eps(),
            named_metrics,
            application_utilization: self.application_utilization(),
            ..OrcaLoadReport::default()
        }
    }
}

fn kept(
    mut map: BTreeMap<String, f64>,
    valid: impl FnMut(&String, &mut f64) -> bool,
) -> BTreeMap<String, f64> {
    map.retain(valid);
    map
}

fn decode(value: &HeaderValue) -> Option<OrcaLoadReport> {
    // Several values may be joined by commas, which base64 does not have; a report has one.
    let text = value.as_bytes().split(|&byte| byte == b',').next()?;
    let text = text.trim_ascii();
    if text.len() > MOST_BYTES {
        return None;
    }
    let mut usual = [0; USUAL_BYTES];
    let mut unusual = Vec::new();
    let most = base64::decoded_len_estimate(text.len());
    let buffer = if most <= USUAL_BYTES {
        &mut usual[..]
    } else {
        unusual.resize(most, 0);
        &mut unusual[..]
    };
    let length = BASE64.decode_slice(text, buffer).ok()?;
    OrcaLoadReport::decode(&buffer[..length]).ok()
}

fn number(headers: &HeaderMap, name: &str) -> Option<f64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Rounded to a whole number; none if it is not one from 0 to `u32::MAX`.
fn to_count(number: f64) -> Option<u32> {
    let valid = (0.0..=f64::from(u32::MAX)).contains(&number);
    valid.then_some(number.round() as u32)
}

fn to_latency(microseconds: f64) -> Option<Duration> {
    let valid = (0.0..=MOST_LATENCY_US).contains(&microseconds);
    valid.then(|| Duration::from_secs_f64(microseconds / 1e6))
}

#[cfg(test)]
mod tests;
