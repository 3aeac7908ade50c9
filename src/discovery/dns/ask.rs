//! One question to DNS.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::{Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Hosts, Resolver, TokioResolver};

use crate::error::BoxError;

/// The resolver adds what it is given to the time now.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(3_600);

/// What DNS has for a name; nothing if there is no such name, or it has no records of the kind.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    pub(super) records: Vec<RData>,
    /// How long they hold. What is empty is asked for again with backoff, whatever the zone says of it (RFC 2308).
    pub(super) ttl: Duration,
}

/// Where names are looked up.
pub(super) trait Ask: Send + Sync {
    /// Asks for the records of one kind.
    fn ask(
        &self,
        name: Name,
        kind: RecordType,
    ) -> impl Future<Output = Result<Answer, BoxError>> + Send;

    /// The names to try for `name`, in this order.
    fn candidates(&self, name: &str) -> Result<Vec<Name>, BoxError>;
}

/// Whom to ask, if not whom the system says.
#[derive(Debug, Clone, Default)]
pub(super) struct Servers {
    pub(super) name_servers: Vec<SocketAddr>,
    pub(super) search: Option<Vec<Name>>,
    pub(super) timeout: Option<Duration>,
}

/// DNS by hickory, and the hosts file.
pub(super) struct Hickory {
    resolver: TokioResolver,
    hosts: Arc<Hosts>,
    search: Vec<Name>,
    ndots: usize,
}

impl Hickory {
    /// Reads the system's configuration, unless name servers are given.
    pub(super) fn new(servers: &Servers) -> Result<Self, BoxError> {
        let own = !servers.name_servers.is_empty();
        let (config, mut options) = if own {
            let name_servers = servers.name_servers.iter().map(name_server).collect();
            let config = ResolverConfig::from_parts(None, Vec::new(), name_servers);
            (config, ResolverOpts::default())
        } else {
            read_system_conf()
                .map_err(|error| format!("the system's DNS configuration: {error}"))?
        };
        let hosts = Arc::new(match own {
            true => Hosts::default(),
            false => Hosts::from_system().unwrap_or_default(),
        });
        // Each time that something is asked it is to be asked; when that is, the TTL says here.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        if let Some(timeout) = servers.timeout {
            options.timeout = timeout.min(LONGEST_TIMEOUT);
        }
        let search = match &servers.search {
            Some(search) => search.clone(),
            None => config.search().to_vec(),
        };
        let ndots = options.ndots;
        let mut resolver = Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()?;
        resolver.set_hosts(hosts.clone());
        Ok(Self {
            resolver,
            hosts,
            search,
            ndots,
        })
    }

    fn is_in_hosts(&self, name: &Name) -> bool {
        [RecordType::A, RecordType::AAAA].into_iter().any(|kind| {
            let query = Query::query(name.clone(), kind);
            self.hosts.lookup_static_host(&query).is_some()
        })
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = address.port();
        connection
    });
    NameServerConfig::new(address.ip(), true, connections.into())
}

impl Ask for Hickory {
    async fn ask(&self, name: Name, kind: RecordType) -> Result<Answer, BoxError> {
        let query = Query::query(name.clone(), kind);
        if self.is_in_hosts(&name) && self.hosts.lookup_static_host(&query).is_none() {
            // A name in the hosts file has no other addresses, and a host without a network has no DNS.
            return Ok(Answer::default());
        }
        match self.resolver.lookup(name.clone(), kind).await {
            Ok(found) => {
                // The records on the way to them, CNAMEs, bound how long they hold, too.
                let ttl = found.answers().iter().map(|record| record.ttl).min();
                let ttl = Duration::from_secs(ttl.unwrap_or_default().into());
                let records = found.answers().iter();
                let records = records.filter(|record| record.record_type() == kind);
                Ok(Answer {
                    records: records.map(|record| record.data.clone()).collect(),
                    ttl,
                })
            }
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords {
                response_code: ResponseCode::NoError | ResponseCode::NXDomain,
                ..
            }))) => Ok(Answer::default()),
            Err(error) => Err(format!("{name} {kind}: {error}").into()),
        }
    }

    /// As resolv.conf(5) has it: a name with enough dots is tried as it is before the search domains, others
    /// after them. What is in the hosts file is not searched for.
    fn candidates(&self, name: &str) -> Result<Vec<Name>, BoxError> {
        let read = Name::from_str_relaxed(name)?;
        let mut whole = read.clone();
        whole.set_fqdn(true);
        if name.ends_with('.') || read.is_localhost() || self.is_in_hosts(&whole) {
            return Ok(vec![whole]);
        }
        let dots = name.bytes().filter(|byte| *byte == b'.').count();
        let searched = self.search.iter();
        // A name that a domain makes too long cannot be.
        let searched = searched.filter_map(|domain| read.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = searched.collect();
        names.insert(if dots >= self.ndots { 0 } else { names.len() }, whole);
        Ok(names)
    }
}
