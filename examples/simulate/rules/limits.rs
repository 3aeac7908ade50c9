//! What could be reached by whoever knows everything at once: no policies, but marks to measure them by.

use std::sync::Arc;

use evenkeel::policy::{Candidates, Pick, PickContext, Picker, Policy};

use crate::engine::gauge::Gauge;

pub(super) const SHORTEST_QUEUE: &str = "shortest_queue";
pub(super) const OMNISCIENT: &str = "omniscient";

/// Joins the shortest queue: the server with the fewest calls of all clients, those under way to it
/// included.
#[derive(Debug)]
pub(super) struct ShortestQueue;

/// Knows the cores, the speed and the faults of each server too: the one where one more call costs all
/// calls the least. No bound that can be proved, since it knows neither what is to come nor how much work
/// is left, but nothing that runs on clients will know more.
#[derive(Debug)]
pub(super) struct Omniscient;

impl Policy for ShortestQueue {
    fn name(&self) -> &'static str {
        SHORTEST_QUEUE
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        Arc::new(Best::new(candidates, |gauge| f64::from(gauge.bound())))
    }
}

impl Policy for Omniscient {
    fn name(&self) -> &'static str {
        OMNISCIENT
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        Arc::new(Best::new(candidates, Gauge::marginal_cost))
    }
}

/// Takes the server of least cost; of equals, each is equally likely.
#[derive(Debug)]
struct Best {
    candidates: Candidates,
    /// Of the usable ones, in their order.
    gauges: Vec<Gauge>,
    cost: fn(&Gauge) -> f64,
}

impl Best {
    fn new(candidates: &Candidates, cost: fn(&Gauge) -> f64) -> Self {
        Self {
            candidates: candidates.clone(),
            gauges: super::gauges(candidates.usable()),
            cost,
        }
    }
}

impl Picker for Best {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let mut best = Pick::Nothing;
        let mut least = f64::INFINITY;
        let mut ties = 0;
        for (candidate, gauge) in self.candidates.usable().iter().zip(&self.gauges) {
            let cost = (self.cost)(gauge);
            if cost > least || !context.is_usable(candidate) {
                continue;
            }
            ties = if cost < least { 1 } else { ties + 1 };
            least = cost;
            if ties == 1 || context.rng().below(ties) == 0 {
                best = Pick::Endpoint(candidate.slot());
            }
        }
        best
    }
}
