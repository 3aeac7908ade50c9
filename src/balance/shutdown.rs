//! The orderly end of a balancer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::balance::Balance;
use crate::cluster::Ending;
use crate::observe::Drained;

impl<S, T> Balance<S, T> {
    /// Ends this balancer with all of its clones: no new calls from now on; those under way finish, within
    /// `deadline` from now; what is left then is cut. Zero cuts at once, and [`Duration::MAX`] is no limit.
    ///
    /// The shutdown begins when this is called and goes on to its end by itself, also if the returned future is
    /// dropped, or the last handle is. The future only waits for it: until the calls have ended and the
    /// connections are closed.
    ///
    /// From now on
    /// - each new call fails at once with an error that [`is_shut_down`](crate::Error::is_shut_down)
    ///   (`UNAVAILABLE`), and so do calls that wait for an endpoint, and the next attempt of a call that is tried
    ///   again or hedged; [`poll_ready`](tower_service::Service::poll_ready) stays ready;
    /// - calls that an endpoint has go on, streams to the end of their bodies, and so do those to endpoints that the
    ///   source does not name any more;
    /// - nothing is dialled, checked, asked or watched, and the source of endpoints is dropped;
    /// - [`state`](Self::state) is `Shutdown`, and so is that of each endpoint in a [`report`](Self::report), which
    ///   still counts their calls under way.
    ///
    /// A connection without calls has a second to close by itself, as it has after a cut; so the future may end up to
    /// a second after the deadline, and a response that is not counted to its end (one tracked by
    /// [`Plain`](crate::balance::Plain) that streams on) may be cut a second after the last call.
    ///
    /// When the deadline has passed the connections are closed, so that the calls on them fail as with any lost
    /// connection (`UNAVAILABLE`). That takes a connector which has said [how](crate::connection::ConnectionEvents::on_cut),
    /// as those of `grpc` have, but for `tonic_channels`. With others (services that are there already, connectors
    /// from functions) calls that are left go on to their own end, and are reported as [left](Drained::left).
    ///
    /// Called more than once, also on clones and at the same time, the earliest of the deadlines holds, and all
    /// futures tell the same outcome. A balancer that ended before, with its runtime, has nothing to cut.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use evenkeel::Balance;
    /// # use tower::{BoxError, ServiceExt, service_fn};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let service = service_fn(|n: u32| async move { Ok::<_, BoxError>(n) });
    /// let balance = Balance::builder().services([("a", service)]).build()?;
    /// let ended = balance.shutdown(Duration::from_secs(10)).await;
    /// assert!(ended.is_clean());
    /// assert!(balance.oneshot(1).await.unwrap_err().is_shut_down());
    /// # Ok(())
    /// # }
    /// ```
    pub fn shutdown(&self, deadline: Duration) -> Shutdown {
        Shutdown(self.shared().shut_down(deadline))
    }
}

/// Waits for the end of a shutdown that has begun; see [`Balance::shutdown`]. Dropping it stops nothing.
#[must_use = "the shutdown has begun and goes on; this waits for its end"]
pub struct Shutdown(Ending);

impl Future for Shutdown {
    type Output = Drained;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Drained> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Shutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shutdown").finish_non_exhaustive()
    }
}
