//! "Linear", which Prequal's authors ran beside Prequal (NSDI '24, section 5): a pool of answers to probes
//! that are scored by half latency, half requests.
//!
//! Of each query three servers drawn at random are asked. A pool holds the last 16 answers, each for a
//! second at most; the one of least score is taken, and counts as one request more from then on. Per
//! query one answer leaves, the oldest and the one of most score in turn; and each after as many uses as
//! Prequal's formula says.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use evenkeel::load::{Measures, ProbeRules, ReportRules, ReportSource, ServerQueue};
use evenkeel::math::Moment;
use evenkeel::policy::{Candidate, Candidates, Pick, PickContext, Picker, Policy, Subchannel};

use crate::scenario::Scenario;

/// Probes per query.
const PROBES: usize = 3;

/// Answers that are kept, and how long.
const CAPACITY: usize = 16;
const MAX_AGE: Duration = Duration::from_secs(1);

/// What is taken out per query beside what is used up.
const REMOVED: f64 = 1.0;

/// How much more than is lost the pool is to gain: Prequal's δ.
const GAIN: f64 = 1.0;

/// Where the formula finds no bound.
const MOST_USES: f64 = 16.0;

/// Half latency, half requests in the time that one takes alone. The authors took the median that they had
/// measured with one request under way, 75 ms; here it is the mean work of a call, 86 ms in that testbed.
#[derive(Debug, Clone)]
pub(super) struct Linear {
    /// In seconds.
    alone: f64,
    pool: Arc<Mutex<Pool>>,
}

#[derive(Debug, Default)]
struct Pool {
    /// The oldest first.
    answers: Vec<Answer>,
    removes_oldest: bool,
}

#[derive(Debug)]
struct Answer {
    key: u64,
    in_flight: f64,
    /// In seconds.
    latency: f64,
    at: Moment,
    uses: f64,
}

impl Linear {
    pub(super) fn new(scenario: &Scenario) -> Self {
        Self {
            alone: scenario.work.mean(),
            pool: Arc::default(),
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().expect("nobody panics with it")
    }

    /// Of a server that gave this answer. The least is best.
    fn score(&self, answer: &Answer) -> f64 {
        0.5 * answer.latency + 0.5 * self.alone * answer.in_flight
    }
}

impl Policy for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let n = candidates.usable().len() as f64;
        let gained = (1.0 - CAPACITY as f64 / n) * PROBES as f64 - REMOVED;
        let uses = if gained > 0.0 {
            ((1.0 + GAIN) / gained).clamp(1.0, MOST_USES)
        } else {
            MOST_USES
        };
        let mut keys: Vec<_> = (candidates.usable().iter().enumerate())
            .map(|(index, candidate)| (candidate.subchannel().key(), index))
            .collect();
        keys.sort_unstable();
        Arc::new(LinearPicker {
            rule: self.clone(),
            candidates: candidates.clone(),
            keys,
            uses,
        })
    }

    fn measures(&self) -> Measures {
        Measures::NOTHING
            .with_reports(ReportRules::default())
            .with_probes(ProbeRules::default())
    }

    fn reported(&self, endpoint: &Subchannel, queue: ServerQueue, source: ReportSource) {
        if source != ReportSource::Probe {
            return;
        }
        let mut pool = self.pool();
        if pool.answers.len() == CAPACITY {
            pool.answers.remove(0);
        }
        pool.answers.push(Answer {
            key: endpoint.key(),
            in_flight: f64::from(queue.in_flight),
            latency: queue.latency.as_secs_f64(),
            at: queue.at,
            uses: 0.0,
        });
    }
}

#[derive(Debug)]
struct LinearPicker {
    rule: Linear,
    candidates: Candidates,
    /// The usable ones by their keys, with their indices.
    keys: Vec<(u64, usize)>,
    uses: f64,
}

impl Picker for LinearPicker {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = &**self.candidates.usable();
        self.ask(usable, context);
        let mut pool = self.rule.pool();
        let now = context.now();
        pool.answers.retain(|a| now.since(a.at) <= MAX_AGE);
        let best = self.best(&pool, |candidate| context.is_usable(candidate));
        let chosen = match best {
            Some((index, candidate)) if pool.answers.len() >= 2 => {
                let unit = context.rng().unit();
                let answer = &mut pool.answers[index];
                answer.in_flight += 1.0;
                answer.uses += 1.0;
                // Rounded at random, so that the mean holds.
                if answer.uses + unit >= self.uses {
                    pool.answers.remove(index);
                }
                Some(candidate)
            }
            _ => None,
        };
        self.remove(&mut pool);
        drop(pool);
        let any = |context: &mut PickContext<'_>| {
            let start = context.rng().below(usable.len());
            let (before, from) = usable.split_at_checked(start)?;
            from.iter().chain(before).find(|c| context.is_usable(c))
        };
        chosen
            .or_else(|| any(context))
            .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

impl LinearPicker {
    /// Names three different ones.
    fn ask(&self, usable: &[Candidate], context: &mut PickContext<'_>) {
        let mut asked = [usize::MAX; PROBES];
        for count in 0..PROBES.min(usable.len()) {
            let index = loop {
                let index = context.rng().below(usable.len());
                if !asked[..count].contains(&index) {
                    break index;
                }
            };
            asked[count] = index;
            context.probe(&usable[index]);
        }
    }

    fn candidate(&self, answer: &Answer) -> Option<&Candidate> {
        let place = self.keys.binary_search_by_key(&answer.key, |&(key, _)| key);
        let (_, index) = self.keys[place.ok()?];
        Some(&self.candidates.usable()[index])
    }

    /// The one of least score that can be used.
    fn best(&self, pool: &Pool, can: impl Fn(&Candidate) -> bool) -> Option<(usize, &Candidate)> {
        let answers = pool.answers.iter().enumerate();
        answers
            .filter_map(|(index, a)| Some((index, a, self.candidate(a).filter(|c| can(c))?)))
            .min_by(|(_, a, _), (_, b, _)| self.rule.score(a).total_cmp(&self.rule.score(b)))
            .map(|(index, _, candidate)| (index, candidate))
    }

    /// The oldest and the worst in turn. One that is no longer a candidate is the worst.
    fn remove(&self, pool: &mut Pool) {
        if pool.answers.is_empty() {
            return;
        }
        pool.removes_oldest = !pool.removes_oldest;
        let index = if pool.removes_oldest {
            0
        } else {
            let score = |a: &Answer| {
                self.candidate(a)
                    .map_or(f64::INFINITY, |_| self.rule.score(a))
            };
            let answers = pool.answers.iter().enumerate();
            let worst = answers.max_by(|(_, a), (_, b)| score(a).total_cmp(&score(b)));
            worst.map_or(0, |(index, _)| index)
        };
        pool.answers.remove(index);
    }
}
