use std::sync::Arc;

use crate::error::Error;
use crate::load::{Decay, LatencyRules, Measures, ProbeRules, ReportRules};
use crate::math::Moment;
use crate::policy::draw::{ask, draw};
use crate::policy::{Candidate, Candidates, Pick, PickContext, Picker, Policy};

/// Probes at one pick: as many as a [`PickContext`] takes.
const MOST_PROBES: u32 = 8;

/// What an endpoint costs that has calls under way and has told and answered nothing yet, in seconds: more
/// than any other, so that it gets its first call and then no other until it has answered.
const UNKNOWN: f64 = 1e60;

/// The endpoint of least score, by what its server last said and what this client has under way there:
/// C3 (Suresh et al., *C3: Cutting Tail Latency in Cloud Data Stores via Adaptive Replica Selection*, NSDI
/// '15).
///
/// ```text
/// score = R - s + q³ s      q = 1 + own calls under way * clients + requests the server said
/// ```
///
/// `s` is the latency that the server said one more request should expect, `R` the latency that this
/// client saw: the [peak average](crate::load::PeakEwma), in which a failed call counts as
/// [slow](LatencyRules::error_penalty). The cube keeps a fast server from drawing a long queue. Each call
/// under way counts as if every [client](Self::with_clients) had sent one, so that clients which heard the
/// same do not all run to the same server. Of equal scores, each is equally likely.
///
/// Who gets no calls is not heard of, and its last word may have been a bad one: so with each call one
/// endpoint drawn at random is [probed](Self::with_probes). In place of a server that answered nothing
/// lately, or does not report at all, `R` speaks for `s`. An endpoint of which nothing is known gets one
/// call and no more until it has answered. [Weights](crate::Endpoint::weight) are not looked at.
///
/// | | default | with [`with_choices`](Self::with_choices) |
/// |---|---|---|
/// | pick | O(n): the records of all endpoints read | O(choices) |
/// | call | two looks at the clock; its report is read, as for [`OrcaWeightedRoundRobin`](crate::policy::OrcaWeightedRoundRobin); one probe | the same |
/// | build | O(1) | O(1) |
/// | memory | none | none |
///
/// **Wins** where servers report their queue and differ in speed, or share their machines with others, with
/// few or many clients: of the rules for such servers it needs the least state, and no tuning but the
/// number of clients.
/// **Loses** where nothing reports: what is left is a client's own view, which
/// [`PeakEwma`](crate::policy::PeakEwma) has at O(1). With thousands of endpoints, where a scan costs more
/// than it finds. And against a server that fails some
/// of its calls fast and so has a short queue: the penalty adds to its score, but the cube of the others'
/// queues weighs more. Ejection, on by default, takes that one out.
///
/// The paper averages what servers say over time and shapes the rate to each of them; here the last word
/// counts and there is no rate control. Its `s` is the time to serve a request without waiting; this one
/// includes the wait, as where Prequal's authors ran C3 (NSDI '24, section 5).
///
/// ```
/// use std::time::Duration;
/// use evenkeel::math::{Moment, Rng};
/// use evenkeel::outcome::LoadReport;
/// use evenkeel::policy::{C3, Candidates, Pick, PickContext, Policy};
///
/// let policy = C3::default();
/// let candidates = Candidates::connected_for(["a:1", "b:1"], policy.measures());
/// // Twice as slow, but with half of the requests.
/// for (candidate, (requests, ms)) in candidates.all().iter().zip([(10, 20), (5, 40)]) {
///     let claim = candidate.claim(false).unwrap();
///     let latency = Duration::from_millis(ms);
///     let report = LoadReport::new().with_in_flight(requests).with_latency(latency);
///     claim.reported(&report, Moment::default());
/// }
/// let picker = policy.build(&candidates, None);
/// let mut rng = Rng::new(7);
/// assert_eq!(picker.pick(&mut PickContext::new(&mut rng)), Pick::Endpoint(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct C3 {
    clients: u32,
    /// All, if there are no more.
    choices: usize,
    probes: u32,
    latency: LatencyRules,
    reports: ReportRules,
}

