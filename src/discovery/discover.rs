use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tower::discover::{Change, Discover};

use crate::discovery::Update;
use crate::endpoint::{Endpoint, EndpointId};
use crate::error::BoxError;

/// How many changes make one update at most, so that a source that never pauses is heard too.
const MAX_BURST: usize = 10_000;

/// Turns a [`tower::discover::Discover`] into a source of endpoints that bring their services with
/// them, as an [attached value](Endpoint::with); [`Discovered`](crate::connection::Discovered) is the
/// connector for them. [`Builder::discover`](crate::balance::Builder::discover) takes both.
///
/// A key's text is the endpoint's id. A key that is inserted again is a new service under the same
/// id: calls under way finish on the old one.
pub fn from_discover<D>(discover: D) -> DiscoverUpdates<D>
where
    D: Discover + Send + Unpin + 'static,
    D::Key: ToString + Send,
    D::Service: Clone + Send + Sync + 'static,
    D::Error: Into<BoxError>,
{
    DiscoverUpdates {
        discover,
        known: BTreeMap::new(),
        inserted: 0,
        changed: false,
        error: None,
        done: false,
    }
}

/// The states of a `Discover`; see [`from_discover`].
#[derive(Debug)]
pub struct DiscoverUpdates<D> {
    discover: D,
    known: BTreeMap<EndpointId, Endpoint>,
    inserted: u64,
    /// Changes taken that no update has told of.
    changed: bool,
    error: Option<BoxError>,
    done: bool,
}

impl<D> Stream for DiscoverUpdates<D>
where
    D: Discover + Unpin,
    D::Key: ToString,
    D::Service: Clone + Send + Sync + 'static,
    D::Error: Into<BoxError>,
{
    type Item = Result<Update, BoxError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        // Take all changes that are there before telling of any: a burst is one state.
        for _ in 0..MAX_BURST {
            if this.done || this.error.is_some() {
                break;
            }
            match Pin::new(&mut this.discover).poll_discover(cx) {
                Poll::Ready(Some(Ok(change))) => this.apply(change),
                Poll::Ready(Some(Err(error))) => this.error = Some(error.into()),
                Poll::Ready(None) => {
                    this.done = true;
                    // A source that ends without a word has named the empty set.
                    this.changed |= this.inserted == 0;
                }
                Poll::Pending => break,
            }
        }
        if std::mem::take(&mut this.changed) {
            return Poll::Ready(Some(Ok(Update::new(this.known.values().cloned()))));
        }
        if let Some(error) = this.error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        if this.done {
            Poll::Ready(None)
        } else {
            Poll::Pending
        }
    }
}

impl<D> DiscoverUpdates<D>
where
    D: Discover,
    D::Key: ToString,
    D::Service: Clone + Send + Sync + 'static,
{
    fn apply(&mut self, change: Change<D::Key, D::Service>) {
        match change {
            Change::Insert(key, service) => {
                self.inserted += 1;
                let id = EndpointId::from(key.to_string());
                // An address of its own makes a service that took another's place a new endpoint.
                let endpoint = Endpoint::new(format!("{id}#{}", self.inserted))
                    .with_id(id.clone())
                    .with(service);
                self.known.insert(id, endpoint);
            }
            Change::Remove(key) => {
                self.known.remove(key.to_string().as_str());
            }
        }
        self.changed = true;
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt, StreamExt, stream};

    use super::*;

    type Item = Result<Change<u32, &'static str>, &'static str>;

    fn ids(item: Option<Option<Result<Update, BoxError>>>) -> Vec<String> {
        let update = item
            .expect("an item")
            .expect("not the end")
            .expect("a state");
        let ids = update.endpoints().iter();
        ids.map(|endpoint| endpoint.id().to_string()).collect()
    }

    fn source(items: Vec<Item>) -> impl Stream<Item = Result<Update, BoxError>> + Unpin {
        from_discover(stream::iter(items).chain(stream::pending()))
    }

    #[test]
    fn changes_that_are_there_are_one_state() {
        let mut updates = source(vec![
            Ok(Change::Insert(1, "a")),
            Ok(Change::Insert(2, "b")),
            Ok(Change::Remove(1)),
            Ok(Change::Remove(9)),
        ]);
        assert_eq!(ids(updates.next().now_or_never()), ["2"]);
        assert!(
            updates.next().now_or_never().is_none(),
            "nothing new, no item"
        );
    }

    #[test]
    fn an_error_comes_after_the_changes_before_it_and_before_those_behind_it() {
        let mut updates = source(vec![
            Ok(Change::Insert(1, "a")),
            Err("down"),
            Ok(Change::Insert(2, "b")),
        ]);
        assert_eq!(ids(updates.next().now_or_never()), ["1"]);
        let error = updates.next().now_or_never().unwrap().unwrap().unwrap_err();
        assert_eq!(error.to_string(), "down");
        assert_eq!(ids(updates.next().now_or_never()), ["1", "2"]);
    }

    #[test]
    fn a_source_that_never_pauses_is_heard() {
        let endless = stream::repeat(()).map(|()| Ok::<_, Infallible>(Change::Insert(1, "a")));
        let mut updates = from_discover(endless);
        for _ in 0..3 {
            assert_eq!(ids(updates.next().now_or_never()), ["1"]);
        }
    }

    #[test]
    fn a_key_inserted_again_is_another_service_under_the_same_id() {
        let mut updates = source(vec![Ok(Change::Insert(1, "a"))]);
        let first = updates.next().now_or_never().flatten().unwrap().unwrap();
        let mut updates = source(vec![Ok(Change::Insert(1, "a")), Ok(Change::Insert(1, "b"))]);
        let second = updates.next().now_or_never().flatten().unwrap().unwrap();
        let (first, second) = (&first.endpoints()[0], &second.endpoints()[0]);
        assert_eq!(first.id(), second.id());
        assert_ne!(
            first.address(),
            second.address(),
            "so that it is dialled anew"
        );
        assert_eq!(
            second.get::<&str>(),
            Some(&"b"),
            "and brings its own service"
        );
    }

    #[test]
    fn the_end_of_a_source_that_said_nothing_is_the_empty_set() {
        let mut updates = from_discover(stream::iter(Vec::<Item>::new()));
        assert!(ids(updates.next().now_or_never()).is_empty());
        assert!(updates.next().now_or_never().unwrap().is_none());
    }
}
