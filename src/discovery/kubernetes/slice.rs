//! One EndpointSlice, read and checked.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use super::error::Mistake;
use crate::discovery::host::{Host, check_name};

/// What a slice says, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slice {
    pub(super) entries: Vec<Entry>,
    pub(super) ports: Vec<Port>,
}

/// An endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// At least one; all of one family, as the slice is.
    pub(super) hosts: Vec<Host>,
    pub(super) condition: Condition,
    pub(super) facts: Facts,
    /// The uid of the pod.
    pub(super) uid: Option<String>,
}

/// What is known of an endpoint beside where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) zone: Option<String>,
    pub(super) node: Option<String>,
    pub(super) pod: Option<String>,
    /// The zones whose clients it is meant for.
    pub(super) for_zones: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    /// Takes calls.
    Ready,
    /// Ends, and serves while it does.
    Leaving,
    /// Takes none.
    Out,
}

/// A port of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    /// Empty for a service's only port, which needs no name.
    pub(super) name: String,
    /// Without one, all ports are meant.
    pub(super) number: Option<u16>,
    pub(super) is_tcp: bool,
}

impl Slice {
    /// Reads what an EndpointSlice has beside its metadata.
    pub(super) fn read(data: &Value) -> Result<Self, Mistake> {
        let slice: Listed = serde_path_to_error::deserialize(data)
            .map_err(|error| Mistake::new(error.path().to_string(), error.inner().to_string()))?;
        let family = Family::read(&slice.address_type.unwrap_or_default())?;
        let entries = slice.endpoints.unwrap_or_default().into_iter().enumerate();
        let entries = entries.map(|(at, listed)| Entry::read(listed, family, at));
        let ports = slice.ports.unwrap_or_default().into_iter().enumerate();
        let ports = ports.map(|(at, port)| Port::read(port, at));
        Ok(Self {
            entries: entries.collect::<Result<_, _>>()?,
            ports: ports.collect::<Result<_, _>>()?,
        })
    }
}

/// An EndpointSlice as it is written. `k8s-openapi` has it too, and has its fields change their types from one version of
/// Kubernetes to the next.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Listed {
    address_type: Option<String>,
    endpoints: Option<Vec<ListedEndpoint>>,
    ports: Option<Vec<ListedPort>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListedEndpoint {
    addresses: Option<Vec<String>>,
    conditions: Option<Conditions>,
    zone: Option<String>,
    node_name: Option<String>,
    target_ref: Option<Reference>,
    hints: Option<Hints>,
}

#[derive(Deserialize, Default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Deserialize, Default)]
struct Reference {
    kind: Option<String>,
    name: Option<String>,
    uid: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    for_zones: Option<Vec<ForZone>>,
}

#[derive(Deserialize)]
struct ForZone {
    name: String,
}

#[derive(Deserialize)]
struct ListedPort {
    name: Option<String>,
    port: Option<i64>,
    protocol: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Family {
    V4,
    V6,
    Name,
}

impl Family {
    fn read(text: &str) -> Result<Self, Mistake> {
        match text {
            "IPv4" => Ok(Self::V4),
            "IPv6" => Ok(Self::V6),
            "FQDN" => Ok(Self::Name),
            "" => Err(Mistake::new("addressType", "is missing")),
            other => {
                let message = format!("{other:?} is none of IPv4, IPv6 and FQDN");
                Err(Mistake::new("addressType", message))
            }
        }
    }

    fn host(self, text: &str) -> Result<Host, String> {
        let ip = text.parse::<IpAddr>();
        match (self, ip) {
            (Self::V4, Ok(ip)) if ip.is_ipv4() => Ok(Host::Ip(ip)),
            (Self::V4, _) => Err(format!("{text:?} is no IPv4 address")),
            (Self::V6, Ok(ip)) if ip.is_ipv6() => Ok(Host::Ip(ip)),
            (Self::V6, _) => Err(format!("{text:?} is no IPv6 address")),
            (Self::Name, _) => match check_name(text) {
                Ok(()) => Ok(Host::Name(text.to_ascii_lowercase())),
                Err(why) => Err(why),
            },
        }
    }
}

impl Entry {
    fn read(listed: ListedEndpoint, family: Family, at: usize) -> Result<Self, Mistake> {
        let addresses = listed.addresses.unwrap_or_default();
        if addresses.is_empty() {
            let field = format!("endpoints[{at}].addresses");
            return Err(Mistake::new(field, "is empty"));
        }
        let hosts = addresses.iter().enumerate().map(|(n, text)| {
            let refused = |why| Mistake::new(format!("endpoints[{at}].addresses[{n}]"), why);
            family.host(text).map_err(refused)
        });
        let hosts = hosts.collect::<Result<_, _>>()?;
        let conditions = listed.conditions.unwrap_or_default();
        // The API's words: unknown is ready, serving is as ready where it is not said, and not terminating.
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        let condition = match (ready, serving && conditions.terminating == Some(true)) {
            (true, _) => Condition::Ready,
            (false, true) => Condition::Leaving,
            (false, false) => Condition::Out,
        };
        let said = |text: Option<String>| text.filter(|text| !text.is_empty());
        let pod = listed.target_ref.unwrap_or_default();
        let is_pod = pod.kind.as_deref() == Some("Pod");
        let hints = listed.hints.and_then(|hints| hints.for_zones);
        let for_zones = hints.unwrap_or_default().into_iter().map(|zone| zone.name);
        Ok(Self {
            hosts,
            condition,
            facts: Facts {
                zone: said(listed.zone),
                node: said(listed.node_name),
                pod: said(pod.name).filter(|_| is_pod),
                for_zones: for_zones.filter(|zone| !zone.is_empty()).collect(),
            },
            uid: said(pod.uid).filter(|_| is_pod),
        })
    }
}

impl Port {
    fn read(port: ListedPort, at: usize) -> Result<Self, Mistake> {
        let number = match port.port {
            None => None,
            Some(number) => match u16::try_from(number) {
                Ok(number) if number != 0 => Some(number),
                _ => {
                    let message = format!("{number} is not 1 to 65535");
                    return Err(Mistake::new(format!("ports[{at}].port"), message));
                }
            },
        };
        Ok(Self {
            name: port.name.unwrap_or_default(),
            number,
            is_tcp: port.protocol.is_none_or(|protocol| protocol == "TCP"),
        })
    }
}
