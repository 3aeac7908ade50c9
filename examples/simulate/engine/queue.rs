//! What happens next: events in the order of their time, and of their making where times are equal.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Virtual time: nanoseconds since the run began.
pub type Nanos = u64;

/// `seconds` in whole nanoseconds.
pub fn nanos(seconds: f64) -> Nanos {
    // A cast of a float stops at the ends of the range.
    (seconds * 1e9).round() as Nanos
}

/// `nanos` in seconds.
pub fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / 1e9
}

/// The events to come.
pub struct Queue<E> {
    heap: BinaryHeap<Reverse<Entry<E>>>,
    made: u64,
}

struct Entry<E> {
    at: Nanos,
    order: u64,
    event: E,
}

impl<E> Default for Queue<E> {
    fn default() -> Self {
        Self {
            heap: BinaryHeap::new(),
            made: 0,
        }
    }
}

impl<E> Queue<E> {
    /// `event` happens at `at`, after all others of that time that are known already.
    pub fn push(&mut self, at: Nanos, event: E) {
        let order = self.made;
        self.made += 1;
        self.heap.push(Reverse(Entry { at, order, event }));
    }

    /// The next event.
    pub fn pop(&mut self) -> Option<(Nanos, E)> {
        let Reverse(entry) = self.heap.pop()?;
        Some((entry.at, entry.event))
    }
}

impl<E> PartialEq for Entry<E> {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl<E> Eq for Entry<E> {}

impl<E> PartialOrd for Entry<E> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> Ord for Entry<E> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}
