//! Endpoints by their keys in etcd, and the keys by which servers tell of themselves.
//!
//! etcd is a gRPC server, so it is asked over a [`Channel`](crate::grpc::Channel) of this crate: its members are
//! endpoints like others, and one that fails is passed over.
//!
//! # Values
//! A key's value is JSON as [etcd's own gRPC naming](https://etcd.io/docs/v3.5/dev-guide/grpc_naming/) writes it:
//!
//! ```json
//! {"Addr": "10.0.0.1:50051", "Metadata": {"weight": 3, "priority": 0, "locality": "eu/eu-a", "version": "v2"}}
//! ```
//!
//! | field | meaning |
//! |---|---|
//! | `Addr` | `host:port`, with `http://` or `https://` in front or not. `host:port` is the endpoint's id, so that a server that comes back by another key is the same; of two keys with one address the first in order counts |
//! | `Metadata.weight` | a whole number from 1 on; default 1 |
//! | `Metadata.priority` | a whole number, 0 the highest and the default |
//! | `Metadata.locality` | `region/zone/sub_zone`, the last ones left out or not |
//! | other members of `Metadata` | texts are the endpoint's metadata, and so are numbers and truth values as text; what is `null` or has parts is left out |
//!
//! Numbers may be texts of digits. A `Metadata` that is no object says nothing, nor do other fields, such as the `Op` of
//! old values. The case of `Addr` and `Metadata` does not matter.
//!
//! # Targets
//! `etcd://host:port,host2:port/services/cart` is [`Etcd::prefix`] of these endpoints and `services/cart/`: as with
//! etcd's own naming the keys are below the name. Without an authority, `etcd:///services/cart`, the endpoints are
//! those of the environment's `ETCDCTL_ENDPOINTS`, else 127.0.0.1:2379, as for etcd's `etcdctl`. A key that begins
//! with a slash has it twice: `etcd:////services/cart`. Users and TLS are set by [`Etcd`] alone.
//!
//! - `client`: what is asked of etcd;
//! - `value`: from a value to an endpoint and back;
//! - `state`: the keys, added up;
//! - `source`: the stream of states;
//! - `registration`: a server's own key.

mod client;
mod registration;
mod source;
mod state;
mod value;

pub use registration::{Register, Registration};
pub use source::EtcdUpdates;

use crate::discovery::{BoxDiscovery, Target};
use crate::endpoint::Endpoint;
use crate::error::Error;
#[cfg(feature = "tls")]
use crate::grpc::tls::Tls;
use crate::math::{Backoff, Rng};
use client::Settings;

/// Where etcd is when a target does not say it, as for `etcdctl`.
const ENDPOINTS_VARIABLE: &str = "ETCDCTL_ENDPOINTS";
const DEFAULT_ENDPOINT: &str = "127.0.0.1:2379";

/// Endpoints by the keys below a prefix in etcd; [the module](self) says what their values are.
///
/// All keys are read once, at one revision, then watched from the next one on; what happens in one message of the
/// watch is one state. A key whose lease expires is deleted. No key is a state, too. Where the watch breaks it begins
/// again behind the last revision that it told of, after a backoff, and where etcd does not know that any more
/// (it was compacted) all keys are read again.
///
/// While etcd does not answer, the last good state stands, for as long as that lasts; that it does not answer is told
/// once, and stands in the balancer's report until it does. A value that cannot be read leaves its endpoint as it was,
/// or out if it is new; the error names the key and the field, and is told once.
///
/// | setting | default | source |
/// |---|---|---|
/// | [`with_backoff`](Self::with_backoff) | 1 s × 1.6 ± 20 %, at most 30 s | gRPC connection backoff; the maximum ours |
/// | [`with_user`](Self::with_user) | none | etcd |
/// | `with_tls`, feature `tls` | none | etcd |
///
/// A question may take 10 s; a connection that is silent for 30 s is asked by an HTTP/2 PING.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::Error> {
/// use evenkeel::grpc::Channel;
/// use evenkeel::grpc::etcd::Etcd;
///
/// let updates = Etcd::prefix(["10.0.0.2:2379", "10.0.0.3:2379"], "services/cart/").updates()?;
/// let channel = Channel::builder().discovery(updates).build()?;
/// # let _ = channel;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is asked until its updates are read"]
pub struct Etcd {
    prefix: String,
    settings: Settings,
}

impl Etcd {
    /// The keys that begin with `prefix`, asked of the etcd at these endpoints: `host:port`, with `http://` or
    /// `https://` in front or not. A prefix should end with a slash: `services/cart` is one of `services/cartoons`.
    pub fn prefix<E: Into<Endpoint>>(
        endpoints: impl IntoIterator<Item = E>,
        prefix: impl Into<String>,
    ) -> Self {
        Self {
            prefix: prefix.into(),
            settings: Settings::new(endpoints),
        }
    }