impl Default for C3 {
    fn default() -> Self {
        Self {
            clients: 1,
            choices: usize::MAX,
            probes: 1,
            latency: LatencyRules::default(),
            reports: ReportRules::default(),
        }
    }
}

impl C3 {
    /// How many clients call the same servers: what the calls of this one are multiplied by. Too many
    /// spreads the calls more evenly than is best, too few lets the clients run in herds. 0 counts as 1.
    /// Default 1.
    #[must_use]
    pub fn with_clients(mut self, clients: u32) -> Self {
        self.clients = clients.max(1);
        self
    }

    /// Looks at so many endpoints, drawn at random, and not at all of them; one may be drawn twice. Default
    /// all, as in the paper, whose servers come in groups of a few.
    ///
    /// # Errors
    /// Fewer than 2: nothing to choose from.
    pub fn with_choices(mut self, choices: u32) -> Result<Self, Error> {
        if choices < 2 {
            return Err(Error::config(
                "choices",
                format!("{choices} is not 2 or more"),
            ));
        }
        self.choices = choices as usize;
        Ok(self)
    }

    /// How many endpoints are probed with each call, none of them twice. With 0, only their answers tell of them, and one whose
    /// last word was bad is seldom heard of again. Default 1.
    ///
    /// # Errors
    /// More than 8.
    pub fn with_probes(mut self, probes: u32) -> Result<Self, Error> {
        if probes > MOST_PROBES {
            return Err(Error::config(
                "probes",
                format!("{probes} is over {MOST_PROBES}"),
            ));
        }
        self.probes = probes;
        Ok(self)
    }
}

impl Policy for C3 {
    fn name(&self) -> &'static str {
        "c3"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        Arc::new(C3Picker {
            candidates: candidates.clone(),
            clients: f64::from(self.clients),
            choices: self.choices,
            probes: self.probes,
            decay: self.latency.decay.into(),
        })
    }

    fn measures(&self) -> Measures {
        let measures = Measures::NOTHING
            .with_latency(self.latency)
            .with_reports(self.reports);
        if self.probes == 0 {
            measures
        } else {
            measures.with_probes(ProbeRules::default())
        }
    }
}

#[derive(Debug)]
struct C3Picker {
    candidates: Candidates,
    clients: f64,
    choices: usize,
    probes: u32,
    decay: Decay,
}

impl Picker for C3Picker {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = &**self.candidates.usable();
        ask(usable, self.probes as usize, context);
        let best = if self.choices < usable.len() {
            let draws = |context: &mut PickContext<'_>| context.rng().below(usable.len());
            self.best(usable, self.choices, context, |_, context| draws(context))
        } else {
            self.best(usable, usable.len(), context, |index, _| index)
        };
        // None of those drawn could be used, which does not yet mean that none can.
        best.or_else(|| draw(usable, context))
            .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

impl C3Picker {
    /// The one of least score, of `count` that `index` names.
    #[inline]
    fn best<'c>(
        &self,
        usable: &'c [Candidate],
        count: usize,
        context: &mut PickContext<'_>,
        index: impl Fn(usize, &mut PickContext<'_>) -> usize,
    ) -> Option<&'c Candidate> {
        let now = context.now();
        let mut best = None;
        let mut least = f64::INFINITY;
        let mut ties = 0;
        for number in 0..count {
            let candidate = &usable[index(number, context)];
            let score = self.score(candidate, now);
            if score > least || !context.is_usable(candidate) {
                continue;
            }
            ties = if score < least { 1 } else { ties + 1 };
            least = score;
            // The k-th of the equals replaces the one held with probability 1/k.
            if ties == 1 || context.rng().below(ties) == 0 {
                best = Some(candidate);
            }
        }
        best
    }

    /// Finite, whatever was said: the terms are under 2^130 each, three of them times a fourth.
    #[inline]
    fn score(&self, candidate: &Candidate, now: Moment) -> f64 {
        let subchannel = candidate.subchannel();
        let own = f64::from(candidate.in_flight());
        let seen = subchannel.latency().seconds(now, self.decay).map(f64::from);
        let said = subchannel.reports().queue();
        let waiting = said.map_or(0.0, |said| f64::from(said.in_flight));
        let served = said.map(|said| said.latency.as_secs_f64());
        let Some(served) = served.filter(|&served| served > 0.0).or(seen) else {
            return UNKNOWN * own;
        };
        let queue = 1.0 + own * self.clients + waiting;
        seen.unwrap_or(served) - served + queue * queue * queue * served
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::load::ReportSource;
    use crate::math::Rng;
    use crate::outcome::{LoadReport, Outcome};
    use crate::policy::ProbeRequests;

    fn ms(ms: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(ms))
    }

