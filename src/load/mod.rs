//! How busy an endpoint is, and how fast, as seen from here and by its own word.

mod in_flight;
mod latency_estimate;
mod measures;
mod peak_ewma;
mod probe_pool;
mod rate;
mod report_rules;
mod reports;
mod stream_count;

pub use in_flight::InFlight;
pub use latency_estimate::LatencyEstimate;
pub use measures::{LatencyRules, Measures, ProbeRules, Until};
pub use peak_ewma::{Decay, PeakEwma};
pub(crate) use probe_pool::{PoolRules, PoolSize, ProbePool, share_of_call};
pub use rate::Rate;
pub use report_rules::ReportRules;
pub use reports::{ReportSource, Reports, ServerQueue};
pub use stream_count::StreamCount;
