use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::policy::connects::{ATTEMPT_DELAY, ATTEMPT_DELAYS};
use crate::policy::{Candidate, Candidates, Connects, Pick, PickContext, Picker, Policy};

/// All calls to one endpoint: the first of the list that can be reached (gRPC's `pick_first`; gRFC A62,
/// A61).
///
/// Only as many connections are made [as needed](Connects::InOrder): in the order of the list, the next
/// one when the one before failed or has not answered for 250 ms; the first that is READY gets all calls,
/// and the others get no connection. It keeps them while it can be used: one that comes earlier in the
/// list and is back does not take over. When it is lost, ejected, or leaves the list, the next one is
/// looked for from the front of the list. Once all have failed, calls fail at once with UNAVAILABLE until
/// one is READY.
///
/// | | |
/// |---|---|
/// | pick | O(1); O(n) for a call that may not go to the chosen one |
/// | build | O(n): the chosen one is looked for |
/// | memory | none |
///
/// **Wins** where the list is one of preference: a primary and its stand-ins, a server nearby and others
/// far away. Where each connection costs a server dearly and one is enough. And where one endpoint is a
/// load balancer itself.
/// **Loses** wherever load is to be spread: of all clients that are given one list, each goes to the same
/// endpoint. [`with_shuffle`](Self::with_shuffle) spreads the clients, and not the calls of one.
///
/// The order is that of the source: of a fixed list as it was given, of a
/// [`Handle`](crate::discovery::Handle) or a `Discover` that of the ids. [Weights](crate::Endpoint::weight) are not
/// looked at.
///
/// gRPC waits for a call before it connects again after a connection is lost; this does so at once, as the
/// balancer does with every policy. gRPC's pick first takes no note of ejections; this goes on to the next
/// endpoint.
///
/// ```
/// use evenkeel::math::Rng;
/// use evenkeel::policy::{Candidates, Pick, PickContext, PickFirst, Policy};
///
/// let candidates = Candidates::connected(["a:1", "b:1"]);
/// let picker = PickFirst::default().build(&candidates, None);
/// let mut rng = Rng::new(7);
/// assert_eq!(picker.pick(&mut PickContext::new(&mut rng)), Pick::Endpoint(0));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PickFirst {
    shuffle: bool,
    attempt_delay: Duration,
}

impl Default for PickFirst {
    fn default() -> Self {
        Self {
            shuffle: false,
            attempt_delay: ATTEMPT_DELAY,
        }
    }
}

impl PickFirst {
    /// Whether to put the list into random order, anew for each update, so that the clients of one list
    /// do not all go to the same endpoint; default `false` (gRFC A62 `shuffleAddressList`).
    #[must_use]
    pub fn with_shuffle(mut self, shuffle: bool) -> Self {
        self.shuffle = shuffle;
        self
    }

    /// How long a dial may go without an answer before that of the next endpoint begins beside it;
    /// default 250 ms (gRFC A61).
    ///
    /// # Errors
    ///
    /// A configuration error of the field `connection_attempt_delay` for less than 100 ms or more than
    /// 2 s (gRFC A61).
    pub fn with_connection_attempt_delay(mut self, delay: Duration) -> Result<Self, Error> {
        if !ATTEMPT_DELAYS.contains(&delay) {
            let mistake = format!("{delay:?} is not within {ATTEMPT_DELAYS:?}");
            return Err(Error::config("connection_attempt_delay", mistake));
        }
        self.attempt_delay = delay;
        Ok(self)
    }
}

impl Policy for PickFirst {
    fn name(&self) -> &'static str {
        "pick_first"
    }

    fn build(&self, candidates: &Candidates, previous: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let usable = candidates.usable();
        let before = previous
            .and_then(|picker| picker.downcast_ref::<PickFirstPicker>())
            .and_then(|picker| picker.chosen.as_ref());
        let same =
            |c: &&Candidate| before.is_some_and(|b| Arc::ptr_eq(b.subchannel(), c.subchannel()));
        let chosen = usable.iter().find(same).or_else(|| usable.first());
        Arc::new(PickFirstPicker {
            chosen: chosen.cloned(),
            candidates: candidates.clone(),
        })
    }

    fn connects(&self) -> Connects {
        Connects::InOrder {
            attempt_delay: self.attempt_delay,
            shuffle: self.shuffle,
        }
    }
}

#[derive(Debug)]
struct PickFirstPicker {
    chosen: Option<Candidate>,
    candidates: Candidates,
}

