//! What a call does that finds no endpoint ready at once.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tower_service::Service;

use crate::balance::Track;
use crate::balance::future::call::Call;
use crate::balance::future::nothing::{full, unavailable};
use crate::balance::future::pick::Choice;
use crate::error::{BoxError, Error};
use crate::health::Limit;
use crate::health::limits::Limiter;
use crate::policy::{Claim, Subchannel};

/// How many endpoints a call asks for readiness before it waits for them.
const MAX_HELD: usize = 3;

/// What a call waits with.
pub(super) struct Waiting<S> {
    /// What it waits against, if that is limited.
    limiter: Option<Arc<Limiter>>,
    held: Vec<Held<S>>,
    changed: Option<Changed>,
}

/// A service that was asked for readiness and is not ready yet. It is kept, since its waker, and
/// maybe a permit, belong to this very clone.
pub(super) struct Held<S> {
    pub(super) service: S,
    pub(super) claim: Claim,
    /// Given back when it is dropped.
    pub(super) _place: Option<Place>,
}

/// One of the places for calls that wait for an endpoint.
pub(super) struct Place(pub(super) Arc<Subchannel>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.go_on();
    }
}

#[cfg(feature = "grpc")]
impl<S> Waiting<S> {
    /// How many endpoints were asked and are not ready.
    pub(super) fn asked(&self) -> usize {
        self.held.len()
    }
}

type Changed = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl<S> Drop for Waiting<S> {
    fn drop(&mut self) {
        if let Some(limiter) = &self.limiter {
            limiter.go_on();
        }
    }
}

impl<S, Req, T> Call<S, Req, T>
where
    S: Service<Req> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    T: Track<Req, S>,
{
    /// Goes on from the `first` choice, if there was one. `waiting` is what earlier choices have asked and not
    /// got yet.
    #[cold]
    #[inline(never)]
    pub(super) fn choose_on(
        &mut self,
        waiting: &mut Option<Box<Waiting<S>>>,
        mut first: Option<Choice<S, S::Future>>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<S::Future, Error>> {
        loop {
            // Before each look at the snapshot, which may show that one of these has left.
            if let Some(waiting) = waiting
                && let Some(mut held) = self.poll_held(waiting, cx)
            {
                self.claim = Some(held.claim);
                return Poll::Ready(Ok(self.dispatch(&mut held.service)));
            }
            let held = waiting.as_ref().map_or(0, |waiting| waiting.held.len());
            let may_wait = if held < MAX_HELD {
                let choice = first.take();
                match choice.unwrap_or_else(|| self.pick(held == 0, cx)) {
                    Choice::Called(response) => return Poll::Ready(Ok(response)),
                    Choice::Pending(held) => {
                        match self.wait(waiting) {
                            Ok(waiting) => waiting.held.push(held),
                            Err(limit) => return Poll::Ready(Err(self.refused(limit))),
                        }
                        continue;
                    }
                    // One that is held may be ready yet.
                    Choice::Full(_) if held > 0 => true,
                    Choice::Full(limit) => return Poll::Ready(Err(self.refused(limit))),
                    Choice::Later => true,
                    Choice::Never => false,
                }
            } else {
                true
            };
            if !may_wait && held == 0 {
                if self.wants_only_others() {
                    return Poll::Ready(Err(Error::no_other()));
                }
                let returned = self.misses.as_ref().map_or(0, |misses| misses.redispatches);
                let request = self.request.as_ref();
                let request = request.map(|request| self.track.request(request));
                let snapshot = self.shared.load();
                return Poll::Ready(Err(unavailable(&snapshot, returned, request)));
            }
            match self.wait(waiting) {
                Ok(waiting) => ready!(self.poll_changed(waiting, cx)),
                Err(limit) => return Poll::Ready(Err(self.refused(limit))),
            }
        }
    }

    /// There is no room. That is no failure of a call which has other attempts.
    #[cold]
    fn refused(&self, limit: Limit) -> Error {
        match self.wants_only_others() {
            true => Error::no_other(),
            false => full(limit),
        }
    }

    /// Begins to wait, or goes on.
    ///
    /// # Errors
    /// As many wait as may.
    #[cold]
    fn wait<'w>(
        &self,
        waiting: &'w mut Option<Box<Waiting<S>>>,
    ) -> Result<&'w mut Waiting<S>, Limit> {
        if waiting.is_none() {
            let limiter = self.shared.limiter().cloned();
            if let Some(limiter) = &limiter {
                limiter.wait()?;
            }
            *waiting = Some(Box::new(Waiting {
                limiter,
                held: Vec::new(),
                changed: None,
            }));
        }
        Ok(waiting.as_mut().expect("it was just made"))
    }

    /// Ready when there may be something new to see, and always the first time: subscribed before
    /// one more look, so that a change between the look before and here is seen.
    #[cold]
    fn poll_changed(&self, waiting: &mut Waiting<S>, cx: &mut Context<'_>) -> Poll<()> {
        match &mut waiting.changed {
            None => {
                let mut versions = self.shared.subscribe();
                waiting.changed = Some(Box::pin(async move {
                    let _ = versions.changed().await;
                }));
            }
            Some(changed) => {
                ready!(changed.as_mut().poll(cx));
                waiting.changed = None;
            }
        }
        Poll::Ready(())
    }

    /// Polls the services that were asked before, and lets go of those whose connection has ended.
    #[cold]
    fn poll_held(&mut self, waiting: &mut Waiting<S>, cx: &mut Context<'_>) -> Option<Held<S>> {
        let mut index = 0;
        let before = waiting.held.len();
        while index < waiting.held.len() {
            let claim = &waiting.held[index].claim;
            // It may never be ready, and if it were, an endpoint that left gets no new call; nor does one that
            // another attempt has gone to meanwhile.
            if !claim.is_connected() || self.has_had(claim) {
                waiting.held.swap_remove(index);
                continue;
            }
            match waiting.held[index].service.poll_ready(cx) {
                Poll::Pending => index += 1,
                Poll::Ready(Ok(())) => return Some(waiting.held.swap_remove(index)),
                Poll::Ready(Err(error)) => {
                    let held = waiting.held.swap_remove(index);
                    self.shared.not_ready(held.claim, error.into());
                }
            }
        }
        if waiting.held.len() < before
            && let Some(misses) = &mut self.misses
        {
            // A connection whose health check failed may be back under its number, and is worth another look.
            misses.tried = misses.returned;
            misses.crowded = false;
            for held in &waiting.held {
                misses.tried.insert(held.claim.connection());
            }
        }
        None
    }
}
