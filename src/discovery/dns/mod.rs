//! Names in DNS, by hickory.
//!
//! - `ask`: one question, to the system's servers or to others;
//! - `resolve`: a round of questions, from a name to endpoints;
//! - `timing`: when to ask again, and how long a state stands that cannot be asked for;
//! - `source`: the stream of states.

mod ask;
mod resolve;
mod source;
mod timing;

pub use source::DnsUpdates;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::proto::rr::Name;

use crate::discovery::BoxDiscovery;
use crate::discovery::host::{Host, HostPort, check_name};
use crate::discovery::target::{Target, bad};
use crate::endpoint::Authority;
use crate::error::Error;
use crate::math::{Backoff, Rng};
use ask::{Hickory, Servers};
use resolve::Question;
use timing::{Schedule, Timing};

/// Endpoints by their name in DNS.
///
/// [`host`](Self::host) has each A and AAAA record of a host as an endpoint, at the port that is named, as gRPC
/// does. [`srv`](Self::srv) has each SRV record as one, with the record's port and weight; its host's addresses are
/// those of one server. Its priority is the [endpoint's](crate::Endpoint::with_priority): those of a greater value get
/// what those of a lower one cannot carry. A weight of 0 counts as 1.
///
/// The name is asked for again when the shortest TTL of its records is over, or at a fixed interval. When an endpoint
/// cannot be reached it is asked for earlier, at most every 30 s. What cannot be answered (errors, no answer in
/// time) and what is empty keep the last good state for a day, and are asked for again with backoff, whatever time the
/// zone names for what it does not have; after that the state is empty. Where one family of addresses is not answered,
/// or one name of an SRV record, its last addresses stand. An answer that is missing altogether is told, and stands in
/// the balancer's report; one that is missing in part is a debug event.
///
/// Requests carry the name that was looked up as their `:authority`, and a certificate must carry it: for SRV the
/// name without its service and protocol, as RFC 6125 has it, since whoever can forge an answer could name any host.
///
/// | setting | default | source |
/// |---|---|---|
/// | [`with_interval`](Self::with_interval) | by the TTL | |
/// | [`with_ttl_bounds`](Self::with_ttl_bounds) | 5 s to 5 min | Envoy `dns_min_refresh_rate`; the upper one ours |
/// | [`with_keep_last_good`](Self::with_keep_last_good) | 1 day | RFC 8767 section 5: one to three |
/// | [`with_failure_interval`](Self::with_failure_interval) | 30 s | gRPC's least time between resolutions |
/// | [`with_backoff`](Self::with_backoff) | 1 s × 1.6 ± 20 %, at most 120 s | gRPC connection backoff |
/// | [`with_name_servers`](Self::with_name_servers) | the system's | resolv.conf(5) |
/// | [`with_search`](Self::with_search) | the system's | resolv.conf(5) |
/// | [`with_timeout`](Self::with_timeout) | the system's, 5 s | resolv.conf(5) |
///
/// The system's configuration and its hosts file are read when the balancer begins, and again after a failure. With
/// name servers of one's own neither is.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::Error> {
/// use std::time::Duration;
/// use evenkeel::discovery::Dns;
///
/// let updates = Dns::host("greeter.svc:50051")?
///     .with_interval(Duration::from_secs(10))
///     .updates()?;
/// # #[cfg(feature = "grpc")]
/// let channel = evenkeel::grpc::Channel::builder().discovery(updates).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is asked until its updates are read"]
pub struct Dns {
    asked: Asked,
    authority: Authority,
    servers: Servers,
    search: Option<Vec<String>>,
    timing: Timing,
    seed: Option<u64>,
}

#[derive(Debug, Clone)]
enum Asked {
    Name(Question),
    /// There is nothing to ask.
    Address(SocketAddr),
}

