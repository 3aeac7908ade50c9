//! The orderly end of a channel.

use std::time::Duration;

use crate::balance::Shutdown;
use crate::grpc::channel::Channel;

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
