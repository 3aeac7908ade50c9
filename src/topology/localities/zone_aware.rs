use std::collections::BTreeMap;

use crate::endpoint::Locality;
use crate::error::Error;
use crate::topology::localities::{LocalityShare, LocalityState, no_twins};

/// Calls stay in the zone as far as that leaves all servers with equal load (Envoy's zone aware routing).
///
/// If the zone has a part of the endpoints that is as great as its part of the clients, all calls of its
/// clients stay in it. Otherwise as many stay as its endpoints can take, and the rest goes to the zones that
/// have endpoints to spare, to each in proportion to what it can spare. Only endpoints that are usable count, so a
/// zone that loses some keeps fewer calls.
///
/// For that a client has to know how the clients are spread. Unless [told](Self::with_clients) it takes them for
/// spread evenly over the zones in which there are endpoints.
///
/// With fewer usable endpoints than [6](Self::with_min_endpoints), or none in its own zone, zones make no difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneAware {
    clients: Vec<(Locality, u32)>,
    min_endpoints: usize,
    enabled_percent: u32,
}

impl Default for ZoneAware {
    /// At least 6 endpoints, and all calls (Envoy's `min_cluster_size` and `routing_enabled`).
    fn default() -> Self {
        Self {
            clients: Vec::new(),
            min_endpoints: 6,
            enabled_percent: 100,
        }
    }
}

/// The parts that a whole is cut into: Envoy counts so, and so the same shares come out.
const WHOLE: u64 = 10_000;

impl ZoneAware {
    /// Sets how many clients there are in each zone, in any unit. Sub-zones are added up.
    #[must_use]
    pub fn with_clients(mut self, clients: impl IntoIterator<Item = (Locality, u32)>) -> Self {
        self.clients = clients.into_iter().collect();
        self
    }

    /// Sets with how many usable endpoints zones begin to count; default 6 (Envoy).
    #[must_use]
    pub fn with_min_endpoints(mut self, endpoints: usize) -> Self {
        self.min_endpoints = endpoints;
        self
    }

    /// Sets for which part of the calls zones count, 0 to 100 percent; default 100 (Envoy). The others go to
    /// the zones by how many usable endpoints each has.
    #[must_use]
    pub fn with_enabled_percent(mut self, percent: u32) -> Self {
        self.enabled_percent = percent;
        self
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        let field = "localities.clients";
        no_twins(field, self.clients.iter().map(|(locality, _)| locality))?;
        if !self.clients.is_empty() && self.clients.iter().all(|(_, count)| *count == 0) {
            return Err(Error::config(field, "all are 0"));
        }
        if self.enabled_percent > 100 {
            let message = format!("is {}; the most is 100", self.enabled_percent);
            return Err(Error::config("localities.enabled_percent", message));
        }
        Ok(())
    }

    pub(super) fn shares(
        &self,
        own: &Locality,
        localities: &[LocalityState],
    ) -> Vec<LocalityShare> {
        let mut zones = zones(own, localities);
        for (locality, count) in &self.clients {
            let is_own = own.is_in_zone_of(locality);
            let same = |zone: &&mut Zone| zone.is(is_own, locality);
            // One without endpoints takes part, too: its clients call somebody.
            match zones.iter_mut().find(same) {
                Some(zone) => zone.clients += u64::from(*count),
                None => zones.push(Zone {
                    clients: u64::from(*count),
                    ..Zone::new(is_own, locality)
                }),
            }
        }
        if self.clients.is_empty() {
            let with_endpoints = zones.iter_mut().filter(|zone| zone.total > 0);
            with_endpoints.for_each(|zone| zone.clients = 1);
        }
        let usable: u64 = zones.iter().map(|zone| zone.usable).sum();
        let parts = (usable >= self.min_endpoints as u64).then(|| parts(&zones));
        let Some(parts) = parts.flatten() else {
            return vec![LocalityShare {
                members: (0..localities.len()).collect(),
                share: if localities.iter().any(|s| s.availability.total > 0) {
                    1.0
                } else {
                    0.0
                },
            }];
        };
        let enabled = f64::from(self.enabled_percent) / 100.0;
        let alike = |zone: &Zone| zone.usable as f64 / usable.max(1) as f64;
        let share = |place: usize, zone: &Zone| {
            enabled * parts[place] as f64 / WHOLE as f64 + (1.0 - enabled) * alike(zone)
        };
        let shares: Vec<f64> = zones
            .iter()
            .enumerate()
            .map(|(n, zone)| share(n, zone))
            .collect();
        zones
            .into_iter()
            .zip(shares)
            .filter(|(zone, _)| !zone.members.is_empty())
            .map(|(zone, share)| LocalityShare {
                members: zone.members,
                share,
            })
            .collect()
    }
}

