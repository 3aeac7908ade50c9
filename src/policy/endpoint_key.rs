use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::endpoint::Endpoint;

/// What [`RingHash`](crate::policy::RingHash), [`Maglev`](crate::policy::Maglev) and
/// [`Rendezvous`](crate::policy::Rendezvous) hash of an endpoint in place of its address: the endpoint
/// attribute `hash_key` of gRFC A76. An endpoint that moves to another address and keeps its key keeps
/// its callers, as a pod of a Kubernetes StatefulSet should.
///
/// Keys should differ from each other: of two endpoints with one key, a ring and a rendezvous give all
/// calls to the first by id, for as long as that one can be used. An empty key counts as none.
///
/// ```
/// use evenkeel::Endpoint;
/// use evenkeel::policy::EndpointHashKey;
///
/// let endpoint = Endpoint::new("http://10.0.0.7:50051").with(EndpointHashKey::from("cache-0"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EndpointHashKey(Arc<str>);

impl EndpointHashKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<T: Into<Arc<str>>> From<T> for EndpointHashKey {
    fn from(key: T) -> Self {
        Self(key.into())
    }
}

impl fmt::Display for EndpointHashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// The key of an endpoint: its own, or `host:port` of its address, which is what gRPC and Envoy hash.
pub(super) fn endpoint_key(endpoint: &Endpoint) -> Cow<'_, str> {
    match endpoint.get::<EndpointHashKey>() {
        Some(key) if !key.0.is_empty() => Cow::Borrowed(&key.0),
        _ => host_and_port(endpoint.address()),
    }
}

/// `host:port` of a URI, with the port of the scheme if it names none; of anything else all of it.
fn host_and_port(address: &str) -> Cow<'_, str> {
    let Some((scheme, rest)) = address.split_once("://") else {
        return Cow::Borrowed(address);
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    if host.is_empty() {
        return Cow::Borrowed(address);
    }
    // A colon within brackets belongs to an IPv6 address.
    let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
    let port = match scheme {
        _ if after.contains(':') => return Cow::Borrowed(host),
        _ if scheme.eq_ignore_ascii_case("http") => 80,
        _ if scheme.eq_ignore_ascii_case("https") => 443,
        _ => return Cow::Borrowed(host),
    };
    Cow::Owned(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::testing::seeded;

    #[test]
    fn the_key_is_host_and_port_of_the_address() {
        for (address, key) in [
            ("127.0.0.1:90", "127.0.0.1:90"),
            ("http://127.0.0.1:90", "127.0.0.1:90"),
            ("https://127.0.0.1:90/", "127.0.0.1:90"),
            ("http://user@host:1?q#f", "host:1"),
            ("http://10.0.0.1", "10.0.0.1:80"),
            ("HTTPS://10.0.0.1/x:y", "10.0.0.1:443"),
            ("http://[::1]:50051", "[::1]:50051"),
            ("https://[::1]", "[::1]:443"),
            ("other://host", "host"),
            ("unix:/run/a.sock", "unix:/run/a.sock"),
            ("unix:///run/a.sock", "unix:///run/a.sock"),
            ("a", "a"),
            ("://", "://"),
            ("", ""),
        ] {
            assert_eq!(endpoint_key(&Endpoint::new(address)), key, "{address}");
        }
    }

    #[test]
    fn an_endpoint_may_have_a_key_of_its_own() {
        let endpoint = Endpoint::new("http://127.0.0.1:90");
        let keyed = endpoint.clone().with(EndpointHashKey::from("pod-7"));
        assert_eq!(endpoint_key(&keyed), "pod-7");
        let empty = endpoint.with(EndpointHashKey::from(""));
        assert_eq!(endpoint_key(&empty), "127.0.0.1:90", "an empty one is none");
    }

    proptest::proptest! {
        #![proptest_config(seeded(256, 29))]

        #[test]
        fn any_address_has_a_key(address in "(http|s|://|[/@:?#]|[\\[\\]]|[a-z0-9.]|\u{e9}){0,20}") {
            let key = host_and_port(&address);
            proptest::prop_assert_eq!(key.is_empty(), address.is_empty());
        }
    }
}
