use crate::math::atomic::{AtomicU32, AtomicU64, Ordering};

/// Counts the streams that are open on one connection against how many its peer allows, which may change.
///
/// Whether somebody waits for a stream is a bit of the same word: who gives one back sees it or comes before it, and
/// no call costs another access for that. The queue itself is kept elsewhere, under a lock that only those take who
/// wait or see the bit. Who begins to wait sets the bit under that lock, then looks once more, and then joins the
/// queue; what is given back after the bit was set is seen by who gives it back, and what was given back before by
/// that last look. The accesses are relaxed, since all of this is one word and its lock.
#[derive(Debug)]
pub struct StreamCount {
    /// Open in the low half, and [`WAITED`].
    open: AtomicU64,
    most: AtomicU32,
}

const WAITED: u64 = 1 << 63;

#[inline]
fn open(word: u64) -> u32 {
    word as u32
}

impl Default for StreamCount {
    fn default() -> Self {
        Self::new()
    }
}

impl StreamCount {
    /// None open, and no limit: what holds for a peer that names none (RFC 9113 section 6.5.2).
    pub fn new() -> Self {
        Self {
            open: AtomicU64::new(0),
            most: AtomicU32::new(u32::MAX),
        }
    }

    /// Sets how many may be open. Those that are stay open, however many. If it is more than before, those who wait
    /// have to be looked after.
    pub fn set_most(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// How many may be open.
    pub fn most(&self) -> u32 {
        self.most.load(Ordering::Relaxed)
    }

    /// How many are open.
    pub fn open(&self) -> u32 {
        open(self.open.load(Ordering::Relaxed))
    }

    /// Opens one, if there is room and nobody waits for it.
    #[inline]
    #[must_use]
    pub fn take(&self) -> bool {
        self.take_unless(WAITED)
    }

    /// Opens one for who is first of those that wait, if there is room.
    #[must_use]
    pub fn take_in_turn(&self) -> bool {
        self.take_unless(0)
    }

    /// Opens one, whether there is room or not.
    pub fn take_anyway(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    fn take_unless(&self, bit: u64) -> bool {
        let most = self.most.load(Ordering::Relaxed);
        let mut word = self.open.load(Ordering::Relaxed);
        while word & bit == 0 && open(word) < most {
            match (self.open).compare_exchange_weak(
                word,
                word + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return true,
                Err(now) => word = now,
            }
        }
        false
    }

    /// One is closed. Whether somebody waits, who has to be looked after.
    #[inline]
    #[must_use]
    pub fn give_back(&self) -> bool {
        self.open.fetch_sub(1, Ordering::Relaxed) & WAITED != 0
    }

    /// Somebody is about to wait: under the lock of the queue, and before the last look.
    pub fn begin_waiting(&self) {
        self.open.fetch_or(WAITED, Ordering::Relaxed);
    }

    /// Nobody waits any more: under the lock of the queue.
    pub fn end_waiting(&self) {
        self.open.fetch_and(!WAITED, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_open_than_the_peer_allows_at_the_time() {
        let count = StreamCount::new();
        assert!(count.take(), "a peer that names no limit has none");
        count.set_most(2);
        assert!(count.take(), "there is room for a second one");
        assert!(!count.take(), "and for no third");
        count.set_most(1);
        assert_eq!(count.open(), 2, "what is open stays so");
        assert!(!count.give_back(), "nobody waits");
        assert!(!count.take(), "the lower limit is reached with one");
        count.set_most(2);
        assert!(count.take(), "a higher limit holds at once");
        count.set_most(0);
        assert!(!count.give_back() && !count.give_back(), "nobody waits");
        assert!(!count.take(), "a peer may allow none for a while");
    }

    #[test]
    fn who_comes_later_does_not_go_ahead_of_who_waits() {
        let count = StreamCount::new();
        count.set_most(1);
        assert!(count.take());
        count.begin_waiting();
        assert!(count.give_back(), "who gives it back hears that one waits");
        assert!(!count.take(), "it is not for who comes now");
        assert!(count.take_in_turn(), "but for who waited");
        count.end_waiting();
        assert!(!count.give_back(), "nobody waits any more");
        assert!(count.take(), "and it is anybody's again");
    }

    #[test]
    fn what_is_opened_beyond_the_limit_counts_too() {
        let count = StreamCount::new();
        count.set_most(1);
        assert!(count.take());
        count.take_anyway();
        assert_eq!(count.open(), 2);
        assert!(!count.give_back());
        assert!(!count.take(), "one is open still");
    }
}
