//! Endpoints taken out of service, and put back.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::balance::Balance;
use crate::cluster::Answer;
use crate::endpoint::EndpointId;
use crate::error::Error;
use crate::observe::Drained;

impl<S: Send + Sync + 'static, T> Balance<S, T> {
    /// Takes one endpoint out of service, as for the maintenance of its host: it gets no new call from this balancer
    /// and its clones; those under way finish, within `deadline` from now; what is left then is cut, and its
    /// connection closes. Zero cuts at once, and [`Duration::MAX`] is no limit. What can be cut is as with
    /// [`shutdown`](Self::shutdown).
    ///
    /// A call may slip in yet where a health check finds the endpoint well at this very moment; it counts among those
    /// under way.
    ///
    /// The drain begins when this is called and goes on by itself if the future is dropped; the future waits for its
    /// end, and keeps the balancer alive meanwhile. If the last handle goes during a drain that nobody waits for,
    /// the calls under way go on to their own end.
    ///
    /// Drained it stays until it is [put back](Self::undrain), or until the source stops naming it and names it again,
    /// or names it at other addresses, which makes it another server. Meanwhile it is not dialled, checked, asked or
    /// watched. It counts neither for panic mode nor among the endpoints of which a part may be ejected. A
    /// [`report`](Self::report) still shows it, as `Shutdown` and
    /// [draining or drained](crate::observe::EndpointReport::drain). A policy that hashes keeps its place: its keys
    /// go where they go when an endpoint fails, and come back.
    ///
    /// With all endpoints drained calls fail with `UNAVAILABLE`; those that wait for ready wait.
    ///
    /// Called again before it is over, the earlier deadline holds for both; after that, it waits for what was
    /// [left](Drained::left), if anything was.
    ///
    /// # Errors
    /// No endpoint has this [id](crate::Error::is_unknown_endpoint); the balancer is
    /// [closed](crate::Error::is_closed), or it was [shut down](crate::Error::is_shut_down) and that ended before the
    /// drain did.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use evenkeel::Balance;
    /// # use tower::{BoxError, ServiceExt, service_fn};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// let services = ["a", "b"].map(|name| (name, service_fn(move |_: u32| async move { Ok::<_, BoxError>(name) })));
    /// let balance = Balance::builder().services(services).build()?;
    /// # assert!(balance.clone().oneshot(1).await.is_ok());
    /// balance.drain("a", Duration::from_secs(10)).await?;
    /// assert_eq!(balance.clone().oneshot(1).await?, "b");
    /// balance.undrain("a").await?;
    /// assert!(balance.drain("c", Duration::ZERO).await.unwrap_err().is_unknown_endpoint());
    /// # Ok(())
    /// # }
    /// ```
    pub fn drain(&self, id: impl Into<EndpointId>, deadline: Duration) -> Order<Drained> {
        self.order(self.shared().drain(id.into(), deadline))
    }

    /// Puts an endpoint back that was [drained](Self::drain): it is dialled anew, with a clean record. Calls that are
    /// under way yet are still cut at the deadline of the drain. Nothing happens to one that is not drained. It is
    /// put back though the future is dropped; the future waits until the balancer has done so.
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    pub fn undrain(&self, id: impl Into<EndpointId>) -> Order<()> {
        self.order(self.shared().undrain(id.into()))
    }

    fn order<R>(&self, answer: Answer<R>) -> Order<R> {
        let _alive = self.own().clone();
        Order { answer, _alive }
    }
}

/// Waits for the end of an order that was given to a balancer: [`Balance::drain`], [`Balance::undrain`]. Dropping it
/// takes nothing back.
#[must_use = "the order is given; this waits for its end, and says whether it was refused"]
pub struct Order<R> {
    answer: Answer<R>,
    _alive: Arc<dyn Any + Send + Sync>,
}

impl<R> Future for Order<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(Pin::new(&mut self.answer).poll(cx));
        Poll::Ready(answer.unwrap_or_else(|_| Err(Error::closed())))
    }
}

impl<R> fmt::Debug for Order<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").finish_non_exhaustive()
    }
}
