//! The caller's address out of `Forwarded` (RFC 7239) and `X-Forwarded-For`.
//!
//! Each proxy appends to the right; what stands further left may be the caller's invention. So both
//! are read from the right, and only as far as the trusted proxies go: an unbalanced quote or a
//! megabyte of text on the left cannot change what is found on the right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};

/// What is looked at in all lines of one header together. Room for 100 proxies.
const MAX_BYTES: usize = 4096;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address that is left of the last `trusted_hops` ones, by `Forwarded` or else by
/// `X-Forwarded-For`.
pub(super) fn caller(headers: &HeaderMap, trusted_hops: u32) -> Option<IpAddr> {
    let forwarded = || {
        address(parameter_for(from_right(
            headers,
            &FORWARDED,
            trusted_hops,
        )?)?)
    };
    let x_forwarded_for = || address(from_right(headers, &X_FORWARDED_FOR, trusted_hops)?);
    forwarded().or_else(x_forwarded_for)
}

/// The element of a list header that has `skipped` ones to its right. Several lines are one list;
/// empty elements do not count (RFC 9110, 5.6.1).
fn from_right<'a>(headers: &'a HeaderMap, name: &HeaderName, skipped: u32) -> Option<&'a [u8]> {
    let mut left = MAX_BYTES;
    let mut skipped = skipped;
    for line in headers.get_all(name).iter().rev() {
        let line = line.as_bytes();
        let mut elements = FromRight::new(line, b',');
        while let Some(element) = elements.next(left) {
            // The comma counts, so that a thousand empty lines are not free.
            left = left.checked_sub(element.len() + 1)?;
            let element = element.trim_ascii();
            if element.is_empty() {
                continue;
            }
            match skipped.checked_sub(1) {
                Some(rest) => skipped = rest,
                None => return Some(element),
            }
        }
        if !elements.is_done() {
            return None;
        }
    }
    None
}

/// The value of `for` in one element of `Forwarded`.
fn parameter_for(element: &[u8]) -> Option<&[u8]> {
    let mut pairs = FromRight::new(element, b';');
    while let Some(pair) = pairs.next(MAX_BYTES) {
        let mut halves = pair.splitn(2, |&byte| byte == b'=');
        let name = halves.next()?.trim_ascii();
        if name.eq_ignore_ascii_case(b"for") {
            return halves.next();
        }
    }
    None
}

/// The address in `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]` and
/// `[2001:db8::1]:80`, quoted or not. Names that hide the address (`unknown`, `_abc`) have none.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = text.trim_ascii();
    let unquoted = text
        .strip_prefix(b"\"")
        .and_then(|text| text.strip_suffix(b"\""));
    let text = std::str::from_utf8(unquoted.unwrap_or(text)).ok()?;
    if let Some(bracketed) = text.strip_prefix('[') {
        let (ip, port) = bracketed.split_once(']')?;
        let ip: Ipv6Addr = ip.parse().ok()?;
        return (port.is_empty() || port.starts_with(':')).then_some(IpAddr::V6(ip));
    }
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let (ip, _port) = text.split_once(':')?;
    ip.parse().ok().map(|ip: Ipv4Addr| IpAddr::V4(ip))
}

