use http::Uri;
use http::uri::Scheme;

use crate::error::Error;

/// The field that the builders' errors name.
const FIELD: &str = "endpoints";

/// Reads an endpoint's address: `http://host:port` or `https://host:port`. Without a port it is 80
/// or 443.
///
/// # Errors
///
/// A configuration error of the field `endpoints` for anything else: no scheme or another one, no
/// host, a user name, a path or a query.
pub fn check_address(address: &str) -> Result<Uri, Error> {
    let bad = |what: &str| Error::config(FIELD, format!("the address {address:?} {what}"));
    let uri: Uri = address.parse().map_err(|error: http::uri::InvalidUri| {
        let message = format!("the address {address:?} is no URI of the form http://host:port");
        Error::config_because(FIELD, message, error)
    })?;
    if uri.scheme() != Some(&Scheme::HTTP) && uri.scheme() != Some(&Scheme::HTTPS) {
        return Err(bad("does not begin with http:// or https://"));
    }
    let Some(authority) = uri.authority() else {
        return Err(bad("has no host"));
    };
    if authority.host().is_empty() {
        return Err(bad("has no host"));
    }
    if authority.as_str().contains('@') {
        return Err(bad("has a user name, which HTTP/2 does not carry"));
    }
    // What follows the host's last bracket is the port; http leaves a bad one for later.
    let port = authority.as_str()[authority.host().len()..].strip_prefix(':');
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err(bad("has no valid port"));
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(bad("has a path; the path comes from the call"));
    }
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read() {
        for (good, host, port) in [
            ("http://127.0.0.1:50051", "127.0.0.1", Some(50051)),
            ("https://example.com", "example.com", None),
            ("http://[::1]:80/", "[::1]", Some(80)),
        ] {
            let uri = check_address(good).expect(good);
            assert_eq!((uri.host(), uri.port_u16()), (Some(host), port), "{good}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_the_name_of_the_field() {
        for bad in [
            "",
            "127.0.0.1:50051",
            "localhost",
            "ftp://a:1",
            "http://",
            "http://:80",
            "http://a:99999",
            "http://a:",
            "http://u:p@a:1",
            "http://a:1/x",
            "http://a:1?q",
            "/path",
            "http://a b",
        ] {
            let error = check_address(bad).expect_err(bad);
            assert_eq!(error.field(), Some("endpoints"), "{bad}: {error}");
            assert!(error.is_config(), "{bad} is a mistake in the configuration");
        }
    }
}