impl Dns {
    /// The addresses of a host, as `host:port`; without a port it is 443, as in gRPC. An IP address is itself.
    ///
    /// # Errors
    /// A configuration error of the field `name`: no name that DNS could know, or no port.
    pub fn host(name: &str) -> Result<Self, Error> {
        let refused = |why: String| Error::config("name", format!("{name:?} {why}"));
        let HostPort { host, port } = HostPort::read(name).map_err(refused)?;
        let asked = match host {
            Host::Ip(ip) => Asked::Address(SocketAddr::new(ip, port)),
            Host::Name(name) => Asked::Name(Question::Host { name, port }),
        };
        let authority = match name.parse::<std::net::Ipv6Addr>() {
            Ok(ip) => format!("[{ip}]"),
            Err(_) => name.replacen(".:", ":", 1),
        };
        Self::of(asked, authority.trim_end_matches('.'))
    }

    /// The SRV records of a service, such as `_grpc._tcp.greeter.svc`.
    ///
    /// # Errors
    /// A configuration error of the field `name`: no name that DNS could know; a port is in the records.
    pub fn srv(name: &str) -> Result<Self, Error> {
        check_name(name).map_err(|why| Error::config("name", format!("{name:?} {why}")))?;
        let mut host = name;
        for _ in 0..2 {
            if let Some((label, rest)) = host.split_once('.')
                && label.starts_with('_')
                && !rest.is_empty()
            {
                host = rest;
            }
        }
        let name = name.to_owned();
        Self::of(
            Asked::Name(Question::Service { name }),
            host.trim_end_matches('.'),
        )
    }

    fn of(asked: Asked, authority: &str) -> Result<Self, Error> {
        Ok(Self {
            asked,
            authority: Authority::new(authority)?,
            servers: Servers::default(),
            search: None,
            timing: Timing {
                interval: None,
                min_ttl: Duration::from_secs(5),
                max_ttl: Duration::from_secs(300),
                keep_last_good: Duration::from_secs(24 * 60 * 60),
                failure_interval: Duration::from_secs(30),
                backoff: Backoff::default(),
            },
            seed: None,
        })
    }

    /// Asks again after this time, whatever the TTL.
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.timing.interval = Some(interval);
        self
    }

    /// The least and the longest time after which a TTL has the name asked for again, neither of them zero. Default 5 s
    /// to 5 min.
    pub fn with_ttl_bounds(mut self, least: Duration, longest: Duration) -> Self {
        (self.timing.min_ttl, self.timing.max_ttl) = (least, longest);
        self
    }

    /// How long the last good state stands while answers are errors or empty. Default 1 day; zero has the first
    /// such answer end it.
    pub fn with_keep_last_good(mut self, time: Duration) -> Self {
        self.timing.keep_last_good = time;
        self
    }

    /// How long after it was asked for the name may be asked for again because an endpoint cannot be reached. Default
    /// 30 s.
    pub fn with_failure_interval(mut self, interval: Duration) -> Self {
        self.timing.failure_interval = interval;
        self
    }

    /// The delays after answers that are errors or empty; no longer than the interval, if one is set.
    pub fn with_backoff(mut self, backoff: Backoff) -> Self {
        self.timing.backoff = backoff;
        self
    }

    /// Asks these servers, by UDP and where that is cut short by TCP, and not the system's. There are no search
    /// domains then but those that are set. None of them are the system's again.
    pub fn with_name_servers(mut self, servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        self.servers.name_servers = servers.into_iter().collect();
        self
    }

    /// The domains to try with a name that has no final dot, in place of the system's.
    pub fn with_search<S: Into<String>>(mut self, domains: impl IntoIterator<Item = S>) -> Self {
        self.search = Some(domains.into_iter().map(Into::into).collect());
        self
    }

    /// How long one try of a question may take, up to an hour; longer counts as that.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.servers.timeout = Some(timeout);
        self
    }

    /// Seeds the jitter of the backoff; default a different seed each time.
    pub fn with_seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }

    /// The source, to give to a builder's `discovery`. Nothing is asked before the balancer reads it, in the runtime
    /// that it is built in.
    ///
    /// # Errors
    /// Names the setting that cannot be used: an interval, a timeout or a bound of the TTL of zero, bounds in the wrong
    /// order, a backoff that cannot be, a search domain that is no name, a name server's port of 0.
    pub fn updates(self) -> Result<DnsUpdates, Error> {
        let Self {
            asked,
            authority,
            mut servers,
            search,
            timing,
            seed,
        } = self;
        check(&timing, &servers)?;
        if let Some(search) = search {
            servers.search = Some(
                search
                    .iter()
                    .map(|name| domain(name))
                    .collect::<Result<_, _>>()?,
            );
        }
        let question = match asked {
            Asked::Address(address) => return Ok(DnsUpdates::fixed(address, authority)),
            Asked::Name(question) => question,
        };
        let rng = Rng::new(seed.unwrap_or_else(|| fastrand::u64(..)));
        let schedule = move |now| Schedule::new(timing, rng, now);
        let make = move || Hickory::new(&servers);
        Ok(DnsUpdates::new(question, authority, schedule, make))
    }
}

