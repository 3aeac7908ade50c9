//! Real gRPC servers whose behaviour a test, a bench or an example can set while they run.
//!
//! Everything is on the loopback interface and in this process, and goes when it is dropped. A test
//! or bench includes the directory with
//!
//! ```text
//! #[path = "../tests/support/mod.rs"]
//! pub mod support;
//! ```
//!
//! (`pub mod support;` is enough inside `tests/`). The `pub` matters: what one includer leaves
//! unused, another uses. What cannot be set up (a port, a certificate) panics here with its reason.

pub mod asked;
pub mod behaviour;
#[cfg(feature = "grpc")]
pub mod connected;
pub mod counts;
mod instance;
pub mod pipes;
pub mod ports;
pub mod proto;
pub mod server;
pub mod service;
pub mod tls;
pub mod unary;
pub mod verdict;
pub mod watched;

pub use behaviour::{Behaviour, Control};
pub use counts::{Calls, Method};
pub use pipes::pipes_to;
pub use ports::{RefusedPort, SilentListener};
pub use server::{Builder, TestServer};
pub use tls::{ServerTls, TestCa};

use std::future::Future;
use std::time::Duration;

/// No wait in here lasts longer. Generous, for a machine that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The output of `future`.
///
/// # Panics
/// After [`PATIENCE`], with `what` in the message.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Waits until `seen` says true; looks every millisecond.
///
/// # Panics
/// After [`PATIENCE`], with `what` in the message.
pub async fn eventually(what: &str, mut seen: impl FnMut() -> bool) {
    within(what, async {
        while !seen() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Waits until all endpoints of `channel` are connected, and there are any.
///
/// # Panics
/// After [`PATIENCE`].
#[cfg(feature = "grpc")]
pub async fn all_ready<S>(channel: &evenkeel::grpc::Channel<S>) {
    eventually("all are connected", || {
        let endpoints = channel.report().endpoints;
        let mut states = endpoints.iter().map(|endpoint| endpoint.state);
        !endpoints.is_empty() && states.all(|state| state == evenkeel::ConnectivityState::Ready)
    })
    .await;
}
