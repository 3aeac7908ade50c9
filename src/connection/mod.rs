//! From an endpoint to a service that can be called, and word of its end.

mod connector;
mod discovered;
mod events;

pub use connector::{Connector, ConnectorFn, connector_fn};
pub use discovered::Discovered;
pub use events::{ConnectionEvents, DialTerms};
pub(crate) use events::{End, Ended, Inbox, Line};