impl Picker for PickFirstPicker {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        match &self.chosen {
            Some(chosen) if context.is_usable(chosen) => Pick::Endpoint(chosen.slot()),
            _ => self.next(context),
        }
    }
}

impl PickFirstPicker {
    #[cold]
    fn next(&self, context: &PickContext<'_>) -> Pick {
        let usable = self.candidates.usable().iter();
        let first = usable.clone().find(|c| context.is_usable(c));
        first.map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::PreviousEndpoints;
    use crate::math::Rng;
    use crate::policy::Tried;
    use crate::policy::testing::{pick, picked};

    #[test]
    fn an_earlier_one_that_comes_back_does_not_take_over() {
        let mut rng = Rng::new(1);
        let policy = PickFirst::default();
        let candidates = Candidates::connected(["a", "b", "c"]);
        let picker = policy.build(&candidates, None);
        assert_eq!(pick(&*picker, &mut rng), 0, "the first of the list");

        let a = candidates.all()[0].subchannel();
        a.disconnected(1);
        assert_eq!(pick(&*picker, &mut rng), 1, "it is lost: the next one");
        let without = Candidates::new(candidates.all().clone(), false);
        let picker = policy.build(&without, Some(&*picker));
        assert_eq!(pick(&*picker, &mut rng), 1);

        a.connected(1);
        let picker = policy.build(&candidates, Some(&*picker));
        for _ in 0..10 {
            assert_eq!(pick(&*picker, &mut rng), 1, "what was chosen stays chosen");
        }
        let picker = policy.build(
            &candidates,
            Some(&*policy.build(&candidates, Some(&*picker))),
        );
        assert_eq!(pick(&*picker, &mut rng), 1, "through any number of sets");

        candidates.all()[1].subchannel().health().gate().eject();
        let without = Candidates::new(candidates.all().clone(), false);
        let picker = policy.build(&without, Some(&*picker));
        assert_eq!(pick(&*picker, &mut rng), 0, "from the front of the list");
    }

    #[test]
    fn a_chosen_one_in_another_slot_is_still_the_chosen_one() {
        let mut rng = Rng::new(1);
        let policy = PickFirst::default();
        let candidates = Candidates::connected(["a", "b"]);
        let picker = policy.build(&candidates, None);
        let moved: Vec<Candidate> = candidates.all().iter().rev().cloned().collect();
        let moved: Vec<Candidate> = moved
            .into_iter()
            .enumerate()
            .map(|(slot, mut candidate)| {
                candidate.set_slot(slot);
                candidate
            })
            .collect();
        let picker = policy.build(&Candidates::new(moved, false), Some(&*picker));
        assert_eq!(pick(&*picker, &mut rng), 1, "a, which is the second now");
    }

    #[test]
    fn a_call_that_has_tried_it_goes_on_and_the_others_do_not() {
        let mut rng = Rng::new(1);
        let candidates = Candidates::connected(["a", "b", "c"]);
        let picker = PickFirst::default().build(&candidates, None);
        let mut tried = Tried::new();
        for (slot, candidate) in candidates.all().iter().enumerate() {
            let context = PickContext::new(&mut rng).with_tried(&tried);
            assert_eq!(picked(&*picker, context), slot, "the next of the list");
            tried.insert(candidate.connection());
        }
        let mut context = PickContext::new(&mut rng).with_tried(&tried);
        assert_eq!(picker.pick(&mut context), Pick::Nothing, "all are tried");
        let previous = PreviousEndpoints::new();
        previous.insert("a".into());
        let context = PickContext::new(&mut rng).with_previous(&previous);
        assert_eq!(picked(&*picker, context), 1, "an attempt before went to a");
        assert_eq!(pick(&*picker, &mut rng), 0, "that was of one call only");
    }

    #[test]
    fn delays_are_those_of_a61() {
        let set =
            |ms| PickFirst::default().with_connection_attempt_delay(Duration::from_millis(ms));
        for ms in [0, 99, 2_001] {
            let error = set(ms).expect_err("out of bounds");
            assert_eq!(error.field(), Some("connection_attempt_delay"), "{error}");
        }
        for ms in [100, 250, 2_000] {
            let policy = set(ms).expect("within bounds").with_shuffle(true);
            let attempt_delay = Duration::from_millis(ms);
            let wanted = Connects::InOrder {
                attempt_delay,
                shuffle: true,
            };
            assert_eq!(policy.connects(), wanted);
            assert_eq!(Arc::new(policy).connects(), wanted, "an Arc passes it on");
        }
    }
}