/// Splits at a separator outside of quoted strings, from the right.
struct FromRight<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> FromRight<'a> {
    fn new(text: &'a [u8], separator: u8) -> Self {
        Self {
            rest: Some(text),
            separator,
        }
    }

    /// The next part, unless it is longer than `limit`: no more bytes than that are looked at.
    fn next(&mut self, limit: usize) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let mut quoted = false;
        for (at, &byte) in rest.iter().enumerate().rev() {
            if rest.len() - at > limit + 1 {
                return None;
            }
            if byte == b'"' {
                // Within a quoted string, `\"` is a character and no end.
                let escapes = rest[..at].iter().rev().take_while(|&&b| b == b'\\');
                quoted ^= escapes.take(limit).count() % 2 == 0;
            } else if byte == self.separator && !quoted {
                self.rest = Some(&rest[..at]);
                return Some(&rest[at + 1..]);
            }
        }
        self.rest = None;
        Some(rest)
    }

    /// Whether all parts were given out.
    fn is_done(&self) -> bool {
        self.rest.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::testing::seeded;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    fn forwarded(lines: &[&str], hops: u32) -> Option<String> {
        let lines: Vec<_> = lines.iter().map(|line| ("forwarded", *line)).collect();
        caller(&headers(&lines), hops).map(|ip| ip.to_string())
    }

    fn x_forwarded_for(lines: &[&str], hops: u32) -> Option<String> {
        let lines: Vec<_> = lines
            .iter()
            .map(|line| ("x-forwarded-for", *line))
            .collect();
        caller(&headers(&lines), hops).map(|ip| ip.to_string())
    }

    #[test]
    fn nodes_of_rfc_7239() {
        for (line, ip) in [
            ("for=192.0.2.43", Some("192.0.2.43")),
            (
                "For=192.0.2.43;proto=http;by=203.0.113.43",
                Some("192.0.2.43"),
            ),
            ("proto=http; FOR = 192.0.2.43", Some("192.0.2.43")),
            ("for=\"192.0.2.43:47011\"", Some("192.0.2.43")),
            ("for=192.0.2.43:47011", Some("192.0.2.43")),
            (
                "For=\"[2001:db8:cafe::17]:4711\"",
                Some("2001:db8:cafe::17"),
            ),
            ("for=\"[2001:db8:cafe::17]\"", Some("2001:db8:cafe::17")),
            ("for=\"192.0.2.43:_port\"", Some("192.0.2.43")),
            ("by=\"a;for=1.1.1.1,\";for=192.0.2.43", Some("192.0.2.43")),
            ("by=\"\\\",\";for=192.0.2.43", Some("192.0.2.43")),
            ("for=unknown", None),
            ("for=\"_gazonk\"", None),
            ("for=_hidden", None),
            ("by=203.0.113.43", None),
            ("for", None),
            ("for=", None),
            ("for=\"", None),
            ("for=\"192.0.2.43", None),
            ("for=[::1", None),
            ("for=\"[::1]x\"", None),
            ("for=\"[192.0.2.43]\"", None),
            ("for=192.0.2.256", None),
            ("", None),
            (",,;;=", None),
        ] {
            assert_eq!(forwarded(&[line], 0).as_deref(), ip, "{line}");
        }
    }

    #[test]
    fn entries_of_x_forwarded_for() {
        for (line, ip) in [
            ("203.0.113.195", Some("203.0.113.195")),
            ("203.0.113.195:41237", Some("203.0.113.195")),
            (
                "2001:db8:85a3::8a2e:370:7334",
                Some("2001:db8:85a3::8a2e:370:7334"),
            ),
            ("[2001:db8::1]:41237", Some("2001:db8::1")),
            ("\"[2001:db8::1]\"", Some("2001:db8::1")),
            ("2.2.2.2, 1.1.1.1 ,", Some("1.1.1.1")),
            ("unknown", None),
            ("1.1.1.1 2.2.2.2", None),
            ("::1:", None),
        ] {
            assert_eq!(x_forwarded_for(&[line], 0).as_deref(), ip, "{line}");
        }
    }

    #[test]
    fn trusted_hops_count_from_the_right_over_all_lines() {
        let one = ["9.9.9.9, 1.1.1.1, 2.2.2.2"];
        let two = ["9.9.9.9, 1.1.1.1", "", "2.2.2.2"];
        for lines in [&one[..], &two[..]] {
            for (hops, ip) in [
                (0, Some("2.2.2.2")),
                (1, Some("1.1.1.1")),
                (2, Some("9.9.9.9")),
                (3, None),
                (u32::MAX, None),
            ] {
                assert_eq!(
                    x_forwarded_for(lines, hops).as_deref(),
                    ip,
                    "{lines:?} {hops}"
                );
            }
        }
        let hidden = ["for=1.1.1.1, for=_proxy;by=a, by=b, for=2.2.2.2"];
        assert_eq!(
            forwarded(&hidden, 3).as_deref(),
            Some("1.1.1.1"),
            "a proxy that hides its address, or gives none, is a hop all the same"
        );
        assert_eq!(forwarded(&hidden, 1), None);
    }

    #[test]
    fn what_stands_on_the_left_cannot_hide_what_stands_on_the_right() {
        let long = "x".repeat(100_000);
        for left in ["for=\"", "for=\"\\", "\"\"\"", &long, ",,,,", "\u{e9}"] {
            let line = format!("{left}, for=1.1.1.1, for=2.2.2.2");
            assert_eq!(forwarded(&[&line], 1).as_deref(), Some("1.1.1.1"));
            let lines = [left, "for=1.1.1.1", "for=2.2.2.2"];
            assert_eq!(forwarded(&lines, 1).as_deref(), Some("1.1.1.1"));
        }
    }

    #[test]
    fn forwarded_comes_first_but_need_not_have_an_address() {
        let both = |forwarded| {
            let lines = [("forwarded", forwarded), ("x-forwarded-for", "2.2.2.2")];
            caller(&headers(&lines), 0).map(|ip| ip.to_string())
        };
        assert_eq!(both("for=1.1.1.1").as_deref(), Some("1.1.1.1"));
        assert_eq!(both("for=unknown").as_deref(), Some("2.2.2.2"));
    }

    #[test]
    fn no_more_than_the_limit_is_read() {
        let fits = format!("1.1.1.1{}", ",".repeat(MAX_BYTES - 8));
        assert_eq!(x_forwarded_for(&[&fits], 0).as_deref(), Some("1.1.1.1"));
        let too_long = format!("1.1.1.1{}", ",".repeat(MAX_BYTES));
        assert_eq!(x_forwarded_for(&[&too_long], 0), None);
        // An address that the limit cuts through is not another, shorter address.
        for len in MAX_BYTES - 20..MAX_BYTES {
            let cut = format!("111.1.1.1{}", ",".repeat(len));
            let found = x_forwarded_for(&[&cut], 0);
            assert!(
                matches!(found.as_deref(), None | Some("111.1.1.1")),
                "{found:?}"
            );
        }
        let mut lines = vec!["1.1.1.1"];
        lines.resize(MAX_BYTES + 1, "");
        assert_eq!(x_forwarded_for(&lines, 0), None, "empty lines count");
    }

    proptest! {
        #![proptest_config(seeded(256, 19))]

        #[test]
        fn any_bytes_are_read_without_a_panic(
            lines in prop::collection::vec(
                (any::<bool>(), prop::collection::vec(any::<u8>(), 0..200)), 0..5),
            hops in 0_u32..4,
        ) {
            let mut headers = HeaderMap::new();
            for (forwarded, bytes) in lines {
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    let name = if forwarded { FORWARDED } else { X_FORWARDED_FOR };
                    headers.append(name, value);
                }
            }
            let _ = caller(&headers, hops);
        }

        #[test]
        fn text_of_the_right_alphabet_is_read_without_a_panic(
            line in "(for=|for|[,;=\\[\\]:\"\\\\. ]|[0-9]{1,3}|::|_x){0,60}",
            hops in 0_u32..4,
        ) {
            let headers = headers(&[("forwarded", &line), ("x-forwarded-for", &line)]);
            let _ = caller(&headers, hops);
        }

        #[test]
        fn what_a_trusted_proxy_wrote_is_found_whatever_came_before(
            before in "[ -~]{0,80}",
            ip in any::<IpAddr>(),
            port in prop::option::of(any::<u16>()),
            hops in 0_u32..4,
        ) {
            let node = match (ip, port) {
                (IpAddr::V4(ip), Some(port)) => format!("{ip}:{port}"),
                (IpAddr::V4(ip), None) => ip.to_string(),
                (IpAddr::V6(ip), Some(port)) => format!("[{ip}]:{port}"),
                (IpAddr::V6(ip), None) => format!("[{ip}]"),
            };
            let trusted = ", for=_proxy".repeat(hops as usize);
            let line = format!("{before}, proto=https;for=\"{node}\";host=a{trusted}");
            let headers = headers(&[("forwarded", &line)]);
            prop_assert_eq!(caller(&headers, hops), Some(ip));
            let line = format!("{before}, {node}{}", trusted.replace("for=", ""));
            let headers = self::headers(&[("x-forwarded-for", &line)]);
            prop_assert_eq!(caller(&headers, hops), Some(ip));
        }
    }
}
