//! How long a call may take.
//!
//! The caller's deadline travels in `grpc-timeout` and covers the whole call, as gRPC has it: the
//! server knows it too. A timeout of the channel is ours alone and, as in tonic, covers the call up
//! to its response head, so that it does not cut long streams.

use std::time::Duration;

use http::HeaderMap;

/// The limits of one call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Limits {
    /// To the response head.
    pub(super) head: Option<Duration>,
    /// To the end; at least as long as `head` where both are set.
    pub(super) whole: Option<Duration>,
}

impl Limits {
    /// The limits for a request with these headers through a channel with this timeout.
    #[inline]
    pub(super) fn of(headers: &HeaderMap, channel: Option<Duration>) -> Self {
        let whole = headers
            .get("grpc-timeout")
            .and_then(|value| parse(value.as_bytes()));
        let head = match (channel, whole) {
            (Some(channel), Some(whole)) => Some(channel.min(whole)),
            (one, other) => one.or(other),
        };
        Self { head, whole }
    }
}

/// gRPC's `TimeoutValue TimeoutUnit`: at most 8 digits and one of H, M, S, m, u, n. Anything else is
/// no limit, as if it were not there.
fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits
        .iter()
        .fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(
            parse(b"99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600)),
            "hours, and the longest there is"
        );
        assert_eq!(parse(b"2M"), Some(Duration::from_secs(120)), "minutes");
        assert_eq!(parse(b"3S"), Some(Duration::from_secs(3)), "seconds");
        assert_eq!(
            parse(b"40m"),
            Some(Duration::from_millis(40)),
            "milliseconds"
        );
        assert_eq!(parse(b"5u"), Some(Duration::from_micros(5)), "microseconds");
        assert_eq!(parse(b"6n"), Some(Duration::from_nanos(6)), "nanoseconds");
        for bad in ["", "S", "123456789S", "1.5S", "-1S", "5", "5x", "5\u{e9}"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn the_shorter_limit_holds_for_the_head_and_only_the_callers_for_the_rest() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", value.parse().unwrap());
            headers
        };
        let second = Duration::from_secs(1);
        assert_eq!(
            Limits::of(&HeaderMap::new(), None),
            Limits::default(),
            "none is set"
        );
        assert_eq!(
            Limits::of(&HeaderMap::new(), Some(second)),
            Limits {
                head: Some(second),
                whole: None
            },
            "the channel's is for the head alone"
        );
        assert_eq!(
            Limits::of(&with("2S"), Some(second)),
            Limits {
                head: Some(second),
                whole: Some(2 * second)
            },
            "the caller's is for the rest"
        );
        assert_eq!(
            Limits::of(&with("1S"), Some(2 * second)),
            Limits {
                head: Some(second),
                whole: Some(second)
            },
            "the caller's is the shorter"
        );
    }
}
