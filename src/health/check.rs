//! What an active check says, how often it asks, and how many answers it takes to change its word.
//!
//! A server that tells of its health by itself (gRPC's `Health/Watch`) says a [`Verdict`], and that counts at
//! once. One that is asked again and again may miss an answer now and then, so [`CheckRules`] ask for several in
//! a row. Before the first verdict an endpoint gets no call (gRFC A17).

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::math::Rng;

/// What a health check says of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may be picked.
    Serving,
    /// It gets no calls, for this reason.
    NotServing(Arc<str>),
}

impl Verdict {
    /// It gets no calls, for this reason.
    pub fn not_serving(reason: impl Into<Arc<str>>) -> Self {
        Self::NotServing(reason.into())
    }
}

/// How endpoints are checked that have to be asked.
///
/// | setting | default | source |
/// |---|---|---|
/// | [`interval`](Self::with_interval) | 10 s | Kubernetes' readiness probe |
/// | [`timeout`](Self::with_timeout) | 1 s | Kubernetes' readiness probe |
/// | [`unhealthy_threshold`](Self::with_unhealthy_threshold) | 3 | Kubernetes' readiness probe |
/// | [`healthy_threshold`](Self::with_healthy_threshold) | 1 | Kubernetes' readiness probe |
/// | [`unhealthy_interval`](Self::with_unhealthy_interval) | 1 s | ours: one that is back is wanted soon |
/// | [`idle_interval`](Self::with_idle_interval) | 60 s | Envoy's `no_traffic_interval` |
/// | [`jitter`](Self::with_jitter) | 0.1 | ours: many clients must not ask together |
///
/// The first answer of a connection counts by itself, whatever the thresholds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CheckRules {
    interval: Duration,
    timeout: Duration,
    unhealthy_threshold: u32,
    healthy_threshold: u32,
    unhealthy_interval: Duration,
    idle_interval: Duration,
    jitter: f64,
}

impl Default for CheckRules {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(1),
            unhealthy_threshold: 3,
            healthy_threshold: 1,
            unhealthy_interval: Duration::from_secs(1),
            idle_interval: Duration::from_secs(60),
            jitter: 0.1,
        }
    }
}

impl CheckRules {
    /// The time from the end of one check to the next, of an endpoint that is healthy and in use.
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// How long one check may take; one that takes longer failed.
    ///
    /// A check over the endpoint's own service waits in the same queue as its calls, where streams or calls at a
    /// time are limited, and that time counts: nobody could tell a server that is busy from one that holds on to
    /// its calls. So let it be longer than calls may wait there; or ask past the queue.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many checks in a row have to fail until a healthy endpoint gets no calls. At least 1.
    #[must_use]
    pub fn with_unhealthy_threshold(mut self, checks: u32) -> Self {
        self.unhealthy_threshold = checks;
        self
    }

    /// How many checks in a row have to go well until an unhealthy endpoint gets calls again. At least 1.
    #[must_use]
    pub fn with_healthy_threshold(mut self, checks: u32) -> Self {
        self.healthy_threshold = checks;
        self
    }

    /// In place of the interval while the last check failed or the endpoint is unhealthy.
    #[must_use]
    pub fn with_unhealthy_interval(mut self, interval: Duration) -> Self {
        self.unhealthy_interval = interval;
        self
    }

    /// A healthy endpoint that got no call since the last check is left alone for this long, in steps of the
    /// interval. Without effect if it is not longer than that.
    #[must_use]
    pub fn with_idle_interval(mut self, interval: Duration) -> Self {
        self.idle_interval = interval;
        self
    }

    /// By what part each pause is longer or shorter at random, 0 to 1.
    #[must_use]
    pub fn with_jitter(mut self, jitter: f64) -> Self {
        self.jitter = jitter;
        self
    }

