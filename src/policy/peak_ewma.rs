use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::load::{Decay, LatencyRules, Measures, Until};
use crate::math::Moment;
use crate::policy::draw::{better_of, better_of_two, draw};
use crate::policy::weighted::Weighted;
use crate::policy::{Candidate, Candidates, Pick, PickContext, Picker, Policy};

/// What an endpoint costs that has calls under way and has answered none yet, in seconds: more than any
/// measured one, so that it gets its first call and then no other until it has answered.
const UNKNOWN: f32 = 1e6;

/// Of two endpoints drawn at random, the one where a call would cost less: its latency times the calls
/// under way, this one included.
///
/// The latency is a [`PeakEwma`](crate::load::PeakEwma), which believes a slow answer at once and a fast
/// one slowly. It runs to the first data of the response or its trailers, whichever comes first, so that
/// unary calls and streams look alike. A call that fails counts as slow
/// ([5 s](LatencyRules::error_penalty) by default, or as long as `grpc-retry-pushback-ms` asked), never as
/// fast: a server that fails at once would otherwise draw most of all calls. An endpoint that has not
/// answered yet gets one call and no more until it has; so does one that is connected anew, or is back from
/// an ejection: a penalty would keep calls from it for minutes.
///
/// # Weights
/// A faster server shows by itself, so equal weights are right for servers of different sizes. Where
/// [weights](crate::Endpoint::weight) differ they are an order: both endpoints are drawn by weight, the same
/// one perhaps twice, and then it gets the call whatever that costs, also while its first answer is waited
/// for. Calls under way count per unit of weight. Endpoints alike in latency get calls by
/// weight; the fastest one gets up to twice its part by weight and no more, so that a canary of weight 1
/// beside 99 others gets at most 2 % of the calls, however fast it is.
///
/// | | |
/// |---|---|
/// | pick | O(1): two random numbers, two endpoints' records read |
/// | call | two looks at the clock, one compare-exchange |
/// | build | O(n): a look at the weights |
/// | memory | 8 bytes an endpoint; 20 where weights differ |
///
/// **Wins** where servers differ in speed, or one turns slow: it notices by the first slow answer, also
/// with few calls under way, where [`LeastRequest`](crate::policy::LeastRequest) sees nothing.
/// **Loses** where latency differs more by call than by server, since it then takes a costly call for a
/// slow server; and with many clients, each of which knows only its own calls.
///
/// Finagle's `p2cPeakEwma` and tower's `PeakEwma`, both with a decay of 10 s; the error penalty is ours.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::math::{Moment, Rng};
/// use evenkeel::outcome::Outcome;
/// use evenkeel::policy::{Candidates, PeakEwma, Pick, PickContext, Policy};
///
/// let policy = PeakEwma::default();
/// let candidates = Candidates::connected_for(["slow:1", "fast:1"], policy.measures());
/// let picker = policy.build(&candidates, None);
/// for (candidate, ms) in candidates.all().iter().zip([80, 5]) {
///     let mut claim = candidate.claim(false).unwrap();
///     claim.begun(Moment::from_nanos(0));
///     claim.finish_at(Outcome::Success, Moment::from_origin(Duration::from_millis(ms)));
/// }
/// let mut rng = Rng::new(7);
/// let mut context = PickContext::new(&mut rng).with_now(Moment::from_origin(Duration::from_millis(90)));
/// assert_eq!(picker.pick(&mut context), Pick::Endpoint(1));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PeakEwma {
    rules: LatencyRules,
}

impl PeakEwma {
    /// How fast old answers are forgotten: after this time 37 % of their part is left. Default 10 s.
    ///
    /// # Errors
    /// Zero, which would forget everything at once.
    pub fn with_decay(mut self, decay: Duration) -> Result<Self, Error> {
        if decay.is_zero() {
            return Err(Error::config("decay", "is zero"));
        }
        self.rules.decay = decay;
        Ok(self)
    }

    /// What a failed call counts as, at least. Default 5 s.
    #[must_use]
    pub fn with_error_penalty(mut self, penalty: Duration) -> Self {
        self.rules.error_penalty = penalty;
        self
    }

