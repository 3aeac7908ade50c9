//! The answers of probed servers, and which of them to go by: what is Prequal's own.
//!
//! All calls of a balancer share one pool, from many threads, so it is a few rows of atomics and no lock.
//! Nothing is wrong with a row that is half one answer and half the next, since each half was true a
//! moment ago; and a row names an endpoint by its key, which the picker looks up among its own.

mod rules;

use std::time::Duration;

pub(crate) use rules::{PoolRules, PoolSize};

use crate::load::ServerQueue;
use crate::math::Moment;
use crate::math::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many answers the limit between hot and cold is taken from.
const REMEMBERED: usize = 64;

/// After how many answers the limit moves.
const MOVES_EVERY: u64 = 8;

/// How often the best answer may be refused before a pick does without the pool.
const REFUSALS: usize = 4;

/// In place of an endpoint: nobody, or a row that is being written.
const EMPTY: u64 = 0;
const WRITING: u64 = u64::MAX;

/// The pool.
#[derive(Debug)]
pub(crate) struct ProbePool {
    rules: PoolRules,
    max_age_nanos: u64,
    rows: Box<[Row]>,
    /// How many of the rows are in use.
    size: AtomicU32,
    /// How often an answer is used, an `f32`.
    uses: AtomicU32,
    /// Requests under way in the last answers.
    queues: [AtomicU32; REMEMBERED],
    heard: AtomicU64,
    /// Who has more under way is hot.
    limit: AtomicU32,
    /// When the last answer came; nanoseconds and one, 0 is never.
    heard_at: AtomicU64,
    calls: AtomicU64,
}

#[derive(Debug, Default)]
struct Row {
    /// The endpoint's key, or `EMPTY` or `WRITING`.
    who: AtomicU64,
    at: AtomicU64,
    /// Requests under way in the high half, latency in seconds as an `f32` in the low one.
    load: AtomicU64,
    uses_left: AtomicU32,
}

/// What a row said when it was read.
#[derive(Debug, Clone, Copy)]
struct Answer {
    row: usize,
    who: u64,
    at: u64,
    in_flight: u32,
    latency: f32,
}

/// What all rows said.
#[derive(Debug, Default)]
struct Survey {
    count: usize,
    coldest: Option<Answer>,
    least_hot: Option<Answer>,
    oldest: Option<Answer>,
    hottest: Option<Answer>,
    slowest_cold: Option<Answer>,
}

/// How much of something of which there are `rate` a call falls to the call with this number: whole
/// numbers, as even as can be.
#[inline]
pub(crate) fn share_of_call(rate: f64, number: u64) -> std::ops::Range<u64> {
    let upto = |calls: u64| (calls as f64 * rate) as u64;
    upto(number)..upto(number.wrapping_add(1))
}

impl ProbePool {
    pub(crate) fn new(rules: PoolRules) -> Self {
        let pool = Self {
            rules,
            max_age_nanos: u64::try_from(rules.max_age.as_nanos()).unwrap_or(u64::MAX),
            rows: (0..rules.size.most()).map(|_| Row::default()).collect(),
            size: AtomicU32::new(0),
            uses: AtomicU32::new(0),
            queues: std::array::from_fn(|_| AtomicU32::new(0)),
            heard: AtomicU64::new(0),
            limit: AtomicU32::new(0),
            heard_at: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        };
        pool.resize(0);
        pool
    }

    pub(crate) fn rules(&self) -> &PoolRules {
        &self.rules
    }

    /// There are so many endpoints to choose from now.
    pub(crate) fn resize(&self, endpoints: usize) {
        let size = self.rules.size.of(endpoints).min(self.rows.len());
        let uses = self.rules.uses(size, endpoints) as f32;
        self.size.store(size as u32, Ordering::Relaxed);
        self.uses.store(uses.to_bits(), Ordering::Relaxed);
    }

    /// The number of one more call.
    #[inline]
    pub(crate) fn count_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether an answer came within this time.
    #[inline]
    pub(crate) fn heard_within(&self, time: Duration, now: Moment) -> bool {
        let at = self.heard_at.load(Ordering::Relaxed);
        at != 0 && now.since(Moment::from_nanos(at - 1)) <= time
    }

