//! When each fault showed in the channel's report.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use evenkeel::grpc::Channel;
use evenkeel::observe::{EndpointReport, Report};
use evenkeel::{ConnectivityState, EndpointId};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::MissedTickBehavior;

/// How often the report is looked at.
const EVERY: Duration = Duration::from_millis(1);

/// What in the report shows a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sign {
    LeftReady,
    BackReady,
    /// It is out; or a policy that goes by failures or latency spares it, so that it never fails as many
    /// calls in a row as it takes.
    Ejected,
    /// Its share of the calls since the fault is under half of what is fair.
    ShareHalved,
    FirstCall,
    Gone,
}

impl Sign {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::LeftReady => "left READY",
            Self::BackReady => "is READY again",
            Self::Ejected => "was ejected, or gets less than half of a fair share",
            Self::ShareHalved => "gets less than half of a fair share",
            Self::FirstCall => "got its first call",
            Self::Gone => "left the set",
        }
    }
}

/// A fault of the script and when it showed.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) endpoint: EndpointId,
    pub(crate) sign: Sign,
    /// When it was done; `None` if the run ended before.
    pub(crate) began: Option<Instant>,
    pub(crate) noticed: Option<Instant>,
    /// The failures in the endpoint's report when it was done.
    pub(crate) failures_before: u64,
}

impl Fault {
    pub(crate) fn new(name: &'static str, endpoint: &str, sign: Sign) -> Self {
        Self {
            name,
            endpoint: EndpointId::from(endpoint),
            sign,
            began: None,
            noticed: None,
            failures_before: 0,
        }
    }

    /// From the fault to its sign.
    pub(crate) fn noticed_after(&self) -> Option<Duration> {
        Some(self.noticed?.saturating_duration_since(self.began?))
    }
}

/// The faults of the script, shared by who plays them and who watches for them.
#[derive(Debug)]
pub(crate) struct Notices {
    faults: Mutex<Vec<Fault>>,
    events: UnboundedSender<String>,
}

impl Notices {
    pub(crate) fn new(faults: Vec<Fault>, events: UnboundedSender<String>) -> Self {
        Self {
            faults: Mutex::new(faults),
            events,
        }
    }

    /// The fault is about to be done.
    pub(crate) fn begin(&self, name: &str, event: &str, report: &Report) {
        if let Some(fault) = self.lock().iter_mut().find(|fault| fault.name == name) {
            fault.began = Some(Instant::now());
            fault.failures_before = find(report, &fault.endpoint).map_or(0, |e| e.failures);
            self.tell(format!("{} {event}", fault.endpoint));
        }
    }

    /// Shows a line to the user.
    pub(crate) fn tell(&self, event: String) {
        // Nobody reads any more when the run is over.
        let _ = self.events.send(event);
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, now: Instant, mut shows: impl FnMut(&Fault) -> bool) {
        for fault in self.lock().iter_mut() {
            let open = fault.began.is_some() && fault.noticed.is_none();
            if open && shows(fault) {
                fault.noticed = Some(now);
                let after = fault.noticed_after().unwrap_or_default().as_secs_f64() * 1000.0;
                self.tell(format!(
                    "{} {} {after:.1} ms later",
                    fault.endpoint,
                    fault.sign.text()
                ));
            }
        }
    }
}

/// Looks at the report again and again, until it is dropped.
pub(crate) async fn watch(channel: Channel, notices: Arc<Notices>) {
    let mut watcher = Watcher::default();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let report = channel.report();
        let now = Instant::now();
        watcher.count(&report);
        notices.look(now, |fault| watcher.shows(fault, &report));
        for back in watcher.readmitted(&report) {
            notices.tell(format!("{back} passed its probing call and is back"));
        }
    }
}

#[derive(Default)]
struct Watcher {
    /// Seen in another state than READY after they had been READY.
    left_ready: HashSet<EndpointId>,
    were_ready: HashSet<EndpointId>,
    ejected: HashSet<EndpointId>,
    /// The calls of each endpoint, counted on when it leaves.
    calls: BTreeMap<EndpointId, Tally>,
    total: u64,
}