    /// How long one check may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// # Errors
    /// A time or a threshold of zero, or a jitter that is not within 0 and 1.
    pub fn validate(&self) -> Result<(), Error> {
        let times = [
            ("health_check.interval", self.interval),
            ("health_check.timeout", self.timeout),
            ("health_check.unhealthy_interval", self.unhealthy_interval),
            ("health_check.idle_interval", self.idle_interval),
        ];
        if let Some((name, _)) = times.iter().find(|(_, time)| time.is_zero()) {
            return Err(Error::config(name, "is zero"));
        }
        let thresholds = [
            ("health_check.unhealthy_threshold", self.unhealthy_threshold),
            ("health_check.healthy_threshold", self.healthy_threshold),
        ];
        if let Some((name, _)) = thresholds.iter().find(|(_, count)| *count == 0) {
            return Err(Error::config(name, "is 0; the least is 1"));
        }
        if !(0.0..=1.0).contains(&self.jitter) {
            let mistake = format!("{} is not between 0 and 1", self.jitter);
            return Err(Error::config("health_check.jitter", mistake));
        }
        Ok(())
    }
}

/// The answers of one endpoint over one connection, counted.
#[derive(Debug, Clone)]
pub struct Answers {
    rules: CheckRules,
    /// The verdict that stands; none before the first answer.
    verdict: Option<Verdict>,
    /// How many answers in a row spoke against it.
    against: u32,
}

impl Answers {
    /// No answer yet.
    pub fn new(rules: CheckRules) -> Self {
        Self {
            rules,
            verdict: None,
            against: 0,
        }
    }

    /// Takes an answer in; an error says why the check failed. Returns the verdict if it is another one now, or
    /// stands for another reason.
    pub fn take<E: Into<Arc<str>>>(&mut self, answer: Result<(), E>) -> Option<Verdict> {
        let verdict = match answer {
            Ok(()) => Verdict::Serving,
            Err(reason) => Verdict::NotServing(reason.into()),
        };
        let threshold = match (&self.verdict, &verdict) {
            (None, _) => 1,
            (Some(Verdict::Serving), Verdict::NotServing(_)) => self.rules.unhealthy_threshold,
            (Some(Verdict::NotServing(_)), Verdict::Serving) => self.rules.healthy_threshold,
            (Some(stands), _) => {
                self.against = 0;
                if *stands == verdict {
                    return None;
                }
                1
            }
        };
        self.against += 1;
        if self.against < threshold {
            return None;
        }
        self.against = 0;
        self.verdict = Some(verdict.clone());
        Some(verdict)
    }

    /// How long to wait before the next check.
    pub fn pause(&self, rng: &mut Rng) -> Duration {
        let rules = &self.rules;
        let pause = if self.is_well() {
            rules.interval
        } else {
            rules.unhealthy_interval
        };
        let factor = 1.0 + rules.jitter * (2.0 * rng.unit() - 1.0);
        Duration::try_from_secs_f64(pause.as_secs_f64() * factor).unwrap_or(pause)
    }

    /// Whether another pause may follow one in place of a check, of an endpoint that got no call since the last
    /// check, `waited` ago.
    pub fn may_pause_on(&self, waited: Duration) -> bool {
        self.is_well() && waited < self.rules.idle_interval
    }

    /// It is healthy, and the last answer spoke for it.
    fn is_well(&self) -> bool {
        self.verdict == Some(Verdict::Serving) && self.against == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules() -> CheckRules {
        CheckRules::default()
            .with_jitter(0.0)
            .with_healthy_threshold(2)
    }

    fn refused() -> Result<(), &'static str> {
        Err("refused")
    }

    #[test]
    fn the_first_answer_counts_by_itself() {
        let mut well = Answers::new(rules());
        assert_eq!(well.take(Ok::<_, &str>(())), Some(Verdict::Serving));
        let mut ill = Answers::new(rules());
        let verdict = ill.take(refused());
        assert_eq!(verdict, Some(Verdict::not_serving("refused")));
    }

