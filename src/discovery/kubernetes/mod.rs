//! Services of Kubernetes, by kube.
//!
//! - `access`: the way to a cluster, and what stands between kube's watcher and the client;
//! - `slice`: one EndpointSlice, read and checked;
//! - `merge`: from the slices of a service to its endpoints;
//! - `failure`: what the watcher's errors mean for what comes next;
//! - `words`: what may be said of kube's errors;
//! - `source`: the stream of states.

mod access;
mod error;
mod failure;
mod merge;
mod slice;
mod source;
mod words;

pub use error::KubernetesError;
pub use source::KubernetesUpdates;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::discovery::BoxDiscovery;
use crate::discovery::target::{Target, bad};
use crate::error::Error;
use crate::math::Backoff;
use access::Access;
use merge::Wanted;
use source::Settings;

/// The pods of a service of Kubernetes, by a watch of its EndpointSlices (`discovery.k8s.io/v1`): what the API server
/// knows is known here a moment later, without DNS and its TTLs, and calls go to the pods and not to the service's
/// own address.
///
/// # What the endpoints are
/// Each pod is one endpoint: in a cluster with two address families its IPv4 and IPv6 addresses are those of one
/// (gRFC A61), IPv6 first. Its id is the pod's uid and the port, so that it is the same over every resync; what is no pod
/// goes by its address. A slice of names (`FQDN`) has an endpoint for each.
///
/// A pod counts while it is `ready`; where that is not said, it is. One that terminates is not, unless the service
/// says `publishNotReadyAddresses`. Where none is ready, those that terminate and still serve are used, as kube-proxy
/// does, so that the last calls before a gap are not lost (KEP-1669). What is neither is left out, and a service
/// without any is an empty state.
///
/// The zone is the endpoint's [`Locality`](crate::endpoint::Locality), with no region, for slices name none. As
/// metadata there are `node` and `pod`, their names, and `for_zones`: the zones whose clients the endpoint is meant for
/// (topology aware routing), separated by commas. The hints are not acted on.
///
/// Requests carry `service.namespace.svc` as their `:authority`, with the port where it was named by its number, and a
/// certificate must carry that host. `origin` and `Tls::domain_name` of a channel's builder say otherwise.
///
/// # The port
/// A name is that of the service's port. A number is the one that the *pods* listen on (`targetPort`), since the
/// slices do not tell the service's own. With neither the service must have one TCP port alone. A slice without the
/// port is passed over, as its pods do not have it; where no slice has it, that is an error.
///
/// # What goes wrong
/// An error is told once, as a [`KubernetesError`], and the last good state stands until the API server can be
/// asked again: it is with backoff, and after a `Retry-After` of up to 5 min. A watch that breaks goes on from its last
/// event; where the server does not know that any more (410), said what cannot be read, or could not be reached twice,
/// everything is listed anew, by a client made anew.
/// Neither the first nor a 410 is told. A slice that says what cannot be keeps its last good reading. A line of a
/// watch that is cut in the middle is passed over by kube without a word, in the belief that the connection has
/// ended there.
///
/// # Who is asked
/// The cluster of the kubeconfig (`$KUBECONFIG`, or `~/.kube/config`), else of the service account of the pod that this
/// runs in; or another by [`with_kubeconfig`](Self::with_kubeconfig) and [`with_client`](Self::with_client). The account
/// needs a Role with the verbs `get`, `list` and `watch` on `endpointslices` of the group `discovery.k8s.io`:
/// `examples/kubernetes` has one. TLS is rustls with the process's default provider, which is set to ring where there
/// is none. Users of a kubeconfig may sign in by a certificate, a token or a program (`exec`); other providers and proxies
/// take a client of one's own. What a kubeconfig holds, and what such a program is given and prints, is not in the
/// errors. Each source has a watch of its own, so clones of one channel are better than several
/// channels to one service.
///
/// | setting | default | source |
/// |---|---|---|
/// | [`with_port`](Self::with_port) | the only one | |
/// | [`with_backoff`](Self::with_backoff) | 0.8 s × 2 ± 20 %, at most 30 s; anew after 2 min without a failure | client-go's reflector; the jitter gRPC's |
/// | [`with_timeout`](Self::with_timeout) | 60 s | kube-apiserver `--request-timeout` |
/// | [`with_watch_timeout`](Self::with_watch_timeout) | 290 s | kube |
///
/// It has been run against a server that speaks as the API server does, with slices written after real ones. It has not
/// been run on a real cluster.
///
/// ```no_run
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::Error> {
/// use evenkeel::discovery::Kubernetes;
///
/// let updates = Kubernetes::service("prod", "greeter")?.with_port("grpc").updates()?;
/// # #[cfg(feature = "grpc")]
/// let channel = evenkeel::grpc::Channel::builder().discovery(updates).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is asked until its updates are read"]
pub struct Kubernetes {
    settings: Settings,
    port: Option<String>,
    seed: Option<u64>,
}

impl Kubernetes {
    /// The pods of a service.
    ///
    /// # Errors
    /// A configuration error of the field `namespace` or `service`: no name that Kubernetes would take.
    pub fn service(namespace: &str, service: &str) -> Result<Self, Error> {
        check_label("namespace", namespace)?;
        Self::of(Some(namespace), service)
    }

    /// The pods of a service of one's own namespace: that of the pod that this runs in, or of the kubeconfig's
    /// context.
    ///
    /// # Errors
    /// A configuration error of the field `service`: no name that Kubernetes would take.
    pub fn own_service(service: &str) -> Result<Self, Error> {
        Self::of(None, service)
    }

    fn of(namespace: Option<&str>, service: &str) -> Result<Self, Error> {
        check_label("service", service)?;
        let settings = Settings {
            access: Access::Infer,
            context: None,
            namespace: namespace.map(str::to_owned),
            service: service.to_owned(),
            port: Wanted::Only,
            backoff: Backoff::default()
                .with_base(Duration::from_millis(800))
                .with_multiplier(2.0)
                .with_max(Duration::from_secs(30)),
            timeout: Duration::from_secs(60),
            watch_timeout: Duration::from_secs(290),
        };
        Ok(Self {
            settings,
            port: None,
            seed: None,
        })
    }

    /// Which port: its name in the service, or the number that the pods listen on. Default the only one.
    pub fn with_port(mut self, port: impl fmt::Display) -> Self {
        self.port = Some(port.to_string());
        self
    }

    /// Asks by this client, of the crate `kube` in version 4, in place of one that is made here. What it does itself
    /// about refusals is done first: with kube's own retries a 429 is told only when [`with_timeout`](Self::with_timeout)
    /// is over, since they sleep on it; [`kube::Config::default_retry`] turns them off.
    pub fn with_client(mut self, client: kube::Client) -> Self {
        self.settings.access = Access::Client(client);
        self
    }

    /// Asks the cluster of this file, in place of the environment's; it is read when the balancer begins, and again
    /// after failures.
    pub fn with_kubeconfig(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.access = Access::Kubeconfig(path.into());
        self
    }

    /// Takes this context of the kubeconfig, in place of its current one. Beside a client it says nothing.
    pub fn with_context(mut self, context: impl Into<String>) -> Self {
        self.settings.context = Some(context.into());
        self
    }

    /// The delays after failures, and between watches that end in less than its base.
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// How long the API server may take to begin an answer, and for each part of a list; and how long it may take to
    /// read a kubeconfig and to sign in by a program. Default 60 s.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// How long a watch lasts before the server ends it and the next goes on, in whole seconds: 1 to 294. A connection
    /// that is dead without a word is found by it, 5 s later. Default 290 s.
    pub fn with_watch_timeout(mut self, timeout: Duration) -> Self {
        self.settings.watch_timeout = timeout;
        self
    }

    /// Seeds the jitter of the backoff; default a different seed each time.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The source, to give to a builder's `discovery`. Nothing is read or asked before the balancer reads it, in the
    /// runtime that it is built in. Its errors are [`KubernetesError`]s.
    ///
    /// # Errors
    /// Names the setting that cannot be used: a port that is neither a number from 1 to 65535 nor a name of one, a timeout
    /// of zero, a watch timeout that is not 1 to 294 s, a backoff that cannot be.
    pub fn updates(self) -> Result<KubernetesUpdates, Error> {
        let Self {
            mut settings,
            port,
            seed,
        } = self;
        if let Some(port) = port {
            settings.port = read_port(&port)?;
        }
        if settings.timeout.is_zero() {
            return Err(Error::config("timeout", "is zero"));
        }
        if !(1..295).contains(&settings.watch_timeout.as_secs()) {
            let message = format!("{:?} is not 1 to 294 s", settings.watch_timeout);
            return Err(Error::config("watch_timeout", message));
        }
        if let Some(mistake) = settings.backoff.mistake() {
            return Err(Error::config("backoff", mistake));
        }
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        Ok(KubernetesUpdates::new(settings, seed))
    }
}

fn read_port(text: &str) -> Result<Wanted, Error> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return match text.parse() {
            Ok(port) if port != 0 => Ok(Wanted::Number(port)),
            _ => Err(Error::config("port", format!("{text} is not 1 to 65535"))),
        };
    }
    check_label("port", text)?;
    Ok(Wanted::Name(text.to_owned()))
}

