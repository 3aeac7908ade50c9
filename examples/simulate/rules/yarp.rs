//! Two choices by what the servers said when they were last asked: `PowerOfTwoChoices` of Microsoft's YARP
//! as Prequal's authors ran it, with each server's calls in flight polled by each client.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use evenkeel::policy::{Candidate, Candidates, Pick, PickContext, Picker, Policy};

use crate::engine::gauge::Gauge;
use crate::rules::{Contestant, Poll};

/// Prequal, section 5.2: "every 500 ms".
const POLL_EVERY: Duration = Duration::from_millis(500);

/// One for a client.
pub(super) fn contestant() -> Contestant {
    let board = Board::default();
    let policy = Yarp {
        board: board.clone(),
    };
    Contestant {
        policy: Arc::new(policy),
        poll: Some(Poll {
            every: POLL_EVERY,
            ask: Box::new(move |candidates| board.read(candidates)),
        }),
    }
}

/// What each server said last, by slot. Grows with the set.
#[derive(Debug, Clone, Default)]
struct Board(Arc<std::sync::Mutex<Arc<[AtomicU32]>>>);

impl Board {
    fn slots(&self, count: usize) -> Arc<[AtomicU32]> {
        let mut slots = self.0.lock().expect("nobody panics with it");
        if slots.len() < count {
            let old = slots.iter().map(|slot| slot.load(Ordering::Relaxed));
            let all = old.chain(std::iter::repeat(0)).take(count);
            *slots = all.map(AtomicU32::new).collect();
        }
        slots.clone()
    }

    fn read(&self, candidates: &Candidates) {
        let slots = self.slots(candidates.all().len());
        for candidate in candidates.all().iter() {
            if let Some(gauge) = candidate.endpoint().get::<Gauge>() {
                slots[candidate.slot()].store(gauge.in_flight(), Ordering::Relaxed);
            }
        }
    }
}

#[derive(Debug)]
struct Yarp {
    board: Board,
}

impl Policy for Yarp {
    fn name(&self) -> &'static str {
        "yarp"
    }

    fn build(&self, candidates: &Candidates, _: Option<&dyn Picker>) -> Arc<dyn Picker> {
        Arc::new(YarpPicker {
            candidates: candidates.clone(),
            said: self.board.slots(candidates.all().len()),
        })
    }
}

#[derive(Debug)]
struct YarpPicker {
    candidates: Candidates,
    said: Arc<[AtomicU32]>,
}

impl YarpPicker {
    fn said(&self, candidate: &Candidate) -> u32 {
        self.said[candidate.slot()].load(Ordering::Relaxed)
    }
}

impl Picker for YarpPicker {
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let usable = self.candidates.usable();
        let chosen = context.rng().two_below(usable.len()).and_then(|(a, b)| {
            let two = [&usable[a], &usable[b]];
            let usable = two.into_iter().filter(|c| context.is_usable(c));
            // Of equals the first, and the order of the two is random.
            usable.min_by_key(|c| self.said(c))
        });
        // Both cannot be used: any other.
        let any = || usable.iter().find(|c| context.is_usable(c));
        chosen
            .or_else(any)
            .map_or(Pick::Nothing, |c| Pick::Endpoint(c.slot()))
    }
}
