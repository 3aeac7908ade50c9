//! How busy an endpoint is, as seen from here.

mod in_flight;

pub use in_flight::InFlight;
