//! Targets that name the endpoints themselves.

use futures_util::stream;

use crate::discovery::host::{Host, HostPort};
use crate::discovery::target::{Target, bad};
use crate::discovery::{BoxDiscovery, Update, validate};
use crate::endpoint::Endpoint;
use crate::error::Error;

/// `static:///host[:port],host[:port]`.
pub(super) fn list(target: &Target) -> Result<BoxDiscovery, Error> {
    hosts(target, |_| Ok(()))
}

/// `ipv4:address[:port],address[:port]`.
pub(super) fn ipv4(target: &Target) -> Result<BoxDiscovery, Error> {
    hosts(target, |host| match host {
        Host::Ip(ip) if ip.is_ipv4() => Ok(()),
        _ => Err("is no IPv4 address"),
    })
}

/// `ipv6:[address]:port,address`.
pub(super) fn ipv6(target: &Target) -> Result<BoxDiscovery, Error> {
    hosts(target, |host| match host {
        Host::Ip(ip) if ip.is_ipv6() => Ok(()),
        _ => Err("is no IPv6 address"),
    })
}

fn hosts(
    target: &Target,
    check: impl Fn(&Host) -> Result<(), &'static str>,
) -> Result<BoxDiscovery, Error> {
    let names = target.without_authority()?.name().split(',');
    let endpoints: Result<Vec<Endpoint>, Error> = names
        .map(|name| {
            let refused = |why: &str| bad(format!("{target}: {name:?} {why}"));
            let host = HostPort::read(name).map_err(|why| refused(&why))?;
            check(&host.host).map_err(refused)?;
            Ok(Endpoint::new(host.address()).with_id(host.to_string()))
        })
        .collect();
    once(target, endpoints?)
}

/// `unix:path` and `unix:///absolute/path`.
pub(super) fn unix(target: &Target) -> Result<BoxDiscovery, Error> {
    let path = target.without_authority()?.path();
    if path.is_empty() {
        return Err(bad(format!("{target} names no path")));
    }
    check_path(path).map_err(|why| bad(format!("{target}: {why}")))?;
    // Behind two slashes an authority would be read.
    let path = match path.strip_prefix("//") {
        Some(rest) => format!("/{}", rest.trim_start_matches('/')),
        None => path.to_owned(),
    };
    once(target, vec![Endpoint::new(format!("unix:{path}"))])
}

/// `unix-abstract:name`.
pub(super) fn unix_abstract(target: &Target) -> Result<BoxDiscovery, Error> {
    let name = target.without_authority()?.path();
    if name.is_empty() {
        return Err(bad(format!("{target} names nothing")));
    }
    check_abstract(name).map_err(|why| bad(format!("{target}: {why}")))?;
    once(target, vec![Endpoint::new(format!("unix-abstract:{name}"))])
}

#[cfg(unix)]
fn check_path(path: &str) -> Result<(), String> {
    let read = std::os::unix::net::SocketAddr::from_pathname(path);
    read.map(drop).map_err(|error| error.to_string())
}

#[cfg(not(unix))]
fn check_path(_: &str) -> Result<(), String> {
    Err("this system has no Unix sockets".into())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn check_abstract(name: &str) -> Result<(), String> {
    #[cfg(target_os = "android")]
    use std::os::android::net::SocketAddrExt as _;
    #[cfg(target_os = "linux")]
    use std::os::linux::net::SocketAddrExt as _;

    if name.contains('\0') {
        return Err("its name has a NUL byte, which gRPC does not allow".into());
    }
    let read = std::os::unix::net::SocketAddr::from_abstract_name(name);
    read.map(drop).map_err(|error| error.to_string())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn check_abstract(_: &str) -> Result<(), String> {
    Err("this system has no abstract Unix sockets".into())
}

fn once(target: &Target, endpoints: Vec<Endpoint>) -> Result<BoxDiscovery, Error> {
    validate(&endpoints).map_err(|error| bad(format!("{target}: {error}")))?;
    Ok(Box::pin(stream::iter([Ok(Update::new(endpoints))])))
}
