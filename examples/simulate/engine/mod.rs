//! A discrete-event simulation of clients, servers and the network between them.
//!
//! Clients balance with the crate's own code through its public API: [`client`] is the only place that
//! touches it. Everything else is the world around it, in virtual time and from one seed.
//!
//! - [`queue`], [`slab`], [`draw`]: events, numbered places, random numbers;
//! - [`server`]: processor sharing; [`reporter`]: what a server knows of its load; [`gauge`]: what is
//!   true of it;
//! - [`client`]: a policy with its candidates, ejections and connections;
//! - [`world`]: all of it; `calls`, `probes`: calls and probes on their way; `script`: what happens to
//!   servers meanwhile;
//! - `loads`, [`tally`]: loads, latencies, errors.

mod calls;
pub mod client;
pub mod draw;
pub mod gauge;
mod loads;
mod probes;
pub mod queue;
pub mod reporter;
mod script;
pub mod server;
pub mod slab;
pub mod tally;
pub mod world;

pub use world::simulate;
