//! What holds for all calls of a layer together.

use std::sync::Arc;

use http::{HeaderMap, Response, StatusCode};

use crate::cluster::now;
use crate::error::Error;
use crate::retry::attempts::AttemptSettings;
use crate::retry::codes::Codes;
use crate::retry::read::{Pushback, UNAVAILABLE, code_of_head, pushback};
use crate::retry::{Budget, ErrorKind, ResponseBody, Throttle};

/// Which failures do not end a call, and how many more attempts there may be of all calls together.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    codes: Codes,
    transport_errors: bool,
    budget: Option<Arc<Budget>>,
    throttle: Option<Arc<Throttle>>,
}

/// What an attempt's end means for its call. The order of the rules is that of gRFC A6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The call's response begins, or is over with success.
    Good,
    /// Another attempt would be of no use, or is not wanted by the policy.
    Fatal,
    /// Another attempt may help, and the server says this about it.
    Failed(Option<Pushback>),
    /// Another attempt may help, and as far as is known no server has had this one.
    Unserved,
    /// No server has had the attempt, since only others were to have it.
    NotSent,
}

impl Bounds {
    pub(super) fn new(settings: &AttemptSettings) -> Result<Self, Error> {
        let budget = settings.budget.map(Budget::new).transpose()?;
        let throttle = settings.throttle.map(Throttle::new).transpose()?;
        Ok(Self {
            codes: settings.codes,
            transport_errors: settings.transport_errors,
            budget: budget.map(Arc::new),
            throttle: throttle.map(Arc::new),
        })
    }

    /// The same failures, within what `other` allows.
    pub(super) fn within(&self, other: &Self) -> Self {
        Self {
            budget: other.budget.clone(),
            throttle: other.throttle.clone(),
            ..self.clone()
        }
    }

    /// A call begins.
    pub(super) fn begun(&self) {
        if let Some(budget) = &self.budget {
            budget.deposit(now());
        }
    }

    /// Reads a response's head, and tells the throttle what it says for sure.
    pub(super) fn judge<R>(&self, response: &Response<R>) -> Verdict {
        let headers = response.headers();
        let code = match code_of_head(response.status(), headers) {
            None => return Verdict::Good,
            Some(0) => {
                self.succeeded();
                return Verdict::Good;
            }
            Some(code) => code,
        };
        let pushback = pushback(headers);
        let failed = self.codes.contains(code);
        if failed || pushback == Some(Pushback::Never) {
            self.failed();
        }
        match failed {
            true => Verdict::Failed(pushback),
            false => Verdict::Fatal,
        }
    }

    /// As `judge`, of an attempt without a response.
    pub(super) fn judge_error(&self, kind: ErrorKind) -> Verdict {
        let (failed, verdict) = match kind {
            // So do balancers say that there is no endpoint, or none with room.
            ErrorKind::Code(UNAVAILABLE) => (self.codes.contains(UNAVAILABLE), Verdict::Unserved),
            ErrorKind::Code(code) => (self.codes.contains(code), Verdict::Failed(None)),
            ErrorKind::Transport => (self.transport_errors, Verdict::Failed(None)),
            ErrorKind::Final => (false, Verdict::Fatal),
            ErrorKind::NotSent => return Verdict::NotSent,
        };
        match failed {
            true => {
                self.failed();
                verdict
            }
            false => Verdict::Fatal,
        }
    }

    /// The throttle has this as a failure.
    pub(super) fn failed(&self) {
        if let Some(throttle) = &self.throttle {
            throttle.failed();
        }
    }

    fn succeeded(&self) {
        if let Some(throttle) = &self.throttle {
            throttle.succeeded();
        }
    }

    /// Whether the throttle lets calls have another attempt.
    pub(super) fn allow(&self) -> bool {
        (self.throttle.as_ref()).is_none_or(|throttle| throttle.allows_retry())
    }

    /// Takes one more attempt out of the budget, if there is one. Asked for last, so that nothing is taken
    /// out for one that is not made.
    pub(super) fn withdraw(&self) -> bool {
        (self.budget.as_ref()).is_none_or(|budget| budget.withdraw(now()))
    }

    /// The caller's response. What has begun tells the throttle by its end how the call went.
    pub(super) fn answer<R: http_body::Body>(
        self: &Arc<Self>,
        response: Response<R>,
    ) -> Response<ResponseBody<R>> {
        let told = self.throttle.is_some()
            && code_of_head(response.status(), response.headers()).is_none();
        response.map(|body| match told {
            true => ResponseBody::told(body, self.clone()),
            false => ResponseBody::plain(body),
        })
    }

    /// A response that had begun has ended, with these trailers if it had any.
    pub(super) fn ended(&self, trailers: Option<&HeaderMap>) {
        let code = trailers.and_then(|trailers| code_of_head(StatusCode::OK, trailers));
        match code {
            None | Some(0) => self.succeeded(),
            _ if trailers.and_then(pushback) == Some(Pushback::Never) => self.failed(),
            Some(code) if self.codes.contains(code) => self.failed(),
            Some(_) => {}
        }
    }

    /// A response that had begun has ended with an error.
    pub(super) fn broke(&self) {
        if self.transport_errors {
            self.failed();
        }
    }
}
