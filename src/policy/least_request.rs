use std::sync::Arc;

use crate::error::Error;
use crate::policy::draw::draw;
use crate::policy::{Candidate, Candidates, Pick, PickContext, Picker, Policy};

/// The largest number of samples, as in gRFC A48.
const MAX_CHOICES: usize = 10;

/// Of two endpoints drawn at random, the one with fewer calls under way. The default policy.
///
/// A stream counts until it ends. Endpoints with equal counts are equally likely, so that an idle
/// client does not favour the first ones. The two are always different endpoints; gRPC may draw the
/// same one twice and then compares nothing. Weights are not looked at.
///
/// | | two choices | [`full_scan`](Self::full_scan) |
/// |---|---|---|
/// | pick | O(1): two random numbers, two cache lines read | O(n): all cache lines read |
/// | build | O(1) | O(1) |
/// | memory | none | none |
///
/// **Wins** where calls differ in cost, servers in speed, or calls live long: a slow server fills up
/// and is then passed over, with nothing measured and nothing to tune. Two choices are enough:
/// with one, the fullest of `n` servers is `log n` above the mean; with two, `log log n`
/// (Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing*, 2001).
/// **Loses** where a client has few calls under way, since zero against zero tells nothing (it is then
/// as good as [`Random`](crate::policy::Random)); where exact shares matter; and where a server fails
/// fast and so looks idle: ejection, on by default, takes that one out.
///
/// gRFC A48 and Envoy's `LEAST_REQUEST`, both with 2 choices by default.
///
/// ```
/// use evenkeel::math::Rng;
/// use evenkeel::policy::{Candidates, LeastRequest, Pick, PickContext, Policy};
///
/// let candidates = Candidates::connected(["a:1", "b:1"]);
/// let picker = LeastRequest::default().build(&candidates, None);
/// let busy = candidates.all()[0].claim(false);
/// let mut rng = Rng::new(7);
/// assert_eq!(picker.pick(&mut PickContext::new(&mut rng)), Pick::Endpoint(1));
/// # drop(busy);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastRequest {
    choices: Choices,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choices {
    Two,
    /// 3 to [`MAX_CHOICES`].
    Some(usize),
    All,
}

impl Default for LeastRequest {
    fn default() -> Self {
        Self {
            choices: Choices::Two,
        }
    }
}

impl LeastRequest {
    /// Looks at every endpoint instead of two. Worth its O(n) with a few endpoints and long calls,
    /// where each single call weighs. With many clients it is the worse choice: all of them run to
    /// the same idle endpoint.
    pub fn full_scan() -> Self {
        Self {
            choices: Choices::All,
        }
    }

    /// Draws `choices` different endpoints instead of 2, which is the default of gRFC A48. With as many
    /// as there are endpoints, every one is looked at.
    ///
    /// # Errors
    ///
    /// Fewer than 2 or more than 10, the bounds of gRFC A48 (which lowers what is over 10 to 10).
    pub fn with_choices(mut self, choices: u32) -> Result<Self, Error> {
        self.choices = match usize::try_from(choices) {
            Ok(2) => Choices::Two,
            Ok(count @ 3..=MAX_CHOICES) => Choices::Some(count),
            _ => {
                return Err(Error::config(
                    "choices",
                    format!("{choices} is not between 2 and {MAX_CHOICES}"),
                ));
            }
        };
        Ok(self)
    }
}

impl Policy for LeastRequest {
    fn name(&self) -> &'static str {
        "least_request_experimental"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        Arc::new(LeastRequestPicker {
            candidates: candidates.clone(),
            choices: self.choices,
        })
    }
}

#[derive(Debug)]
struct LeastRequestPicker {
    candidates: Candidates,
    choices: Choices,
}

