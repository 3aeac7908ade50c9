//! What stays through all attempts of one call, and when the next one is due.

use std::future::Future;
use std::sync::Arc;
use std::task::Context;

use http::Response;
use http_body::Body;
use tokio::time::Instant;

use crate::error::BoxError;
use crate::retry::ReadError;
use crate::retry::bounds::Verdict;
use crate::retry::hedge::service::Shared;
use crate::retry::read::Pushback;
use crate::retry::repeat::Repeat;
use crate::retry::timers::Timer;

pub(super) struct Call<S, B, E> {
    pub(super) shared: Arc<Shared<S, E>>,
    pub(super) repeat: Repeat<B>,
    begun: Instant,
    /// When the last attempt was made.
    last: Instant,
    next: Next,
    /// The next attempt is allowed, and taken out of the budget.
    reserved: bool,
    /// There is no endpoint that has not had the call.
    nowhere: bool,
    /// Has its answer, or a failure in place of one.
    done: bool,
}

/// When the next attempt is made.
enum Next {
    /// The hedging delay after the last; the timer is made when it is first waited for.
    Delayed(Option<Timer>),
    /// When a server has asked for it.
    Asked(Timer),
    AtOnce,
    Never,
}

/// What is to be done while no attempt has anything new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// One more attempt is to be made.
    Attempt,
    Wait,
    /// None is under way, and there will be none.
    Over,
}

impl<S, B, E> Call<S, B, E>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    /// Of which the first attempt is about to be made.
    pub(super) fn new(shared: Arc<Shared<S, E>>, repeat: Repeat<B>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            repeat,
            begun: now,
            last: now,
            next: Next::Delayed(None),
            reserved: false,
            nowhere: false,
            done: false,
        }
    }

    /// What this end of an attempt means.
    pub(super) fn judge<R, Error>(&self, result: &Result<Response<R>, Error>) -> Verdict
    where
        E: ReadError<Error>,
    {
        let shared = &self.shared;
        self.repeat
            .judge(result, &shared.rules.bounds, &shared.read)
    }

    /// An attempt has failed in a way that does not end the call.
    pub(super) fn failed(&mut self, pushback: Option<Pushback>) {
        self.next = match (&self.next, pushback) {
            (Next::Never, _) | (_, Some(Pushback::Never)) => Next::Never,
            (_, Some(Pushback::After(delay))) => {
                // An answer now is better than a deadline that passes while nothing is done.
                let is_over = self.repeat.ends_by(Instant::now().checked_add(delay));
                let timer = (!is_over).then(|| self.shared.timers.after(delay));
                timer.flatten().map_or(Next::Never, Next::Asked)
            }
            (_, None) => Next::AtOnce,
        };
    }

    /// An attempt went nowhere. `beside`: it was to go to another endpoint than all before it.
    pub(super) fn not_sent(&mut self, beside: bool) {
        if beside {
            self.nowhere = true;
            self.repeat.attempts -= 1;
        }
    }

    /// Whether there will be another attempt, though none is under way. If so, it is taken out of the budget.
    pub(super) fn goes_on(&mut self) -> bool {
        let may_be = match &self.next {
            Next::Never => false,
            _ => self.may_repeat() && self.is_allowed(),
        };
        self.next = match std::mem::replace(&mut self.next, Next::Never) {
            asked @ Next::Asked(_) if may_be => asked,
            _ if may_be => Next::AtOnce,
            _ => Next::Never,
        };
        self.reserved = may_be;
        may_be
    }

    fn may_repeat(&self) -> bool {
        let most = self.shared.rules.policy.attempts.most();
        self.repeat.may_repeat(most)
    }

    /// Whether the call may have another attempt now. If so, it is taken out of the budget.
    fn is_allowed(&self) -> bool {
        let bounds = &self.shared.rules.bounds;
        !self.is_late() && bounds.allow() && bounds.withdraw()
    }

    /// What to do now. `under_way`: there are attempts that may answer yet.
    pub(super) fn due(&mut self, under_way: bool, cx: &mut Context<'_>) -> Due {
        let is_last = self.repeat.attempts >= self.shared.rules.policy.attempts.most();
        if !self.repeat.body.is_whole() {
            self.next = Next::Never;
        } else if is_last {
            // One that goes nowhere makes room for another.
            return if under_way { Due::Wait } else { Due::Over };
        }
        loop {
            match &mut self.next {
                Next::Delayed(_) | Next::AtOnce if under_way && self.nowhere => return Due::Wait,
                Next::Delayed(Some(timer)) | Next::Asked(timer) => {
                    if timer.as_mut().poll(cx).is_pending() {
                        return Due::Wait;
                    }
                    self.next = Next::AtOnce;
                }
                Next::Delayed(timer) => {
                    let delay = self.shared.rules.delay();
                    if delay.is_zero() {
                        self.next = Next::AtOnce;
                        continue;
                    }
                    *timer = self.shared.timers.since(self.last, delay);
                    if timer.is_none() {
                        // It need not be looked for at each poll. A failure brings the next attempt yet.
                        self.nowhere = true;
                    }
                }
                Next::AtOnce => {
                    if std::mem::take(&mut self.reserved) || self.is_allowed() {
                        self.next = Next::Delayed(None);
                        self.last = Instant::now();
                        return Due::Attempt;
                    }
                    self.next = Next::Never;
                }
                Next::Never if under_way => return Due::Wait,
                Next::Never => return Due::Over,
            }
        }
    }

    /// No further attempt can be made.
    pub(super) fn stop(&mut self) {
        self.next = Next::Never;
    }

    /// Whether the call's end has come.
    pub(super) fn is_late(&self) -> bool {
        self.repeat.ends_by(Instant::now())
    }
}

impl<S, B, E> Call<S, B, E> {
    /// The call has its answer; a good one says how long calls take.
    pub(super) fn done(&mut self, good: bool) {
        self.done = true;
        if good {
            self.shared.rules.answered(self.begun);
        }
    }

    /// Whether an attempt that was made then, not the oldest, has had its time.
    #[cfg(feature = "grpc")]
    pub(super) fn is_overdue(&self, made: Instant) -> bool {
        made.elapsed() >= self.shared.rules.delay()
    }
}

impl<S, B, E> Drop for Call<S, B, E> {
    fn drop(&mut self) {
        if !self.done {
            self.shared.rules.given_up(self.begun);
        }
    }
}
