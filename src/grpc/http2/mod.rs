//! The HTTP/2 connections to one endpoint, by hyper: one, or several if the server allows few streams on each.
//!
//! [`Http2Connector`] dials, and its future ends once the server's SETTINGS frame has arrived: a
//! peer that accepts and then stays silent never becomes ready. What it makes is an [`Http2`], a
//! service whose errors say whether the server can have seen the call ([`AttemptError`]).
//!
//! - `io`: watches the bytes that come in, above TLS, because hyper tells nobody of SETTINGS,
//!   GOAWAY or the end of an idle connection;
//! - `replay`: keeps a copy of a request until its response begins, because a stream that the
//!   server refuses comes back from hyper without its request;
//! - `cork`: makes one write of all that a connection's task writes in one go;
//! - `farewell`: keeps a server's first GOAWAY back until what is queued is sent, because a server
//!   that is sent requests while it closes loses its last responses;
//! - `parting`: keeps window updates from such a server too, for the same reason;
//! - `severed`: ends a transport whose task is not ours, by order;
//! - `stall`: ends a connection that nobody can call any more if its peer reads nothing;
//! - `frames`: finds the frame headers among those bytes;
//! - `tcp`, `race`: to whichever of an endpoint's addresses answers first;
//! - `site`: where that is: hosts, or a Unix socket;
//! - `streams`: how many are open on a connection, and how many may be;
//! - `pool`, `growth`: which connection a call gets, what it waits for, and how there is a further one;
//! - `cuts`: ends the connections' tasks by order;
//! - `executor`: where the connection's tasks run;
//! - `settings`, `connector`, `service`, `body`: the rest.

mod address;
mod body;
mod connect_error;
mod connector;
mod cork;
mod cuts;
mod error;
mod executor;
mod farewell;
mod frames;
mod gauge;
mod growth;
mod io;
mod parting;
mod pool;
mod race;
mod replay;
mod service;
mod settings;
mod severed;
mod site;
mod stall;
mod streams;
mod tcp;
mod unwritten;

pub use address::check_address;
pub use body::Http2Body;
pub use connect_error::ConnectError;
pub use connector::Http2Connector;
pub use error::{AttemptError, is_connection_lost};
pub use gauge::ConnectionGauge;
pub use service::{Http2, Http2Future};
pub use settings::Http2Settings;

pub(super) use io::{ObservedIo, Refusing, SettingsSeen};
#[cfg(feature = "service-config")]
pub(super) use settings::MOST_CONNECTIONS;
pub(super) use severed::{Sever, Severable};
pub(super) use site::Site;
pub(super) use stall::{Caller, Stall};

#[cfg(test)]
mod tests;
