//! Requests for one path, counted where they reach a server.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use evenkeel::BoxError;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use tonic::body::Body;
use tower::{Layer, Service};

/// A layer that counts the requests for one path, and may leave them without an answer. Clones count
/// together.
#[derive(Debug, Clone)]
pub struct Asked {
    path: &'static str,
    swallows: bool,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    asked: AtomicUsize,
    over: AtomicUsize,
}

impl Asked {
    /// Counts the requests for `path`.
    pub fn new(path: &'static str) -> Self {
        Self {
            path,
            swallows: false,
            counts: Arc::default(),
        }
    }

    /// Whether they are left without an answer; by default they are handed on.
    pub fn swallowing(self, swallows: bool) -> Self {
        Self { swallows, ..self }
    }

    /// How many came.
    pub fn asked(&self) -> usize {
        self.counts.asked.load(Ordering::SeqCst)
    }

    /// How many of them are over: their answer has ended, or their client gave up.
    pub fn over(&self) -> usize {
        self.counts.over.load(Ordering::SeqCst)
    }

    /// How many of them are under way.
    pub fn open(&self) -> usize {
        // Ends are read first, so that none is seen to end before it began.
        let over = self.over();
        self.asked() - over
    }

    fn enter(&self) -> Open {
        self.counts.asked.fetch_add(1, Ordering::SeqCst);
        Open(Arc::clone(&self.counts))
    }
}

struct Open(Arc<Counts>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.over.fetch_add(1, Ordering::SeqCst);
    }
}

/// See [`Asked`].
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    asked: Asked,
}

impl<S> Layer<S> for Asked {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        let asked = self.clone();
        Counted { inner, asked }
    }
}

impl<S, B, B2> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<B2>>,
    S::Error: Send + 'static,
    S::Future: Send + 'static,
    B2: http_body::Body<Data = Bytes> + Send + 'static,
    B2::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let open = (request.uri().path() == self.asked.path).then(|| self.asked.enter());
        if open.is_some() && self.asked.swallows {
            return Box::pin(async move {
                let _open = open;
                pending().await
            });
        }
        let response = self.inner.call(request);
        Box::pin(async move {
            let response = response.await?;
            Ok(response.map(|body| {
                Body::new(body.map_frame(move |frame| {
                    let _open = &open;
                    frame
                }))
            }))
        })
    }
}
