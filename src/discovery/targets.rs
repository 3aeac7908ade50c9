use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

#[cfg(feature = "dns")]
use crate::discovery::dns;
#[cfg(feature = "file")]
use crate::discovery::file;
#[cfg(feature = "kubernetes-unversioned")]
use crate::discovery::kubernetes;
use crate::discovery::target::{FIELD, Target, bad, is_scheme};
use crate::discovery::{BoxDiscovery, Discovery, fixed};
use crate::error::{BoxError, Error};

type Make = Arc<dyn Fn(&Target) -> Result<BoxDiscovery, Error> + Send + Sync>;

type BuiltIn = fn(&Target) -> Result<BoxDiscovery, Error>;

/// The schemes that ship.
const BUILT_IN: [(&str, BuiltIn); 11] = [
    #[cfg(feature = "dns")]
    ("dns", dns::of_host),
    #[cfg(not(feature = "dns"))]
    ("dns", needs_dns),
    #[cfg(feature = "dns")]
    ("dns+srv", dns::of_service),
    #[cfg(not(feature = "dns"))]
    ("dns+srv", needs_dns),
    ("etcd", needs_channel),
    #[cfg(feature = "file")]
    ("file", file::of_target),
    #[cfg(not(feature = "file"))]
    ("file", needs_file),
    ("ipv4", fixed::ipv4),
    ("ipv6", fixed::ipv6),
    #[cfg(feature = "kubernetes-unversioned")]
    ("kubernetes", kubernetes::of_target),
    #[cfg(not(feature = "kubernetes-unversioned"))]
    ("kubernetes", needs_kubernetes),
    ("static", fixed::list),
    ("unix", fixed::unix),
    ("unix-abstract", fixed::unix_abstract),
    ("xds", not_here),
];

/// Which source finds the endpoints of a [`Target`], by its scheme. A plain value: what is
/// added to one is in no other.
///
/// | target | endpoints |
/// |---|---|
/// | `dns:///host:port`, `dns://10.0.0.53:53/host:port`, `host:port` | every address of a name in DNS, by the system's name servers or the one named; without a port 443. Feature `dns`; `Dns` tells the rest |
/// | `dns+srv:///_grpc._tcp.host` | the SRV records of a service. Feature `dns` |
/// | `etcd://host:port,host2:port/services/cart` | what the keys below `services/cart/` name: `grpc::etcd` tells the rest. By `grpc::Channel` alone; feature `etcd` |
/// | `file:relative/path`, `file:///absolute/path` | the list in a file of JSON or YAML, as it changes. Feature `file`; `File` tells the rest |
/// | `kubernetes:///service.namespace:port`, `kubernetes:///service:port` | the pods of a service, in its own namespace where none is named; the port by its name, or by the number that the pods have, and without one the only port. Feature `kubernetes`; `Kubernetes` tells the rest |
/// | `static:///a:1,b:2` | these; each a name or an address, and its port or 443 |
/// | `ipv4:10.0.0.1:50051,10.0.0.2` | these; without a port 443 |
/// | `ipv6:[fd00::1]:50051,fd00::2` | these; without a port 443 |
/// | `unix:relative/path`, `unix:///absolute/path` | a Unix socket |
/// | `unix-abstract:name` | a Unix socket in Linux's abstract namespace |
///
/// `xds` is known by name, and this version has no source for it.
///
/// The addresses that are found begin with `http://`; with `grpc::Builder::tls` set, TLS is
/// spoken to them all the same.
///
/// ```
/// use evenkeel::BoxError;
/// use evenkeel::discovery::{Target, Targets, Update};
///
/// // The endpoints of `rack:7` are the hosts of rack 7.
/// let targets = Targets::new().with_scheme("rack", |target: &Target| {
///     let rack: u8 = target.name().parse()?;
///     let hosts = (1..=3).map(move |n| format!("http://10.0.{rack}.{n}:50051"));
///     Ok(futures::stream::iter([Ok::<_, BoxError>(Update::new(hosts))]))
/// })?;
/// let source = targets.source("rack:7")?;
/// assert!(targets.source("rack:seven").is_err());
/// # let _ = source;
/// # Ok::<_, evenkeel::Error>(())
/// ```
#[derive(Clone)]
pub struct Targets {
    /// Those that were added; they come before those that ship.
    own: BTreeMap<Arc<str>, Make>,
}

impl Targets {
    /// The schemes that ship.
    pub fn new() -> Self {
        Self {
            own: BTreeMap::new(),
        }
    }

