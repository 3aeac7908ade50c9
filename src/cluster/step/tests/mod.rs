//! The machine by itself: instants made by hand, no runtime, no connection.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::*;
use crate::cluster::snapshot::Summary;
use crate::endpoint::ConnectivityState;
use crate::math::Backoff;
use crate::outcome::Outcome;
use crate::policy::Candidates;

mod age;
mod checks;
mod dialing;
mod draining;
mod ejection;
mod invariants;
mod membership;
mod order;
mod outliers;
mod rows;
mod slow_start;
mod summary;

/// A cluster, its clock, and what it wants done.
struct Machine {
    cluster: Cluster<()>,
    now: Instant,
    changes: Arc<Mutex<Vec<(u64, Change)>>>,
    /// Dials that were asked for and have not ended.
    dials: Vec<Dial>,
    /// Every connection number that was ever handed out.
    connections: HashSet<u64>,
    forgotten: Vec<u64>,
    /// The connections that need not be watched any more, with the keys of their endpoints.
    unwatched: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Dial {
    id: String,
    key: u64,
    connection: u64,
}

impl Machine {
    fn new(settings: Settings) -> Self {
        let changes = Arc::new(Mutex::new(Vec::new()));
        let heard = changes.clone();
        let on_change: OnChange = Arc::new(move |key, change| {
            let mut changes = heard.lock().unwrap_or_else(PoisonError::into_inner);
            changes.push((key, change));
        });
        Self {
            cluster: Cluster::new(settings, None, Some(on_change)),
            now: Instant::now(),
            changes,
            dials: Vec::new(),
            connections: HashSet::new(),
            forgotten: Vec::new(),
            unwatched: Vec::new(),
        }
    }

    fn with<const N: usize>(settings: Settings, ids: [&str; N]) -> Self {
        let mut machine = Self::new(settings);
        machine.update(ids);
        machine
    }

    /// As [`with`](Self::with), all connected.
    fn ready<const N: usize>(settings: Settings, ids: [&str; N]) -> Self {
        let mut machine = Self::with(settings, ids);
        for id in ids {
            machine.succeed(id);
        }
        machine
    }

    /// The connections that are up, with the keys of their endpoints.
    fn connected(&self) -> Vec<(u64, u64)> {
        let entries = self.cluster.entries.iter();
        entries
            .filter_map(|(key, entry)| Some((*key, entry.phase.connection()?)))
            .collect()
    }

    fn step(&mut self, event: Event<()>) {
        let before = self.connected();
        let forgotten = self.forgotten.len();
        self.cluster.step(event, self.now);
        for effect in self.cluster.take_effects() {
            match effect {
                Effect::Dial {
                    endpoint,
                    subchannel,
                    connection,
                } => {
                    assert!(
                        connection != 0 && self.connections.insert(connection),
                        "connection {connection} is named once"
                    );
                    self.dials.push(Dial {
                        id: endpoint.id().to_string(),
                        key: subchannel.key(),
                        connection,
                    });
                }
                Effect::End { key, connection } => self.unwatched.push((key, connection)),
                Effect::Left { .. } => {}
                Effect::Forget { key } => {
                    self.dials.retain(|dial| dial.key != key);
                    self.forgotten.push(key);
                }
            }
        }
        let (after, forgotten) = (self.connected(), &self.forgotten[forgotten..]);
        for up in before {
            let is_watched = !self.unwatched.contains(&up) && !forgotten.contains(&up.0);
            let is_up = after.contains(&up);
            assert_eq!(is_watched, is_up, "who is connected is watched: {up:?}");
        }
    }

    fn update<E: Into<Endpoint>>(&mut self, endpoints: impl IntoIterator<Item = E>) {
        self.step(Event::Update(Update::new(endpoints)));
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;
        self.step(Event::Tick);
    }

    fn advance_ms(&mut self, ms: u64) {
        self.advance(Duration::from_millis(ms));
    }

