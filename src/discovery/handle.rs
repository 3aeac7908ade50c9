use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use crate::discovery::{Update, validate};
use crate::endpoint::{Endpoint, EndpointId};
use crate::error::{BoxError, Error};

/// A set of endpoints that the program itself changes, from any task or thread. Cheap to clone.
///
/// No method waits for the balancer: a change is written down and the balancer, idle or busy, takes
/// the latest state. A burst of changes costs it one step.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::Error> {
/// use evenkeel::Endpoint;
/// use evenkeel::discovery::Handle;
///
/// let (handle, updates) = Handle::new(["http://10.0.0.1:50051"])?;
/// # #[cfg(feature = "grpc")]
/// let channel = evenkeel::grpc::Channel::builder().discovery(updates).build()?;
///
/// handle.insert(Endpoint::new("http://10.0.0.2:50051"))?;
/// handle.remove("http://10.0.0.1:50051");
/// assert_eq!(handle.endpoints().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Mutex<State>>,
}

/// The stream of a [`Handle`]'s states, to give to a builder. When the last handle is dropped, the
/// balancer keeps the last state.
#[derive(Debug)]
pub struct Updates {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    endpoints: BTreeMap<EndpointId, Endpoint>,
    changed: bool,
    waker: Option<Waker>,
}

impl Handle {
    /// A handle and the stream of its states, which begins with `endpoints`; no endpoints is a state
    /// like any other.
    ///
    /// # Errors
    /// An endpoint with an empty id or a weight of 0, or two with the same id.
    pub fn new<E: Into<Endpoint>>(
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<(Self, Updates), Error> {
        let shared = Arc::new(Mutex::new(State {
            endpoints: collect(endpoints)?,
            changed: true,
            waker: None,
        }));
        Ok((
            Self {
                shared: shared.clone(),
            },
            Updates { shared },
        ))
    }

    /// Adds an endpoint, or replaces the one with the same id. A replaced endpoint keeps its
    /// connection, load and health unless its addresses changed.
    ///
    /// # Errors
    /// An empty id or a weight of 0.
    pub fn insert(&self, endpoint: impl Into<Endpoint>) -> Result<(), Error> {
        let endpoint = endpoint.into();
        endpoint.validate()?;
        self.change(|endpoints| {
            endpoints.insert(endpoint.id().clone(), endpoint);
        });
        Ok(())
    }

    /// Takes an endpoint out. It gets no new call; those under way finish; then its connection
    /// closes. `false` if there was none of that id.
    pub fn remove(&self, id: &str) -> bool {
        self.change(|endpoints| endpoints.remove(id).is_some())
    }

    /// Replaces the whole set.
    ///
    /// # Errors
    /// As [`new`](Self::new); the set is then as before.
    pub fn replace<E: Into<Endpoint>>(
        &self,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<(), Error> {
        let new = collect(endpoints)?;
        self.change(|endpoints| *endpoints = new);
        Ok(())
    }

    /// The set as it stands, in the order of ids.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        lock(&self.shared).endpoints.values().cloned().collect()
    }

    fn change<R>(&self, change: impl FnOnce(&mut BTreeMap<EndpointId, Endpoint>) -> R) -> R {
        let mut state = lock(&self.shared);
        let result = change(&mut state.endpoints);
        state.changed = true;
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        result
    }
}

impl Stream for Updates {
    type Item = Result<Update, BoxError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut state = lock(&self.shared);
        if state.changed {
            state.changed = false;
            return Poll::Ready(Some(Ok(Update::new(state.endpoints.values().cloned()))));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

fn collect<E: Into<Endpoint>>(
    endpoints: impl IntoIterator<Item = E>,
) -> Result<BTreeMap<EndpointId, Endpoint>, Error> {
    let endpoints: Vec<Endpoint> = endpoints.into_iter().map(Into::into).collect();
    validate(&endpoints)?;
    Ok(endpoints
        .into_iter()
        .map(|endpoint| (endpoint.id().clone(), endpoint))
        .collect())
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll(updates: &mut Updates, woken: &Arc<Woken>) -> Option<Vec<String>> {
        let waker = Waker::from(woken.clone());
        match Pin::new(updates).poll_next(&mut Context::from_waker(&waker)) {
            Poll::Pending => None,
            Poll::Ready(item) => {
                let update = item
                    .expect("a handle's states do not end")
                    .expect("nor err");
                let ids = update.endpoints().iter();
                Some(ids.map(|endpoint| endpoint.id().to_string()).collect())
            }
        }
    }

    #[test]
    fn changes_between_two_reads_are_one_state_and_one_wake() {
        let (handle, mut updates) = Handle::new(["a"]).unwrap();
        let woken = Arc::new(Woken::default());
        assert_eq!(poll(&mut updates, &woken).unwrap(), ["a"]);
        assert_eq!(poll(&mut updates, &woken), None, "nothing new");
        for n in 0..10 {
            handle.insert(format!("b{n}")).unwrap();
        }
        for n in 1..10 {
            assert!(handle.remove(&format!("b{n}")));
        }
        assert_eq!(
            woken.0.load(Ordering::SeqCst),
            1,
            "the reader is woken once"
        );
        assert_eq!(poll(&mut updates, &woken).unwrap(), ["a", "b0"]);
        assert_eq!(poll(&mut updates, &woken), None);
    }

    #[test]
    fn the_reader_that_came_last_is_woken() {
        let (handle, mut updates) = Handle::new([] as [&str; 0]).unwrap();
        let [first, second] = [Arc::new(Woken::default()), Arc::new(Woken::default())];
        assert_eq!(poll(&mut updates, &first).unwrap(), [] as [&str; 0]);
        assert_eq!(poll(&mut updates, &first), None);
        assert_eq!(poll(&mut updates, &second), None);
        handle.insert("a").unwrap();
        let wakes = [first, second].map(|woken| woken.0.load(Ordering::SeqCst));
        assert_eq!(wakes, [0, 1]);
    }

    #[test]
    fn a_refused_change_leaves_the_set_and_the_reader_alone() {
        let (handle, mut updates) = Handle::new(["a"]).unwrap();
        let woken = Arc::new(Woken::default());
        poll(&mut updates, &woken);
        assert_eq!(poll(&mut updates, &woken), None);
        handle.insert("").unwrap_err();
        handle.replace(["b", "b"]).unwrap_err();
        assert_eq!(woken.0.load(Ordering::SeqCst), 0);
        assert_eq!(handle.endpoints().len(), 1);
        assert_eq!(poll(&mut updates, &woken), None);
    }
}