    /// The endpoint `key` answered; nothing happens for the two keys that stand for no endpoint.
    pub(crate) fn insert(&self, key: u64, queue: &ServerQueue) {
        if key == EMPTY || key == WRITING {
            return;
        }
        let at = queue.at.as_nanos().saturating_add(1);
        self.heard_at.fetch_max(at, Ordering::Relaxed);
        let number = self.heard.fetch_add(1, Ordering::Relaxed);
        self.remember(number, queue.in_flight);
        let uses = f64::from(f32::from_bits(self.uses.load(Ordering::Relaxed)));
        // By whole numbers whose mean is right.
        let uses = share_of_call(uses, number);
        // A row that another answer takes at the same moment is lost to that; the next one comes soon.
        let Some((row, before)) = self.row_for(key) else {
            return;
        };
        let row = &self.rows[row];
        let taken = row
            .who
            .compare_exchange(before, WRITING, Ordering::Acquire, Ordering::Relaxed);
        if taken.is_err() {
            return;
        }
        let load = Load {
            in_flight: queue.in_flight.min(u32::MAX / 2),
            latency: queue.latency.as_secs_f32(),
        };
        row.at.store(at, Ordering::Relaxed);
        row.load.store(load.pack(), Ordering::Relaxed);
        row.uses_left
            .store((uses.end - uses.start) as u32, Ordering::Relaxed);
        row.who.store(key, Ordering::Release);
    }

    /// The limit is a quantile of the last answers, by the nearest rank. Once there are enough, it moves with
    /// some of them only: to sort is most of what an answer costs, and the next few change little.
    fn remember(&self, number: u64, in_flight: u32) {
        self.queues[(number % REMEMBERED as u64) as usize].store(in_flight, Ordering::Relaxed);
        if number < REMEMBERED as u64 || number.is_multiple_of(MOVES_EVERY) {
            self.move_limit(number);
        }
    }

    fn move_limit(&self, number: u64) {
        let known = number.saturating_add(1).min(REMEMBERED as u64) as usize;
        let mut queues = [0; REMEMBERED];
        for (copy, queue) in queues.iter_mut().zip(&self.queues) {
            *copy = queue.load(Ordering::Relaxed);
        }
        let rank = (self.rules.hot_quantile * known as f64).ceil() as usize;
        let (_, limit, _) = queues[..known].select_nth_unstable(rank.clamp(1, known) - 1);
        self.limit.store(*limit, Ordering::Relaxed);
    }

    /// The row for an answer of `key`, and who is in it: its own, where an endpoint has but one; else an
    /// empty one; else the oldest.
    fn row_for(&self, key: u64) -> Option<(usize, u64)> {
        let mut oldest = None;
        let mut empty = None;
        for (number, row) in self.in_use().iter().enumerate() {
            match row.who.load(Ordering::Relaxed) {
                WRITING => {}
                EMPTY => empty = empty.or(Some((number, EMPTY))),
                who if who == key && self.rules.one_per_endpoint => return Some((number, who)),
                who => {
                    let at = row.at.load(Ordering::Relaxed);
                    if oldest.is_none_or(|(before, _, _)| at < before) {
                        oldest = Some((at, number, who));
                    }
                }
            }
        }
        empty.or(oldest.map(|(_, number, who)| (number, who)))
    }

    /// The endpoint to call by the answers there are, for the call with this number; `None` with less
    /// than two. `accept` is asked about the best one; an answer that it refuses is dropped. Then drops what
    /// is to be dropped with each call.
    ///
    /// `is_ours`: others have answers in the pool, too, and where the best one is theirs there is none for this call.
    #[inline]
    pub(crate) fn take<T>(
        &self,
        now: Moment,
        number: u64,
        is_ours: impl Fn(u64) -> bool,
        mut accept: impl FnMut(u64) -> Option<T>,
    ) -> Option<T> {
        let mut survey = self.survey(now);
        let mut accepted = None;
        for _ in 0..REFUSALS {
            let best = survey.best()?;
            if !is_ours(best.who) {
                break;
            }
            accepted = accept(best.who);
            if accepted.is_some() {
                self.rows[best.row].use_once(best.who, self.rules.latency_grows);
                break;
            }
            self.rows[best.row].clear(best.who);
            survey = self.survey(now);
        }
        let mut dropped = share_of_call(self.rules.remove_rate, number);
        if let Some(first) = dropped.next() {
            self.drop_one(&survey, first);
            for next in dropped {
                self.drop_one(&self.survey(now), next);
            }
        }
        accepted
    }

