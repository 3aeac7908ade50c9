//! How servers are asked for their load, beside the calls; and how they tell it by themselves.
//!
//! A policy such as [`Prequal`](crate::policy::Prequal) goes by what servers say of their queues, and so
//! wants to hear of servers that get no calls just now. It names at a pick whom to ask; a [`Probe`] knows
//! how, over the endpoint's own connection and in its own protocol. `grpc::Channel` brings one; a
//! [`Balance`](crate::Balance) over other services is
//! [given one](crate::balance::Builder::probe).
//!
//! One task asks, for all handles of a balancer. A call only leaves word and goes on, and what finds no
//! room is not asked: a policy that asks often loses nothing by that, and a call must not wait for a
//! question that is not its own.
//!
//! A probe that is given up is a stream that is reset, and servers hang up on peers that reset many
//! streams. So a server that leaves four probes in a row unanswered is asked one at a time, at growing
//! distances, until it answers; and a connection is asked for the first time by one probe alone.
//!
//! | limit | value | source |
//! |---|---|---|
//! | waiting to be sent, under way | 64 each | ours |
//! | under way on one connection | 8; 1 until it has answered, and after 4 that it has not | ours: h2 hangs up at 20 resets that it has not seen |
//! | distance after 4 and more in a row without an answer | the timeout, twice that and so on, at most 1 s | ours |
//!
//! # Watches
//! A policy such as [`OrcaWeightedRoundRobin`](crate::policy::OrcaWeightedRoundRobin) may want servers to
//! [report by themselves](crate::load::ReportRules::out_of_band), by a stream that is open while an endpoint is
//! connected. A [`Watch`] knows how; `grpc::Channel` brings one, and a [`Balance`](crate::Balance) over other
//! services is [given one](crate::balance::Builder::load_reports).
//!
//! # Health checks
//! A [health check](crate::balance::Builder::health_check) is a watch, too: what it hears is a
//! [`Verdict`](crate::health::Verdict). Some servers tell of their health by themselves, as gRPC's do
//! (`grpc::HealthCheck`); others are asked again and again, by a [function](check_fn), an
//! [HTTP GET](HttpGet) or a TCP connection (`TcpConnect`, feature `tcp`).

mod check;
mod limits;
mod schedule;
mod watch;

#[cfg(feature = "tcp")]
pub use check::TcpConnect;
pub use check::{CheckFn, HttpGet, NoCheck, check_fn};
pub(crate) use watch::{Heard, Pauses, keep};
pub use watch::{NoWatch, Target, Watch, WatchError};

pub(crate) use schedule::{Prober, Request, Schedule, can_be_asked, schedule};

use std::future::Future;

use crate::outcome::LoadReport;

/// What became of a probe.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Answer {
    /// The server told its load.
    Load(LoadReport),
    /// No answer, or none that can be used. It is asked again, later.
    Silent,
    /// The server does not know the question. This connection is not asked again; the next one is, since
    /// it may lead to another server.
    Unsupported,
}

/// Asks one server for its load.
///
/// `S` is the service of an endpoint, as its connector made it. A probe goes past the balancer: it is no
/// call, and counts neither as load nor as a success or a failure of the endpoint.
pub trait Probe<S>: Send + Sync + 'static {
    /// A probe under way.
    type Future: Future<Output = Answer> + Send + 'static;

    /// Begins to ask the server behind `service`, a clone of the endpoint's own; its `poll_ready` was
    /// not called. When the time of the [rules](crate::load::ProbeRules) is over, or with the last handle
    /// of the balancer, the future is dropped. One that panics counts as [`Answer::Silent`].
    fn probe(&self, service: S) -> Self::Future;
}

/// In place of a probe where there is none. It has no values.
#[derive(Debug, Clone, Copy)]
pub enum NoProbe {}

impl<S> Probe<S> for NoProbe {
    type Future = std::future::Ready<Answer>;

    fn probe(&self, _: S) -> Self::Future {
        match *self {}
    }
}

/// A [`Probe`] from a function.
///
/// ```
/// use evenkeel::Balance;
/// use evenkeel::outcome::LoadReport;
/// use evenkeel::policy::Prequal;
/// use evenkeel::probe::{Answer, probe_fn};
/// use tower::{BoxError, Service, ServiceExt, service_fn};
///
/// async fn ask<S: Service<String, Response = String>>(service: S) -> Answer {
///     match service.oneshot("load?".to_owned()).await {
///         Ok(load) => match load.parse() {
///             Ok(load) => Answer::Load(LoadReport::new().with_in_flight(load)),
///             Err(_) => Answer::Unsupported,
///         },
///         Err(_) => Answer::Silent,
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let services = ["a", "b"].map(|name| {
///     (name, service_fn(move |question: String| async move {
///         Ok::<_, BoxError>(if question == "load?" { "3".to_owned() } else { name.to_owned() })
///     }))
/// });
/// let balance = Balance::builder()
///     .services(services)
///     .policy(Prequal::default())
///     .probe(probe_fn(ask))
///     .build()?;
/// let answer = balance.oneshot("who?".to_owned()).await?;
/// assert!(["a", "b"].contains(&answer.as_str()));
/// # Ok(())
/// # }
/// ```
pub fn probe_fn<F>(ask: F) -> ProbeFn<F> {
    ProbeFn(ask)
}

/// See [`probe_fn`].
#[derive(Debug, Clone, Copy)]
pub struct ProbeFn<F>(F);

impl<S, F, Fut> Probe<S> for ProbeFn<F>
where
    F: Fn(S) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Answer> + Send + 'static,
{
    type Future = Fut;

    fn probe(&self, service: S) -> Fut {
        (self.0)(service)
    }
}
