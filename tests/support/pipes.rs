//! Connections in memory, for tests in paused time: tokio's clock moves on only when nothing is on
//! its way, which it cannot know of a socket.

use std::io;
use std::sync::Arc;

use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tower::{Service, service_fn};

use super::TestServer;

/// A connector whose dials all end at `server`, with room for `bytes` on the way in each direction.
pub fn pipes_to(
    server: &Arc<TestServer>,
    bytes: usize,
) -> impl Service<
    Uri,
    Response = TokioIo<DuplexStream>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<DuplexStream>>> + Send,
> + Clone
+ Send
+ 'static {
    let server = Arc::clone(server);
    service_fn(move |_: Uri| {
        let (near, far) = tokio::io::duplex(bytes);
        server.attach(far);
        std::future::ready(Ok(TokioIo::new(near)))
    })
}
