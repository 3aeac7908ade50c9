//! The task that performs what the rules say.
//!
//! It lives as long as one handle or one queued call does, and moves whether calls flow or not. It
//! takes everything that has happened before it publishes, so that a burst costs one snapshot. After
//! a snapshot of a large set it rests as long as that took: it neither reads the source, whose later
//! states say all that the earlier ones said, nor publishes, and so takes no more than about half of a
//! processor, however large the set is and however often it changes. A policy that goes by time has its
//! picker built anew every so often, though nothing happened ([`refresh`](crate::cluster::refresh)).

mod orders;
mod waits;

use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{mpsc, oneshot};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use crate::cluster::Settings;
use crate::cluster::checks::{Checked, Checks};
use crate::cluster::dials::{Dial, DialResult, Dials};
use crate::cluster::lifecycle::{Command, Lifecycle, lifecycle};
use crate::cluster::links::Links;
use crate::cluster::load_reports::LoadReports;
use crate::cluster::refresh::Refresh;
use crate::cluster::snapshot::{Outbox, Shared, Snapshot, Summary};
use crate::cluster::step::{Cluster, Effect, Event, Published};
use crate::cluster::watches::{self, AbortOnDrop};
use crate::cluster::{clock, probes};
use crate::connection::{ConnectionEvents, Connector, DialTerms, End, Inbox};
use crate::discovery::{Discovery, Update};
use crate::endpoint::RefreshHint;
use crate::health::limits::Limiter;
use crate::health::{Change, Verdict};
use crate::outcome::LoadReport;
use crate::policy::{Candidates, Groups, Halted, Policy};
use crate::probe::{self, Probe, Watch};
use waits::{at, next, read};

/// How many events are taken before the next snapshot, at most.
const MAX_BATCH: usize = 1_000;

/// The runtime's timer knows no shorter time: a shorter rest would take longer than the work did.
const SHORTEST_REST: Duration = Duration::from_millis(1);

/// What a control plane is made of.
pub(crate) struct Launch<C, P, W, H> {
    pub(crate) settings: Settings,
    /// How servers are asked for their load, if they can be.
    pub(crate) probe: Option<P>,
    /// How servers report their load beside the calls, if they can.
    pub(crate) load_reports: Option<W>,
    /// How servers are checked, if they are.
    pub(crate) health_check: Option<H>,
    pub(crate) connector: C,
    pub(crate) policy: Arc<dyn Policy>,
    /// Endpoints that are known from the start.
    pub(crate) initial: Option<Update>,
    pub(crate) discovery: Option<Pin<Box<dyn Discovery>>>,
}

/// Starts the control plane on `runtime`.
pub(crate) fn launch<C, P, W, H>(
    launch: Launch<C, P, W, H>,
    runtime: &Runtime,
) -> Arc<Shared<C::Service>>
where
    C: Connector,
    P: Probe<C::Service>,
    W: Watch<C::Service, Terms = Duration, Word = LoadReport>,
    H: Watch<C::Service, Terms = (), Word = Verdict>,
{
    let (inbox, ends) = mpsc::unbounded_channel();
    let (health, changes) = mpsc::unbounded_channel();
    let on_change = Arc::new(move |key, change| {
        // Without a reader the balancer has ended, and so has the need to know.
        let _ = health.send((key, change));
    });
    let candidates = Candidates::new([], false);
    let picker = launch.policy.build(&candidates, None);
    let summary = Summary::default();
    let snapshot = Snapshot {
        services: Vec::new(),
        candidates,
        picker,
        details: Vec::new(),
        summary,
    };
    let limits = launch.settings.limits;
    let limiter = (!limits.is_off()).then(|| Arc::new(Limiter::new(limits)));
    let (control, lifecycle, commands) = lifecycle();
    let (links, quiet) = Links::new();
    let (shared, gone) = Shared::new(
        snapshot,
        inbox.clone(),
        control,
        launch.policy.name(),
        &launch.settings,
    );
    let rules = launch.settings.measures.probes;
    let (prober, asks) = launch
        .probe
        .zip(rules)
        .map(|(probe, rules)| probe::schedule(probe, rules))
        .unzip();
    let shared = Arc::new(shared.probed_by(prober).limited_by(limiter.clone()));
    let probing = asks.map(|asks| probes::start(asks, &shared, launch.settings.seed, runtime));
    let refresh = Refresh::new(launch.policy.clone());
    let mut settings = launch.settings;
    settings.listener = settings.listener.map(|_| refresh.listener());
    let (checks, verdicts) = Checks::new(launch.health_check, &mut settings);
    let driver = Driver {
        terms: settings.dial_terms(),
        load_reports: LoadReports::new(launch.load_reports, &settings),
        checks,
        cluster: Cluster::new(settings, limiter, Some(on_change)),
        connector: Arc::new(launch.connector),
        policy: launch.policy,
        refresh,
        dials: Dials::new(),
        links,
        lifecycle,
        probing,
        inbox,
        guard: ClosedOnDrop(Arc::downgrade(&shared)),
    };
    let sources = Sources {
        discovery: launch.discovery,
        ends,
        changes,
        verdicts,
        commands,
        quiet,
    };
    runtime.spawn(driver.run(launch.initial, sources, gone));
    shared
}

