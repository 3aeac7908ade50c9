//! When to ask again.

use std::time::Duration;

use tokio::time::Instant;

use crate::math::{Backoff, Rng, after};

/// See [`Dns`](crate::discovery::Dns).
#[derive(Debug, Clone)]
pub(super) struct Timing {
    pub(super) interval: Option<Duration>,
    pub(super) min_ttl: Duration,
    pub(super) max_ttl: Duration,
    pub(super) keep_last_good: Duration,
    pub(super) failure_interval: Duration,
    pub(super) backoff: Backoff,
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// Endpoints, good for so long by their records.
    Whole(Duration),
    /// Endpoints, good for so long by their records, with some question unanswered.
    Part(Duration),
    /// No endpoint, or no answer.
    Nothing,
}

/// How long the last good state stands, and when to ask again. It knows no clock.
#[derive(Debug)]
pub(super) struct Schedule {
    timing: Timing,
    rng: Rng,
    /// When asking began.
    asked: Instant,
    next: Instant,
    last_good: Option<Instant>,
    /// Rounds with something unanswered since there was none. Apart from the others: one family that fails for hours
    /// says nothing of how soon an answer that is missing altogether is there again.
    partial: u32,
    /// Rounds in a row that came to nothing.
    empty: u32,
}

impl Schedule {
    pub(super) fn new(timing: Timing, rng: Rng, now: Instant) -> Self {
        Self {
            timing,
            rng,
            asked: now,
            next: now,
            last_good: None,
            partial: 0,
            empty: 0,
        }
    }

    /// When to ask.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// When to ask if an endpoint cannot be reached.
    pub(super) fn next_after_hint(&self) -> Instant {
        self.next
            .min(after(self.asked, self.timing.failure_interval))
    }

    pub(super) fn asks(&mut self, now: Instant) {
        self.asked = now;
    }

    /// Whether the last good state still stands.
    pub(super) fn keeps(&self, now: Instant) -> bool {
        self.last_good.is_some_and(|good| self.stands(good, now))
    }

    /// Whether what was good then still stands.
    pub(super) fn stands(&self, good: Instant, now: Instant) -> bool {
        now < after(good, self.timing.keep_last_good)
    }

    pub(super) fn came(&mut self, came: Came, now: Instant) {
        let Timing {
            interval,
            min_ttl,
            max_ttl,
            keep_last_good,
            ref backoff,
            ..
        } = self.timing;
        if came != Came::Nothing {
            self.empty = 0;
        }
        let wait = match came {
            Came::Whole(ttl) => {
                self.partial = 0;
                interval.unwrap_or_else(|| ttl.clamp(min_ttl, max_ttl))
            }
            // What was answered is not good for longer because something else was not.
            Came::Part(ttl) => {
                let most = interval.unwrap_or_else(|| ttl.clamp(min_ttl, max_ttl));
                backed_off(&mut self.partial, backoff, &mut self.rng).min(most)
            }
            Came::Nothing => {
                let wait = backed_off(&mut self.empty, backoff, &mut self.rng);
                interval.map_or(wait, |most| wait.min(most))
            }
        };
        if came != Came::Nothing {
            self.last_good = Some(now);
        }
        self.next = after(now, wait);
        // What is kept is not kept longer for want of a question.
        if came == Came::Nothing && self.keeps(now) {
            let end = self
                .last_good
                .map_or(now, |good| after(good, keep_last_good));
            self.next = self.next.min(end);
        }
    }
}

