use std::fmt;

use crate::error::Error;

/// The host, with or without its port, that a service is known by where its endpoints are known by other
/// addresses: what was looked up in DNS, say. [Attached](crate::Endpoint::with) to an endpoint it is what
/// `grpc::Channel` sends as `:authority`, and its host is the name that a certificate must carry.
///
/// What a builder says for all endpoints (`origin`, and `Tls::domain_name`) comes before it; without either it
/// is the host of the address. An endpoint that changes its authority is dialled anew.
///
/// ```
/// use evenkeel::Endpoint;
/// use evenkeel::endpoint::Authority;
///
/// let endpoint = Endpoint::new("http://10.0.0.1:50051").with(Authority::new("greeter.svc:50051")?);
/// assert_eq!(endpoint.get::<Authority>().map(Authority::host), Some("greeter.svc"));
/// # Ok::<_, evenkeel::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authority(http::uri::Authority);

impl Authority {
    /// Reads `host` or `host:port`.
    ///
    /// # Errors
    /// A configuration error of the field `authority` for anything else, a user name or the port 0 among it.
    pub fn new(text: &str) -> Result<Self, Error> {
        let message = || format!("{text:?} is not of the form host:port");
        let read: http::uri::Authority = text
            .parse()
            .map_err(|error| Error::config_because("authority", message(), Box::new(error)))?;
        // What follows the host's last bracket is the port; http leaves a bad one for later.
        let port = text.get(read.host().len()..).unwrap_or_default();
        // Digits alone: a sign would be read, too.
        let is_port = |port: &str| {
            port.bytes().all(|byte| byte.is_ascii_digit())
                && port.parse::<u16>().is_ok_and(|n| n > 0)
        };
        let bad_port = !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port);
        if read.host().is_empty() || text.contains('@') || bad_port {
            return Err(Error::config("authority", message()));
        }
        Ok(Self(read))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The host alone; an IPv6 address in its brackets.
    pub fn host(&self) -> &str {
        self.0.host()
    }

    #[cfg(feature = "grpc")]
    pub(crate) fn of_uri(&self) -> &http::uri::Authority {
        &self.0
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_and_all_else_is_refused() {
        for (text, host) in [
            ("a", "a"),
            ("a.b:1", "a.b"),
            ("[::1]:1", "[::1]"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            let authority = Authority::new(text).unwrap();
            assert_eq!((authority.as_str(), authority.host()), (text, host));
        }
        for text in [
            "", ":1", "a b", "a/b", "u@a", "http://a", "[::1", "\u{e9}", "a:", "a:http", "a:99999",
            "a:+1", "a:0", "[::1]x",
        ] {
            let error = Authority::new(text).expect_err(text);
            assert_eq!(error.field(), Some("authority"), "{text}: {error}");
        }
    }
}