impl Picker for LeastRequestPicker {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = &**self.candidates.usable();
        let best = match self.choices {
            Choices::Two => best_of_two(usable, context),
            Choices::Some(count) if count < usable.len() => best_of(count, usable, context),
            Choices::Some(_) | Choices::All => best_of_all(usable, context),
        };
        // None of the sampled ones could be used, which does not yet mean that none can.
        best.or_else(|| draw(usable, context))
            .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

#[inline]
fn best_of_two<'c>(
    candidates: &'c [Candidate],
    context: &mut PickContext<'_>,
) -> Option<&'c Candidate> {
    let (a, b) = context.rng().two_below(candidates.len())?;
    let (a, b) = (&candidates[a], &candidates[b]);
    match (context.is_usable(a), context.is_usable(b)) {
        // (a, b) is as likely as (b, a), so a tie that goes to the first one is at random.
        (true, true) if b.in_flight() < a.in_flight() => Some(b),
        (true, _) => Some(a),
        (false, true) => Some(b),
        (false, false) => None,
    }
}

/// The best of `count` different ones; `count` is less than their number.
fn best_of<'c>(
    count: usize,
    candidates: &'c [Candidate],
    context: &mut PickContext<'_>,
) -> Option<&'c Candidate> {
    // The indices drawn so far, in ascending order.
    let mut drawn = [0; MAX_CHOICES];
    let mut best: Option<(&Candidate, u32)> = None;
    for done in 0..count {
        // The n-th of those not drawn yet.
        let mut index = context.rng().below(candidates.len() - done);
        let mut place = 0;
        while place < done && drawn[place] <= index {
            index += 1;
            place += 1;
        }
        drawn.copy_within(place..done, place + 1);
        drawn[place] = index;

        let candidate = &candidates[index];
        if !context.is_usable(candidate) {
            continue;
        }
        let load = candidate.in_flight();
        // Every order of drawing is equally likely, so a tie that goes to the first is at random.
        if best.is_none_or(|(_, least)| load < least) {
            best = Some((candidate, load));
        }
    }
    best.map(|(candidate, _)| candidate)
}

fn best_of_all<'c>(
    candidates: &'c [Candidate],
    context: &mut PickContext<'_>,
) -> Option<&'c Candidate> {
    let mut best = None;
    let mut least = u32::MAX;
    let mut ties = 0;
    for candidate in candidates {
        let load = candidate.in_flight();
        if load > least || !context.is_usable(candidate) {
            continue;
        }
        ties = if load < least { 1 } else { ties + 1 };
        least = load;
        // The k-th of the equals replaces the one held with probability 1/k: each ends up equally
        // likely, with no list of them kept.
        if ties == 1 || context.rng().below(ties) == 0 {
            best = Some(candidate);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::Rng;

    #[test]
    fn choices_outside_the_bounds_of_a48_are_refused() {
        for bad in [0, 1, 11, u32::MAX] {
            let error = LeastRequest::default().with_choices(bad).unwrap_err();
            assert_eq!(error.field(), Some("choices"), "{bad}: {error}");
        }
        for good in 2..=10 {
            assert!(LeastRequest::default().with_choices(good).is_ok(), "{good}");
        }
        assert_eq!(
            LeastRequest::default().with_choices(2).unwrap(),
            LeastRequest::default(),
            "2 is the default"
        );
    }

    #[test]
    fn k_samples_are_different_so_k_of_k_plus_1_miss_the_best_at_most_that_often() {
        let candidates = Candidates::connected((0..4).map(|i| format!("e{i}")));
        // Endpoint i has i calls under way.
        let mut claims = Vec::new();
        for (i, candidate) in candidates.all().iter().enumerate() {
            claims.extend((0..i).map(|_| candidate.claim(false).unwrap()));
        }
        let mut rng = Rng::new(11);
        let mut picks = [0_i32; 4];
        for _ in 0..4000 {
            let best = best_of(3, candidates.usable(), &mut PickContext::new(&mut rng));
            picks[best.unwrap().slot()] += 1;
        }
        // The idlest is among 3 different ones of 4 with 3/4; else the next one is, always.
        // Standard deviation sqrt(4000 * 3/4 * 1/4) = 27; five of them.
        assert!((picks[0] - 3000).abs() < 137, "{picks:?}");
        assert_eq!(picks[0] + picks[1], 4000, "3 of 4 hold one of the best two");
    }
}
