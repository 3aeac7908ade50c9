//! Probes as they travel: the unary call of `proto/evenkeel/load/v1/probe.proto`.

use std::time::Duration;

use prost::Message;

use crate::outcome::LoadReport;
use crate::proto::load::{ProbeReply, ProbeRequest};

/// Where servers are probed.
pub(crate) const PROBE_PATH: &str = "/evenkeel.load.v1.LoadProbe/Probe";

/// Before each message of gRPC: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// As in report trailers: a server that expects more does not expect an answer at all.
const MOST_LATENCY: Duration = Duration::from_secs(3_600);

/// The body of a probe's request: zeros, so it is text too, and a string is the one body that http-body
/// has ready.
pub(crate) fn probe_request() -> String {
    String::from_utf8_lossy(&framed(&ProbeRequest {})).into_owned()
}

fn framed(message: &impl Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut body = Vec::with_capacity(PREFIX_BYTES + length);
    body.push(0);
    // A dozen bytes at most.
    body.extend_from_slice(&(length as u32).to_be_bytes());
    body.extend_from_slice(&message.encode_to_vec());
    body
}

impl LoadReport {
    /// The body of a probe's response, but for its trailers.
    pub(crate) fn to_probe_reply(&self) -> Vec<u8> {
        let reply = ProbeReply {
            requests_in_flight: self.in_flight().unwrap_or_default(),
            latency_microseconds: self
                .latency()
                .map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
        };
        framed(&reply)
    }

    /// What the body of a probe's response says, if it is one message, and not compressed.
    pub(crate) fn from_probe_reply(body: &[u8]) -> Option<Self> {
        let (prefix, message) = body.split_first_chunk::<PREFIX_BYTES>()?;
        let [0, length @ ..] = *prefix else {
            return None;
        };
        if usize::try_from(u32::from_be_bytes(length)) != Ok(message.len()) {
            return None;
        }
        let reply = ProbeReply::decode(message).ok()?;
        let report = Self::new().with_in_flight(reply.requests_in_flight);
        let latency = reply.latency_microseconds.map(Duration::from_micros);
        Some(match latency.filter(|latency| *latency <= MOST_LATENCY) {
            Some(latency) => report.with_latency(latency),
            None => report,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_is_what_a_client_hears() {
        let idle = LoadReport::new().with_in_flight(0);
        let busy = LoadReport::new()
            .with_in_flight(u32::MAX)
            .with_latency(Duration::from_micros(1_234));
        for report in [idle, busy] {
            let body = report.to_probe_reply();
            assert_eq!(LoadReport::from_probe_reply(&body), Some(report));
        }
        let empty = LoadReport::new().with_in_flight(0).to_probe_reply();
        assert_eq!(empty, [0; 5], "as any proto3 message of defaults");
    }

    #[test]
    fn the_bytes_are_those_of_the_proto() {
        let report = LoadReport::new()
            .with_in_flight(3)
            .with_latency(Duration::from_micros(300));
        let message = [0x08, 3, 0x10, 0xac, 0x02];
        let body = [&[0, 0, 0, 0, 5], &message[..]].concat();
        assert_eq!(report.to_probe_reply(), body);
    }

    #[test]
    fn what_is_not_one_plain_message_says_nothing() {
        for rubbish in [
            &[][..],
            &[0; 4],
            &[1, 0, 0, 0, 0],
            &[0, 0, 0, 0, 1],
            &[0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 2, 0x08, 0xff],
            &[0, 255, 255, 255, 255],
        ] {
            assert_eq!(LoadReport::from_probe_reply(rubbish), None, "{rubbish:?}");
        }
        let hours = LoadReport::new()
            .with_in_flight(1)
            .with_latency(Duration::MAX);
        let read = LoadReport::from_probe_reply(&hours.to_probe_reply());
        assert_eq!(
            read,
            Some(LoadReport::new().with_in_flight(1)),
            "an age is no latency"
        );
    }
}
