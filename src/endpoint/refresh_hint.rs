use std::fmt;
use std::sync::Arc;

use tokio::sync::Notify;

/// How the balancer tells a source that it may be time to look again: a source [attaches](crate::Endpoint::with)
/// one to the endpoints that it names, and the balancer gives the hint when a dial of one of them has failed.
/// Cheap to clone; clones are one.
///
/// A connection that ends is dialled anew at once, so that the end of a server is a failed dial soon. How often to
/// heed the hints is the source's to say: while a server is down they come with every dial.
///
/// ```
/// use evenkeel::Endpoint;
/// use evenkeel::endpoint::RefreshHint;
///
/// let hint = RefreshHint::new();
/// let endpoint = Endpoint::new("http://10.0.0.1:50051").with(hint.clone());
/// // In the source: tokio::select! { () = hint.given() => { .. } .. }
/// # let _ = endpoint;
/// ```
#[derive(Clone, Default)]
pub struct RefreshHint(Arc<Notify>);

impl RefreshHint {
    /// A hint of its own, not given yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the hint. Hints that nobody waits for are one hint.
    pub fn give(&self) {
        self.0.notify_one();
    }

    /// Resolves when a hint was given since the last one was taken. For one waiter at a time; dropping the
    /// future before it resolves takes no hint.
    pub async fn given(&self) {
        self.0.notified().await;
    }
}

impl fmt::Debug for RefreshHint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshHint")
    }
}
