use std::sync::Arc;

use crate::error::Error;
use crate::policy::draw::{Drawn, MOST_DRAWN, better_of, better_of_two, draw};
use crate::policy::weighted::Weighted;
use crate::policy::{Candidate, Candidates, Pick, PickContext, Picker, Policy};

/// The largest number of samples, as in gRFC A48.
const MAX_CHOICES: usize = MOST_DRAWN;

/// Of two endpoints drawn at random, the one with fewer calls under way.
///
/// A stream counts until it ends. Endpoints with equal counts are equally likely, so that an idle
/// client does not favour the first ones. The two are always different endpoints; gRPC may draw the
/// same one twice and then compares nothing (see [`with_replacement`](Self::with_replacement)).
///
/// # Weights
///
/// Where [weights](crate::Endpoint::weight) differ, endpoints are drawn in proportion to them and calls
/// under way are compared per unit of weight; of equals, the first one drawn is taken. So an idle
/// client's calls fall on the endpoints by their weights, and under load each has calls under way by
/// its weight. (Counting the call that is being placed, as `(calls + 1) / weight`, would leave a light
/// endpoint of an idle client without any call.)
///
/// A weight that is missing (0, which builders refuse) counts as the mean of the others.
///
/// | | two choices | [`full_scan`](Self::full_scan) |
/// |---|---|---|
/// | pick | O(1): two random numbers, two endpoints read | O(n): all endpoints read |
/// | build | O(n): a look at the weights | O(n) |
/// | memory | none; 12 bytes per endpoint where weights differ | the same |
///
/// **Wins** where calls differ in cost, servers in speed, or calls live long: a slow server fills up
/// and is then passed over, with nothing measured and nothing to tune. Two choices are enough:
/// with one, the fullest of `n` servers is `log n` above the mean; with two, `log log n`
/// (Mitzenmacher, *The Power of Two Choices in Randomized Load Balancing*, 2001).
/// **Loses** where a client has few calls under way, since zero against zero tells nothing (it is then
/// as good as [`Random`](crate::policy::Random)); where exact shares matter; and where a server fails
/// fast and so looks idle: ejection, on by default, takes that one out.
///
/// gRFC A48 and Envoy's `LEAST_REQUEST`, both with 2 choices by default; weights as in
/// Finagle's `WeightedP2CPick`.
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
///
/// An endpoint of weight 3 takes three times the calls of one of weight 1 before it is as full:
///
/// ```
/// use evenkeel::Endpoint;
/// use evenkeel::math::Rng;
/// use evenkeel::policy::{Candidates, LeastRequest, Pick, PickContext, Policy};
///
/// let endpoints = [Endpoint::new("a:1"), Endpoint::new("b:1").with_weight(3)];
/// let candidates = Candidates::connected(endpoints);
/// let picker = LeastRequest::default().build(&candidates, None);
/// let mut rng = Rng::new(7);
/// let mut under_way = Vec::new();
/// for _ in 0..40 {
///     if let Pick::Endpoint(slot) = picker.pick(&mut PickContext::new(&mut rng)) {
///         under_way.push(candidates.all()[slot].claim(false));
///     }
/// }
/// assert!((29..=31).contains(&candidates.all()[1].in_flight()));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastRequest {
    choices: Choices,
    replacement: bool,
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
            replacement: false,
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
            ..Self::default()
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

    /// Draws each endpoint from all of them, those drawn before included, as gRPC and Envoy do; of
    /// equals the first one drawn is taken. For who wants their very behaviour: of 3 endpoints and two
    /// choices, a third of the picks compare an endpoint with itself. Without effect on
    /// [`full_scan`](Self::full_scan).
    #[must_use]
    pub fn with_replacement(mut self) -> Self {
        self.replacement = true;
        self
    }
}

impl Policy for LeastRequest {
    fn name(&self) -> &'static str {
        "least_request_experimental"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let candidates = candidates.clone();
        let settings = *self;
        match Weighted::new(candidates.usable()) {
            None => Arc::new(LeastRequestPicker {
                candidates,
                settings,
            }),
            Some(weighted) => Arc::new(WeightedPicker {
                candidates,
                settings,
                weighted,
            }),
        }
    }
}

/// Of endpoints with equal weights.
#[derive(Debug)]
struct LeastRequestPicker {
    candidates: Candidates,
    settings: LeastRequest,
}