    struct Fleet {
        candidates: Candidates,
        picker: Arc<dyn Picker>,
        rng: Rng,
    }

    impl Fleet {
        fn new(policy: C3, count: usize) -> Self {
            let ids = (0..count).map(|n| format!("e{n}"));
            let candidates = Candidates::connected_for(ids, policy.measures());
            Self {
                picker: policy.build(&candidates, None),
                candidates,
                rng: Rng::new(3),
            }
        }

        fn said(&self, slot: usize, in_flight: u32, latency: u64) {
            let report = LoadReport::new()
                .with_in_flight(in_flight)
                .with_latency(Duration::from_millis(latency));
            let subchannel = self.candidates.all()[slot].subchannel();
            subchannel.reported(&report, ReportSource::Probe, ms(0));
        }

        fn call(&self, slot: usize, took: u64, outcome: Outcome) {
            let mut claim = self.candidates.all()[slot].claim(false).unwrap();
            claim.begun(ms(0));
            claim.sent();
            claim.finish_at(outcome, ms(took));
        }

        fn picks(&mut self) -> Vec<u32> {
            let mut picks = vec![0; self.candidates.all().len()];
            for _ in 0..1_000 {
                let mut context = PickContext::new(&mut self.rng).with_now(ms(0));
                match self.picker.pick(&mut context) {
                    Pick::Endpoint(slot) => picks[slot] += 1,
                    Pick::Nothing => panic!("all are usable"),
                }
            }
            picks
        }
    }

    #[test]
    fn the_queue_counts_by_its_cube() {
        // (1 + 3)³ * 80 ms = 5.12 s; (1 + 7)³ * 9 ms = 4.6 s, * 11 ms = 5.6 s.
        for (latency, expected) in [(9, [0, 1_000]), (11, [1_000, 0])] {
            let mut fleet = Fleet::new(C3::default(), 2);
            fleet.said(0, 3, 80);
            fleet.said(1, 7, latency);
            assert_eq!(fleet.picks(), expected, "7 requests at {latency} ms");
        }
    }

    #[test]
    fn a_call_under_way_counts_as_one_of_each_client() {
        for (clients, expected) in [(1, [1_000, 0]), (10, [0, 1_000])] {
            let mut fleet = Fleet::new(C3::default().with_clients(clients), 2);
            fleet.said(0, 1, 10);
            fleet.said(1, 9, 10);
            let claim = fleet.candidates.all()[0].claim(false);
            assert_eq!(
                fleet.picks(),
                expected,
                "{clients} clients: 1 + 1 + {clients} against 1 + 9"
            );
            drop(claim);
        }
    }

    #[test]
    fn what_the_client_sees_beyond_what_the_server_says_is_added() {
        let mut fleet = Fleet::new(C3::default(), 2);
        fleet.said(0, 0, 10);
        fleet.said(1, 0, 12);
        assert_eq!(fleet.picks(), [1_000, 0], "10 ms against 12");
        fleet.call(0, 30, Outcome::Success);
        fleet.call(1, 14, Outcome::Success);
        assert_eq!(fleet.picks(), [0, 1_000], "30 ms seen against 14");
    }

    #[test]
    fn without_reports_the_latency_that_the_client_sees_stands_in() {
        let mut fleet = Fleet::new(C3::default(), 2);
        fleet.call(0, 20, Outcome::Success);
        fleet.call(1, 100, Outcome::Success);
        assert_eq!(fleet.picks(), [1_000, 0]);
        let claim = fleet.candidates.all()[0].claim(false);
        assert_eq!(fleet.picks(), [0, 1_000], "2³ of 20 ms against 100");
        drop(claim);
    }