    /// Where a call's latency ends. Default: at the first data.
    #[must_use]
    pub fn with_latency_until(mut self, until: Until) -> Self {
        self.rules.until = until;
        self
    }
}

impl Policy for PeakEwma {
    fn name(&self) -> &'static str {
        "peak_ewma"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        Arc::new(ByLatency::new(candidates, &self.rules))
    }

    fn measures(&self) -> Measures {
        Measures::NOTHING.with_latency(self.rules)
    }
}

/// Of two at random, the one where a call costs less.
#[derive(Debug)]
pub(super) struct ByLatency {
    candidates: Candidates,
    /// If the weights differ.
    weighted: Option<Weighted>,
    decay: Decay,
}

impl ByLatency {
    pub(super) fn new(candidates: &Candidates, rules: &LatencyRules) -> Self {
        Self {
            candidates: candidates.clone(),
            weighted: Weighted::new(candidates.usable()),
            decay: rules.decay.into(),
        }
    }

    pub(super) fn is_weighted(&self) -> bool {
        self.weighted.is_some()
    }

    /// The cheaper one of two, or any if neither can be used.
    #[inline]
    pub(super) fn choose(&self, context: &mut PickContext<'_>) -> Option<&Candidate> {
        let usable = &**self.candidates.usable();
        match &self.weighted {
            None => {
                let now = context.now();
                let cost = |c: &Candidate| self.cost(c, now, in_flight(c));
                better_of_two(usable, context, |a, b| cost(a) < cost(b))
                    .or_else(|| draw(usable, context))
            }
            Some(weighted) => self.choose_by_weight(usable, weighted, context),
        }
    }

    fn choose_by_weight<'c>(
        &self,
        usable: &'c [Candidate],
        weighted: &Weighted,
        context: &mut PickContext<'_>,
    ) -> Option<&'c Candidate> {
        let now = context.now();
        let a = weighted.index(context.rng());
        let b = weighted.index(context.rng());
        let cost = |index: usize| {
            let candidate = &usable[index];
            let in_flight = in_flight(candidate) / weighted.of_mean(index);
            self.cost(candidate, now, in_flight)
        };
        better_of(&usable[a], &usable[b], context, || cost(b) < cost(a))
            .or_else(|| weighted.draw(usable, context))
    }

    /// What one more call would cost there.
    #[inline]
    fn cost(&self, candidate: &Candidate, now: Moment, in_flight: f32) -> f32 {
        let latency = candidate.subchannel().latency();
        match latency.seconds(now, self.decay) {
            Some(latency) => latency * (in_flight + 1.0),
            None => UNKNOWN * in_flight,
        }
    }
}

#[inline]
fn in_flight(candidate: &Candidate) -> f32 {
    candidate.in_flight() as f32
}

impl Picker for ByLatency {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        self.choose(context)
            .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Endpoint;
    use crate::math::Rng;
    use crate::outcome::Outcome;
    use crate::policy::testing::{at as ms, picked};

    struct Pair {
        candidates: Candidates,
        picker: Arc<dyn Picker>,
        rng: Rng,
    }

    impl Pair {
        fn new(policy: PeakEwma) -> Self {
            Self::of(policy, ["a", "b"].map(Endpoint::new))
        }

        fn of(policy: PeakEwma, endpoints: [Endpoint; 2]) -> Self {
            let candidates = Candidates::connected_for(endpoints, policy.measures());
            Self {
                picker: policy.build(&candidates, None),
                candidates,
                rng: Rng::new(3),
            }
        }

        /// One call to `slot` that begins at `at` and takes `took` milliseconds.
        fn call(&self, slot: usize, at: u64, took: u64, outcome: Outcome) {
            let mut claim = self.candidates.all()[slot].claim(false).unwrap();
            claim.begun(ms(at));
            claim.sent();
            claim.finish_at(outcome, ms(at + took));
        }

        fn pick(&mut self, at: u64) -> usize {
            let context = PickContext::new(&mut self.rng).with_now(ms(at));
            picked(&*self.picker, context)
        }

