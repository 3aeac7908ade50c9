//! Who is in its slow start, and how far: the rules are those of [`SlowStart`].
//!
//! ```text
//!   Cold ── can be used ──► Rising ── its window is over ──► Warm
//!    ▲                        │                               │
//!    └── a dial failed, its service broke, its check failed, ─┘
//!        or it was ejected
//! ```
//! A connection that ends is no failure, so a short reconnect changes nothing. All factors are made anew at once, at
//! each step of the clock: then one snapshot does for all.
//!
//! [`SlowStart`]: crate::health::SlowStart

use tokio::time::Instant;

use crate::cluster::step::Cluster;
use crate::cluster::step::entry::{Warmth, after};

/// The clock of all that are in their slow start.
#[derive(Debug, Default)]
pub(super) struct Warming {
    /// When the factors are made anew; never while nobody is in its window.
    pub(super) due: Option<Instant>,
    /// When the factors were made anew.
    made: Option<Instant>,
    /// When the last one began that others may count from.
    began: Option<Instant>,
}

impl<S: Clone> Cluster<S> {
    /// Something happened to this endpoint that may have made it usable.
    pub(super) fn warm_up(&mut self, key: u64, now: Instant) {
        let Some(rules) = self.settings.slow_start else {
            return;
        };
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if entry.warmth != Warmth::Cold
            || entry.usable_connection().is_none()
            || entry.ejection.is_some()
        {
            return;
        }
        let warming = &mut self.warming;
        // Else those that are new together would differ by what their dials took.
        let together = |began: &Instant| now.saturating_duration_since(*began) < rules.together();
        let since = warming.began.filter(together).unwrap_or(now);
        warming.began = Some(since);
        warming.due.get_or_insert(after(now, rules.step()));
        // As old as the factors of those that it begins with: they are to be equal.
        let time = (warming.made).map(|made| made.saturating_duration_since(since));
        entry.warmth = Warmth::Rising {
            since,
            factor: rules.factor(time.unwrap_or_default()),
        };
        self.touch(key);
    }

    /// Makes the factors anew, if that is due.
    pub(super) fn keep_warming(&mut self, now: Instant) {
        let Some(rules) = self.settings.slow_start else {
            return;
        };
        if self.warming.due.is_none_or(|due| now < due) {
            return;
        }
        self.warming.due = None;
        self.warming.made = Some(now);
        for (key, entry) in &mut self.entries {
            let Warmth::Rising { since, .. } = entry.warmth else {
                continue;
            };
            let time = now.saturating_duration_since(since);
            entry.warmth = if time < rules.window() {
                self.warming.due = Some(after(now, rules.step()));
                let factor = rules.factor(time);
                Warmth::Rising { since, factor }
            } else {
                Warmth::Warm
            };
            self.touched.push(*key);
            self.dirty = true;
        }
    }
}
