//! gRPC's `grpc-timeout`: `TimeoutValue TimeoutUnit`, at most 8 digits and one of H, M, S, m, u, n.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const NAME: HeaderName = HeaderName::from_static("grpc-timeout");

/// What the headers say. A value that cannot be read is no limit, as if it were not there.
#[inline]
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    headers.get(NAME).and_then(|value| parse(value.as_bytes()))
}

/// Says this in the headers, as [`grpc_timeout_value`].
pub(crate) fn set_grpc_timeout(headers: &mut HeaderMap, timeout: Duration) {
    if let Some(value) = grpc_timeout_value(timeout) {
        insert_grpc_timeout(headers, value);
    }
}

#[inline]
pub(crate) fn insert_grpc_timeout(headers: &mut HeaderMap, value: HeaderValue) {
    headers.insert(NAME, value);
}

/// This in the finest unit that has room for it; longer than 99,999,999 hours counts as that.
pub(crate) fn grpc_timeout_value(timeout: Duration) -> Option<HeaderValue> {
    const MOST: u128 = 99_999_999;
    let nanos = timeout.as_nanos();
    let units = [
        (1, 'n'),
        (1_000, 'u'),
        (1_000_000, 'm'),
        (1_000_000_000, 'S'),
        (60_000_000_000, 'M'),
        (3_600_000_000_000, 'H'),
    ];
    let (amount, unit) = units
        .into_iter()
        .map(|(nanos_each, unit)| (nanos / nanos_each, unit))
        .find(|(amount, _)| *amount <= MOST)
        .unwrap_or((MOST, 'H'));
    HeaderValue::try_from(format!("{amount}{unit}")).ok()
}

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
    fn timeouts_are_written_as_fine_as_eight_digits_allow_and_never_longer() {
        for (nanos, want) in [
            (0, "0n"),
            (99_999_999, "99999999n"),
            (100_000_001, "100000u"),
            (1_999_999_999, "1999999u"),
            (3_600_000_000_000, "3600000m"),
            (u64::MAX, "5124095H"),
        ] {
            let mut headers = HeaderMap::new();
            set_grpc_timeout(&mut headers, Duration::from_nanos(nanos));
            assert_eq!(headers[NAME], want, "{nanos} ns");
            let read = grpc_timeout(&headers).expect("what was written can be read");
            assert!(read <= Duration::from_nanos(nanos), "no longer than it was");
        }
        let mut headers = HeaderMap::new();
        set_grpc_timeout(&mut headers, Duration::MAX);
        assert_eq!(headers[NAME], "99999999H", "the longest there is");
    }
}
