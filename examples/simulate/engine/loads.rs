//! How busy the servers are, second by second and over all.

use crate::engine::queue::{Nanos, seconds};
use crate::engine::server::Server;
use crate::engine::tally::LoadSample;

/// What was seen of the loads.
#[derive(Default)]
pub(super) struct Loads {
    last: Look,
    /// The first look after the warm-up.
    start: Option<Look>,
    pub(super) samples: Vec<LoadSample>,
}

/// CPU used by each slot up to a time.
#[derive(Clone, Default)]
struct Look {
    at: Nanos,
    used: Vec<f64>,
}

impl Loads {
    /// Takes a sample of the time since the last one.
    pub(super) fn look(
        &mut self,
        now: Nanos,
        is_warm: bool,
        servers: &mut [Server],
        slots: &[usize],
    ) {
        let mut used = vec![0.0; slots.len()];
        for server in servers.iter_mut() {
            used[server.slot] += server.used(now);
        }
        let look = Look { at: now, used };
        self.last.used.resize(slots.len(), 0.0);
        self.samples
            .push(between(&self.last, &look, servers, slots));
        self.last = look;
        if is_warm && self.start.is_none() {
            self.start = Some(self.last.clone());
        }
    }

    /// The load from the end of the warm-up on.
    pub(super) fn whole(&self, servers: &[Server], slots: &[usize]) -> LoadSample {
        let start = self.start.as_ref().unwrap_or(&self.last);
        between(start, &self.last, servers, slots)
    }
}

fn between(before: &Look, after: &Look, servers: &[Server], slots: &[usize]) -> LoadSample {
    let time = seconds(after.at - before.at).max(f64::MIN_POSITIVE);
    let used = before.used.iter().zip(&after.used).zip(slots);
    let (mut sum, mut max) = (0.0, 0.0_f64);
    for ((before, after), &server) in used {
        let load = (after - before) / (servers[server].allotment * time);
        sum += load;
        max = max.max(load);
    }
    LoadSample {
        mean: sum / slots.len() as f64,
        max,
    }
}
