//! What there is of the client.

use std::fmt;

use tokio::runtime::Handle as Runtime;

use crate::support::TestServer;

/// What memory may grow by: buffers of connections, tables of headers and the allocator's own have their size only
/// after a while, whatever is done.
const MEMORY_GROWS_BY: f64 = 1.25;
const AND_BYTES: u64 = 16 << 20;

/// What there is at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Footprint {
    /// Of the runtime that the client is on. The servers have runtimes of their own.
    pub(crate) tasks: usize,
    /// Open at the servers.
    pub(crate) connections: u64,
    /// Under way at the servers.
    pub(crate) calls: u64,
    /// Of the whole process, servers included; 0 where the system does not tell.
    pub(crate) memory_bytes: u64,
}

impl Footprint {
    pub(crate) fn of(servers: &[TestServer]) -> Self {
        Self {
            tasks: Runtime::current().metrics().num_alive_tasks(),
            connections: servers.iter().map(TestServer::open).sum(),
            calls: servers
                .iter()
                .map(|server| server.total().in_flight())
                .sum(),
            memory_bytes: resident_bytes().unwrap_or(0),
        }
    }

    /// Connected to each server once, with nothing under way.
    pub(crate) fn is_idle(&self, servers: &[TestServer]) -> bool {
        self.connections == servers.len() as u64 && self.calls == 0
    }

    /// But for memory.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        (self.tasks, self.connections, self.calls) == (other.tasks, other.connections, other.calls)
    }

    /// What is not as it was.
    pub(crate) fn differs_from(&self, before: &Self) -> Vec<String> {
        let mut differs = Vec::new();
        let mut same = |what: &str, now: u64, then: u64| {
            if now != then {
                differs.push(format!("{now} {what}, {then} before"));
            }
        };
        same("tasks", self.tasks as u64, before.tasks as u64);
        same("connections", self.connections, before.connections);
        same("calls under way", self.calls, before.calls);
        let most = before.memory_bytes as f64 * MEMORY_GROWS_BY + AND_BYTES as f64;
        if self.memory_bytes as f64 > most {
            differs.push(format!("{self} of memory, {before} before"));
        }
        differs
    }
}

impl fmt::Display for Footprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.memory_bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{} tasks, {} connections, {} calls under way, {mebibytes:.1} MiB",
            self.tasks, self.connections, self.calls
        )
    }
}

/// Resident memory, where the system tells. Pages of 4 KiB, the smallest there are: what is compared is a ratio.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}
