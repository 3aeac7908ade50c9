//! Failed calls, tried again: how often, when, where, and above all when not.
//!
//! A retry turns the failure of one server into a slower success, and the failure of a whole backend
//! into a retry storm: with three attempts a call, a service that is down gets three times its load
//! just when it has none to spare, and through three layers of such callers 27 times. So what is tried
//! again is bounded twice:
//!
//! - by the call: [attempts](RetryPolicy::with_max_attempts), with growing random delays between them,
//!   inside the caller's deadline;
//! - by all calls together: a [`Budget`] (retries are at most 20 % of the calls, and ten a second) and,
//!   where gRPC's rule is wanted, a [`Throttle`] (no retries while a large part of calls fail). One that
//!   is empty hands the failure to the caller at once.
//!
//! # Which failures
//! Those whose gRPC status the policy names (`UNAVAILABLE` by default), if the response is over with its
//! head; lost connections; attempts over their own time limit. An HTTP response that is not gRPC's has
//! the status of gRPC's table: 429, 502, 503 and 504 are `UNAVAILABLE`. A response that has begun is the
//! caller's, whatever comes later in it.
//!
//! A server has its say by `grpc-retry-pushback-ms`: a delay that holds exactly, after which the delays
//! begin anew, or a negative number for no retry (gRFC A6).
//!
//! Requests that the server surely did not process go to another endpoint by themselves, in
//! [`Balance`](crate::Balance); these are no attempts here and take nothing out of a budget.
//!
//! # Where to
//! To an endpoint that no earlier attempt went to, as long as there is one that can be used; see
//! [`PreviousEndpoints`](crate::call::PreviousEndpoints).
//!
//! # The request
//! streams on as it comes, and is kept until the response's head, up to
//! [256 KiB](RetryPolicy::with_buffer_limit_bytes). A call that has sent more is not tried again. Each
//! later attempt says in `grpc-previous-rpc-attempts` how many were before it, and in `grpc-timeout`
//! what is left of the caller's time; what the caller itself says in the first of these is taken out. The
//! extension [`NoRetry`](crate::call::NoRetry) on a request keeps it to one attempt.
//!
//! # Before a call has failed
//! A call that only takes long is no failure, and a server that is stuck never fails one. [`Hedge`] sends such
//! a call to a second endpoint, too.
//!
//! # Who is to blame
//! Every attempt counts for or against its endpoint by itself, so that one that fails is ejected though
//! no caller sees a failure. An attempt over its time limit is a failure; one that the caller gave up
//! is not.

mod attempts;
mod body;
mod bounds;
mod budget;
mod codes;
mod future;
mod hedge;
mod policy;
mod read;
mod repeat;
mod response;
mod service;
mod shared;
mod throttle;
mod timers;

pub use body::RetryBody;
pub use budget::{Budget, BudgetSettings};
pub use future::ResponseFuture;
#[cfg(feature = "grpc")]
pub(crate) use hedge::HedgedCalls;
pub use hedge::{Hedge, HedgeFuture, HedgeLayer, HedgePolicy};
pub use policy::RetryPolicy;
pub use read::{ByError, ErrorKind, ReadError};
pub use response::ResponseBody;
#[cfg(feature = "grpc")]
pub(crate) use service::OtherPolicy;
pub use service::{Retry, RetryLayer};
pub use throttle::{Throttle, ThrottleSettings};
