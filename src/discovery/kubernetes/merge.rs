//! From the slices of a service to its endpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use super::error::KubernetesError;
use super::slice::{Condition, Entry, Facts, Slice};
use crate::discovery::host::{Host, HostPort};
use crate::endpoint::{Authority, Endpoint, Locality};

/// The slices by their names.
pub(super) type ByName = BTreeMap<String, Arc<Slice>>;

/// Which of a service's ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The only one.
    Only,
    Number(u16),
    Name(String),
}

/// An endpoint as the slices have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    addresses: BTreeSet<Address>,
    facts: Facts,
}

/// Sorted as they are to be tried: IPv6 before IPv4, as RFC 6724 has it where both can be reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Address {
    V6(String),
    V4(String),
    Name(String),
}

impl Address {
    fn new(host: &Host, port: u16) -> Self {
        let host = host.clone();
        let at = HostPort { host, port };
        let text = at.address();
        match at.host {
            Host::Ip(IpAddr::V6(_)) => Self::V6(text),
            Host::Ip(IpAddr::V4(_)) => Self::V4(text),
            Host::Name(_) => Self::Name(text),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::V6(text) | Self::V4(text) | Self::Name(text) => text,
        }
    }
}

/// The endpoints by their ids. An endpoint that is in several slices, as one of each family or while it moves from
/// one to another, is one.
///
/// # Errors
/// No slice with endpoints has the port, or it is not clear which one is meant.
pub(super) fn merge(
    slices: &ByName,
    wanted: &Wanted,
) -> Result<BTreeMap<String, Found>, KubernetesError> {
    let mut ready = BTreeMap::new();
    let mut leaving = BTreeMap::new();
    let mut offered = false;
    let mut asked = false;
    for slice in slices.values() {
        // Kubernetes keeps a slice without endpoints and ports for a service that has none.
        if slice.entries.is_empty() {
            continue;
        }
        asked = true;
        let Some(port) = wanted.of(slice)? else {
            continue;
        };
        offered = true;
        for entry in &slice.entries {
            match entry.condition {
                Condition::Ready => add(&mut ready, entry, port),
                Condition::Leaving => add(&mut leaving, entry, port),
                Condition::Out => {}
            }
        }
    }
    if asked && !offered {
        return Err(wanted.offered_nowhere(slices));
    }
    Ok(if ready.is_empty() { leaving } else { ready })
}

fn add(found: &mut BTreeMap<String, Found>, entry: &Entry, port: u16) {
    let addresses = entry.hosts.iter().map(|host| Address::new(host, port));
    let addresses: BTreeSet<Address> = addresses.collect();
    let id = match (&entry.uid, addresses.first()) {
        (Some(uid), _) => format!("{uid}:{port}"),
        (None, Some(address)) => address.as_str().trim_start_matches("http://").to_owned(),
        (None, None) => return,
    };
    let same = found.entry(id).or_default();
    same.addresses.extend(addresses);
    // What differs between two slices is soon the same; until then it must not go by their order.
    let Facts {
        zone,
        node,
        pod,
        for_zones,
    } = &entry.facts;
    let facts = &mut same.facts;
    for (known, new) in [
        (&mut facts.zone, zone),
        (&mut facts.node, node),
        (&mut facts.pod, pod),
    ] {
        if *new > *known {
            known.clone_from(new);
        }
    }
    facts.for_zones.extend(for_zones.iter().cloned());
}

impl Found {
    /// As the balancer has it.
    pub(super) fn endpoint(&self, id: &str, authority: &Authority) -> Endpoint {
        let mut addresses = self.addresses.iter().map(Address::as_str);
        let first = addresses.next().unwrap_or_default();
        let Facts {
            zone,
            node,
            pod,
            for_zones,
        } = &self.facts;
        let zones: Vec<&str> = for_zones.iter().map(|zone| &**zone).collect();
        let zones = (!zones.is_empty()).then(|| zones.join(","));
        let metadata = [("node", node), ("pod", pod), ("for_zones", &zones)];
        let metadata = metadata
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)));
        let endpoint = Endpoint::new(first)
            .with_addresses(addresses)
            .with_id(id)
            .with_metadata(metadata)
            .with(authority.clone());
        match zone {
            Some(zone) => endpoint.with_locality(Locality::new("").with_zone(zone.as_str())),
            None => endpoint,
        }
    }
}

impl Wanted {
    /// The number that the port has in this slice; `None` if its endpoints do not offer it, as those of pods that
    /// have no port of the name that the service refers to.
    fn of(&self, slice: &Slice) -> Result<Option<u16>, KubernetesError> {
        let mut tcp = slice.ports.iter().filter(|port| port.is_tcp);
        let all = |name: &str| KubernetesError::Port {
            message: format!(
                "the port {name:?} of the service stands for all ports: one must be named by its number"
            ),
        };
        match self {
            Self::Number(number) => {
                let any = slice.ports.is_empty();
                let any = any || tcp.any(|port| port.number.is_none_or(|n| n == *number));
                Ok(any.then_some(*number))
            }
            Self::Name(name) => match tcp.find(|port| port.name == *name) {
                None => Ok(None),
                Some(port) => port.number.map(Some).ok_or_else(|| all(name)),
            },
            Self::Only => match (tcp.next(), tcp.next()) {
                (None, _) => Ok(None),
                (Some(port), None) => port.number.map(Some).ok_or_else(|| all(&port.name)),
                (Some(_), Some(_)) => Err(KubernetesError::Port {
                    message: format!(
                        "the service has several ports, and none is named: {}",
                        Ports([slice])
                    ),
                }),
            },
        }
    }

    fn offered_nowhere(&self, slices: &ByName) -> KubernetesError {
        let ports = Ports(slices.values().map(|slice| &**slice));
        let message = match self {
            Self::Only => format!("the service has no TCP port: {ports}"),
            Self::Number(number) => format!(
                "no pod of the service has the port {number}: {ports} (a number is that of the pods, the targetPort)"
            ),
            Self::Name(name) => format!("the service has no TCP port {name:?}: {ports}"),
        };
        KubernetesError::Port { message }
    }
}

/// Which ports there are, for messages.
struct Ports<I>(I);

impl<'a, I: IntoIterator<Item = &'a Slice> + Clone> fmt::Display for Ports<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = self.0.clone().into_iter().flat_map(|slice| &slice.ports);
        let ports = ports.map(|port| {
            let number = port.number.map_or("all".to_owned(), |n| n.to_string());
            let protocol = if port.is_tcp { "" } else { " (not TCP)" };
            match &*port.name {
                "" => format!("{number}{protocol}"),
                name => format!("{name} {number}{protocol}"),
            }
        });
        let ports: BTreeSet<String> = ports.collect();
        if ports.is_empty() {
            return f.write_str("there is none");
        }
        let ports: Vec<String> = ports.into_iter().collect();
        write!(f, "there is {}", ports.join(", "))
    }
}