    /// Who is being dialled.
    fn dialing(&self) -> Vec<&str> {
        self.dials.iter().map(|dial| dial.id.as_str()).collect()
    }

    fn take_dial(&mut self, id: &str) -> Dial {
        let found = self.dials.iter().position(|dial| dial.id == id);
        self.dials
            .remove(found.unwrap_or_else(|| panic!("{id} is being dialled")))
    }

    fn end_dial(&mut self, dial: &Dial, result: Result<(), BoxError>) {
        self.step(Event::Dialed {
            key: dial.key,
            connection: dial.connection,
            result,
        });
    }

    fn succeed(&mut self, id: &str) -> Dial {
        let dial = self.take_dial(id);
        self.end_dial(&dial, Ok(()));
        dial
    }

    fn fail(&mut self, id: &str) {
        let dial = self.take_dial(id);
        self.end_dial(&dial, Err(format!("{id} refused").into()));
    }

    fn end(&mut self, dial: &Dial, end: End) {
        self.step(Event::Ended(Ended {
            key: dial.key,
            connection: dial.connection,
            end,
        }));
    }

    /// The dial that `id` is connected by.
    fn dialed(&self, id: &str) -> Dial {
        let connection = self.entry(id).phase.connection();
        Dial {
            id: id.to_owned(),
            key: self.cluster.keys[id],
            connection: connection.expect("it is ready"),
        }
    }

    fn entry(&self, id: &str) -> &Entry<()> {
        &self.cluster.entries[&self.cluster.keys[id]]
    }

    fn state(&self, id: &str) -> ConnectivityState {
        self.entry(id).state()
    }

    fn publish(&mut self) -> (Candidates, Summary) {
        let published = self.cluster.publish();
        (published.candidates, published.summary)
    }

    /// One call that goes to `id` by the newest set, if its gate lets it in. What that changes is
    /// heard at once.
    fn call(&mut self, id: &str, outcome: Outcome) -> bool {
        let (candidates, _) = self.publish();
        let candidate = candidates
            .all()
            .iter()
            .find(|c| c.endpoint().id().as_str() == id);
        let Some(mut claim) = candidate.and_then(|c| c.claim(false)) else {
            return false;
        };
        claim.sent();
        claim.finish(outcome);
        self.hear();
        true
    }

    fn hear(&mut self) {
        let changes: Vec<_> = self
            .changes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect();
        for (key, change) in changes {
            self.step(Event::Health { key, change });
        }
    }

    /// Fails calls on `id` until it is out.
    fn eject(&mut self, id: &str) {
        for _ in 0..5 {
            assert!(self.call(id, Outcome::Failure), "{id} lets calls in");
        }
        assert!(
            !self.entry(id).subchannel.health().gate().is_open(),
            "{id} is out"
        );
    }

    /// Lets the time of the ejection pass, and the probing call go well.
    fn readmit(&mut self, id: &str) {
        let until = self.entry(id).ejection.as_ref().expect("it is out").until;
        self.advance(until - self.now);
        assert!(
            self.call(id, Outcome::Success),
            "the probing call is let in"
        );
        assert!(
            self.entry(id).subchannel.health().gate().is_open(),
            "{id} is back"
        );
    }

    fn ejected(&self) -> usize {
        self.cluster.ejected()
    }

    /// How long the present ejection of `id` lasts from now.
    fn left(&self, id: &str) -> Duration {
        self.entry(id).ejection.as_ref().expect("it is out").until - self.now
    }
}

fn settings() -> Settings {
    Settings {
        backoff: Backoff::default().with_jitter(0.0),
        seed: 7,
        ..Settings::default()
    }
}

fn dials(max: usize) -> Settings {
    Settings {
        max_concurrent_dials: max,
        ..settings()
    }
}

fn closed() -> End {
    End::Closed(None)
}

fn not_ready() -> End {
    End::NotReady("broken".into())
}
