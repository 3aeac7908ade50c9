//! The rows of a snapshot, kept from one to the next, and how a new state of the source changes them.
//!
//! A source names every endpoint there is each time, and with ten thousand of them nearly all are as
//! they were. Those are told by their pointers, in one walk along the old rows and the new list: no
//! name is hashed or compared, and no endpoint is looked at, but for those that differ.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::snapshot::Detail;
use crate::cluster::step::entry::Entry;
use crate::endpoint::Endpoint;
use crate::policy::Candidate;

/// How many rows may have left in one place before the walk takes no notice of where it was, and
/// those behind are found by name.
const AHEAD: usize = 64;

/// What a snapshot shows of one endpoint.
#[derive(Debug)]
pub(super) struct Row<S> {
    pub(super) key: u64,
    pub(super) site: u32,
    pub(super) candidate: Candidate,
    pub(super) service: Option<S>,
    pub(super) detail: Option<Arc<Detail>>,
}

impl<S: Clone> Row<S> {
    pub(super) fn new(key: u64, slot: usize, entry: &Entry<S>) -> Self {
        Self {
            key,
            site: entry.site,
            candidate: entry.candidate(slot),
            service: entry.service(),
            detail: entry.detail(),
        }
    }
}

/// What of a new state is in the old rows.
pub(super) struct Diff<S> {
    /// The rows that are in both, in the order of the new state. One may be taken.
    kept: Vec<Option<Row<S>>>,
    /// The rows that were not found, by key: gone, or described anew.
    left: HashMap<u64, Row<S>>,
}

/// An endpoint that was not found in the old rows: new, described anew, or named twice.
pub(super) struct Fresh {
    /// How many of those that were kept come before it.
    pub(super) place: usize,
    pub(super) endpoint: Endpoint,
}

pub(super) fn diff<S>(rows: Vec<Row<S>>, listed: Vec<Endpoint>) -> (Diff<S>, Vec<Fresh>) {
    let mut rows = rows.into_iter();
    let mut kept = Vec::with_capacity(listed.len());
    let mut left = HashMap::new();
    let mut fresh = Vec::new();
    for endpoint in listed {
        let mut ahead = rows.as_slice().iter().take(AHEAD);
        match ahead.position(|row| row.candidate.endpoint().ptr_eq(&endpoint)) {
            Some(passed) => {
                left.extend(rows.by_ref().take(passed).map(|row| (row.key, row)));
                kept.push(rows.next());
            }
            None => fresh.push(Fresh {
                place: kept.len(),
                endpoint,
            }),
        }
    }
    left.extend(rows.map(|row| (row.key, row)));
    (Diff { kept, left }, fresh)
}

impl<S> Diff<S> {
    /// The row of `key`, for an endpoint at `place` that describes it anew. `None` if an endpoint
    /// before that one has it.
    pub(super) fn take(&mut self, key: u64, place: usize) -> Option<Row<S>> {
        self.left.remove(&key).or_else(|| {
            let later = self.kept.get_mut(place..)?;
            let same = |row: &&mut Option<Row<S>>| row.as_ref().is_some_and(|row| row.key == key);
            later.iter_mut().find(same)?.take()
        })
    }

    /// The new rows, with `fresh` in their places, and those of endpoints that are gone.
    pub(super) fn join(self, fresh: Vec<(usize, Row<S>)>) -> (Vec<Row<S>>, Vec<Row<S>>) {
        let mut rows = Vec::with_capacity(self.kept.len() + fresh.len());
        let mut fresh = fresh.into_iter().peekable();
        for (place, row) in self.kept.into_iter().enumerate() {
            while let Some((_, row)) = fresh.next_if(|(before, _)| *before <= place) {
                rows.push(row);
            }
            rows.extend(row);
        }
        rows.extend(fresh.map(|(_, row)| row));
        (rows, self.left.into_values().collect())
    }
}
