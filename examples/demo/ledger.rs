//! What became of each call.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use evenkeel::EndpointId;
use hdrhistogram::Histogram;

use crate::calls::{Answer, Failure, Finished};

/// How many failures are kept one by one. What comes after is only counted: no script has so many.
const KEPT: usize = 10_000;

/// Longer than any deadline.
const LONGEST_MICROS: u64 = 60_000_000;

/// Counts calls. One for all tasks.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Books>);

/// All that was counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Books {
    pub(crate) sent: u64,
    /// Due while too many were under way.
    pub(crate) not_sent: u64,
    pub(crate) finished: u64,
    pub(crate) failed: u64,
    /// Answered by a server that does not have the method.
    pub(crate) unimplemented: u64,
    /// By endpoint, for calls whose response head arrived.
    pub(crate) endpoints: BTreeMap<EndpointId, Account>,
    pub(crate) failures: Vec<FailedCall>,
    pub(crate) latency: Latency,
    /// The answers of the watched endpoint, in their order.
    pub(crate) answers: Vec<Watched>,
    watched: Option<EndpointId>,
}

/// The calls of one endpoint.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) latency: Latency,
    /// Since [`Ledger::turn_page`].
    pub(crate) page: Page,
}

/// A short stretch of time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Page {
    pub(crate) calls: u64,
    pub(crate) latency: Latency,
}

/// A call that failed.
#[derive(Debug, Clone)]
pub(crate) struct FailedCall {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) endpoint: Option<EndpointId>,
    pub(crate) failure: Failure,
}

/// One answer of the watched endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    pub(crate) started: Instant,
    pub(crate) ended: Instant,
    pub(crate) ok: bool,
}

impl Ledger {
    pub(crate) fn sent(&self) {
        self.books().sent += 1;
    }

    pub(crate) fn not_sent(&self) {
        self.books().not_sent += 1;
    }

    /// From now on, keeps the answers of this endpoint; of none if `None`.
    pub(crate) fn watch(&self, endpoint: Option<EndpointId>) {
        self.books().watched = endpoint;
    }

    pub(crate) fn finished(&self, call: Finished) {
        let mut books = self.books();
        let ok = call.result.is_ok();
        let took = call.ended - call.started;
        books.finished += 1;
        books.failed += u64::from(!ok);
        books.unimplemented += u64::from(matches!(call.result, Ok(Answer::Unimplemented)));
        if ok {
            books.latency.record(took);
        }
        if let Some(endpoint) = &call.endpoint {
            let account = books.endpoints.entry(endpoint.clone()).or_default();
            account.calls += 1;
            account.page.calls += 1;
            account.failed += u64::from(!ok);
            // A failure that comes at once is not speed.
            if ok {
                account.latency.record(took);
                account.page.latency.record(took);
            }
        }
        if books.watched.is_some() && books.watched == call.endpoint {
            books.answers.push(Watched {
                started: call.started,
                ended: call.ended,
                ok,
            });
        }
        if let Err(failure) = call.result
            && books.failures.len() < KEPT
        {
            books.failures.push(FailedCall {
                started: call.started,
                ended: call.ended,
                endpoint: call.endpoint,
                failure,
            });
        }
    }

    /// Everything so far.
    pub(crate) fn read(&self) -> Books {
        self.books().clone()
    }

    /// Calls sent and calls failed so far.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let books = self.books();
        (books.sent, books.failed)
    }

    /// What was counted since the last time, by endpoint.
    pub(crate) fn turn_page(&self) -> BTreeMap<EndpointId, Page> {
        let mut books = self.books();
        let accounts = books.endpoints.iter_mut();
        accounts
            .map(|(id, account)| (id.clone(), std::mem::take(&mut account.page)))
            .collect()
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Latencies in microseconds, to two digits, up to [`LONGEST_MICROS`].
#[derive(Debug, Clone)]
pub(crate) struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST_MICROS, 2).expect("the bounds are in order"))
    }
}

impl Latency {
    fn record(&mut self, took: std::time::Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0.saturating_record(micros);
    }

    /// In milliseconds; `None` while there is nothing.
    pub(crate) fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let value = self.0.value_at_quantile(quantile);
        (!self.0.is_empty()).then_some(value as f64 / 1000.0)
    }
}