fn check(timing: &Timing, servers: &Servers) -> Result<(), Error> {
    let zero = |field, time: Option<Duration>| match time {
        Some(Duration::ZERO) => Err(Error::config(field, "is zero")),
        _ => Ok(()),
    };
    zero("interval", timing.interval)?;
    zero("ttl_bounds", Some(timing.min_ttl))?;
    zero("ttl_bounds", Some(timing.max_ttl))?;
    zero("timeout", servers.timeout)?;
    if timing.min_ttl > timing.max_ttl {
        let message = format!("{:?} is more than {:?}", timing.min_ttl, timing.max_ttl);
        return Err(Error::config("ttl_bounds", message));
    }
    if let Some(mistake) = timing.backoff.mistake() {
        return Err(Error::config("backoff", mistake));
    }
    match servers
        .name_servers
        .iter()
        .find(|server| server.port() == 0)
    {
        Some(server) => Err(Error::config(
            "name_servers",
            format!("{server} has the port 0"),
        )),
        None => Ok(()),
    }
}

fn domain(name: &str) -> Result<Name, Error> {
    check_name(name).map_err(|why| Error::config("search", format!("{name:?} {why}")))?;
    Name::from_str_relaxed(name)
        .map_err(|error| Error::config_because("search", format!("{name:?} is no name"), error))
}

/// The source of `dns:[//server[:port]/]host[:port]`.
pub(super) fn of_host(target: &Target) -> Result<BoxDiscovery, Error> {
    of_target(target, Dns::host)
}

/// The source of `dns+srv:[//server[:port]/]name`.
pub(super) fn of_service(target: &Target) -> Result<BoxDiscovery, Error> {
    of_target(target, Dns::srv)
}

fn of_target(target: &Target, read: fn(&str) -> Result<Dns, Error>) -> Result<BoxDiscovery, Error> {
    let name = target.without_query()?.name();
    if name.is_empty() && !target.authority().is_empty() {
        let authority = target.authority();
        let scheme = target.scheme();
        return Err(bad(format!(
            "{target} names a server to ask and nothing to ask for; a name has three slashes: {scheme}:///{authority}"
        )));
    }
    let refused = |error: Error| bad(format!("{target}: {error}"));
    let mut dns = read(name).map_err(refused)?;
    if !target.authority().is_empty() {
        let server = name_server(target.authority());
        dns = dns.with_name_servers([server.map_err(|why| bad(format!("{target}: {why}")))?]);
    }
    Ok(Box::pin(dns.updates().map_err(refused)?))
}

/// A name server of a target: `address[:port]`; port 53 by default.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    let inside = (text.strip_prefix('[')).and_then(|text| text.strip_suffix(']'));
    let bare = inside.filter(|text| text.contains(':')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, 53));
    }
    match HostPort::read(text) {
        Ok(HostPort {
            host: Host::Ip(ip),
            port,
        }) => Ok(SocketAddr::new(ip, port)),
        Ok(_) => Err(format!("the name server {text:?} is no IP address")),
        Err(why) => Err(format!("the name server {text:?} {why}")),
    }
}

#[cfg(test)]
mod tests;