/// Where events come from, beside the dials.
struct Sources {
    discovery: Option<Pin<Box<dyn Discovery>>>,
    ends: Outbox,
    changes: mpsc::UnboundedReceiver<(u64, Change)>,
    verdicts: mpsc::UnboundedReceiver<Checked>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// Endpoints that have left, whose last call has ended.
    quiet: mpsc::UnboundedReceiver<u64>,
}

struct Driver<C: Connector, W, H> {
    cluster: Cluster<C::Service>,
    connector: Arc<C>,
    terms: DialTerms,
    policy: Arc<dyn Policy>,
    refresh: Refresh,
    dials: Dials<C::Service>,
    links: Links,
    lifecycle: Lifecycle,
    load_reports: LoadReports<W>,
    checks: Checks<H>,
    /// Where servers are asked for their load.
    probing: Option<AbortOnDrop>,
    inbox: Inbox,
    guard: ClosedOnDrop<C::Service>,
}

impl<C, W, H> Driver<C, W, H>
where
    C: Connector,
    W: Watch<C::Service, Terms = Duration, Word = LoadReport>,
    H: Watch<C::Service, Terms = (), Word = Verdict>,
{
    async fn run(
        mut self,
        initial: Option<Update>,
        mut sources: Sources,
        mut gone: oneshot::Receiver<()>,
    ) {
        if let Some(update) = initial {
            self.step(Event::Update(update));
        }
        let mut began = Instant::now();
        let mut rest_until = began;
        let mut dirty = false;
        self.refresh.begin(began);
        loop {
            while let Some(key) = self.lifecycle.drained(&self.links, Instant::now()) {
                self.cluster.drain_is_over(key);
            }
            if self.lifecycle.tick(&self.links, Instant::now()) {
                return;
            }
            dirty |= self.cluster.take_dirty();
            dirty |= self.refresh.take_due(Instant::now());
            // The last snapshot of all is there already.
            dirty &= !self.lifecycle.is_shut_down();
            if dirty && rest_until <= Instant::now() {
                if !self.publish() {
                    return;
                }
                dirty = false;
                let now = Instant::now();
                self.refresh.built(now);
                let spent = now - began;
                if spent >= SHORTEST_REST {
                    rest_until = now + spent;
                }
            }
            if !dirty {
                self.lifecycle.shown();
            }
            let rests = Instant::now() < rest_until;
            let tick = self.cluster.next_tick();
            let wakes = [
                tick,
                rests.then_some(rest_until),
                self.refresh.due(),
                self.lifecycle.due(),
            ];
            let wake = wakes.into_iter().flatten().min();
            let event = tokio::select! {
                biased;
                Some(command) = sources.commands.recv() => {
                    self.obey(command, &mut sources);
                    Event::Tick
                }
                // A shutdown goes on to its end.
                _ = &mut gone, if !self.lifecycle.is_shut_down() => return,
                Some(key) = sources.quiet.recv() => {
                    self.look(key);
                    Event::Tick
                }
                Some(ended) = sources.ends.recv() => Event::Ended(ended),
                Some(checked) = sources.verdicts.recv() => {
                    self.checked(checked);
                    Event::Tick
                }
                Some((key, change)) = sources.changes.recv() => Event::Health { key, change },
                Some(done) = self.dials.next() => {
                    self.dialed(done);
                    Event::Tick
                }
                update = next(&mut sources.discovery), if !rests => read(update),
                () = self.refresh.woken() => {
                    self.refresh.begin(Instant::now());
                    Event::Tick
                }
                () = at(wake) => Event::Tick,
            };
            began = Instant::now();
            self.step(event);
            self.drain(&mut sources);
            if rest_until <= began {
                self.drain_discovery(&mut sources.discovery);
            }
            // A source that never pauses must not keep the thread from all others.
            consume_budget().await;
        }
    }

    /// Takes what else is there already.
    fn drain(&mut self, sources: &mut Sources) {
        for _ in 0..MAX_BATCH {
            if let Ok(ended) = sources.ends.try_recv() {
                self.step(Event::Ended(ended));
            } else if let Ok(key) = sources.quiet.try_recv() {
                self.look(key);
            } else if let Ok(checked) = sources.verdicts.try_recv() {
                self.checked(checked);
            } else if let Ok((key, change)) = sources.changes.try_recv() {
                self.step(Event::Health { key, change });
            } else if let Some(done) = self.dials.try_next() {
                self.dialed(done);
            } else {
                break;
            }
        }
    }

    /// Takes the last of the states that are there already.
    fn drain_discovery(&mut self, discovery: &mut Option<Pin<Box<dyn Discovery>>>) {
        let mut latest = None;
        let mut failed = None;
        let mut ended = false;
        for _ in 0..MAX_BATCH {
            match next(discovery).now_or_never() {
                Some(Some(Ok(update))) => {
                    latest = Some(update);
                    failed = None;
                }
                Some(Some(Err(error))) => failed = Some(error),
                Some(None) => {
                    ended = true;
                    break;
                }
                None => break,
            }
        }
        if let Some(update) = latest {
            self.step(Event::Update(update));
        }
        if let Some(error) = failed {
            self.step(Event::DiscoveryFailed(error));
        }
        if ended {
            self.step(Event::DiscoveryEnded);
        }
    }

    fn step(&mut self, event: Event<C::Service>) {
        if let Event::Ended(ended) = &event {
            self.look(ended.key);
            if matches!(ended.end, End::Moved) {
                self.checks.moved(ended.key, ended.connection);
                self.load_reports.moved(ended.key, ended.connection);
            }
        }
        self.cluster.step(event, Instant::now());
        self.perform();
    }

    /// Something of this endpoint has ended: its last call, or a connection.
    fn look(&mut self, key: u64) {
        self.links.look(key);
        self.lifecycle.look(key, &self.links);
    }

    fn perform(&mut self) {
        for effect in self.cluster.take_effects() {
            match effect {
                Effect::Dial {
                    endpoint,
                    subchannel,
                    connection,
                } => {
                    let inbox = self.inbox.clone();
                    let listed = subchannel.clone();
                    let events = ConnectionEvents::new(listed, connection, inbox, self.terms);
                    self.links.begin(&subchannel, events.line());
                    let dial = Dial {
                        endpoint,
                        subchannel,
                        connection,
                        events,
                    };
                    let connector = self.connector.clone();
                    self.dials
                        .begin(connector, dial, self.terms.connect_timeout);
                }
                Effect::End { key, connection } => {
                    self.checks.end(key, connection);
                    self.load_reports.end(key, connection);
                }
                Effect::Forget { key } => {
                    self.checks.forget(key);
                    self.load_reports.forget(key);
                    self.dials.forget(key);
                }
                Effect::Left { key } => self.links.leave(key),
            }
        }
    }

    fn dialed(&mut self, done: DialResult<C::Service>) {
        let Some((dial, result)) = self.dials.ended(done) else {
            return;
        };
        let Dial {
            endpoint,
            subchannel,
            connection,
            events,
        } = dial;
        let key = subchannel.key();
        if result.is_ok() {
            self.links.taken_up(key);
        } else if let Some(hint) = endpoint.get::<RefreshHint>() {
            hint.give();
        }
        let wanted = self.checks.is_wanted() || self.load_reports.is_wanted();
        let service = result.as_ref().ok().filter(|_| wanted).cloned();
        self.step(Event::Dialed {
            key,
            connection,
            result,
        });
        events.taken_up();
        // Its end may have come before it was up.
        let Some(service) = service.filter(|_| !events.has_ended()) else {
            return;
        };
        let target = watches::target(endpoint, service, &events);
        if self.checks.is_wanted() {
            self.checks.begin(target, subchannel, connection, events);
        } else {
            self.load_reports.begin(target, subchannel, connection);
        }
    }

    /// A health check said something new.
    fn checked(&mut self, checked: Checked) {
        let Checked {
            subchannel,
            connection,
            verdict,
            events,
        } = checked;
        let key = subchannel.key();
        self.step(Event::Checked {
            key,
            connection,
            verdict,
        });
        events.taken_up();
        match self.cluster.connected(key, connection) {
            Some((endpoint, service)) if self.load_reports.is_wanted() => {
                let target = watches::target(endpoint, service, &events);
                self.load_reports.begin(target, subchannel, connection);
            }
            _ => self.load_reports.end(key, connection),
        }
    }

    /// Makes the current state the one that calls see. `false`: nobody is left to see it.
    fn publish(&mut self) -> bool {
        let Some(shared) = self.guard.0.upgrade() else {
            return false;
        };
        let Published {
            candidates,
            plan,
            services,
            details,
            summary,
        } = self.cluster.publish();
        let now = clock::now();
        let candidates = candidates.with_now(now);
        let policy = &*self.policy;
        let picker = match plan {
            Some(plan) => plan.build(policy, &*shared.load().picker, now),
            None if summary.halted => Arc::new(Halted::new(&candidates)),
            None => Groups::build_one(policy, &candidates, &*shared.load().picker),
        };
        shared.publish(Snapshot {
            services,
            candidates,
            picker,
            details,
            summary,
        });
        true
    }
}

/// The task may end by the runtime's end, at any await: whoever waits must learn of it.
struct ClosedOnDrop<S>(Weak<Shared<S>>);

impl<S> Drop for ClosedOnDrop<S> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.upgrade() {
            let picker = shared.load().picker.clone();
            shared.publish(Snapshot {
                services: Vec::new(),
                candidates: Candidates::new([], false),
                picker,
                details: Vec::new(),
                summary: Summary {
                    closed: true,
                    ..Summary::default()
                },
            });
        }
    }
}
