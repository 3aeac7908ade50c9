use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, Request};

use crate::call::{WaitForReady, grpc_timeout, set_grpc_timeout};
use crate::service_config::Name;

/// What holds for the calls of a method.
#[derive(Debug, Clone, Default, PartialEq)]
pub(in crate::grpc) struct Settings {
    pub(in crate::grpc) timeout: Option<Duration>,
    pub(in crate::grpc) wait_for_ready: Option<bool>,
    /// The place of the policy.
    pub(in crate::grpc) retry: Option<usize>,
}

/// The settings by the path of a request. A look into it neither locks nor allocates.
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
        if let Some(timeout) = settings.timeout {
            limit(request.headers_mut(), timeout);
        }
        // Where the caller says nothing; and not waiting is what holds without a word.
        if settings.wait_for_ready == Some(true) {
            (request.extensions_mut()).get_or_insert_with(|| WaitForReady(true));
        }
        settings.retry
    }
}

/// The shorter one of this time and the caller's holds.
fn limit(headers: &mut HeaderMap, timeout: Duration) {
    if grpc_timeout(headers).is_none_or(|callers| timeout < callers) {
        set_grpc_timeout(headers, timeout);
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
                retry: Some(place),
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
            timeout: Some(Duration::from_secs(2)),
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
}