/// The wait after one more failure of so many in a row.
fn backed_off(failures: &mut u32, backoff: &Backoff, rng: &mut Rng) -> Duration {
    let wait = backoff.delay(*failures, rng);
    *failures = failures.saturating_add(1);
    wait
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn schedule(change: impl FnOnce(&mut Timing)) -> (Schedule, Instant) {
        let mut timing = Timing {
            interval: None,
            min_ttl: 5 * S,
            max_ttl: 300 * S,
            keep_last_good: 100 * S,
            failure_interval: 30 * S,
            backoff: Backoff::default().with_jitter(0.0),
        };
        change(&mut timing);
        let now = Instant::now();
        (Schedule::new(timing, Rng::new(1), now), now)
    }

    #[test]
    fn the_ttl_says_when_within_its_bounds() {
        let (mut schedule, now) = schedule(|_| {});
        assert_eq!(schedule.next(), now, "the first time at once");
        for (ttl, wait) in [(0, 5), (1, 5), (60, 60), (86_400, 300)] {
            schedule.came(Came::Whole(ttl * S), now);
            assert_eq!(schedule.next(), now + wait * S, "a TTL of {ttl} s");
        }
    }

    #[test]
    fn an_interval_takes_the_place_of_the_ttl_and_bounds_the_backoff() {
        let (mut schedule, now) = schedule(|timing| timing.interval = Some(2 * S));
        schedule.came(Came::Whole(60 * S), now);
        assert_eq!(schedule.next(), now + 2 * S);
        for wait in [1.0, 1.6, 2.0, 2.0] {
            schedule.came(Came::Nothing, now);
            assert_eq!(schedule.next(), now + Duration::from_secs_f64(wait));
        }
    }

    #[test]
    fn failures_have_it_asked_again_with_backoff_until_one_goes_well() {
        let (mut schedule, now) = schedule(|_| {});
        for _ in 0..2 {
            for wait in [1.0, 1.6, 2.56] {
                schedule.came(Came::Nothing, now);
                assert_eq!(schedule.next(), now + Duration::from_secs_f64(wait));
            }
            schedule.came(Came::Whole(60 * S), now);
        }
    }

    #[test]
    fn a_hint_brings_the_next_time_forward_and_never_puts_it_off() {
        let (mut schedule, now) = schedule(|_| {});
        schedule.asks(now);
        schedule.came(Came::Whole(300 * S), now);
        assert_eq!(schedule.next_after_hint(), now + 30 * S);
        schedule.came(Came::Whole(10 * S), now);
        assert_eq!(
            schedule.next_after_hint(),
            now + 10 * S,
            "it is asked before that"
        );
    }

    #[test]
    fn for_ever_is_a_time_like_any_other() {
        let (mut schedule, now) = schedule(|timing| {
            timing.max_ttl = Duration::MAX;
            timing.keep_last_good = Duration::MAX;
            timing.failure_interval = Duration::MAX;
        });
        schedule.came(Came::Whole(Duration::MAX), now);
        assert!(schedule.next() > now + 1_000_000 * S);
        schedule.came(Came::Nothing, now);
        assert!(schedule.keeps(now + 1_000_000 * S));
        assert!(schedule.next_after_hint() <= now + 2 * S);
    }

    #[test]
    fn what_is_answered_in_part_is_asked_for_again_by_its_ttl_too() {
        let (mut schedule, now) = schedule(|_| {});
        for _ in 0..20 {
            schedule.came(Came::Part(10 * S), now);
        }
        let next = schedule.next();
        assert_eq!(next, now + 10 * S, "the backoff alone would be 120 s");
        schedule.came(Came::Nothing, now);
        assert_eq!(
            schedule.next(),
            now + S,
            "what has no answer at all is a row of its own"
        );
    }

    #[test]
    fn the_last_good_state_is_kept_for_its_time_and_no_longer() {
        let (mut schedule, now) = schedule(|_| {});
        assert!(!schedule.keeps(now), "there is none yet");
        schedule.came(Came::Part(60 * S), now);
        assert!(schedule.keeps(now + 99 * S));
        assert!(!schedule.keeps(now + 100 * S));
        let late = now + Duration::from_millis(99_900);
        schedule.came(Came::Nothing, late);
        assert_eq!(
            schedule.next(),
            now + 100 * S,
            "the end of that time is not slept through"
        );
        schedule.came(Came::Nothing, now + 100 * S);
        assert!(
            schedule.next() > now + 101 * S,
            "after it the backoff goes on"
        );
    }
}