        fn picks(&mut self, at: u64) -> [usize; 2] {
            let mut picks = [0; 2];
            for _ in 0..100 {
                picks[self.pick(at)] += 1;
            }
            picks
        }
    }

    #[test]
    fn the_faster_one_of_two_is_picked_until_its_queue_costs_more() {
        let mut pair = Pair::new(PeakEwma::default());
        pair.call(0, 0, 30, Outcome::Success);
        pair.call(1, 0, 10, Outcome::Success);
        assert_eq!(pair.picks(40), [0, 100]);
        let b = pair.candidates.all()[1].clone();
        let mut claims: Vec<_> = (0..2).map(|_| b.claim(false)).collect();
        assert_eq!(
            pair.picks(40),
            [0, 100],
            "30 ms against 3 calls of 10, a little decayed"
        );
        claims.push(b.claim(false));
        assert_eq!(pair.picks(40), [100, 0], "4 calls of 10 ms are more");
    }

    #[test]
    fn one_that_fails_fast_looks_slow() {
        for outcome in [
            Outcome::Failure,
            Outcome::ConnectionLost,
            Outcome::Overload { retry_after: None },
        ] {
            let mut pair = Pair::new(PeakEwma::default());
            pair.call(0, 0, 1, outcome);
            pair.call(1, 0, 900, Outcome::Success);
            assert_eq!(pair.picks(1_000), [0, 100], "{outcome:?}");
        }
    }

    #[test]
    fn a_pause_that_the_server_asks_for_counts_if_it_is_longer() {
        let mut pair = Pair::new(PeakEwma::default().with_error_penalty(Duration::from_millis(10)));
        let retry_after = Some(Duration::from_secs(2));
        pair.call(0, 0, 1, Outcome::Overload { retry_after });
        pair.call(1, 0, 1_000, Outcome::Success);
        assert_eq!(pair.picks(1_000), [0, 100]);
    }

    #[test]
    fn a_failure_after_the_first_data_counts_as_slow_too() {
        let mut pair = Pair::new(PeakEwma::default());
        let mut claim = pair.candidates.all()[0].claim(false).unwrap();
        claim.begun(ms(0));
        claim.sent();
        claim.responded(ms(1));
        claim.finish_at(Outcome::Failure, ms(2));
        pair.call(1, 0, 100, Outcome::Success);
        assert_eq!(pair.picks(100), [0, 100]);
    }

    #[test]
    fn the_first_data_ends_the_latency_unless_the_whole_call_is_asked_for() {
        for (until, better) in [(Until::FirstData, 0), (Until::End, 1)] {
            let mut pair = Pair::new(PeakEwma::default().with_latency_until(until));
            let mut stream = pair.candidates.all()[0].claim(false).unwrap();
            stream.begun(ms(0));
            stream.sent();
            stream.responded(ms(5));
            stream.responded(ms(300));
            stream.finish_at(Outcome::Success, ms(500));
            pair.call(1, 450, 50, Outcome::Success);
            assert_eq!(pair.picks(500)[better], 100, "{until:?}");
        }
    }

    #[test]
    fn a_caller_that_gives_up_says_nothing_of_the_latency() {
        let pair = Pair::new(PeakEwma::default());
        pair.call(0, 0, 1, Outcome::Ignored);
        let latency = pair.candidates.all()[0].subchannel().latency();
        assert_eq!(latency.seconds(ms(1), Duration::from_secs(10).into()), None);
    }

    #[test]
    fn a_new_endpoint_gets_one_call_and_waits_for_its_answer() {
        let mut pair = Pair::new(PeakEwma::default());
        pair.call(1, 0, 10, Outcome::Success);
        assert_eq!(pair.picks(10), [100, 0], "it is tried");
        let claim = pair.candidates.all()[0].claim(false);
        assert_eq!(pair.picks(10), [0, 100], "once");
        drop(claim);
    }

