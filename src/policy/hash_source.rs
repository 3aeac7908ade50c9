use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use http::header::HeaderName;
use xxhash_rust::xxh64::{Xxh64, xxh64};

use crate::call::RequestInfo;
use crate::error::Error;
use crate::policy::forwarded;

/// A part of the request that hashing policies go by: calls alike in it go to the same endpoint.
///
/// [`RingHash`](crate::policy::RingHash), [`Maglev`](crate::policy::Maglev) and
/// [`Rendezvous`](crate::policy::Rendezvous) take a list of them and combine what they give by the
/// rules of xDS's route hash policies (gRFC A42): in order, each hash is XORed to the ones before it,
/// those rotated left by one bit; a source that has nothing is passed over; after one that is
/// [`terminal`](Self::terminal) the rest is not read if there is a hash by then.
///
/// The extension [`HashKey`](crate::call::HashKey), or
/// [`RequestInfo::with_hash_key`], stands in for the whole list on the requests that have it. A
/// request of which nothing gives a hash has a random one (gRFC A42, A76).
///
/// Hashes are XXH64 with seed 0, as in gRPC and Envoy, so that a header has the same hash there.
///
/// ```
/// use evenkeel::policy::{HashSource, RingHash};
///
/// // By the user where there is one, else by the caller's address and the method together.
/// let policy = RingHash::default().with_sources([
///     HashSource::header("x-user-id")?.terminal(),
///     HashSource::source_ip(),
///     HashSource::path(),
/// ]);
/// # Ok::<(), evenkeel::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct HashSource {
    kind: Kind,
    terminal: bool,
}

#[derive(Clone)]
enum Kind {
    Header(HeaderName),
    SourceIp { trusted_hops: u32 },
    Ip(Arc<ReadIp>),
    Path,
    Function(Arc<ReadKey>),
}

