//! How busy an endpoint is, and how fast, as seen from here and by its own word.

mod in_flight;
mod measures;
mod peak_ewma;
mod report_rules;
mod reports;

pub use in_flight::InFlight;
pub use measures::{LatencyRules, Measures, Until};
pub use peak_ewma::{Decay, PeakEwma};
pub use report_rules::ReportRules;
pub use reports::{Reports, ServerQueue};