impl Picker for LeastRequestPicker {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = &**self.candidates.usable();
        let n = usable.len();
        let any = |context: &mut PickContext<'_>| context.rng().below(n);
        let best = match (self.settings.choices, self.settings.replacement) {
            (Choices::Two, false) => {
                better_of_two(usable, context, |a, b| a.in_flight() < b.in_flight())
            }
            (Choices::Two, true) => best_of(2, usable, context, |_| 1, any),
            (Choices::Some(count), true) => best_of(count, usable, context, |_| 1, any),
            (Choices::Some(count), false) if count < n => {
                let mut drawn = Drawn::default();
                best_of(
                    count,
                    usable,
                    context,
                    |_| 1,
                    |context| drawn.other(n, context.rng()),
                )
            }
            (Choices::Some(_), false) | (Choices::All, _) => best_of_all(usable, context),
        };
        // None of the sampled ones could be used, which does not yet mean that none can.
        best.or_else(|| draw(usable, context))
            .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

/// Of endpoints with weights that differ.
#[derive(Debug)]
struct WeightedPicker {
    candidates: Candidates,
    settings: LeastRequest,
    weighted: Weighted,
}

impl Picker for WeightedPicker {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = &**self.candidates.usable();
        let weighted = &self.weighted;
        let weight = |index| weighted.weight(index);
        let any = |context: &mut PickContext<'_>| weighted.index(context.rng());
        let n = usable.len();
        let best = match (self.settings.choices, self.settings.replacement) {
            (Choices::Two, false) => best_of_two_weighted(usable, weighted, context),
            (Choices::Two, true) => best_of(2, usable, context, weight, any),
            (Choices::Some(count), true) => best_of(count, usable, context, weight, any),
            (Choices::Some(count), false) if count < n => {
                let mut drawn = Drawn::default();
                best_of(count, usable, context, weight, |context| {
                    let index = any(context);
                    // One that takes most of all weight would be drawn again and again.
                    if drawn.insert(index) {
                        index
                    } else {
                        drawn.other(n, context.rng())
                    }
                })
            }
            (Choices::Some(_), false) | (Choices::All, _) => {
                best_of_all_weighted(usable, weighted, context)
            }
        };
        best.or_else(|| weighted.draw(usable, context))
            .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}

/// Calls under way on an endpoint, and its weight.
type Scale = (u32, u64);

/// Whether an endpoint has fewer calls under way than another, per unit of weight.
#[inline]
fn is_idler((load, weight): Scale, (other, of): Scale) -> bool {
    u64::from(load) * of < u64::from(other) * weight
}

#[inline]
fn best_of_two_weighted<'c>(
    candidates: &'c [Candidate],
    weighted: &Weighted,
    context: &mut PickContext<'_>,
) -> Option<&'c Candidate> {
    let a = weighted.index(context.rng());
    let mut b = weighted.index(context.rng());
    if a == b {
        // Any other: to draw until one comes could take long beside a very heavy one.
        b = context.rng().below(candidates.len() - 1);
        b += usize::from(b >= a);
    }
    let scale = |index: usize| (candidates[index].in_flight(), weighted.weight(index));
    better_of(&candidates[a], &candidates[b], context, || {
        is_idler(scale(b), scale(a))
    })
}

/// The best of `count` draws.
#[inline]
fn best_of<'c>(
    count: usize,
    candidates: &'c [Candidate],
    context: &mut PickContext<'_>,
    weight: impl Fn(usize) -> u64,
    mut draw: impl FnMut(&mut PickContext<'_>) -> usize,
) -> Option<&'c Candidate> {
    if candidates.is_empty() {
        return None;
    }
    let mut best: Option<(&Candidate, Scale)> = None;
    for _ in 0..count {
        let index = draw(context);
        let candidate = &candidates[index];
        if !context.is_usable(candidate) {
            continue;
        }
        let scale = (candidate.in_flight(), weight(index));
        // The first one is drawn by weight, so a tie that goes to it falls by weight too.
        if best.is_none_or(|(_, held)| is_idler(scale, held)) {
            best = Some((candidate, scale));
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

fn best_of_all_weighted<'c>(
    candidates: &'c [Candidate],
    weighted: &Weighted,
    context: &mut PickContext<'_>,
) -> Option<&'c Candidate> {
    let mut best: Option<(&Candidate, Scale)> = None;
    let mut total = 0;
    for (index, candidate) in candidates.iter().enumerate() {
        let weight = weighted.weight(index);
        let scale = (candidate.in_flight(), weight);
        if best.is_some_and(|(_, held)| is_idler(held, scale)) || !context.is_usable(candidate) {
            continue;
        }
        if best.is_none_or(|(_, held)| is_idler(scale, held)) {
            total = weight;
            best = Some((candidate, scale));
            continue;
        }
        // Each of the equals replaces the one held with the probability of its weight over all so far.
        total += weight;
        if context.rng().unit() * (total as f64) < weight as f64 {
            best = Some((candidate, scale));
        }
    }
    best.map(|(candidate, _)| candidate)
}

#[cfg(test)]
mod tests;
