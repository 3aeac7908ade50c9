use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use http::StatusCode;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::load::{LatencyEstimate, Rate};
use crate::math::Moment;
use crate::math::atomic::{AtomicU32, Ordering};
use crate::outcome::LoadReport;
use crate::server::cpu::{self, CpuUse};

/// What the application says of its load, for all responses and beside them. Cheap to clone; clones are
/// the same.
#[derive(Clone)]
pub struct LoadReporter(pub(super) Arc<Record>);

impl LoadReporter {
    /// What is reported from now on, in place of what was set before. It goes before what the layer
    /// measures (processors, requests and errors a second, requests under way, latency), and a handler's
    /// word on its own call before it.
    pub fn set(&self, report: LoadReport) {
        self.0.given.store(Arc::new(report));
    }

    /// The report as it is now, without any call's own.
    pub fn report(&self) -> LoadReport {
        self.0.current()
    }

    /// Ends all streams of reports beside the calls with UNAVAILABLE, those under way and those to come, for a
    /// server that shuts down: see [`LoadReportLayer`](crate::server::LoadReportLayer). There is no way
    /// back.
    pub fn end_streams(&self) {
        self.0.streams_ended.send_replace(true);
    }
}

impl fmt::Debug for LoadReporter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadReporter")
            .field("given", &self.0.given)
            .finish_non_exhaustive()
    }
}

/// What a handler says of one call; in the extensions of its request. Clones are the same, so a
/// streaming handler may keep one and add to it until the end of its response.
#[derive(Debug, Clone, Default)]
pub struct CallReport(Arc<Mutex<Option<LoadReport>>>);

impl CallReport {
    /// Adds to the report in this call's trailers: what it names, it names in place of what was added
    /// before, set for all calls, or measured. Too late once the response has ended.
    pub fn add(&self, report: LoadReport) {
        let mut added = lock(&self.0);
        *added = Some(match added.take() {
            Some(before) => report.or(&before),
            None => report,
        });
    }

    fn take(&self) -> Option<LoadReport> {
        lock(&self.0).take()
    }
}

/// What all calls of one layer share.
#[derive(Debug)]
pub(super) struct Record {
    origin: Instant,
    in_flight: AtomicU32,
    given: ArcSwap<LoadReport>,
    /// No stream of reports is to go on.
    streams_ended: watch::Sender<bool>,
    /// Held for about a microsecond at the end of a call, and at its first data.
    measured: Mutex<Measured>,
}

#[derive(Debug)]
struct Measured {
    latency: LatencyEstimate,
    requests: Rate,
    errors: Rate,
    cpu: CpuUse,
}

impl Record {
    pub(super) fn new() -> Self {
        let mut cpu = CpuUse::new(cpu::processors());
        // The first look, so that the first report may have a second.
        cpu.share(Moment::default(), cpu::process_time);
        Self {
            origin: Instant::now(),
            in_flight: AtomicU32::new(0),
            given: ArcSwap::default(),
            streams_ended: watch::Sender::new(false),
            measured: Mutex::new(Measured {
                latency: LatencyEstimate::new(),
                requests: Rate::new(),
                errors: Rate::new(),
                cpu,
            }),
        }
    }

    pub(super) fn begin(self: &Arc<Self>, call: CallReport) -> Call {
        Call {
            record: self.clone(),
            report: call,
            arrived: self.now(),
            found: self.in_flight.fetch_add(1, Ordering::Relaxed),
            timed: false,
            failed: false,
        }
    }

    /// The report as it is now, without any call's own.
    pub(super) fn current(&self) -> LoadReport {
        self.report(self.now())
    }

    /// Comes when [`LoadReporter::end_streams`] is called, or was.
    pub(super) async fn streams_end(&self) {
        let mut ended = self.streams_ended.subscribe();
        // The sender is in `self`, so it outlives this.
        let _ = ended.wait_for(|ended| *ended).await;
    }

    fn now(&self) -> Moment {
        Moment::from_origin(self.origin.elapsed())
    }

    fn report(&self, now: Moment) -> LoadReport {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        let mut measured = lock(&self.measured);
        let mut report = LoadReport::new()
            .with_cpu_utilization(measured.cpu.share(now, cpu::process_time))
            .with_qps(measured.requests.per_second(now))
            .with_eps(measured.errors.per_second(now))
            .with_in_flight(in_flight);
        if let Some(latency) = measured.latency.latency(in_flight, now) {
            report = report.with_latency(latency);
        }
        drop(measured);
        let given = self.given.load();
        if **given == LoadReport::default() {
            return report;
        }
        LoadReport::clone(&given).or(&report)
    }
}

/// One request under way. Dropped without a word it was cancelled: that says nothing of the server, but
/// it is under way no more.
#[derive(Debug)]
pub(super) struct Call {
    record: Arc<Record>,
    report: CallReport,
    arrived: Moment,
    /// How many others were under way when it came.
    found: u32,
    /// Its latency is taken.
    timed: bool,
    /// Its response's head says that it failed.
    failed: bool,
}

impl Call {
    /// The head of the response has come, with this status of HTTP.
    pub(super) fn responded(&mut self, status: StatusCode) {
        self.failed = status.is_server_error();
    }

    /// The answer begins to flow: its latency ends here, so that unary calls and streams look alike.
    pub(super) fn answered(&mut self) {
        // A failure that came fast must not make the server look fast.
        if self.failed || std::mem::replace(&mut self.timed, true) {
            return;
        }
        let now = self.record.now();
        let latency = now.since(self.arrived);
        lock(&self.record.measured)
            .latency
            .answered(latency, self.found, now);
    }

    /// The response has ended, with a failure of the server's or without. Returns what to tell of the
    /// load without this call.
    pub(super) fn finish(mut self, failed: bool) -> LoadReport {
        self.failed |= failed;
        self.answered();
        let failed = self.failed;
        let record = self.record.clone();
        let added = self.report.take();
        let now = record.now();
        {
            let mut measured = lock(&record.measured);
            measured.requests.count(now);
            if failed {
                measured.errors.count(now);
            }
        }
        drop(self);
        let report = record.report(now);
        match added {
            Some(added) => added.or(&report),
            None => report,
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.record.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is behind these locks is right after each statement, so a panic elsewhere spoils nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