#[derive(Debug)]
struct Zone {
    is_own: bool,
    region: String,
    zone: String,
    members: Vec<usize>,
    usable: u64,
    total: u64,
    clients: u64,
}

impl Zone {
    fn new(is_own: bool, locality: &Locality) -> Self {
        Self {
            is_own,
            region: locality.region().to_owned(),
            zone: locality.zone().to_owned(),
            members: Vec::new(),
            usable: 0,
            total: 0,
            clients: 0,
        }
    }

    fn is(&self, is_own: bool, locality: &Locality) -> bool {
        let same = self.region == locality.region() && self.zone == locality.zone();
        (self.is_own && is_own) || (!self.is_own && !is_own && same)
    }
}

/// The zones in which there are endpoints.
fn zones(own: &Locality, localities: &[LocalityState]) -> Vec<Zone> {
    // In one order whatever that of the list is.
    let mut zones: BTreeMap<(bool, &str, &str), Zone> = BTreeMap::new();
    for (place, state) in localities.iter().enumerate() {
        let locality = &state.locality;
        let is_own = own.is_in_zone_of(locality);
        let key = match is_own {
            true => (false, "", ""),
            false => (true, locality.region(), locality.zone()),
        };
        let zone = zones
            .entry(key)
            .or_insert_with(|| Zone::new(is_own, locality));
        zone.members.push(place);
        zone.usable += state.availability.usable as u64;
        zone.total += state.availability.total as u64;
    }
    zones.into_values().collect()
}

/// What each zone gets of [`WHOLE`]; `None` if the zones are to make no difference.
fn parts(zones: &[Zone]) -> Option<Vec<u64>> {
    let own = zones
        .iter()
        .position(|zone| zone.is_own && zone.usable > 0)?;
    let usable: u64 = zones.iter().map(|zone| zone.usable).sum();
    let clients: u64 = zones.iter().map(|zone| zone.clients).sum();
    let servers_of = |zone: &Zone| WHOLE * zone.usable / usable;
    let clients_of = |zone: &Zone| (WHOLE * zone.clients).checked_div(clients).unwrap_or(0);
    let (has, needs) = (servers_of(&zones[own]), clients_of(&zones[own]));
    let mut parts = vec![0; zones.len()];
    if has >= needs {
        parts[own] = WHOLE;
        return Some(parts);
    }
    parts[own] = has * WHOLE / needs;
    let spare = |zone: &Zone| servers_of(zone).saturating_sub(clients_of(zone));
    let spares: Vec<u64> = zones.iter().map(spare).collect();
    let sum: u64 = spares.iter().sum();
    let rest = WHOLE - parts[own];
    // By rounding nobody may have anything to spare though this zone lacks some.
    let by = |n: usize| if sum > 0 { spares[n] } else { zones[n].usable };
    let all: u64 = (0..zones.len()).filter(|n| *n != own).map(by).sum();
    if all == 0 {
        parts[own] = WHOLE;
        return Some(parts);
    }
    let mut given = 0;
    let mut passed = 0;
    for place in (0..zones.len()).filter(|place| *place != own) {
        passed += by(place);
        let up_to = rest * passed / all;
        parts[place] = up_to - given;
        given = up_to;
    }
    Some(parts)
}

#[cfg(test)]
pub(super) fn spares_of(clients: &[u64], servers: &[u64]) -> (u64, Vec<u64>) {
    let zone = |n: usize| Zone {
        clients: clients[n],
        usable: servers[n],
        total: servers[n],
        ..Zone::new(n == 0, &Locality::new(n.to_string()))
    };
    let zones: Vec<Zone> = (0..clients.len()).map(zone).collect();
    let parts = parts(&zones).expect("the first has servers");
    (parts[0], parts)
}
