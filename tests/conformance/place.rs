//! A place that a test can write to, and that a source reads.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use evenkeel::discovery::BoxDiscovery;
use evenkeel::{BoxError, Endpoint};
use futures::future::BoxFuture;
use tower::Service;

/// A server, by its number from 1 to 9.
pub(crate) type Server = u8;

/// What is said of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) weight: u32,
    /// The value of `version` in its metadata.
    pub(crate) version: Option<&'static str>,
}

impl Default for Said {
    fn default() -> Self {
        Self {
            weight: 1,
            version: None,
        }
    }
}

/// Every server there is.
pub(crate) type State = BTreeMap<Server, Said>;

/// A change, with the state after it: a place takes which of the two it can use.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) what: What,
    pub(crate) state: State,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    /// A server is added, or described anew.
    Put(Server, Said),
    Remove(Server),
}

/// Whether a source can do something.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Can {
    Yes,
    /// Why not. The rule is then not for it.
    No(&'static str),
}

/// What a source can do beside adding and removing. All of it has to be said.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Abilities {
    /// Its endpoints have weights.
    pub(crate) weights: Can,
    /// Its endpoints have metadata.
    pub(crate) metadata: Can,
    /// It can name no endpoint at all.
    pub(crate) empty: Can,
    /// It can fail, and come back.
    pub(crate) errors: Can,
    /// That it is back shows without a change.
    pub(crate) returns: Can,
    /// Its stream can end.
    pub(crate) ends: Can,
    /// How often it reads can be seen from outside.
    pub(crate) reads: Can,
}

/// What becomes of changes that nobody read in between.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Burst {
    /// At most so many states.
    States(usize),
    /// A state each, which is the writer's doing.
    Each,
}

/// See the module.
pub(crate) trait Place: Sized + 'static {
    const NAME: &'static str;

    const CAN: Abilities;

    const BURST: Burst;

    /// Begins with this state; `None`, with a line that says why, where it cannot run.
    async fn start(first: &State) -> Option<(Self, BoxDiscovery)>;

    /// The id of the endpoint that a server becomes.
    fn id(server: Server) -> String {
        format!("s{server}")
    }

    /// Connects to an endpoint.
    fn dial(endpoint: &Endpoint) -> Dial {
        let named = Named::new(endpoint.id().as_str());
        Box::pin(async { Ok(named) })
    }

    async fn write(&mut self, change: &Change);

    /// Writes them one after the other, with no turn for the balancer in between where that can be.
    async fn write_all(&mut self, changes: &[Change]) {
        for change in changes {
            self.write(change).await;
        }
    }

    /// Makes it fail. Returns a part of what the error says.
    async fn fail(&mut self) -> &'static str {
        unreachable!("{} does not say that it can fail", Self::NAME)
    }

    /// Has it come back, with this state; one that tells changes only may wait for the next one to say so.
    async fn mend(&mut self, _: &State) {
        unreachable!("{} does not say that it can fail", Self::NAME)
    }

    /// Ends its stream.
    async fn end(&mut self) {
        unreachable!("{} does not say that it can end", Self::NAME)
    }

    /// How often it was read.
    fn reads(&mut self) -> usize {
        unreachable!("{} does not say that it can tell", Self::NAME)
    }
}

pub(crate) type Dial = BoxFuture<'static, Result<Named, BoxError>>;

/// A service that answers with the id of its endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Named(Arc<str>);

impl Named {
    pub(crate) fn new(id: &str) -> Self {
        Self(id.into())
    }
}

impl Service<()> for Named {
    type Response = String;
    type Error = Infallible;
    type Future = std::future::Ready<Result<String, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, (): ()) -> Self::Future {
        std::future::ready(Ok(self.0.to_string()))
    }
}

/// The endpoint that most sources make of a server.
pub(crate) fn endpoint(server: Server, said: &Said) -> Endpoint {
    let version = said.version.map(|version| ("version", version));
    Endpoint::new(format!("s{server}"))
        .with_weight(said.weight)
        .with_metadata(version)
}
