//! The stream of states.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_core::future::BoxFuture;
use futures_util::stream;
use tokio::time::{Instant, sleep, sleep_until};

use super::list::says_the_same;
use super::look::{Look, Print, Seen};
use crate::discovery::{BoxDiscovery, Update};
use crate::endpoint::Endpoint;
use crate::error::BoxError;

/// How long a look may take before it is told that it does.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after a new text was first seen it is looked at again, if it is wrong or is in a format where half of one
/// may look whole: it may be being written.
pub(super) const PAUSE: Duration = Duration::from_millis(50);

/// After so many pauses a text counts though it was another one each time.
pub(super) const MOST_PAUSES: u32 = 20;

/// Time has an end.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The states of a file, to give to a builder; see [`File`](crate::discovery::File).
pub struct FileUpdates(BoxDiscovery);

impl Stream for FileUpdates {
    type Item = Result<Update, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for FileUpdates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileUpdates")
    }
}

impl FileUpdates {
    /// `settles`: a text that has no mistake counts once it was seen twice, as one that has always does.
    pub(super) fn new(
        name: String,
        look: impl Look + 'static,
        interval: Duration,
        settles: bool,
    ) -> Self {
        let source = Source {
            name,
            look,
            interval: interval.min(LONGEST),
            settles,
            next: None,
            under_way: None,
            stuck: None,
            candidate: None,
            known: None,
            told: None,
            failing: None,
        };
        let states = stream::unfold(source, |mut source| async {
            Some((source.next().await, source))
        });
        Self(Box::pin(states))
    }
}

/// Whether this text counts, by the one that was seen before it.
fn has_settled(candidate: Option<(Print, u32)>, print: Print) -> bool {
    candidate.is_some_and(|(seen, pauses)| seen == print || pauses >= MOST_PAUSES)
}

/// A look that may never end.
struct Stuck {
    look: BoxFuture<'static, Result<Seen, BoxError>>,
    /// A newer one has ended, so that what it sees is old.
    stale: bool,
}

/// What the stuck look sees, unless it is old; else this does not end.
async fn late(stuck: &mut Option<Stuck>) -> Result<Seen, BoxError> {
    if let Some(before) = stuck {
        let seen = (&mut before.look).await;
        let stale = before.stale;
        *stuck = None;
        if !stale {
            return seen;
        }
    }
    pending().await
}

struct Source<L> {
    name: String,
    look: L,
    interval: Duration,
    settles: bool,
    /// When to look; at first at once.
    next: Option<Instant>,
    /// The newest look.
    under_way: Option<BoxFuture<'static, Result<Seen, BoxError>>>,
    /// One before it, which took too long. There is never a third.
    stuck: Option<Stuck>,
    /// A text that does not count yet, and how many pauses were made for it and those before it.
    candidate: Option<(Print, u32)>,
    /// The last text that counted, and the mistake in it.
    known: Option<(Print, Option<String>)>,
    /// The last good state.
    told: Option<Vec<Endpoint>>,
    /// The last word, if it was an error.
    failing: Option<String>,
}

impl<L: Look> Source<L> {
    async fn next(&mut self) -> Result<Update, BoxError> {
        loop {
            let word = match self.seen().await {
                Ok(seen) => self.take(seen),
                Err(error) => self.error(error.to_string()),
            };
            if let Some(word) = word {
                return word;
            }
        }
    }

    async fn seen(&mut self) -> Result<Seen, BoxError> {
        let mut look = match self.under_way.take() {
            Some(look) => look,
            None => {
                if let Some(next) = self.next {
                    tokio::select! {
                        biased;
                        seen = late(&mut self.stuck) => return seen,
                        () = sleep_until(next) => {}
                    }
                }
                Box::pin(self.look.look(self.wanted()))
            }
        };
        tokio::select! {
            biased;
            seen = &mut look => {
                if let Some(before) = &mut self.stuck {
                    before.stale = true;
                }
                self.next = Some(Instant::now() + self.interval);
                seen
            }
            seen = late(&mut self.stuck) => {
                self.under_way = Some(look);
                seen
            }
            () = sleep(PATIENCE) => {
                if self.stuck.is_some() {
                    self.under_way = Some(look);
                } else {
                    self.stuck = Some(Stuck { look, stale: false });
                    self.next = Some(Instant::now() + self.interval);
                }
                Err(format!("was not read within {PATIENCE:?}").into())
            }
        }
    }

    /// Which texts are read.
    fn wanted(&self) -> impl FnOnce(Print) -> bool + Send + 'static {
        let known = self.known.as_ref().map(|(print, _)| *print);
        let (settles, candidate) = (self.settles, self.candidate);
        move |print| known != Some(print) && (!settles || has_settled(candidate, print))
    }

    fn take(&mut self, seen: Seen) -> Option<Result<Update, BoxError>> {
        let print = seen.print;
        match seen.list {
            Some(Ok(list)) => {
                self.candidate = None;
                self.known = Some((print, None));
                self.state(list)
            }
            Some(Err(mistake)) if has_settled(self.candidate, print) => {
                self.candidate = None;
                self.known = Some((print, Some(mistake.clone())));
                self.error(mistake)
            }
            None if self
                .known
                .as_ref()
                .is_some_and(|(known, _)| *known == print) =>
            {
                self.candidate = None;
                match self.known.as_ref()?.1.clone() {
                    Some(mistake) => self.error(mistake),
                    None => self.state(self.told.clone()?),
                }
            }
            _ => {
                let pauses = self.candidate.map_or(0, |(_, pauses)| pauses);
                self.candidate = Some((print, pauses + 1));
                self.next = Some(Instant::now() + PAUSE);
                None
            }
        }
    }

    /// Each error once.
    fn error(&mut self, mistake: String) -> Option<Result<Update, BoxError>> {
        if self.failing.as_ref() == Some(&mistake) {
            return None;
        }
        let error = format!("{}: {mistake}", self.name);
        self.failing = Some(mistake);
        Some(Err(error.into()))
    }

    /// A state, unless it is the one that was told last.
    fn state(&mut self, list: Vec<Endpoint>) -> Option<Result<Update, BoxError>> {
        let before = self.told.take();
        let first = before.is_none();
        let before = before.unwrap_or_default();
        let known: HashMap<_, _> = before.iter().map(|known| (known.id(), known)).collect();
        let list: Vec<Endpoint> = list
            .into_iter()
            .map(|endpoint| match known.get(endpoint.id()) {
                Some(known) if says_the_same(known, &endpoint) => (*known).clone(),
                _ => endpoint,
            })
            .collect();
        let same = before.len() == list.len()
            && before
                .iter()
                .zip(&list)
                .all(|(one, other)| one.ptr_eq(other));
        self.told = Some(list.clone());
        let failed = self.failing.take().is_some();
        (first || failed || !same).then(|| Ok(Update::new(list)))
    }
}
