//! Channels by gRPC's names.

use crate::discovery::{BoxDiscovery, Target, Targets};
use crate::error::Error;
use crate::grpc::builder::Builder;
use crate::grpc::channel::Channel;

impl Channel {
    /// A channel to `target`, with all defaults: `Channel::builder().target(target).build()`. Does not wait for
    /// a connection, nor for the endpoints to be found.
    ///
    /// # Errors
    /// As [`Targets::source`]; or no tokio runtime.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), evenkeel::Error> {
    /// let channel = evenkeel::grpc::Channel::connect("static:///10.0.0.1:50051,10.0.0.2:50051")?;
    /// // let mut client = GreeterClient::new(channel);
    /// # let _ = channel;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect(target: impl AsRef<str>) -> Result<Self, Error> {
        Self::builder().target(target).build()
    }
}

impl Builder {
    /// The endpoints of a target in gRPC's syntax, in place of any other source; [`Targets`] has the schemes.
    ///
    /// Without the feature `dns`, `dns:///host:port` is an error that names the feature; so is `etcd:` without `etcd`.
    ///
    /// As in gRPC, a target says nothing of TLS: it is spoken where `tls` is set, and a
    /// certificate must carry the host that the target names.
    ///
    /// # Errors
    /// [`build`](Self::build) says what is wrong with it.
    pub fn target(self, target: impl AsRef<str>) -> Self {
        self.target_by(&Targets::new(), target)
    }

    /// As [`target`](Self::target), by schemes of one's own.
    pub fn target_by(mut self, targets: &Targets, target: impl AsRef<str>) -> Self {
        match targets.source_with(target.as_ref(), above) {
            Ok(source) => self.discovery(source),
            Err(error) => {
                self.endpoints = Err(error);
                self
            }
        }
    }
}

/// The sources that stand on channels.
#[cfg(feature = "etcd")]
fn above(target: &Target) -> Option<Result<BoxDiscovery, Error>> {
    (target.scheme() == "etcd").then(|| crate::grpc::etcd::of_target(target))
}

#[cfg(not(feature = "etcd"))]
fn above(_: &Target) -> Option<Result<BoxDiscovery, Error>> {
    None
}
