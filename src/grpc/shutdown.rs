//! The orderly end of a channel.

use std::time::Duration;

use crate::balance::{Order, Shutdown};
use crate::endpoint::EndpointId;
use crate::grpc::channel::Channel;
use crate::observe::Drained;

impl<S> Channel<S> {
    /// Ends this channel with all of its clones: no new calls from now on; those under way finish, streams
    /// included, within `deadline` from now; then the connections are closed, and what is left fails with
    /// `UNAVAILABLE`. See [`Balance::shutdown`](crate::Balance::shutdown).
    ///
    /// Of a channel over [tonic channels](crate::grpc::Builder::tonic_channels) the connections are not its own:
    /// calls that are left go on.
    pub fn shutdown(&self, deadline: Duration) -> Shutdown {
        self.calls().balance().shutdown(deadline)
    }
}

impl<S: Send + Sync + 'static> Channel<S> {
    /// Takes one endpoint out of service, as for the maintenance of its host: it gets no new call, those under way
    /// finish within `deadline` from now, and then its connection closes. See
    /// [`Balance::drain`](crate::Balance::drain).
    ///
    /// # Errors
    /// No endpoint has this [id](crate::Error::is_unknown_endpoint), which is its URI unless it was given another
    /// one; the channel is [closed](crate::Error::is_closed).
    pub fn drain(&self, id: impl Into<EndpointId>, deadline: Duration) -> Order<Drained> {
        self.calls().balance().drain(id, deadline)
    }

    /// Puts an endpoint back that was [drained](Self::drain). See [`Balance::undrain`](crate::Balance::undrain).
    ///
    /// # Errors
    /// As [`drain`](Self::drain).
    pub fn undrain(&self, id: impl Into<EndpointId>) -> Order<()> {
        self.calls().balance().undrain(id)
    }
}