    #[test]
    fn one_that_only_fails_is_passed_over_though_its_queue_is_empty() {
        let mut fleet = Fleet::new(C3::default(), 2);
        fleet.call(0, 1, Outcome::Failure);
        fleet.said(0, 0, 0);
        fleet.said(1, 3, 70);
        assert_eq!(fleet.picks(), [0, 1_000], "5 s against 4³ of 70 ms");
    }

    #[test]
    fn a_new_endpoint_gets_one_call_and_waits_for_its_answer() {
        let mut fleet = Fleet::new(C3::default(), 3);
        fleet.said(1, 0, 1);
        fleet.said(2, u32::MAX, 0);
        let picks = fleet.picks();
        assert_eq!(picks[1], 0, "the others are tried first");
        // Of 1,000 fair draws: standard deviation 16; six of them.
        assert!(picks[0].abs_diff(500) < 96, "equals alike: {picks:?}");
        let claims = [0, 2].map(|slot| fleet.candidates.all()[slot].claim(false));
        assert_eq!(fleet.picks(), [0, 1_000, 0], "once");
        drop(claims);
    }

    #[test]
    fn no_report_makes_a_score_that_is_no_number() {
        for (in_flight, latency) in [(u32::MAX, u64::MAX), (u32::MAX, 1), (0, u64::MAX)] {
            let mut fleet = Fleet::new(C3::default().with_clients(u32::MAX), 2);
            fleet.said(0, in_flight, latency);
            fleet.said(1, 0, 1);
            assert_eq!(fleet.picks(), [0, 1_000], "{in_flight}, {latency}");
        }
    }

    #[test]
    fn of_some_choices_the_best_is_taken_and_others_get_calls_too() {
        let mut fleet = Fleet::new(C3::default().with_choices(2).unwrap(), 4);
        for slot in 0..4 {
            fleet.said(slot, slot as u32, 10);
        }
        let picks = fleet.picks();
        // Slot 0 is in 7 of 16 pairs, the others in 5, 3 and 1: standard deviation at most 16; six.
        for (picked, of) in picks.iter().zip([7, 5, 3, 1]) {
            assert!(picked.abs_diff(of * 1_000 / 16) < 96, "{picks:?}");
        }
    }

    #[test]
    fn each_call_asks_as_many_servers_as_was_said_and_none_twice() {
        for (probes, servers, asked) in [(0, 4, 0), (1, 4, 1), (3, 4, 3), (8, 8, 8), (8, 2, 2)] {
            let policy = C3::default().with_probes(probes).unwrap();
            assert_eq!(policy.measures().probes.is_some(), probes > 0);
            let mut fleet = Fleet::new(policy, servers);
            for _ in 0..20 {
                let mut requests = ProbeRequests::new();
                let mut context = PickContext::new(&mut fleet.rng).with_probes(&mut requests);
                fleet.picker.pick(&mut context);
                let mut slots: Vec<_> = requests.slots().collect();
                slots.sort_unstable();
                slots.dedup();
                assert_eq!(slots.len(), asked, "{probes} of {servers}: {slots:?}");
                assert_eq!(requests.slots().count(), asked, "each of them once");
            }
        }
    }

    #[test]
    fn what_the_server_of_the_connection_before_said_is_forgotten() {
        let mut fleet = Fleet::new(C3::default().with_probes(0).unwrap(), 2);
        fleet.said(0, 1_000, 10);
        fleet.said(1, 0, 10);
        assert_eq!(fleet.picks(), [0, 1_000], "it has a thousand requests");
        fleet.candidates.all()[0].subchannel().connected(1);
        assert_eq!(
            fleet.picks(),
            [1_000, 0],
            "a server that has just started is tried"
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let error = C3::default().with_choices(1).unwrap_err();
        assert_eq!(error.field(), Some("choices"), "{error}");
        let error = C3::default().with_probes(9).unwrap_err();
        assert_eq!(error.field(), Some("probes"), "{error}");
        let empty = Candidates::connected(Vec::<crate::endpoint::Endpoint>::new());
        let picker = C3::default().build(&empty, None);
        let mut rng = Rng::new(1);
        let pick = picker.pick(&mut PickContext::new(&mut rng));
        assert_eq!(pick, Pick::Nothing, "of none, none");
    }
}
