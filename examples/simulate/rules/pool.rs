//! Rules that go by a pool of answers to probes, as Prequal's authors ran them beside Prequal (NSDI '24,
//! section 5): what differs is only how an answer is scored.
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

/// A rule by how it scores.
#[derive(Debug, Clone)]
pub(super) struct Pooled {
    score: Score,
    pool: Arc<Mutex<Pool>>,
}

#[derive(Debug, Clone, Copy)]
enum Score {
    /// Half latency, half requests in the time that one takes alone: Prequal's "Linear". It took the median
    /// that it had measured with one request under way, 75 ms; here it is the mean work of a call, 86 ms in
    /// that testbed.
    Linear { alone: f64 },
    /// C3 (Suresh et al., NSDI '15) with so many clients. What a client sees of the latency beyond what
    /// the server says is the network here, the same to all servers, and is left out.
    C3 { clients: f64 },
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

impl Pooled {
    pub(super) fn linear(scenario: &Scenario) -> Self {
        let alone = scenario.work.mean();
        Self::new(Score::Linear { alone })
    }

    pub(super) fn c3(scenario: &Scenario) -> Self {
        let clients = scenario.clients as f64;
        Self::new(Score::C3 { clients })
    }

    fn new(score: Score) -> Self {
        Self {
            score,
            pool: Arc::default(),
        }
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().expect("nobody panics with it")
    }
}

impl Score {
    /// Of a server that gave this answer, for a client that has `own` calls there. The least is best.
    fn of(self, answer: &Answer, own: f64) -> f64 {
        match self {
            Self::Linear { alone } => 0.5 * answer.latency + 0.5 * alone * answer.in_flight,
            Self::C3 { clients } => {
                (1.0 + own * clients + answer.in_flight).powi(3) * answer.latency
            }
        }
    }
}

impl Policy for Pooled {
    fn name(&self) -> &'static str {
        match self.score {
            Score::Linear { .. } => "linear",
            Score::C3 { .. } => "c3_pool",
        }
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
        Arc::new(PooledPicker {
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
struct PooledPicker {
    rule: Pooled,
    candidates: Candidates,
    /// The usable ones by their keys, with their indices.
    keys: Vec<(u64, usize)>,
    uses: f64,
}

impl Picker for PooledPicker {
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

impl PooledPicker {
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

    fn score(&self, answer: &Answer, candidate: &Candidate) -> f64 {
        let own = f64::from(candidate.in_flight());
        self.rule.score.of(answer, own)
    }

    /// The one of least score that can be used.
    fn best(&self, pool: &Pool, can: impl Fn(&Candidate) -> bool) -> Option<(usize, &Candidate)> {
        let answers = pool.answers.iter().enumerate();
        answers
            .filter_map(|(index, a)| Some((index, a, self.candidate(a).filter(|c| can(c))?)))
            .min_by(|(_, a, c), (_, b, d)| self.score(a, c).total_cmp(&self.score(b, d)))
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
                    .map_or(f64::INFINITY, |candidate| self.score(a, candidate))
            };
            let answers = pool.answers.iter().enumerate();
            let worst = answers.max_by(|(_, a), (_, b)| score(a).total_cmp(&score(b)));
            worst.map_or(0, |(index, _)| index)
        };
        pool.answers.remove(index);
    }
}
