use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Where gRPC goes when a target names no port (gRPC's naming: 443).
pub(super) const DEFAULT_PORT: u16 = 443;

/// A host, by name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostPort {
    pub(super) host: Host,
    pub(super) port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    Ip(IpAddr),
    Name(String),
}

impl HostPort {
    /// Reads `host[:port]`, with an IPv6 address in brackets, or bare where no port follows.
    ///
    /// # Errors
    /// What is wrong, to stand behind the text that was read.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse::<Ipv6Addr>() {
            let host = Host::Ip(ip.into());
            return Ok(Self {
                host,
                port: DEFAULT_PORT,
            });
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("has no closing bracket")?;
                let ip: Ipv6Addr = host
                    .parse()
                    .map_err(|_| format!("has {host:?} for an IPv6 address"))?;
                (Host::Ip(ip.into()), port)
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                (Host::read(host)?, port)
            }
        };
        let port = match port.strip_prefix(':') {
            Some(port) => read_port(port)?,
            None if port.is_empty() => DEFAULT_PORT,
            None => return Err(format!("has {port:?} where a port would stand")),
        };
        Ok(Self { host, port })
    }

    /// As an address that `grpc::Channel` takes.
    pub(super) fn address(&self) -> String {
        format!("http://{self}")
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]:{}", self.port),
            Host::Ip(ip) => write!(f, "{ip}:{}", self.port),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Host {
    fn read(text: &str) -> Result<Self, String> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Ip(ip));
        }
        check_name(text)?;
        Ok(Self::Name(text.to_owned()))
    }
}

/// Refuses what DNS could not know as a host: RFC 1123 section 2.1, and underscores, which occur.
pub(super) fn check_name(name: &str) -> Result<(), String> {
    let no = |what: &str| Err(format!("has {name:?} for a host, which {what}"));
    let labels = name.strip_suffix('.').unwrap_or(name);
    if labels.is_empty() {
        return no("is no name");
    }
    if labels.len() > 253 {
        return no("is longer than 253 bytes");
    }
    for label in labels.split('.') {
        if label.is_empty() || label.len() > 63 {
            return no("has a label that is not 1 to 63 bytes long");
        }
        let byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if !label.bytes().all(byte) {
            return no("is neither an IP address nor a name of ASCII letters, digits, - and _");
        }
    }
    let last = labels.rsplit('.').next().unwrap_or(labels);
    if last.bytes().all(|byte| byte.is_ascii_digit()) {
        return no("looks like an IPv4 address and is none");
    }
    Ok(())
}

fn read_port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(format!("has the port {text:?}, which is not 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read() {
        for (text, written) in [
            ("a", "a:443"),
            ("a:1", "a:1"),
            ("a.b-c.d_e.:65535", "a.b-c.d_e.:65535"),
            ("10.0.0.1", "10.0.0.1:443"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("::1", "[::1]:443"),
            ("[::1]", "[::1]:443"),
            ("[fd00::0:1]:50051", "[fd00::1]:50051"),
            ("localhost:080", "localhost:80"),
        ] {
            assert_eq!(HostPort::read(text).unwrap().to_string(), written, "{text}");
        }
    }

    #[test]
    fn what_is_no_host_or_no_port_is_refused_with_a_reason() {
        let long = "a".repeat(64);
        let longer = vec!["a"; 128].join(".");
        for (text, why) in [
            ("", "is no name"),
            (".", "is no name"),
            (":1", "is no name"),
            ("a:", "1 to 65535"),
            ("a:0", "1 to 65535"),
            ("a:70000", "1 to 65535"),
            ("a:+1", "1 to 65535"),
            ("a:1:2", "1 to 65535"),
            ("a b", "is neither"),
            ("a/b", "is neither"),
            ("u@a:1", "is neither"),
            ("\u{e9}.example", "is neither"),
            ("a..b", "1 to 63"),
            (&long, "1 to 63"),
            (&longer, "253"),
            ("10.0.0.256", "IPv4"),
            ("10.0.0", "IPv4"),
            ("[::1", "bracket"),
            ("[::g]:1", "IPv6"),
            ("[::1]x", "where a port"),
            ("fe80::1%eth0", "1 to 65535"),
        ] {
            let error = HostPort::read(text).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
