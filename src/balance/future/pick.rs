//! One look at the snapshot: the pick, the claim, and the endpoint's readiness.

use std::task::{Context, Poll};

use tower_service::Service;

use crate::balance::future::call::Call;
use crate::balance::future::nothing::{last_resort, may_help};
use crate::balance::future::waiting::{Held, Place};
use crate::balance::{Track, clock};
use crate::call::PreviousEndpoints;
use crate::cluster::Snapshot;
use crate::error::BoxError;
use crate::health::Limit;
use crate::health::limits::Limiter;
use crate::policy::{Candidate, Pick, PickContext, ProbeRequests};

/// How many picks may be lost to a race with an ejection or the end of a connection.
const MAX_RACES: usize = 8;

/// What one look at the snapshot gave.
pub(super) enum Choice<S, F> {
    /// A service took the request.
    Called(F),
    /// Not ready yet.
    Pending(Held<S>),
    /// Nothing to pick now; a later snapshot may help.
    Later,
    /// Nothing to pick, and no reason to wait.
    Never,
    /// What there is has no room.
    Full(Limit),
}

impl<S, Req, T> Call<S, Req, T>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    T: Track<Req, S>,
{
    /// Picks endpoints until one takes the request, one is not ready yet, or none is left. `alone`:
    /// no other endpoint is about to become ready for this call.
    #[inline]
    pub(super) fn pick(&mut self, alone: bool, cx: &mut Context<'_>) -> Choice<S, S::Future> {
        let snapshot = self.shared.load();
        let now = self.shared.timed().then(clock::now);
        let limiter = self.shared.limiter().map(|limiter| &**limiter);
        let limited = limiter.is_some();
        // To look for them costs each pick something, and limits on who waits fill no endpoint.
        let may_be_full = limiter.is_some_and(|l| l.in_flight_per_endpoint().is_some());
        let counted = limiter.is_some_and(Limiter::counts_calls);
        let mut races = 0;
        // Why the last race was lost, if that was for room.
        let mut full = None;
        let mut avoid_previous = true;
        loop {
            let request = self.request.as_ref().expect("polled after completion");
            let info = self.track.request(request);
            if self.previous.is_none() {
                self.previous = info.extension::<PreviousEndpoints>().cloned();
            }
            let previous = self.previous.as_ref();
            let previous = previous.filter(|previous| avoid_previous && !previous.is_empty());
            let tried = self.misses.as_ref().map(|misses| &misses.tried);
            let mut context = PickContext::new(&mut self.rng)
                .with_request(info)
                .with_ejections_ignored(snapshot.summary.ignores_ejections)
                .with_hash(self.hash);
            if let Some(tried) = tried {
                context = context.with_tried(tried);
            }
            if may_be_full {
                context = context.with_limits();
            }
            if let Some(previous) = previous {
                context = context.with_previous(previous);
            }
            if let Some(now) = now {
                context = context.with_now(now);
            }
            let mut probes = self.shared.prober().map(|_| ProbeRequests::new());
            if let Some(probes) = &mut probes {
                context = context.with_probes(probes);
            }
            let preferred = match self.previous {
                Some(ref previous) => preferred(previous, &snapshot, &context),
                None => None,
            };
            let pick = match preferred {
                Some(slot) => Pick::Endpoint(slot),
                None => snapshot.picker.pick(&mut context),
            };
            self.hash = context.hash();
            let ignore_ejections = context.ignores_ejections();
            if let Some(probes) = &probes {
                self.shared.ask(&snapshot, probes);
            }
            let (candidate, ignore_ejections) = match pick {
                Pick::Endpoint(slot) => (snapshot.candidates.all().get(slot), ignore_ejections),
                // One that failed this call before is better than none.
                Pick::Nothing if previous.is_some() && !self.wants_only_others() => {
                    avoid_previous = false;
                    continue;
                }
                Pick::Nothing => {
                    // Others that are full are no reason to call one that is out.
                    if let Some(limit) = self.met(&snapshot) {
                        return Choice::Full(limit);
                    }
                    let anyone = alone && self.shared.panic_enabled() && !self.wants_only_others();
                    let any = anyone.then(|| last_resort(&snapshot, tried, &info, &mut self.rng));
                    (any.flatten(), true)
                }
            };
            let Some(candidate) = candidate else {
                return self.unusable(&snapshot);
            };
            // The clone first: claiming writes, and what is read after that would wait for it.
            let service = snapshot.services.get(candidate.slot()).cloned().flatten();
            if counted {
                full = self.claim_within(candidate, ignore_ejections);
                // Another endpoint may have room; where that is the limit of all, none has.
                if let Some(limit @ Limit::InFlight(_)) = full {
                    return Choice::Full(limit);
                }
            } else {
                self.claim = candidate.claim(ignore_ejections);
            }
            let (Some(mut service), Some(claim)) = (service, &mut self.claim) else {
                self.claim = None;
                races += 1;
                if races > MAX_RACES {
                    // A picker that names endpoints which cannot be used would be asked for ever.
                    return self.lost(&snapshot, full);
                }
                continue;
            };
            if let Some(now) = now {
                claim.begun(now);
            }
            let ready = service.poll_ready(cx);
            if let Poll::Ready(Ok(())) = ready {
                return Choice::Called(self.dispatch(&mut service));
            }
            self.missed(candidate.connection());
            let claim = self.claim.take().expect("claimed above");
            match ready {
                Poll::Ready(Err(error)) => self.shared.not_ready(claim, error.into()),
                _ => {
                    let subchannel = candidate.subchannel();
                    let waits = limited && subchannel.wait();
                    if !limited || waits {
                        let place = waits.then(|| Place(subchannel.clone()));
                        return Choice::Pending(Held {
                            service,
                            claim,
                            _place: place,
                        });
                    }
                    // Too many wait for it; another one may have room. So many looks and no more: what was tried
                    // is remembered for no more connections.
                    self.misses.get_or_insert_default().crowded = true;
                    races += 1;
                    if races >= MAX_RACES {
                        return self.nothing(&snapshot);
                    }
                }
            }
        }
    }