    #[test]
    fn a_fast_endpoint_gets_twice_its_part_by_weight_and_no_more() {
        let policy = PeakEwma::default();
        let endpoints = [
            Endpoint::new("canary"),
            Endpoint::new("stable").with_weight(99),
        ];
        let mut pair = Pair::of(policy, endpoints);
        let mut share = |canary, stable| {
            pair.call(0, 0, canary, Outcome::Success);
            pair.call(1, 0, stable, Outcome::Success);
            let picks = (0..50_000).filter(|_| pair.pick(1_000) == 0);
            picks.count()
        };
        // 1 - 0.99^2 = 1.99 % of 50,000: standard deviation 31; six of them.
        assert!(share(1, 900).abs_diff(995) < 187, "it is the faster one");
        // 0.01^2 of 50,000.
        assert!(share(2_000, 1) < 25, "it is the slower one");
    }

    #[test]
    fn calls_under_way_count_by_weight() {
        let endpoints = [Endpoint::new("a"), Endpoint::new("b").with_weight(3)];
        let mut pair = Pair::of(PeakEwma::default(), endpoints);
        pair.call(0, 0, 10, Outcome::Success);
        pair.call(1, 0, 10, Outcome::Success);
        let mut claims = Vec::new();
        for _ in 0..400 {
            let slot = pair.pick(10);
            claims.push(pair.candidates.all()[slot].claim(false));
        }
        let held = pair.candidates.all()[0].in_flight();
        assert!((95..=105).contains(&held), "a quarter of 400: {held}");
    }

    #[test]
    fn weights_are_looked_at_by_their_ratio_alone() {
        let picks = |unit| {
            let endpoints = [("a", 1), ("b", 3_u32)].map(|(id, weight)| {
                let endpoint = Endpoint::new(id);
                endpoint.with_weight(weight * unit)
            });
            let mut pair = Pair::of(PeakEwma::default(), endpoints);
            pair.call(0, 0, 10, Outcome::Success);
            pair.call(1, 0, 11, Outcome::Success);
            let mut claims = Vec::new();
            let mut take = |_| {
                let slot = pair.pick(20);
                claims.push(pair.candidates.all()[slot].claim(false));
                slot
            };
            (0..100).map(&mut take).collect::<Vec<_>>()
        };
        assert_eq!(picks(1), picks(1_000), "1 : 3 and 1,000 : 3,000");
    }

    #[test]
    fn no_decay_at_all_is_refused() {
        let error = PeakEwma::default().with_decay(Duration::ZERO).unwrap_err();
        assert_eq!(error.field(), Some("decay"), "{error}");
    }

    #[test]
    fn a_server_that_comes_back_is_as_good_as_new() {
        let policy = PeakEwma::default();
        let candidates = Candidates::connected_for(["a", "b"], policy.measures());
        let candidate = &candidates.all()[0];
        let subchannel = candidate.subchannel();
        let decay = Duration::from_secs(10).into();
        let latency = |now| subchannel.latency().seconds(now, decay);
        let call = |outcome, end| {
            let mut claim = candidate.claim(true).expect("ejections are ignored");
            claim.begun(ms(0));
            claim.sent();
            claim.finish_at(outcome, end);
        };
        call(Outcome::Failure, ms(1));
        assert_eq!(latency(ms(1)), Some(5.0), "a failure counts as slow");
        subchannel.disconnected(candidate.connection());
        subchannel.connected(candidate.connection());
        assert_eq!(latency(ms(2)), None, "nothing is known of a new connection");

        subchannel.disconnected(candidate.connection());
        call(Outcome::ConnectionLost, ms(3));
        assert_eq!(
            latency(ms(3)),
            None,
            "the connection's fault, and it is gone"
        );
        subchannel.connected(candidate.connection());

        for _ in 0..5 {
            call(Outcome::Failure, ms(4));
        }
        let gate = subchannel.health().gate();
        assert!(!gate.admits(), "it is ejected");
        gate.offer_probe();
        call(Outcome::Success, ms(40_000));
        assert!(gate.is_open(), "its probing call went well");
        assert_eq!(latency(ms(40_000)), None, "it begins anew");
    }
}