type ReadIp = dyn Fn(&RequestInfo<'_>) -> Option<IpAddr> + Send + Sync;
type ReadKey = dyn Fn(&RequestInfo<'_>) -> Option<u64> + Send + Sync;

impl HashSource {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            terminal: false,
        }
    }

    /// The header `name`, for gRPC metadata. Several values are joined with a comma; a header that is
    /// absent or empty gives no hash (gRFC A76).
    ///
    /// # Errors
    ///
    /// `name` is no name of a header, or it ends in `-bin`: gRFC A42 and A76 do not hash binary
    /// headers.
    pub fn header(name: &str) -> Result<Self, Error> {
        // Lower-cases it.
        let parsed = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Error::config("header", format!("{name:?} is no name of a header")))?;
        if parsed.as_str().ends_with("-bin") {
            let message = format!("{name:?} is a binary header, which is not hashed");
            return Err(Error::config("header", message));
        }
        Ok(Self::new(Kind::Header(parsed)))
    }

    /// The caller's address: the extension [`SourceIp`](crate::call::SourceIp), or else the last
    /// address of the header `Forwarded` or `X-Forwarded-For`; see
    /// [`IpHash`](crate::policy::IpHash#where-the-address-comes-from).
    pub fn source_ip() -> Self {
        Self::source_ip_behind(0)
    }

    /// As [`source_ip`](Self::source_ip), behind this many trusted proxies; see
    /// [`IpHash::with_trusted_hops`](crate::policy::IpHash::with_trusted_hops).
    pub fn source_ip_behind(trusted_hops: u32) -> Self {
        Self::new(Kind::SourceIp { trusted_hops })
    }

    /// The caller's address as `read` gives it.
    pub(super) fn ip_from_fn(
        read: impl Fn(&RequestInfo<'_>) -> Option<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        Self::new(Kind::Ip(Arc::new(read)))
    }

    /// Counts the trusted proxies anew, where the address comes from headers.
    pub(super) fn set_trusted_hops(&mut self, hops: u32) {
        if let Kind::SourceIp { trusted_hops } = &mut self.kind {
            *trusted_hops = hops;
        }
    }

    /// The path, for gRPC `/package.Service/Method`, without the query.
    pub fn path() -> Self {
        Self::new(Kind::Path)
    }

    /// A key that `read` takes from the request, if it has one. The key is hashed: it may be any
    /// number, such as a user's, or a hash already.
    ///
    /// `read` runs on each pick: it must not block or panic.
    ///
    /// ```
    /// use evenkeel::policy::HashSource;
    ///
    /// #[derive(Clone)]
    /// struct Tenant(u64);
    ///
    /// let by_tenant = HashSource::from_fn(|request| Some(request.extension::<Tenant>()?.0));
    /// ```
    pub fn from_fn(read: impl Fn(&RequestInfo<'_>) -> Option<u64> + Send + Sync + 'static) -> Self {
        Self::new(Kind::Function(Arc::new(read)))
    }

    /// Ends the list here, if this source or one before it gave a hash: what follows is for requests
    /// without. xDS's `terminal`.
    #[must_use]
    pub fn terminal(mut self) -> Self {
        self.terminal = true;
        self
    }

    fn hash(&self, request: &RequestInfo<'_>) -> Option<u64> {
        match &self.kind {
            Kind::Header(name) => header(request.headers()?, name),
            Kind::SourceIp { trusted_hops } => request
                .source_ip()
                .or_else(|| forwarded::caller(request.headers()?, *trusted_hops))
                .map(address),
            Kind::Ip(read) => read(request).map(address),
            Kind::Path => request.path().map(|path| xxh64(path.as_bytes(), 0)),
            Kind::Function(read) => read(request).map(key),
        }
    }
}

/// The hash of all values of a header, joined with commas; nothing is copied for that.
fn header(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?.as_bytes();
    let Some(second) = values.next() else {
        return (!first.is_empty()).then(|| xxh64(first, 0));
    };
    let mut hasher = Xxh64::new(0);
    hasher.update(first);
    for value in std::iter::once(second).chain(values) {
        hasher.update(b",");
        hasher.update(value.as_bytes());
    }
    Some(hasher.digest())
}

fn address(ip: IpAddr) -> u64 {
    match ip.to_canonical() {
        IpAddr::V4(ip) => xxh64(&ip.octets(), 0),
        IpAddr::V6(ip) => xxh64(&ip.octets(), 0),
    }
}

/// Numbers in a row must not fall on one place of a ring.
fn key(key: u64) -> u64 {
    xxh64(&key.to_le_bytes(), 0)
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => f.debug_tuple("Header").field(name).finish(),
            Self::SourceIp { trusted_hops } => f
                .debug_struct("SourceIp")
                .field("trusted_hops", trusted_hops)
                .finish(),
            Self::Ip(_) => f.write_str("Ip"),
            Self::Path => f.write_str("Path"),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

/// The hash of a request: of its key, or else of all sources.
pub(super) fn hash(sources: &[HashSource], request: &RequestInfo<'_>) -> Option<u64> {
    if let Some(own) = request.hash_key() {
        return Some(key(own));
    }
    let mut hash = None;
    for source in sources {
        if let Some(new) = source.hash(request) {
            hash = Some(hash.map_or(new, |before: u64| before.rotate_left(1) ^ new));
        }
        if source.terminal && hash.is_some() {
            break;
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};
    use proptest::prelude::*;

    use super::*;
    use crate::call::HashKey;
    use crate::math::testing::seeded;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::get("/echo.Echo/Say?x=1");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("the headers are valid")
    }

    fn of(sources: &[HashSource], headers: &[(&str, &str)]) -> Option<u64> {
        hash(sources, &RequestInfo::http(&request(headers)))
    }

    fn named(name: &str) -> HashSource {
        HashSource::header(name).expect("a header")
    }

    #[test]
    fn headers_hash_as_in_grpc() {
        let by = [named("x-foo")];
        assert_eq!(
            of(&by, &[("x-foo", "some-value")]),
            Some(1094076000777946959)
        );
        let two = [("x-foo", "value1"), ("x-bar", "other"), ("x-foo", "value2")];
        assert_eq!(
            of(&by, &two),
            Some(7597366331508923242),
            "joined with a comma"
        );
        assert_eq!(of(&by, &[("x-foo", "value1,value2")]), of(&by, &two));
        assert_eq!(of(&by, &[("x-foo", "")]), None, "an empty one is none");
        assert_eq!(of(&by, &[]), None, "an absent one is none");
        assert_eq!(hash(&by, &RequestInfo::new()), None, "no headers at all");
        assert_eq!(
            of(&by, &[("x-foo", ""), ("x-foo", "")]),
            Some(xxh64(b",", 0)),
            "two empty ones are a comma"
        );
    }

    #[test]
    fn names_are_lower_cased_and_those_that_cannot_be_are_refused() {
        assert_eq!(
            of(&[named("x-FOO")], &[("x-foo", "some-value")]),
            Some(1094076000777946959)
        );
        assert!(matches!(named("x-FOO").kind, Kind::Header(name) if name == "x-foo"));
        for bad in [
            "",
            ":path",
            "a b",
            "x-\u{e9}",
            "trace-bin",
            "Trace-BIN",
            "-bin",
        ] {
            let error = HashSource::header(bad).unwrap_err();
            assert_eq!(error.field(), Some("header"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn sources_combine_as_in_xds() {
        let headers = [("a", "1"), ("b", "2")];
        let (a, b) = (xxh64(b"1", 0), xxh64(b"2", 0));
        let both = [named("a"), named("b")];
        assert_eq!(of(&both, &headers), Some(a.rotate_left(1) ^ b));
        let twice = [named("a"), named("a")];
        assert_ne!(
            of(&twice, &headers),
            Some(0),
            "a source twice is not nothing"
        );
        assert_eq!(
            of(&[named("a").terminal(), named("b")], &headers),
            Some(a),
            "the rest is not read"
        );
        assert_eq!(
            of(&[named("none").terminal(), named("b")], &headers),
            Some(b),
            "a terminal source without a hash ends nothing"
        );
        assert_eq!(
            of(
                &[named("a"), named("none").terminal(), named("b")],
                &headers
            ),
            Some(a),
            "but it does if one before it had a hash"
        );
        assert_eq!(of(&[named("none"), named("b")], &headers), Some(b));
        assert_eq!(of(&[], &headers), None, "nothing to go by");
    }

    #[test]
    fn every_kind_of_source_reads_its_part() {
        let ip = xxh64(&[192, 0, 2, 1], 0);
        let via = [("x-forwarded-for", "192.0.2.1, 10.0.0.1")];
        assert_eq!(of(&[HashSource::source_ip_behind(1)], &via), Some(ip));
        assert_eq!(
            of(&[HashSource::source_ip()], &via),
            Some(xxh64(&[10, 0, 0, 1], 0))
        );
        assert_eq!(of(&[HashSource::source_ip()], &[]), None);
        assert_eq!(
            of(&[HashSource::path()], &[]),
            Some(xxh64(b"/echo.Echo/Say", 0)),
            "without the query"
        );
        let length = HashSource::from_fn(|request| Some(request.path()?.len() as u64));
        assert_eq!(of(&[length], &[]), Some(xxh64(&14_u64.to_le_bytes(), 0)));
        let mut keyed = request(&[("a", "1")]);
        keyed.extensions_mut().insert(HashKey(5));
        assert_eq!(
            hash(&[named("a")], &RequestInfo::http(&keyed)),
            Some(xxh64(&5_u64.to_le_bytes(), 0)),
            "a key stands in for the whole list"
        );
    }

    proptest! {
        #![proptest_config(seeded(256, 23))]

        #[test]
        fn any_header_is_hashed_as_its_values_joined(
            values in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..5),
        ) {
            let mut request = request(&[("before", "x"), ("after", "y")]);
            let mut joined: Option<Vec<u8>> = None;
            for bytes in values {
                if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                    request.headers_mut().append("x-key", value);
                    joined = Some(match joined {
                        None => bytes,
                        Some(before) => [&before[..], b",", &bytes].concat(),
                    });
                }
            }
            let want = joined.filter(|bytes| !bytes.is_empty()).map(|bytes| xxh64(&bytes, 0));
            let got = hash(&[named("x-key")], &RequestInfo::http(&request));
            prop_assert_eq!(got, want);
        }

        #[test]
        fn any_name_is_taken_or_refused(name in "(x-|[A-Za-z0-9-]|-bin|:|[ -~]|\u{e9}){0,8}") {
            let taken = HashSource::header(&name).is_ok();
            let known = HeaderName::from_bytes(name.as_bytes());
            let binary = name.to_ascii_lowercase().ends_with("-bin");
            prop_assert_eq!(taken, known.is_ok() && !binary);
        }

        #[test]
        fn lists_of_sources_come_to_the_hash_of_the_rules(
            list in prop::collection::vec((0_usize..5, any::<bool>()), 0..8),
        ) {
            // Of headers a to e, c is empty and e absent.
            let headers = [("a", "1"), ("b", "2"), ("c", ""), ("d", "4")];
            let parts = [Some("1"), Some("2"), None, Some("4"), None];
            let mut want: Option<u64> = None;
            for &(part, terminal) in &list {
                if let Some(text) = parts[part] {
                    let before = want.map_or(0, |hash| hash.rotate_left(1));
                    want = Some(before ^ xxh64(text.as_bytes(), 0));
                }
                if terminal && want.is_some() {
                    break;
                }
            }
            let sources: Vec<HashSource> = list
                .into_iter()
                .map(|(part, terminal)| {
                    let source = named(["a", "b", "c", "d", "e"][part]);
                    if terminal { source.terminal() } else { source }
                })
                .collect();
            prop_assert_eq!(of(&sources, &headers), want);
        }
    }
}