    #[test]
    fn it_takes_so_many_in_a_row_to_change_the_verdict() {
        let mut answers = Answers::new(rules());
        answers.take(Ok::<_, &str>(()));
        for _ in 0..10 {
            assert_eq!(answers.take(refused()), None);
            assert_eq!(answers.take(refused()), None);
            assert_eq!(answers.take(Ok::<_, &str>(())), None, "not in a row");
        }
        assert_eq!(answers.take(refused()), None);
        assert_eq!(answers.take(refused()), None);
        assert!(answers.take(refused()).is_some(), "the third in a row");
        assert_eq!(answers.take(refused()), None, "said once");
        assert_eq!(answers.take(Ok::<_, &str>(())), None, "one of two");
        assert_eq!(answers.take(refused()), None);
        assert_eq!(answers.take(Ok::<_, &str>(())), None, "one of two, again");
        assert_eq!(answers.take(Ok::<_, &str>(())), Some(Verdict::Serving));
    }

    #[test]
    fn the_reason_is_the_latest_one() {
        let mut answers = Answers::new(rules());
        answers.take(Ok::<_, &str>(()));
        for why in ["timed out", "refused"] {
            assert_eq!(answers.take(Err(why)), None, "it is healthy yet");
        }
        let mut say = |why: &'static str| answers.take(Err(why));
        let told = say("HTTP status 500");
        assert_eq!(told, Some(Verdict::not_serving("HTTP status 500")));
        assert_eq!(say("HTTP status 500"), None, "said once");
        let told = say("refused");
        assert_eq!(told, Some(Verdict::not_serving("refused")), "another one");
        assert_eq!(answers.take(Ok::<_, &str>(())), None, "one of two");
        let told = answers.take(Err("timed out"));
        assert_eq!(told, Some(Verdict::not_serving("timed out")));
        assert_eq!(answers.take(Ok::<_, &str>(())), None, "one of two, again");
    }

    #[test]
    fn it_is_asked_sooner_while_it_fails_and_later_while_nobody_calls() {
        let mut rng = Rng::new(1);
        let mut answers = Answers::new(rules());
        assert_eq!(answers.pause(&mut rng), SECOND, "not known yet");
        assert!(!answers.may_pause_on(SECOND));
        answers.take(Ok::<_, &str>(()));
        assert_eq!(answers.pause(&mut rng), 10 * SECOND);
        assert!(answers.may_pause_on(59 * SECOND) && !answers.may_pause_on(60 * SECOND));
        answers.take(refused());
        assert_eq!(answers.pause(&mut rng), SECOND, "one failed");
        assert!(!answers.may_pause_on(SECOND));
        answers.take(refused());
        answers.take(refused());
        assert_eq!(answers.pause(&mut rng), SECOND, "unhealthy");
        assert!(!answers.may_pause_on(SECOND));
    }

    #[test]
    fn pauses_differ_by_the_jitter_at_most() {
        let mut rng = Rng::new(1);
        let mut answers = Answers::new(rules().with_jitter(0.2));
        answers.take(Ok::<_, &str>(()));
        let pauses: Vec<_> = (0..1_000).map(|_| answers.pause(&mut rng)).collect();
        let (least, most) = (pauses.iter().min(), pauses.iter().max());
        assert!(*least.unwrap() >= 8 * SECOND && *least.unwrap() < 9 * SECOND);
        assert!(*most.unwrap() <= 12 * SECOND && *most.unwrap() > 11 * SECOND);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let zero = Duration::ZERO;
        for (rules, field) in [
            (rules().with_interval(zero), "interval"),
            (rules().with_timeout(zero), "timeout"),
            (rules().with_unhealthy_interval(zero), "unhealthy_interval"),
            (rules().with_idle_interval(zero), "idle_interval"),
            (rules().with_healthy_threshold(0), "healthy_threshold"),
            (rules().with_unhealthy_threshold(0), "unhealthy_threshold"),
            (rules().with_jitter(f64::NAN), "jitter"),
            (rules().with_jitter(1.1), "jitter"),
        ] {
            let error = rules.validate().unwrap_err();
            let name = format!("health_check.{field}");
            assert!(
                error.is_config() && error.to_string().contains(&name),
                "{error}"
            );
        }
        assert!(rules().validate().is_ok());
    }
}
