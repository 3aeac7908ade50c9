//! From a name to endpoints: one round of questions.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join;
use futures_util::{StreamExt, stream};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::Instant;

use super::ask::{Answer, Ask};
use crate::error::{BoxError, describe};

/// How many names of SRV records are looked up at once. hickory has 32 questions under way to one server at most,
/// and each name is two of them.
const LOOK_UPS: usize = 8;

/// What is looked up.
#[derive(Debug, Clone)]
pub(super) enum Question {
    /// Each address of this host is an endpoint.
    Host { name: String, port: u16 },
    /// Each record of this service is an endpoint.
    Service { name: String },
}

/// An endpoint as DNS has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) id: String,
    /// IPv6 before IPv4, as RFC 6724 would have it where both can be reached.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) weight: u32,
    pub(super) priority: u32,
}

impl Found {
    /// An address by itself.
    pub(super) fn address(address: SocketAddr) -> Self {
        Self {
            id: address.to_string(),
            addresses: vec![address],
            weight: 1,
            priority: 0,
        }
    }
}

/// What a round came to.
#[derive(Debug)]
pub(super) struct Round {
    /// By their ids.
    pub(super) found: BTreeMap<String, Found>,
    /// How long it holds; of several records the shortest, and of none for ever.
    pub(super) ttl: Duration,
    /// Some address is of this round.
    fresh: bool,
    /// The name has records of services.
    named: bool,
    /// The first question that had no answer.
    pub(super) unanswered: Option<BoxError>,
}

/// The addresses that each question had last, and when: DNS servers often fail for one family only.
pub(super) type Last = HashMap<(Name, RecordType), (Instant, Vec<IpAddr>)>;

impl Question {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Host { name, .. } | Self::Service { name } => name,
        }
    }

    /// Asks. A question without an answer has its last one, if it had any; what has no answer at all is an error.
    pub(super) async fn round(&self, dns: &impl Ask, last: &mut Last) -> Result<Round, BoxError> {
        let mut round = Round {
            found: BTreeMap::new(),
            ttl: Duration::MAX,
            fresh: false,
            named: false,
            unanswered: None,
        };
        for name in dns.candidates(self.name())? {
            match self {
                Self::Host { port, .. } => {
                    let found = look_up(dns, name).await;
                    for ip in round.take(found, last) {
                        let address = SocketAddr::new(ip, *port);
                        round.find(Found::address(address));
                    }
                }
                Self::Service { .. } => round.service(dns, last, name).await?,
            }
            if round.fresh {
                break;
            }
            // Last addresses alone are no state, and the next domain might know the name of another service.
            if let Some(error) = round.unanswered.take() {
                return Err(error);
            }
            // It knows this one, though nobody is there.
            if round.named {
                break;
            }
        }
        Ok(round)
    }
}

/// The addresses of one name, as they were answered.
struct LookedUp {
    name: Name,
    v4: Result<Answer, BoxError>,
    v6: Result<Answer, BoxError>,
}

async fn look_up(dns: &impl Ask, name: Name) -> LookedUp {
    let v4 = dns.ask(name.clone(), RecordType::A);
    let v6 = dns.ask(name.clone(), RecordType::AAAA);
    let (v4, v6) = join(v4, v6).await;
    LookedUp { name, v4, v6 }
}

impl Round {
    /// Takes an endpoint. A service may name one twice: that is one with both weights, or with the higher priority.
    fn find(&mut self, found: Found) {
        match self.found.entry(found.id.clone()) {
            Entry::Vacant(place) => {
                place.insert(found);
            }
            Entry::Occupied(mut same) if found.priority == same.get().priority => {
                let same = same.get_mut();
                same.weight = same.weight.saturating_add(found.weight);
            }
            Entry::Occupied(mut same) if found.priority < same.get().priority => {
                same.insert(found);
            }
            Entry::Occupied(_) => {}
        }
    }

    fn holds(&mut self, ttl: Duration) {
        self.ttl = self.ttl.min(ttl);
    }

    /// The addresses of a name, and the last ones of a family that was not answered.
    fn take(&mut self, looked_up: LookedUp, last: &mut Last) -> Vec<IpAddr> {
        let LookedUp { name, v4, v6 } = looked_up;
        let mut addresses = Vec::new();
        for (kind, answer) in [(RecordType::AAAA, v6), (RecordType::A, v4)] {
            let key = (name.clone(), kind);
            match answer {
                Ok(answer) => {
                    let ips = answer.records.iter().filter_map(RData::ip_addr);
                    // DNS turns the records round from one answer to the next.
                    let ips: Vec<IpAddr> = ips.collect::<BTreeSet<_>>().into_iter().collect();
                    if !ips.is_empty() {
                        self.holds(answer.ttl);
                        self.fresh = true;
                    }
                    addresses.extend(&ips);
                    last.insert(key, (Instant::now(), ips));
                }
                Err(error) => {
                    addresses.extend(last.get(&key).map(|(_, ips)| ips).into_iter().flatten());
                    self.unanswered.get_or_insert(error);
                }
            }
        }
        addresses
    }

    /// The records of a service.
    async fn service(
        &mut self,
        dns: &impl Ask,
        last: &mut Last,
        name: Name,
    ) -> Result<(), BoxError> {
        let answer = dns.ask(name, RecordType::SRV).await?;
        self.named = answer.records.iter().any(|it| matches!(it, RData::SRV(_)));
        let services = answer.records.iter().filter_map(|record| match record {
            // The root for a name says that there is no such service; nobody listens at port 0.
            RData::SRV(srv) if !srv.target.is_root() && srv.port != 0 => Some(srv),
            _ => None,
        });
        let services: Vec<&SRV> = services.collect();
        if !services.is_empty() {
            self.holds(answer.ttl);
        }
        let names: BTreeSet<Name> = services.iter().map(|srv| srv.target.clone()).collect();
        let looked_up: Vec<LookedUp> = stream::iter(names)
            .map(|name| look_up(dns, name))
            .buffer_unordered(LOOK_UPS)
            .collect()
            .await;
        let mut addresses = HashMap::new();
        for looked_up in looked_up {
            let name = looked_up.name.clone();
            addresses.insert(name, self.take(looked_up, last));
        }
        for srv in services {
            let ips = addresses.get(&srv.target).into_iter().flatten();
            let addresses: Vec<_> = ips.map(|ip| SocketAddr::new(*ip, srv.port)).collect();
            if addresses.is_empty() {
                continue;
            }
            let host = srv.target.to_ascii().to_ascii_lowercase();
            self.find(Found {
                id: format!("{}:{}", host.trim_end_matches('.'), srv.port),
                addresses,
                // 0 is for a very small share, and the least here is 1.
                weight: u32::from(srv.weight).max(1),
                priority: u32::from(srv.priority),
            });
        }
        Ok(())
    }

    /// Says that nothing was found, and why.
    pub(super) fn nothing(name: &str, error: Option<&BoxError>) -> BoxError {
        match error {
            Some(error) => format!("{name} could not be looked up: {}", describe(&**error)).into(),
            None => format!("{name} has no address in DNS").into(),
        }
    }
}
