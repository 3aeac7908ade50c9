//! An attempt beside or after the first.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use pin_project::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::retry::RetryBody;
use crate::retry::body::ReaderId;
use crate::retry::repeat::Repeat;

#[pin_project]
pub(super) struct Attempt<F, S, B> {
    #[pin]
    state: State<F, S, B>,
    pub(super) reader: ReaderId,
    /// How many attempts were before it.
    before: u32,
    /// It goes to an endpoint that none of them went to, or nowhere.
    pub(super) beside: bool,
    pub(super) made: Instant,
}

#[pin_project(project = StateProjection)]
enum State<F, S, B> {
    /// The service may not be ready. The body is here until it is.
    Preparing(S, Option<RetryBody<B>>),
    Called(#[pin] F),
}

impl<F, S, B> Attempt<F, S, B> {
    pub(super) fn new(
        service: S,
        (reader, body): (ReaderId, RetryBody<B>),
        before: u32,
        beside: bool,
    ) -> Self {
        Self {
            state: State::Preparing(service, Some(body)),
            reader,
            before,
            beside,
            made: Instant::now(),
        }
    }

    /// The response to come, once the service has the request.
    #[cfg(feature = "grpc")]
    pub(super) fn called(self: Pin<&mut Self>) -> Option<Pin<&mut F>> {
        match self.project().state.project() {
            StateProjection::Called(attempt) => Some(attempt),
            StateProjection::Preparing(..) => None,
        }
    }
}

impl<F, S, B, R> Attempt<F, S, B>
where
    F: Future<Output = Result<Response<R>, S::Error>>,
    S: Service<Request<RetryBody<B>>, Response = Response<R>, Future = F>,
{
    /// `None`: it was not sent, because the call's end had come.
    pub(super) fn poll(
        self: Pin<&mut Self>,
        repeat: &Repeat<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<F::Output>> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Preparing(service, body) => {
                    if let Err(error) = ready!(service.poll_ready(cx)) {
                        return Poll::Ready(Some(Err(error)));
                    }
                    let previous = match this.beside {
                        true => repeat.previous.for_others_only(),
                        false => repeat.previous.clone(),
                    };
                    let head = repeat.head(*this.before, previous);
                    let Some((head, body)) = head.zip(body.take()) else {
                        return Poll::Ready(None);
                    };
                    let attempt = service.call(Request::from_parts(head, body));
                    this.state.set(State::Called(attempt));
                }
                StateProjection::Called(attempt) => return attempt.poll(cx).map(Some),
            }
        }
    }
}
