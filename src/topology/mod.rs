//! Which of the endpoints there are this client uses at all.
//!
//! That is settled before anything is connected, so that what a client does not use costs neither side
//! a connection.

mod subset;

pub use subset::RandomSubset;
