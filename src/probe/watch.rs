//! What a server says by itself, again and again, while a connection to it is up.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream::Pending;
use tokio::task::coop::consume_budget;
use tokio::time::sleep;
use tracing::debug;

use crate::endpoint::Endpoint;
use crate::error::{BoxError, describe};
use crate::math::{Backoff, Rng};
use crate::outcome::LoadReport;
use crate::policy::Subchannel;

/// Hears what one server says by itself: a stream that is open for as long as its endpoint is connected.
///
/// `S` is the service of an endpoint, as its connector made it. A watch goes past the balancer: it is no
/// call, and counts neither as load nor as a success or a failure of the endpoint. One task for each
/// endpoint keeps it. When the stream ends it is begun anew over the same connection, after the
/// [backoff](crate::balance::Builder::backoff) of connections, which begins at its base again once
/// something was heard. It is dropped when the connection ends or takes no more calls, when the endpoint
/// leaves, and with the last handle of the balancer.
///
/// A stream that stays open and says nothing is left alone, however long: when a server has something to say
/// is for the server to know. One that is to end then has to end itself, with a [`WatchError`].
pub trait Watch<S>: Send + Sync + 'static {
    /// What is asked of every server; for load reports, how often they are to come.
    type Terms: Send + Sync + 'static;
    /// What a server says; for load reports, a [`LoadReport`].
    type Word: Send + 'static;
    /// A watch under way. Nothing is read of it after an error.
    type Stream: Stream<Item = Result<Self::Word, WatchError>> + Send + 'static;

    /// Begins to listen to `target`. The stream should let go of its service as soon as it can do without. One
    /// that panics is not begun anew over this connection.
    fn watch(&self, target: Target<S>, terms: &Self::Terms) -> Self::Stream;
}

/// Whom a [`Watch`] listens to: an endpoint by one of its connections.
#[derive(Clone)]
pub struct Target<S> {
    endpoint: Endpoint,
    service: S,
    seed: u64,
    subchannel: Option<Arc<Subchannel>>,
    broken: Broken,
}

/// To whom it is told that a service broke. A closure, since what hears it is no business of a watch.
#[derive(Clone, Default)]
pub(crate) struct Broken(Option<Arc<dyn Fn(BoxError) + Send + Sync>>);

impl Broken {
    pub(crate) fn tell(&self, error: BoxError) {
        if let Some(hear) = &self.0 {
            hear(error);
        }
    }
}

impl<S> Target<S> {
    /// An endpoint that gets no calls, for a watch's own tests.
    pub fn new(endpoint: impl Into<Endpoint>, service: S) -> Self {
        Self {
            endpoint: endpoint.into(),
            service,
            seed: 0,
            subchannel: None,
            broken: Broken::default(),
        }
    }

    /// Sets who hears that the service broke; by default nobody does.
    pub(crate) fn broken_to(mut self, hear: impl Fn(BoxError) + Send + Sync + 'static) -> Self {
        self.broken = Broken(Some(Arc::new(hear)));
        self
    }

    /// Adds the record of the endpoint's calls, and a seed.
    pub(crate) fn known_by(mut self, subchannel: Arc<Subchannel>, seed: u64) -> Self {
        self.subchannel = Some(subchannel);
        self.seed = seed;
        self
    }

    /// The endpoint, as its source described it when the connection came up.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// A clone of the endpoint's service for this connection; its `poll_ready` was not called.
    pub fn service(&self) -> S
    where
        S: Clone,
    {
        self.service.clone()
    }

    /// The service, for who needs nothing else.
    pub fn into_service(self) -> S {
        self.service
    }

    /// The service, and whom to tell if it breaks, for who may not clone it.
    #[cfg(feature = "grpc")]
    pub(crate) fn into_parts(self) -> (S, Broken) {
        (self.service, self.broken)
    }

    /// Says that the `poll_ready` of the service erred, so that it will not be ready again. As when a call finds
    /// that out: the endpoint gets no more calls by this connection, and is dialled anew after the backoff.
    /// Nothing happens if the connection has ended otherwise.
    ///
    /// A check that keeps this to itself would have the endpoint checked over the broken service for ever: no call
    /// goes to one that is not serving, so nobody else finds out. Where the connector tells of each
    /// [end](crate::connection::ConnectionEvents) itself, there is no need to.
    pub fn not_ready(&self, why: impl Into<BoxError>) {
        self.broken.tell(why.into());
    }

    /// A seed for what goes by chance, another one for each connection.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// How many calls to the endpoint were ever started, also those that go on; the balancer's own, so none that a
    /// watch makes. One that the endpoint hands back unprocessed counts only until then.
    pub fn calls(&self) -> u64 {
        (self.subchannel.as_ref()).map_or(0, |subchannel| subchannel.load().started())
    }
}

impl<S> fmt::Debug for Target<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

/// Why a [`Watch`] ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum WatchError {
    /// The server does not know the question. It is not asked again over this connection; over the next one
    /// it is, since that may lead to another server.
    Unsupported,
    /// Anything else; it is begun anew, later.
    Ended(BoxError),
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsupported => f.write_str("the server does not know the question"),
            Self::Ended(error) => f.write_str(&describe(&**error)),
        }
    }
}

impl std::error::Error for WatchError {}

/// In place of a watch for load reports where there is none. It has no values.
#[derive(Debug, Clone, Copy)]
pub enum NoWatch {}

impl<S> Watch<S> for NoWatch {
    type Terms = Duration;
    type Word = LoadReport;
    type Stream = Pending<Result<LoadReport, WatchError>>;

    fn watch(&self, _: Target<S>, _: &Duration) -> Self::Stream {
        match *self {}
    }
}

/// The pauses between the watches of one connection.
#[derive(Debug)]
pub(crate) struct Pauses {
    pub(crate) backoff: Backoff,
    pub(crate) rng: Rng,
}

/// What comes of a watch.
#[derive(Debug, PartialEq)]
pub(crate) enum Heard<T> {
    /// The server said this.
    Word(T),
    /// The watch ended, for this reason; it is begun anew, later.
    Lost(String),
    /// The server does not know the question, and is not asked again.
    Unsupported,
}

/// Keeps up a watch over one connection, and hands on what comes of it. Ends only if the server does not know
/// the question.
pub(crate) async fn keep<S, W>(
    target: Target<S>,
    watch: &W,
    terms: &W::Terms,
    mut pauses: Pauses,
    mut heard: impl FnMut(Heard<W::Word>),
) where
    S: Clone,
    W: Watch<S>,
{
    let id = target.endpoint().id().clone();
    let mut failures = 0_u32;
    loop {
        let end = {
            let mut words = pin!(watch.watch(target.clone(), terms));
            loop {
                match words.next().await {
                    Some(Ok(word)) => {
                        failures = 0;
                        heard(Heard::Word(word));
                    }
                    Some(Err(error)) => break Some(error),
                    None => break None,
                }
                // A stream that never pauses must not keep the thread from all others.
                consume_budget().await;
            }
        };
        let why = match end {
            Some(WatchError::Unsupported) => {
                heard(Heard::Unsupported);
                return;
            }
            Some(error) => error.to_string(),
            None => "it ended without a word".to_owned(),
        };
        debug!(endpoint = %id, error = why, "the watch ended");
        heard(Heard::Lost(why));
        sleep(pauses.backoff.delay(failures, &mut pauses.rng)).await;
        failures = failures.saturating_add(1);
    }
}

#[cfg(test)]
mod tests;
