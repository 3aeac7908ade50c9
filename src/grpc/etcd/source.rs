//! The stream of states.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::stream;
use tokio::time::{Instant, sleep_until};
use tonic::{Status, Streaming};

use super::client::{Client, said};
use super::state::{Changed, State};
use crate::discovery::{BoxDiscovery, Update};
use crate::error::BoxError;
use crate::math::{Backoff, Rng};
use crate::proto::etcd::event::EventType;
use crate::proto::etcd::{Event, WatchResponse};

/// The states of an [`Etcd`](super::Etcd) source, to give to a builder. It ends only with its reader, and the watch
/// with it.
pub struct EtcdUpdates(BoxDiscovery);

impl Stream for EtcdUpdates {
    type Item = Result<Update, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for EtcdUpdates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdUpdates").finish_non_exhaustive()
    }
}

impl EtcdUpdates {
    pub(super) fn new(client: Client, prefix: String, backoff: Backoff, rng: Rng) -> Self {
        let source = Source {
            client,
            prefix,
            backoff,
            rng,
            failures: 0,
            retry_at: None,
            down: false,
            state: State::default(),
            changed: Changed::default(),
            revision: 0,
            told: false,
            phase: Phase::Range,
            items: VecDeque::new(),
        };
        Self(Box::pin(stream::unfold(source, |mut source| async {
            Some((source.next().await, source))
        })))
    }
}

/// What is to be done next.
enum Phase {
    /// Ask for all keys.
    Range,
    /// Begin to watch, behind the last revision.
    Watch,
    /// Hear what happens.
    Hear(Box<Streaming<WatchResponse>>),
}

struct Source {
    client: Client,
    prefix: String,
    backoff: Backoff,
    rng: Rng,
    /// Since a watch began.
    failures: u32,
    retry_at: Option<Instant>,
    /// It was told that etcd does not answer, and no state since.
    down: bool,
    state: State,
    /// What the parts of a message that is not whole yet came to.
    changed: Changed,
    /// Up to which the state is added up.
    revision: i64,
    /// A state was told.
    told: bool,
    phase: Phase,
    items: VecDeque<Result<Update, BoxError>>,
}

impl Source {
    async fn next(&mut self) -> Result<Update, BoxError> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return item;
            }
            if let Some(at) = self.retry_at.take() {
                sleep_until(at).await;
            }
            let done = match &mut self.phase {
                Phase::Range => self.range().await,
                Phase::Watch => self.watch().await,
                Phase::Hear(words) => match words.message().await {
                    Ok(Some(word)) => self.hear(word),
                    Ok(None) => Err(Status::unavailable("the watch ended")),
                    Err(status) => Err(status),
                },
            };
            if let Err(status) = done {
                self.failed(&status);
            }
        }
    }

    async fn range(&mut self) -> Result<(), Status> {
        let (revision, keys) = self.client.range(self.prefix.as_bytes()).await?;
        self.revision = revision;
        self.phase = Phase::Watch;
        self.state.replace(keys, &mut self.changed);
        self.tell(false);
        Ok(())
    }

    async fn watch(&mut self) -> Result<(), Status> {
        let from = self.revision.saturating_add(1);
        let (first, words) = self.client.watch(self.prefix.as_bytes(), from).await?;
        self.phase = Phase::Hear(Box::new(words));
        let revision = first.header.map_or(0, |header| header.revision);
        if !first.canceled && revision < self.revision {
            // A member that lags, or an etcd that was set back to an earlier state: that one would say nothing
            // before it is as far as it was.
            self.phase = Phase::Range;
            self.pause(0);
            return Ok(());
        }
        self.hear(first)?;
        if matches!(self.phase, Phase::Hear(_)) {
            self.failures = 0;
            self.tell(true);
        }
        Ok(())
    }

    fn hear(&mut self, word: WatchResponse) -> Result<(), Status> {
        if word.canceled {
            self.phase = Phase::Range;
            if word.compact_revision > 0 {
                // What happened since is not known any more; what there is now is.
                return Ok(());
            }
            return Err(Status::unavailable(match word.cancel_reason {
                reason if reason.is_empty() => "the watch was cancelled".into(),
                reason => reason,
            }));
        }
        let revision = match word.events.last() {
            // Not the header's, which may be ahead of the events that were sent.
            Some(last) => last.kv.as_ref().map(|pair| pair.mod_revision),
            None if word.created => None,
            None => word.header.map(|header| header.revision),
        };
        for event in word.events {
            self.take(event);
        }
        if !word.fragment {
            self.revision = self.revision.max(revision.unwrap_or(0));
            self.tell(false);
        }
        Ok(())
    }

    fn take(&mut self, event: Event) {
        let kind = event.r#type();
        if let Some(pair) = event.kv {
            match kind {
                EventType::Put => self.state.put(pair.key, pair.value, &mut self.changed),
                EventType::Delete => self.state.delete(&pair.key, &mut self.changed),
            }
        }
    }

    /// Makes a state of what changed, and errors of what was wrong. A state that is the same as the last is told where
    /// etcd is `back`, since the last word was that it does not answer.
    fn tell(&mut self, back: bool) {
        let changed = std::mem::take(&mut self.changed);
        if changed.endpoints || !self.told || (back && self.down) {
            self.told = true;
            self.down = false;
            let update = Update::new(self.state.endpoints());
            self.items.push_back(Ok(update));
        }
        let wrong = changed.wrong.into_iter();
        self.items.extend(wrong.map(|wrong| Err(wrong.into())));
    }

    /// What a message that was cut off brought is told with what comes next: its revision is asked for again.
    fn failed(&mut self, status: &Status) {
        if matches!(self.phase, Phase::Hear(_)) {
            self.phase = Phase::Watch;
        }
        self.pause(self.failures);
        self.failures = self.failures.saturating_add(1);
        if !self.down {
            self.down = true;
            let (prefix, said) = (&self.prefix, said(status));
            let message = format!("etcd cannot be asked for {prefix:?}: {said}");
            self.items.push_back(Err(message.into()));
        }
    }

    fn pause(&mut self, failures: u32) {
        let delay = self.backoff.delay(failures, &mut self.rng);
        self.retry_at = Some(Instant::now() + delay);
    }
}