#[derive(Default)]
struct Tally {
    last: u64,
    sum: u64,
    /// This endpoint's calls and everybody's, at earlier looks.
    window: VecDeque<(u64, u64)>,
    /// This endpoint's calls and everybody's when its fault began.
    fault_began: Option<(u64, u64)>,
}

impl Watcher {
    fn count(&mut self, report: &Report) {
        for endpoint in &report.endpoints {
            let tally = self.calls.entry(endpoint.id.clone()).or_default();
            // A call that comes back unprocessed is taken off again.
            let new = endpoint.calls.saturating_sub(tally.last);
            tally.last = endpoint.calls;
            tally.sum += new;
            self.total += new;
            if endpoint.state == ConnectivityState::Ready {
                self.were_ready.insert(endpoint.id.clone());
            } else if self.were_ready.contains(&endpoint.id) {
                self.left_ready.insert(endpoint.id.clone());
            }
        }
        let length = window_length(report.endpoints.len());
        for tally in self.calls.values_mut() {
            let now = (tally.sum, self.total);
            if tally.window.back().is_none_or(|last| last.1 < now.1) {
                tally.window.push_back(now);
            }
            // One look older than the window stays: the window begins there.
            while tally.window.len() > 1 && self.total - tally.window[1].1 >= length {
                tally.window.pop_front();
            }
        }
    }

    fn shows(&mut self, fault: &Fault, report: &Report) -> bool {
        let endpoint = find(report, &fault.endpoint);
        match fault.sign {
            Sign::LeftReady => endpoint.is_some_and(|e| e.state != ConnectivityState::Ready),
            Sign::BackReady => {
                self.left_ready.contains(&fault.endpoint)
                    && endpoint.is_some_and(|e| e.state == ConnectivityState::Ready)
            }
            Sign::Ejected => {
                endpoint.is_some_and(|e| e.ejected.is_some())
                    || self.share_halved(fault, report.endpoints.len())
            }
            Sign::ShareHalved => self.share_halved(fault, report.endpoints.len()),
            Sign::FirstCall => endpoint.is_some_and(|e| e.calls > 0),
            Sign::Gone => endpoint.is_none(),
        }
    }

    fn share_halved(&mut self, fault: &Fault, endpoints: usize) -> bool {
        let (Some(tally), true) = (self.calls.get_mut(&fault.endpoint), endpoints > 0) else {
            return false;
        };
        let began = *tally.fault_began.get_or_insert((tally.sum, self.total));
        let Some(&(own, all)) = tally.window.front() else {
            return false;
        };
        // Both grow, so the later one has more of both.
        let (own, all) = (tally.sum - own.max(began.0), self.total - all.max(began.1));
        all >= window_length(endpoints) && 2 * own * (endpoints as u64) < all
    }

    /// Who was ejected at the last look and is not now.
    fn readmitted(&mut self, report: &Report) -> Vec<EndpointId> {
        let ejected: HashSet<EndpointId> = report
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.ejected.is_some())
            .map(|endpoint| endpoint.id.clone())
            .collect();
        let before = std::mem::replace(&mut self.ejected, ejected);
        before.difference(&self.ejected).cloned().collect()
    }
}

/// Over how many calls a share is taken. With a fair share of `f = 1/n`, a count over `w` calls is
/// `w f` give or take `sqrt(w f (1-f))`; half of it is four of those away, and no accident, from
/// `w = 64 (1-f)/f = 64 (n-1)` on.
fn window_length(endpoints: usize) -> u64 {
    64 * (endpoints as u64).saturating_sub(1).max(1)
}

pub(crate) fn find<'a>(report: &'a Report, id: &EndpointId) -> Option<&'a EndpointReport> {
    report.endpoints.iter().find(|endpoint| endpoint.id == *id)
}
