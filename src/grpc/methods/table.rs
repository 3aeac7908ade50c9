use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request};

use crate::call::{WaitForReady, grpc_timeout, grpc_timeout_value, insert_grpc_timeout};
use crate::service_config::Name;

/// What holds for the calls of a method.
#[derive(Debug, Clone, Default)]
pub(in crate::grpc) struct Settings {
    pub(in crate::grpc) timeout: Option<Timeout>,
    pub(in crate::grpc) wait_for_ready: Option<bool>,
    /// The place of the policy for retries or hedges.
    pub(in crate::grpc) policy: Option<usize>,
}

/// A time limit, and how a request says it.
#[derive(Debug, Clone)]
pub(in crate::grpc) struct Timeout {
    time: Duration,
    value: HeaderValue,
}

impl Timeout {
    pub(in crate::grpc) fn new(time: Duration) -> Option<Self> {
        let value = grpc_timeout_value(time)?;
        Some(Self { time, value })
    }

    /// The shorter one of this and the caller's holds.
    fn limit(&self, headers: &mut HeaderMap) {
        if grpc_timeout(headers).is_none_or(|callers| self.time < callers) {
            insert_grpc_timeout(headers, self.value.clone());
        }
    }
}

/// The settings by the path of a request. A look into it takes no lock and allocates nothing, but that a request
/// which is to wait for ready without a word of the caller's is told so by an extension.
#[derive(Debug, Default)]
pub(in crate::grpc) struct Table {
    /// By `/service/method`, or `/service/` for all of its methods.
    by_path: HashMap<Box<str>, Settings>,
    default: Option<Settings>,
}

impl Table {
    pub(in crate::grpc) fn insert(&mut self, name: &Name, settings: Settings) {
        let path = match name {
            Name::Default => {
                self.default = Some(settings);
                return;
            }
            Name::Service(service) => format!("/{service}/"),
            Name::Method(service, method) => format!("/{service}/{method}"),
        };
        self.by_path.insert(path.into(), settings);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_path.is_empty() && self.default.is_none()
    }

    fn of(&self, path: &str) -> Option<&Settings> {
        let of_service = || {
            let end = path.rfind('/')?;
            self.by_path.get(&path[..=end])
        };
        (self.by_path.get(path))
            .or_else(of_service)
            .or(self.default.as_ref())
    }

    pub(super) fn apply<B>(&self, request: &mut Request<B>) -> Option<usize> {
        let settings = self.of(request.uri().path())?;
        if let Some(timeout) = &settings.timeout {
            timeout.limit(request.headers_mut());
        }
        // Where the caller says nothing; and not waiting is what holds without a word.
        if settings.wait_for_ready == Some(true) {
            (request.extensions_mut()).get_or_insert_with(|| WaitForReady(true));
        }
        settings.policy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(service: &str, method: &str) -> Name {
        match (service, method) {
            ("", _) => Name::Default,
            (service, "") => Name::Service(service.into()),
            (service, method) => Name::Method(service.into(), method.into()),
        }
    }

    /// Each name by the number of its policy.
    fn table(names: &[(&str, &str)]) -> Table {
        let mut table = Table::default();
        for (place, (service, method)) in names.iter().enumerate() {
            let settings = Settings {
                policy: Some(place),
                ..Settings::default()
            };
            table.insert(&named(service, method), settings);
        }
        table
    }

    fn request(path: &str) -> Request<()> {
        Request::builder().uri(path).body(()).unwrap()
    }

    #[test]
    fn the_most_specific_name_counts() {
        let table = table(&[("", ""), ("MyService", ""), ("MyService", "Foo")]);
        for (path, place) in [
            ("/MyService/Foo", 2),
            ("/MyService/Bar", 1),
            ("/AnotherService/Baz", 0),
            ("/MyService/Foo/", 0),
            ("/MyServices/Foo", 0),
            ("/", 0),
            ("*", 0),
        ] {
            let policy = table.apply(&mut request(path));
            assert_eq!(policy, Some(place), "{path}");
        }
    }

    #[test]
    fn a_method_without_a_name_that_fits_has_nothing() {
        let table = table(&[("a.B", "C")]);
        for path in ["/a.B/D", "/a.B/", "/a.B", "/", "/C"] {
            let mut request = request(path);
            assert_eq!(table.apply(&mut request), None, "{path}");
            assert!(request.headers().is_empty(), "{path}: untouched");
        }
        assert!(Table::default().is_empty(), "nothing is said");
    }

    #[test]
    fn the_shorter_time_holds() {
        let mut table = Table::default();
        let settings = Settings {
            timeout: Timeout::new(Duration::from_secs(2)),
            ..Settings::default()
        };
        table.insert(&Name::Default, settings);
        for (callers, holds) in [
            (None, 2_000),
            (Some("1S"), 1_000),
            (Some("3S"), 2_000),
            (Some("nonsense"), 2_000),
        ] {
            let mut request = request("/a/b");
            if let Some(callers) = callers {
                let headers = request.headers_mut();
                headers.insert("grpc-timeout", callers.parse().unwrap());
            }
            table.apply(&mut request);
            let limit = grpc_timeout(request.headers());
            let holds = Some(Duration::from_millis(holds));
            assert_eq!(limit, holds, "the caller's {callers:?} and 2 s");
        }
    }

    #[test]
    fn waiting_is_for_calls_that_say_nothing() {
        for (configured, callers, waits) in [
            (Some(true), None, Some(true)),
            (Some(true), Some(false), Some(false)),
            (Some(false), Some(true), Some(true)),
            (Some(false), None, None),
            (None, None, None),
        ] {
            let mut table = Table::default();
            let settings = Settings {
                wait_for_ready: configured,
                ..Settings::default()
            };
            table.insert(&Name::Default, settings);
            let mut request = request("/a/b");
            if let Some(wait) = callers {
                request.extensions_mut().insert(WaitForReady(wait));
            }
            table.apply(&mut request);
            let wait = request.extensions().get().map(|WaitForReady(wait)| *wait);
            assert_eq!(
                wait, waits,
                "{configured:?} by the config, {callers:?} by the caller"
            );
        }
    }
    #[test]
    fn a_look_allocates_nothing() {
        let mut table = table(&[("a.B", "C"), ("a.B", ""), ("", "")]);
        let settings = Settings {
            timeout: Timeout::new(Duration::from_secs(2)),
            ..Settings::default()
        };
        table.insert(&named("a.B", "Limited"), settings);
        for path in ["/a.B/C", "/a.B/D", "/a.D/E", "/a.B/Limited"] {
            let mut request = request(path);
            let headers = request.headers_mut();
            headers.insert("grpc-timeout", HeaderValue::from_static("1H"));
            // The first clone of a value makes it one that is shared.
            table.apply(&mut self::request("/a.B/Limited"));
            let look = || {
                table.apply(&mut request);
            };
            let count = allocation_counter::measure(look).count_total;
            assert_eq!(count, 0, "{path}");
        }
    }
}