    /// In turn the oldest answer and the worst one.
    fn drop_one(&self, survey: &Survey, number: u64) {
        let answer = if number.is_multiple_of(2) {
            survey.oldest
        } else {
            survey.hottest.or(survey.slowest_cold)
        };
        if let Some(answer) = answer {
            self.rows[answer.row].clear(answer.who);
        }
    }

    fn in_use(&self) -> &[Row] {
        let size = self.size.load(Ordering::Relaxed) as usize;
        &self.rows[..size.min(self.rows.len())]
    }

    #[inline]
    fn survey(&self, now: Moment) -> Survey {
        let now = now.as_nanos().saturating_add(1);
        let limit = self.limit.load(Ordering::Relaxed);
        let mut survey = Survey::default();
        for (number, row) in self.in_use().iter().enumerate() {
            if let Some(answer) = row.read(number)
                && now.saturating_sub(answer.at) <= self.max_age_nanos
            {
                survey.add(answer, limit);
            }
        }
        survey
    }
}

/// What an answer said, as a row holds it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Load {
    in_flight: u32,
    /// In seconds.
    latency: f32,
}

impl Load {
    #[inline]
    fn pack(self) -> u64 {
        u64::from(self.in_flight) << 32 | u64::from(self.latency.to_bits())
    }

    #[inline]
    fn unpack(packed: u64) -> Self {
        Self {
            in_flight: (packed >> 32) as u32,
            latency: f32::from_bits(packed as u32),
        }
    }

    /// With one call more.
    #[inline]
    fn and_one(self, latency_grows: bool) -> Self {
        let in_flight = self.in_flight.saturating_add(1);
        let growth = (in_flight as f32 + 1.0) / (self.in_flight as f32 + 1.0);
        Self {
            in_flight,
            latency: self.latency * if latency_grows { growth } else { 1.0 },
        }
    }
}

impl Row {
    #[inline]
    fn read(&self, number: usize) -> Option<Answer> {
        let who = self.who.load(Ordering::Acquire);
        if who == EMPTY || who == WRITING {
            return None;
        }
        let Load { in_flight, latency } = Load::unpack(self.load.load(Ordering::Relaxed));
        Some(Answer {
            row: number,
            who,
            at: self.at.load(Ordering::Relaxed),
            in_flight,
            latency,
        })
    }

    /// A call goes there: one more under way, and one use less.
    #[inline]
    fn use_once(&self, who: u64, latency_grows: bool) {
        let add = |load| Some(Load::unpack(load).and_one(latency_grows).pack());
        let _ = self
            .load
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
        // Two calls at the same moment may both have the last use; the count must not wrap around.
        let left = self.uses_left.load(Ordering::Relaxed);
        self.uses_left
            .store(left.saturating_sub(1), Ordering::Relaxed);
        if left <= 1 {
            self.clear(who);
        }
    }

    #[inline]
    fn clear(&self, who: u64) {
        let _ = self
            .who
            .compare_exchange(who, EMPTY, Ordering::Relaxed, Ordering::Relaxed);
    }
}

impl Survey {
    #[inline]
    fn add(&mut self, answer: Answer, limit: u32) {
        self.count += 1;
        keep(&mut self.oldest, answer, |a, b| a.at < b.at);
        if answer.in_flight > limit {
            keep(&mut self.least_hot, answer, |a, b| {
                (a.in_flight, a.latency) < (b.in_flight, b.latency)
            });
            keep(&mut self.hottest, answer, |a, b| a.in_flight > b.in_flight);
        } else {
            keep(&mut self.coldest, answer, |a, b| a.latency < b.latency);
            keep(&mut self.slowest_cold, answer, |a, b| a.latency > b.latency);
        }
    }

    /// Any cold one: the one with the least latency; else the one with the least under way.
    #[inline]
    fn best(&self) -> Option<Answer> {
        if self.count < 2 {
            return None;
        }
        self.coldest.or(self.least_hot)
    }
}

#[inline]
fn keep(kept: &mut Option<Answer>, answer: Answer, better: impl FnOnce(&Answer, &Answer) -> bool) {
    if kept.as_ref().is_none_or(|kept| better(&answer, kept)) {
        *kept = Some(answer);
    }
}

#[cfg(test)]
mod tests;
