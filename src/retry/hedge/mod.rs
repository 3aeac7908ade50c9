//! Calls that are made a second time before the first has failed.
//!
//! A server that is slow for a moment, or stuck, makes the slowest calls of a service many times as slow as
//! the rest, and no retry helps, since nothing has failed yet. A hedge is the same request sent to another
//! endpoint once the first attempt takes longer than nearly all calls do: the first good answer is the
//! caller's, and the other attempt is cancelled (Dean and Barroso, "The Tail at Scale", CACM 2013; gRFC A6).
//!
//! # When
//! After a delay: by default the 95th percentile of the latency of all calls lately, so that about one call
//! in twenty is hedged however fast the servers are. What is measured is the time of the whole call to its
//! response head. With the time of the attempt that won instead, each slow first attempt would count as
//! fast, the percentile would fall, more calls would be hedged, and it would fall again. A call that the
//! caller gives up after longer than the delay counts as long as it took.
//!
//! # How many
//! [Two attempts](HedgePolicy::with_max_attempts) by default, the same [`Budget`](crate::retry::Budget) that
//! bounds retries, and gRPC's [`Throttle`](crate::retry::Throttle) on wish. A hedge that they refuse is not
//! sent; the call goes on without, and has no further one.
//!
//! # Where to
//! To an endpoint that no attempt of the call went to. If there is none, a hedge is not sent: a slow
//! endpoint is not made faster by more of the same. Only when every attempt so far has failed may one go to
//! an endpoint that had one.
//!
//! # Which answers are good
//! All but the codes that the policy names as [not fatal](HedgePolicy::with_codes), and lost connections: a
//! call that has one of those goes on with its other attempts, and the next one is sent at once. Any other
//! failure is the caller's answer at once, as gRFC A6 has it, for the other attempt would end the same way.
//! A server's pushback holds: a negative one stops further hedges, another one says when the next is sent.
//!
//! # Who is to blame
//! An attempt that lost counts as neither success nor failure of its endpoint.

mod attempt;
mod call;
mod future;
mod policy;
mod service;

pub use future::HedgeFuture;
pub use policy::HedgePolicy;
#[cfg(feature = "grpc")]
pub(crate) use service::HedgedCalls;
pub use service::{Hedge, HedgeLayer};
