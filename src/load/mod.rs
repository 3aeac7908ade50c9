//! How busy an endpoint is, and how fast, as seen from here.

mod in_flight;
mod measures;
mod peak_ewma;

pub use in_flight::InFlight;
pub use measures::{LatencyRules, Measures, Until};
pub use peak_ewma::{Decay, PeakEwma};