    /// Claims `candidate` if that is within the limits. Returns the one that was met, if one was.
    #[cold]
    #[inline(never)]
    fn claim_within(&mut self, candidate: &Candidate, ignore_ejections: bool) -> Option<Limit> {
        match candidate.claim_within(ignore_ejections) {
            Ok(claim) => {
                self.claim = claim;
                None
            }
            Err(limit) => Some(limit),
        }
    }

    /// What to do when others were always quicker. `full`: to take the last place within this limit, and not to end
    /// what could be used.
    #[cold]
    fn lost(&self, snapshot: &Snapshot<S>, full: Option<Limit>) -> Choice<S, S::Future> {
        match full {
            Some(limit) => Choice::Full(limit),
            None => self.nothing(snapshot),
        }
    }

    /// What to do when this snapshot has no endpoint for the call.
    #[cold]
    fn nothing(&self, snapshot: &Snapshot<S>) -> Choice<S, S::Future> {
        match self.met(snapshot) {
            Some(limit) => Choice::Full(limit),
            None => self.unusable(snapshot),
        }
    }

    /// What to do when it has none, and not for a limit.
    #[cold]
    fn unusable(&self, snapshot: &Snapshot<S>) -> Choice<S, S::Future> {
        // The call has other attempts, and this one need not be.
        if self.wants_only_others() {
            return Choice::Never;
        }
        let request = self.request.as_ref().expect("polled after completion");
        if may_help(snapshot, &self.track.request(request)) {
            Choice::Later
        } else {
            Choice::Never
        }
    }

    /// The limit that keeps the call from an endpoint which could take it otherwise.
    #[cold]
    fn met(&self, snapshot: &Snapshot<S>) -> Option<Limit> {
        let limiter = self.shared.limiter()?;
        let panic = snapshot.summary.ignores_ejections;
        let request = self.request.as_ref().expect("polled after completion");
        let request = self.track.request(request);
        let mut usable = (snapshot.candidates.all().iter())
            .filter(|c| c.is_connected() && (panic || c.subchannel().health().admits()))
            .filter(|c| snapshot.picker.covers(&request, c));
        if let Some(most) = limiter.in_flight_per_endpoint()
            && usable.any(Candidate::is_full)
        {
            return Some(Limit::InFlightPerEndpoint(most));
        }
        let most = limiter.pending_per_endpoint()?;
        let crowded = (self.misses.as_ref()).is_some_and(|misses| misses.crowded);
        crowded.then_some(Limit::PendingPerEndpoint(most))
    }
}

/// The slot of the endpoint that the call would rather go to, if it can be used.
#[cold]
fn preferred<S>(
    previous: &PreviousEndpoints,
    snapshot: &Snapshot<S>,
    context: &PickContext<'_>,
) -> Option<usize> {
    let id = previous.preferred()?;
    if previous.contains(id) || snapshot.summary.halted {
        return None;
    }
    let mut all = snapshot.candidates.all().iter();
    let candidate = all.find(|candidate| candidate.endpoint().id() == id)?;
    let usable =
        context.is_usable(candidate) && snapshot.picker.covers(context.request(), candidate);
    usable.then(|| candidate.slot())
}
