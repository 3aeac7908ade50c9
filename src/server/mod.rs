//! What a backend adds so that its clients know how busy it is.
//!
//! [`LoadReportLayer`] goes around a tonic server. Each response then carries a
//! report in its trailers, in ORCA's form, which any gRPC client that balances by load can read: gRPC's
//! own `weighted_round_robin`, Envoy's client-side one, and
//! [`OrcaWeightedRoundRobin`](crate::policy::OrcaWeightedRoundRobin). To clients that want it
//! [beside the calls](LoadReportLayer#beside-the-calls) it sends the report by itself. And it answers the
//! [probes](crate::probe) of clients that go by [`Prequal`](crate::policy::Prequal) or
//! [`Adaptive`](crate::policy::Adaptive).
//!
//! ```
//! use evenkeel::outcome::LoadReport;
//! use evenkeel::server::{CallReport, LoadReportLayer};
//!
//! let layer = LoadReportLayer::new();
//! let reporter = layer.reporter();
//! # fn server(layer: LoadReportLayer) {
//! let server = tonic::transport::Server::builder().layer(layer);
//! // server.add_service(GreeterServer::new(greeter)).serve(address).await?;
//! # }
//!
//! // What the application knows of itself, whenever that changes:
//! reporter.set(LoadReport::new().with_application_utilization(0.7));
//!
//! // What a handler knows of one call:
//! fn handle(request: tonic::Request<()>) {
//!     if let Some(call) = request.extensions().get::<CallReport>() {
//!         call.add(LoadReport::new().with_request_cost("rows", 17.0));
//!     }
//! }
//! # let _ = handle;
//! ```

mod body;
mod cpu;
mod layer;
mod out_of_band;
mod probe;
mod record;

pub use body::ReportingBody;
pub use layer::{LoadReportLayer, LoadReporting, ResponseFuture};
pub use record::{CallReport, LoadReporter};