/// Refuses what is no label of RFC 1123, which all names here are.
fn check_label(field: &'static str, name: &str) -> Result<(), Error> {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = [name.bytes().next(), name.bytes().last()];
    let good = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| inside(byte) || byte == b'-')
        && ends.into_iter().flatten().all(inside);
    if good {
        return Ok(());
    }
    let message = format!(
        "{name:?} is no name in Kubernetes: 1 to 63 small letters, digits and -, the last of them not at its ends"
    );
    Err(Error::config(field, message))
}

/// The source of `kubernetes:[///]service[.namespace][:port]`.
pub(super) fn of_target(target: &Target) -> Result<BoxDiscovery, Error> {
    let name = target.without_authority()?.name();
    let (host, port) = match name.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (name, None),
    };
    let made = match host.split_once('.') {
        None => Kubernetes::own_service(host),
        Some((_, namespace)) if namespace.contains('.') => {
            return Err(bad(format!(
                "{target} has more than service.namespace:port for a name: the rest of a name in DNS is not used here"
            )));
        }
        Some((service, namespace)) => Kubernetes::service(namespace, service),
    };
    let made = made.and_then(|source| match port {
        Some(port) => source.with_port(port).updates(),
        None => source.updates(),
    });
    match made {
        Ok(updates) => Ok(Box::pin(updates)),
        Err(error) => Err(bad(format!("{target}: {error}"))),
    }
}

#[cfg(test)]
mod tests;
