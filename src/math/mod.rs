//! Pure numerics: no clock, no global state, no I/O. Time and randomness come in as arguments, so
//! that the same seed and the same events give the same result.

pub mod alias;
pub(crate) mod atomic;
pub mod backoff;
mod far;
pub mod maglev;
pub mod moment;
pub mod quantile;
pub mod rendezvous;
pub mod ring;
pub mod rng;
pub mod stride;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod weights;

pub use alias::Alias;
pub use backoff::Backoff;
pub(crate) use far::{FAR, after};
pub use maglev::MaglevTable;
pub use moment::Moment;
pub use quantile::RunningQuantile;
pub use rendezvous::RendezvousTable;
pub use ring::Ring;
pub use rng::Rng;
pub use stride::StaticStride;
