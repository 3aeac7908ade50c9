use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::load::{Decay, LatencyRules, Measures, Until};
use crate::math::Moment;
use crate::policy::draw::{better_of_two, draw};
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
/// an ejection: a penalty would keep calls from it for minutes. Weights are not looked at: a faster server shows
/// by itself.
///
/// | | |
/// |---|---|
/// | pick | O(1): two random numbers, two endpoints' records read |
/// | call | two looks at the clock, one compare-exchange |
/// | build | O(1) |
/// | memory | 8 bytes an endpoint |
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
        Arc::new(PeakEwmaPicker {
            candidates: candidates.clone(),
            decay: self.rules.decay.into(),
        })
    }

    fn measures(&self) -> Measures {
        Measures::NOTHING.with_latency(self.rules)
    }
}

#[derive(Debug)]
struct PeakEwmaPicker {
    candidates: Candidates,
    decay: Decay,
}

impl Picker for PeakEwmaPicker {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        cheaper_of_two(self.candidates.usable(), context, self.decay)
            .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

/// Of two at random, the one where a call costs less; any, if neither can be used.
#[inline]
pub(super) fn cheaper_of_two<'c>(
    usable: &'c [Candidate],
    context: &mut PickContext<'_>,
    decay: Decay,
) -> Option<&'c Candidate> {
    let now = context.now();
    better_of_two(usable, context, |a, b| {
        cost(a, now, decay) < cost(b, now, decay)
    })
    .or_else(|| draw(usable, context))
}

/// What one more call would cost there.
#[inline]
fn cost(candidate: &Candidate, now: Moment, decay: Decay) -> f32 {
    let in_flight = candidate.in_flight() as f32;
    match candidate.subchannel().latency().seconds(now, decay) {
        Some(latency) => latency * (in_flight + 1.0),
        None => UNKNOWN * in_flight,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rng;
    use crate::outcome::Outcome;
    use crate::policy::testing::picked;

    fn ms(ms: u64) -> Moment {
        Moment::from_origin(Duration::from_millis(ms))
    }

    struct Pair {
        candidates: Candidates,
        picker: Arc<dyn Picker>,
        rng: Rng,
    }

    impl Pair {
        fn new(policy: PeakEwma) -> Self {
            let candidates = Candidates::connected_for(["a", "b"], policy.measures());
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

        fn picks(&mut self, at: u64) -> [usize; 2] {
            let mut picks = [0; 2];
            for _ in 0..100 {
                let context = PickContext::new(&mut self.rng).with_now(ms(at));
                picks[picked(&*self.picker, context)] += 1;
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