    /// Adds a scheme, or takes the place of the one of that name: `make` makes the source of a target that
    /// has it. Upper and lower case are one.
    ///
    /// An error of `make` is what [`source`](Self::source) returns.
    ///
    /// # Errors
    /// A name that is no scheme: a letter, then letters, digits, `+`, `-` and `.` (RFC 3986). The error names
    /// the field `scheme`.
    pub fn with_scheme<D: Discovery>(
        mut self,
        scheme: &str,
        make: impl Fn(&Target) -> Result<D, BoxError> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        if !is_scheme(scheme) {
            let message = format!("{scheme:?} is no name that a URI's scheme can have");
            return Err(Error::config("scheme", message));
        }
        let make = move |target: &Target| -> Result<BoxDiscovery, Error> {
            match make(target) {
                Ok(source) => Ok(Box::pin(source)),
                Err(error) => Err(match error.downcast::<Error>() {
                    Ok(error) if error.is_config() => *error,
                    Ok(error) => refused(target, error),
                    Err(error) => refused(target, error),
                }),
            }
        };
        let scheme = scheme.to_ascii_lowercase();
        self.own.insert(scheme.into(), Arc::new(make));
        Ok(self)
    }

    /// The source of the endpoints of `target`, to give to a builder's `discovery`. Nothing is asked yet: a
    /// source begins when the balancer reads it.
    ///
    /// # Errors
    /// A configuration error of the field `target`: no target by gRPC's syntax, a scheme that is not known, one
    /// that this version has no source for, a name or port that cannot be, or what the scheme's own
    /// function says.
    pub fn source(&self, target: &str) -> Result<BoxDiscovery, Error> {
        self.source_with(target, |_| None)
    }

    /// As [`source`](Self::source); `above` makes the sources that ship with modules above this one.
    pub(crate) fn source_with(
        &self,
        target: &str,
        above: impl FnOnce(&Target) -> Option<Result<BoxDiscovery, Error>>,
    ) -> Result<BoxDiscovery, Error> {
        let known = |scheme: &str| self.own.contains_key(scheme) || is_built_in(scheme);
        let read = Target::read(target, known)?;
        if let Some(make) = self.own.get(read.scheme()) {
            return make(&read);
        }
        if let Some(source) = above(&read) {
            return source;
        }
        match built_in(read.scheme()) {
            Some(make) => make(&read),
            None => Err(bad(format!("{read} has a scheme that is not known"))),
        }
    }
}

impl Default for Targets {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let built_in = BUILT_IN.iter().map(|(name, _)| *name);
        let own = self.own.keys().map(|name| &**name);
        let all: BTreeSet<&str> = built_in.chain(own).collect();
        f.debug_set().entries(all).finish()
    }
}

pub(super) fn is_built_in(scheme: &str) -> bool {
    built_in(scheme).is_some()
}

fn built_in(scheme: &str) -> Option<BuiltIn> {
    let mut all = BUILT_IN.iter();
    all.find(|(name, _)| *name == scheme).map(|(_, make)| *make)
}

fn refused(target: &Target, error: impl Into<BoxError>) -> Error {
    let error = error.into();
    Error::config_because(FIELD, format!("{target}: {error}"), error)
}

#[cfg(not(feature = "dns"))]
fn needs_dns(target: &Target) -> Result<BoxDiscovery, Error> {
    Err(bad(format!(
        "{target}: names are looked up with the feature dns, which is off"
    )))
}

#[cfg(not(feature = "kubernetes-unversioned"))]
fn needs_kubernetes(target: &Target) -> Result<BoxDiscovery, Error> {
    Err(bad(format!(
        "{target}: services are watched with the feature kubernetes, which is off"
    )))
}

#[cfg(not(feature = "file"))]
fn needs_file(target: &Target) -> Result<BoxDiscovery, Error> {
    Err(bad(format!(
        "{target}: files are read with the feature file, which is off"
    )))
}

/// etcd is asked over `grpc::Channel`, which stands above this module.
fn needs_channel(target: &Target) -> Result<BoxDiscovery, Error> {
    Err(bad(match cfg!(feature = "etcd") {
        true => format!("{target}: etcd is asked by grpc::Channel; others take grpc::etcd::Etcd"),
        false => format!("{target}: etcd is asked with the feature etcd, which is off"),
    }))
}

fn not_here(target: &Target) -> Result<BoxDiscovery, Error> {
    Err(bad(format!(
        "{target}: this version has no source for the scheme {}; Targets::with_scheme takes one",
        target.scheme()
    )))
}
