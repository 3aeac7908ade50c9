//! The table of endpoints, at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use evenkeel::observe::{EndpointReport, Report};
use evenkeel::{ConnectivityState, EndpointId};

use crate::ledger::Page;

const HEADS: [&str; 8] = [
    "endpoint",
    "state",
    "in-flight",
    "rps",
    "p50 ms",
    "p99 ms",
    "failures",
    "ejected",
];

/// The width of each column where there is room, so that the table does not jump; together, 79. The longest
/// state is TRANSIENT_FAILURE.
const WIDTHS: [usize; 8] = [8, 17, 9, 4, 6, 6, 8, 7];

/// Which columns go first when there is no room.
const DROPPED: [usize; 6] = [4, 2, 6, 5, 3, 7];

const GAP: &str = "  ";

/// How an endpoint is doing, for its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    Head,
    Good,
    Bad,
    Gone,
}

/// Lines of text of one width.
pub(crate) struct Table {
    rows: Vec<(Mood, [String; 8])>,
}

impl Table {
    /// `pages` hold what was answered in the last `time`; endpoints that have left keep a row.
    pub(crate) fn new(report: &Report, pages: &BTreeMap<EndpointId, Page>, time: Duration) -> Self {
        let none = Page::default();
        let mut rows = vec![(Mood::Head, HEADS.map(str::to_owned))];
        for endpoint in &report.endpoints {
            let page = pages.get(&endpoint.id).unwrap_or(&none);
            rows.push(row(endpoint, page, time));
        }
        for id in pages.keys() {
            if !report.endpoints.iter().any(|endpoint| endpoint.id == *id) {
                let mut cells: [String; 8] = std::array::from_fn(|_| "-".to_owned());
                cells[0] = id.to_string();
                cells[1] = "removed".to_owned();
                rows.push((Mood::Gone, cells));
            }
        }
        rows[1..].sort_by(|one, other| one.1[0].cmp(&other.1[0]));
        Self { rows }
    }

    /// The lines, none longer than `width`: columns that do not fit are left out.
    pub(crate) fn lines(&self, width: usize) -> Vec<(Mood, String)> {
        let mut columns: Vec<usize> = (0..HEADS.len()).collect();
        let longest = |column: usize| -> usize {
            let cells = self.rows.iter().map(|(_, cells)| cells[column].len());
            cells.max().unwrap_or_default()
        };
        let total = |columns: &[usize], widths: &[usize; 8]| -> usize {
            let cells: usize = columns.iter().map(|&column| widths[column]).sum();
            cells + GAP.len() * (columns.len() - 1)
        };
        let mut widths = std::array::from_fn(|column| longest(column).max(WIDTHS[column]));
        if total(&columns, &widths) > width {
            widths = std::array::from_fn(longest);
        }
        for drop in DROPPED {
            if total(&columns, &widths) <= width {
                break;
            }
            columns.retain(|&column| column != drop);
        }
        let line = |cells: &[String; 8]| {
            let cells = columns.iter().map(|&column| {
                let (cell, width) = (&cells[column], widths[column]);
                // Names to the left, numbers to the right.
                if column < 2 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
            let line = cells.collect::<Vec<_>>().join(GAP);
            line.chars().take(width).collect()
        };
        let rows = self.rows.iter();
        rows.map(|(mood, cells)| (*mood, line(cells))).collect()
    }
}

fn row(endpoint: &EndpointReport, page: &Page, time: Duration) -> (Mood, [String; 8]) {
    let ready = endpoint.state == ConnectivityState::Ready;
    let mood = if ready && endpoint.ejected.is_none() {
        Mood::Good
    } else {
        Mood::Bad
    };
    let ejected = match &endpoint.ejected {
        None => "-".to_owned(),
        Some(ejected) if ejected.until.is_zero() => "probing".to_owned(),
        Some(ejected) => format!("{:.1} s", ejected.until.as_secs_f64()),
    };
    let rps = page.calls as f64 / time.as_secs_f64().max(0.001);
    let cells = [
        endpoint.id.to_string(),
        endpoint.state.to_string(),
        endpoint.in_flight.to_string(),
        format!("{rps:.0}"),
        quantile(page, 0.5),
        quantile(page, 0.99),
        endpoint.failures.to_string(),
        ejected,
    ];
    (mood, cells)
}

fn quantile(page: &Page, quantile: f64) -> String {
    millis(page.latency.quantile_ms(quantile))
}

/// Milliseconds for a cell.
pub(crate) fn millis(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 100.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}