    /// Asks as this user of etcd's.
    pub fn with_user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.settings.user = Some((name.into(), password.into()));
        self
    }

    /// Speaks TLS to etcd, by these settings; without them as [`Builder::tls`](crate::grpc::Builder::tls) says.
    #[cfg(feature = "tls")]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.settings.tls = Some(tls);
        self
    }

    /// The delays between dials, and before a watch is begun again.
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.settings.backoff = backoff;
        self
    }

    /// Seeds all randomness; default a different seed each time.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.settings.seed = Some(seed);
        self
    }

    /// The source, to give to a builder's `discovery`. etcd is dialled at once, and asked when the balancer reads.
    ///
    /// # Errors
    /// Names the setting that cannot be used: no endpoint of etcd's or one of another form, an empty prefix, a backoff
    /// that cannot be, a certificate that cannot be read; or no tokio runtime.
    pub fn updates(self) -> Result<EtcdUpdates, Error> {
        let Self { prefix, settings } = self;
        if prefix.is_empty() {
            return Err(Error::config("prefix", "is empty, as all keys have it"));
        }
        let client = settings.client()?;
        let rng = Rng::new(settings.seed.unwrap_or_else(|| fastrand::u64(..)));
        Ok(EtcdUpdates::new(client, prefix, settings.backoff, rng))
    }
}

/// The source of `etcd:[//host:port,host:port]/prefix`.
pub(super) fn of_target(target: &Target) -> Result<BoxDiscovery, Error> {
    let refused = |why: &str| Error::config("target", format!("{target}: {why}"));
    if target.query().is_some() {
        return Err(refused("it has a query, and etcd has none"));
    }
    let name = target.name();
    if name.is_empty() {
        return Err(refused("it names no prefix"));
    }
    // As etcd's resolver of gRPC names has it: the keys are below the name.
    let prefix = match name.ends_with('/') {
        true => name.to_owned(),
        false => format!("{name}/"),
    };
    let endpoints = endpoints_of(target.authority(), std::env::var(ENDPOINTS_VARIABLE).ok());
    let updates = Etcd::prefix(endpoints, prefix).updates();
    match updates {
        Ok(updates) => Ok(Box::pin(updates)),
        Err(error) if error.field() == Some("runtime") => Err(error),
        Err(error) => Err(Error::config_because(
            "target",
            format!("{target}: {error}"),
            error,
        )),
    }
}

/// What a target's authority names, else the variable, else where etcd listens by default.
fn endpoints_of(authority: &str, variable: Option<String>) -> Vec<String> {
    let text = match (authority, variable) {
        ("", Some(variable)) if !variable.is_empty() => variable,
        ("", _) => DEFAULT_ENDPOINT.to_owned(),
        (authority, _) => authority.to_owned(),
    };
    text.split(',').map(|it| it.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_names_etcd_or_the_environment_does() {
        let variable = || Some("c:3,https://d:4".to_owned());
        for (authority, variable, want) in [
            ("a:1,b:2", variable(), &["a:1", "b:2"][..]),
            ("", variable(), &["c:3", "https://d:4"]),
            ("", Some(String::new()), &["127.0.0.1:2379"]),
            ("", None, &["127.0.0.1:2379"]),
        ] {
            assert_eq!(endpoints_of(authority, variable), want, "{authority}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_is_refused_by_the_name_of_the_setting() {
        let none: [&str; 0] = [];
        for (etcd, field) in [
            (Etcd::prefix(["a:1"], ""), "prefix"),
            (Etcd::prefix(none, "a/"), "endpoints"),
            (Etcd::prefix(["a b"], "a/"), "endpoints"),
            (
                Etcd::prefix(["a:1"], "a/").with_backoff(Backoff::default().with_jitter(2.0)),
                "backoff",
            ),
        ] {
            let error = etcd.updates().expect_err(field);
            assert_eq!(error.field(), Some(field), "{error}");
        }
        let of = |target: &str| of_target(&target.parse().unwrap());
        for target in ["etcd://a:1/b", "etcd:b", "etcd:////b/"] {
            assert!(of(target).is_ok(), "{target}");
        }
        for target in ["etcd:///", "etcd://a:1", "etcd:///a?b", "etcd://a b/c"] {
            let Err(error) = of(target) else {
                panic!("{target} was taken");
            };
            assert_eq!(error.field(), Some("target"), "{target}: {error}");
        }
        let secret = Etcd::prefix(["a:1"], "a/").with_user("me", "secret");
        assert!(
            !format!("{secret:?}").contains("secret"),
            "passwords stay out of logs"
        );
    }
}
