//! What a snapshot shows, made of what is known.

use std::sync::Arc;

use tracing::{info, warn};

use crate::cluster::snapshot::{Detail, Summary};
use crate::cluster::step::Cluster;
use crate::cluster::step::order::Order;
use crate::cluster::step::rows::Row;
use crate::endpoint::ConnectivityState;
use crate::health::panic_mode::is_panic;
use crate::policy::{Candidates, Plan};

/// What a snapshot is made of, in the order of slots.
pub(crate) struct Published<S> {
    pub(crate) candidates: Candidates,
    /// Where they are not all alike: what calls are spread over.
    pub(crate) plan: Option<Plan>,
    pub(crate) services: Vec<Option<S>>,
    pub(crate) details: Vec<Option<Arc<Detail>>>,
    pub(crate) summary: Summary,
}

impl<S: Clone> Cluster<S> {
    /// Whether there is something new to publish; the answer clears it.
    pub(crate) fn take_dirty(&mut self) -> bool {
        std::mem::take(&mut self.dirty)
    }

    /// What there is now. Costs a walk over all rows; only those that were touched are made anew.
    pub(crate) fn publish(&mut self) -> Published<S> {
        self.refresh();
        let mut summary = Summary {
            total: self.rows.len(),
            resolved: self.resolved,
            discovery_error: self.discovery_error.clone(),
            one_is_enough: self.order.as_ref().is_some_and(Order::has_chosen),
            last_error: self.last_error.clone(),
            left_out: self.left_out.clone(),
            ..Summary::default()
        };
        let mut usable = 0;
        for Row {
            candidate, detail, ..
        } in &self.rows
        {
            if let Some(why) = detail.as_ref().and_then(|d| d.unhealthy.as_ref()) {
                summary.unhealthy += 1;
                summary.unhealthy_because.get_or_insert_with(|| why.clone());
            }
            if candidate.state() == ConnectivityState::Shutdown {
                summary.drained += 1;
                continue;
            }
            let open = candidate.subchannel().health().gate().is_open();
            match candidate.state() {
                ConnectivityState::Ready if open => usable += 1,
                ConnectivityState::Ready => {}
                ConnectivityState::Connecting => summary.connecting += 1,
                ConnectivityState::TransientFailure => summary.failing += 1,
                ConnectivityState::Idle | ConnectivityState::Shutdown => summary.idle += 1,
            }
            summary.ready += usize::from(candidate.state() == ConnectivityState::Ready);
            summary.ejected += usize::from(!open);
        }
        let threshold = self.settings.ejection.panic_threshold_percent();
        // Where one is to be connected, it is all that there can be.
        let (least, of) = match self.order {
            Some(_) => (usable.min(1), 1),
            None => (usable, summary.total - summary.drained),
        };
        let grouped = self.group();
        let (any, all) = match &grouped {
            Some(grouped) => (grouped.any_panics(), grouped.all_panic()),
            None => {
                let panic = summary.ejected > 0 && is_panic(least, of, threshold);
                (panic, panic)
            }
        };
        let fails = self.settings.ejection.fails_in_panic();
        summary.panic = any;
        summary.ignores_ejections = all && !fails;
        summary.halted = all && fails;
        if summary.panic != self.panic {
            self.panic = summary.panic;
            if self.panic {
                warn!(
                    usable,
                    total = summary.total,
                    ejections_ignored = summary.ignores_ejections,
                    "panic: few endpoints are usable"
                );
            } else {
                info!(usable, total = summary.total, "the panic is over");
            }
        }
        // Those that are not serving are connected.
        if summary.failing == summary.unhealthy {
            self.last_error = None;
            summary.last_error = None;
        }
        let rows = self.rows.iter();
        let candidates: Arc<[_]> = rows.clone().map(|row| row.candidate.clone()).collect();
        if let Some(grouped) = &grouped {
            summary.groups = grouped.states.clone();
            summary.subsets = self.settings.topology.subsets().cloned();
        }
        Published {
            plan: grouped.map(|grouped| grouped.into_plan(fails)),
            candidates: Candidates::new(candidates, summary.ignores_ejections),
            services: rows.clone().map(|row| row.service.clone()).collect(),
            details: rows.map(|row| row.detail.clone()).collect(),
            summary,
        }
    }

    /// The row of this endpoint is not true any more.
    pub(super) fn touch(&mut self, key: u64) {
        self.touched.push(key);
        self.dirty = true;
    }

    fn refresh(&mut self) {
        self.touched.sort_unstable();
        self.touched.dedup();
        for (slot, row) in self.rows.iter_mut().enumerate() {
            if self.touched.binary_search(&row.key).is_ok() {
                let entry = self
                    .entries
                    .get(&row.key)
                    .expect("every row's key has an entry");
                *row = Row::new(row.key, slot, entry);
            } else {
                row.candidate.set_slot(slot);
            }
        }
        self.touched.clear();
    }
}
