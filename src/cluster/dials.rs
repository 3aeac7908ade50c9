//! The attempts to connect that are under way: a task for each.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::timeout;

use crate::connection::{ConnectionEvents, Connector};
use crate::endpoint::Endpoint;
use crate::error::{BoxError, Error};
use crate::policy::Subchannel;

/// One attempt.
pub(super) struct Dial {
    pub(super) endpoint: Endpoint,
    pub(super) subchannel: Arc<Subchannel>,
    pub(super) connection: u64,
    pub(super) events: ConnectionEvents,
}

/// How the task of an attempt ended.
pub(super) type DialResult<S> = Result<(Id, Result<S, BoxError>), JoinError>;

/// Dropping them gives them up.
pub(super) struct Dials<S> {
    tasks: JoinSet<Result<S, BoxError>>,
    /// The one under way for an endpoint.
    by_key: HashMap<u64, AbortHandle>,
    /// Which one a task is.
    by_task: HashMap<Id, Dial>,
}

impl<S: Send + 'static> Dials<S> {
    pub(super) fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            by_key: HashMap::new(),
            by_task: HashMap::new(),
        }
    }

    /// Begins to connect; it takes `limit` at most.
    pub(super) fn begin<C>(&mut self, connector: Arc<C>, dial: Dial, limit: Duration)
    where
        C: Connector<Service = S>,
    {
        let endpoint = dial.endpoint.clone();
        let events = dial.events.clone();
        let task = self.tasks.spawn(async move {
            // In here, so that a connector which panics fails this dial only.
            let dial = async { connector.connect(&endpoint, events).await };
            match timeout(limit, dial).await {
                Ok(result) => result.map_err(Into::into),
                Err(_) => Err(Error::timeout(format!("not connected within {limit:?}")).into()),
            }
        });
        let key = dial.subchannel.key();
        self.by_task.insert(task.id(), dial);
        self.by_key.insert(key, task);
    }

    /// The endpoint left, or is not wanted now.
    pub(super) fn forget(&mut self, key: u64) {
        if let Some(task) = self.by_key.remove(&key) {
            task.abort();
            // It may have ended already, well, with a service that nobody wants.
            self.by_task.remove(&task.id());
        }
    }

    /// Waits for the next one to end, if any is under way.
    pub(super) fn next(&mut self) -> impl Future<Output = Option<DialResult<S>>> {
        self.tasks.join_next_with_id()
    }

    /// One that has ended already.
    pub(super) fn try_next(&mut self) -> Option<DialResult<S>> {
        self.tasks.try_join_next_with_id()
    }

    /// Which one has ended, and how; `None` if it was given up.
    pub(super) fn ended(&mut self, done: DialResult<S>) -> Option<(Dial, Result<S, BoxError>)> {
        let (id, result) = match done {
            Ok((id, result)) => (id, result),
            Err(error) if error.is_cancelled() => {
                self.by_task.remove(&error.id());
                return None;
            }
            Err(error) => (error.id(), Err(error.into())),
        };
        let dial = self.by_task.remove(&id)?;
        self.by_key.remove(&dial.subchannel.key());
        Some((dial, result))
    }
}
