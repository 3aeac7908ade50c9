//! Who is called.

use std::time::Duration;

use evenkeel::BoxError;
use tokio::task::JoinHandle;

use crate::counter::{self, Counter};
use crate::fault::{Fault, WORK};
use crate::netns::Namespace;
use crate::options::Options;
use crate::support::{Behaviour, TestServer};

/// All servers together can do this many times what is asked, where that is limited.
const CAPACITY: f64 = 1.3;

/// The servers of one run. They go when dropped.
pub(crate) struct Servers {
    plain: Vec<TestServer>,
    counters: Vec<Counter>,
    tasks: Vec<JoinHandle<()>>,
    namespace: Option<Namespace>,
    work: Duration,
    victims: usize,
    uris: Vec<String>,
}

impl Servers {
    /// The inner error says why this cannot be done here.
    pub(crate) fn start(fault: Fault, options: &Options) -> Result<Result<Self, String>, BoxError> {
        let count = usize::from(options.servers);
        let work = f64::from(options.servers) / (CAPACITY * f64::from(options.rate));
        let mut servers = Self {
            plain: Vec::new(),
            counters: Vec::new(),
            tasks: Vec::new(),
            namespace: None,
            work: Duration::from_secs_f64(work),
            victims: fault.victims(count),
            uris: Vec::new(),
        };
        if fault == Fault::Halved {
            for _ in 0..count {
                let (uri, counter, task) = counter::start(servers.work)?;
                servers.uris.push(uri);
                servers.counters.push(counter);
                servers.tasks.push(task);
            }
            return Ok(Ok(servers));
        }
        let mut plain = count;
        if fault.is_of_the_network() {
            match Namespace::start(fault) {
                Ok(namespace) => {
                    if let Err(error) = namespace.can(fault) {
                        return Ok(Err(error.to_string()));
                    }
                    servers.namespace = Some(namespace);
                }
                Err(error) => return Ok(Err(error.to_string())),
            }
            plain -= 1;
        }
        for server in 0..plain {
            let behaviour = Behaviour::after(WORK);
            let server = TestServer::start(format!("server {server}"), behaviour);
            servers.uris.push(server.uri());
            servers.plain.push(server);
        }
        let namespace = servers.namespace.as_ref();
        servers
            .uris
            .extend(namespace.map(|namespace| namespace.uri.clone()));
        Ok(Ok(servers))
    }

    pub(crate) fn uris(&self) -> &[String] {
        &self.uris
    }

    pub(crate) fn plain(&self) -> &[TestServer] {
        &self.plain
    }

    /// Those that the fault hits.
    pub(crate) fn victims(&self) -> &[TestServer] {
        &self.plain[..self.victims.min(self.plain.len())]
    }

    /// Calls that came to those that the fault hits, and to all; none if that is not known.
    pub(crate) fn arrived(&self) -> Option<(u64, u64)> {
        let of = |servers: &[TestServer]| servers.iter().map(|s| s.total().started).sum::<u64>();
        let counted: u64 = self.counters.iter().map(Counter::started).sum();
        let known = self.namespace.is_none();
        known.then(|| (of(self.victims()), of(&self.plain) + counted))
    }

    /// Does this share of its calls a second.
    pub(crate) fn set_capacity(&self, share: f64) {
        for counter in &self.counters {
            counter.set_work(self.work.div_f64(share));
        }
    }

    pub(crate) fn break_network(&self, fault: Fault) -> Result<(), BoxError> {
        match &self.namespace {
            Some(namespace) => namespace.break_by(fault),
            None => Ok(()),
        }
    }

    pub(crate) fn mend_network(&self, fault: Fault) -> Result<(), BoxError> {
        match &self.namespace {
            Some(namespace) => namespace.mend(fault),
            None => Ok(()),
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
