//! A place, a balancer that reads it, and what both did.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use evenkeel::balance::Plain;
use evenkeel::connection::connector_fn;
use evenkeel::discovery::{BoxDiscovery, Update};
use evenkeel::policy::{Candidates, Picker, Policy, RoundRobin};
use evenkeel::{Balance, BoxError, ConnectivityState, Endpoint};
use futures::Stream;
use tower::ServiceExt;

use crate::place::{Can, Change, Named, Place, Said, Server, State, What};

/// No wait lasts longer. The time is real: files and servers take some.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct World<P> {
    pub(crate) place: P,
    pub(crate) balance: Balance<Named, Plain>,
    /// What was written, all changes added up.
    state: State,
    dials: Arc<AtomicUsize>,
    seen: Arc<Seen>,
    /// States and errors that the source told.
    items: Arc<AtomicUsize>,
    /// Shared with the source's stream.
    stream: Arc<()>,
}

/// What a policy was built of.
#[derive(Debug, Default)]
struct Seen {
    endpoints: Mutex<Vec<Endpoint>>,
    builds: AtomicUsize,
}

/// Round robin that notes what it is built of.
#[derive(Debug)]
struct Noting(RoundRobin, Arc<Seen>);

impl Policy for Noting {
    fn name(&self) -> &'static str {
        "noting"
    }

    fn build(&self, candidates: &Candidates, before: Option<&dyn Picker>) -> Arc<dyn Picker> {
        let all = candidates.all().iter();
        *self.1.endpoints.lock().unwrap() = all.map(|c| c.endpoint().clone()).collect();
        self.1.builds.fetch_add(1, Ordering::SeqCst);
        self.0.build(candidates, before)
    }
}

/// A stream that counts its items and shows whether it is still there.
struct Counted {
    inner: BoxDiscovery,
    items: Arc<AtomicUsize>,
    _stream: Arc<()>,
}

impl Stream for Counted {
    type Item = Result<Update, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.inner.as_mut().poll_next(cx);
        if let Poll::Ready(Some(_)) = &polled {
            self.items.fetch_add(1, Ordering::SeqCst);
        }
        polled
    }
}

impl<P: Place> World<P> {
    /// With these servers, all connected. `None` where the place cannot run.
    pub(crate) async fn start(first: &[Server]) -> Option<Self> {
        let state: State = first.iter().map(|n| (*n, Said::default())).collect();
        let (place, source) = P::start(&state).await?;
        let (dials, items) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (seen, stream) = (Arc::<Seen>::default(), Arc::new(()));
        let counted = Counted {
            inner: source,
            items: items.clone(),
            _stream: stream.clone(),
        };
        let connector = {
            let dials = dials.clone();
            connector_fn(move |endpoint: &Endpoint, _| {
                dials.fetch_add(1, Ordering::SeqCst);
                P::dial(endpoint)
            })
        };
        let balance = Balance::builder()
            .discovery(counted)
            .connector(connector)
            .policy(Noting(RoundRobin::default(), seen.clone()))
            .seed(7)
            .build()
            .expect("it can be built");
        let world = Self {
            place,
            balance,
            state,
            dials,
            seen,
            items,
            stream,
        };
        world.until_ready("the first state", first).await;
        Some(world)
    }

    pub(crate) async fn put(&mut self, server: Server, said: Said) {
        let change = self.change(What::Put(server, said));
        self.place.write(&change).await;
    }

    pub(crate) async fn add(&mut self, server: Server) {
        self.put(server, Said::default()).await;
    }

    pub(crate) async fn remove(&mut self, server: Server) {
        let change = self.change(What::Remove(server));
        self.place.write(&change).await;
    }

    /// Notes a change that is to be written.
    pub(crate) fn change(&mut self, what: What) -> Change {
        match &what {
            What::Put(server, said) => drop(self.state.insert(*server, said.clone())),
            What::Remove(server) => {
                let had = self.state.remove(server);
                assert!(had.is_some(), "what is removed was there");
            }
        }
        Change {
            what,
            state: self.state.clone(),
        }
    }

    pub(crate) async fn mend(&mut self) {
        self.place.mend(&self.state).await;
    }

    /// Whether the rule is for this source. If not, a line says why.
    pub(crate) fn can(rule: &str, can: Can) -> bool {
        match can {
            Can::Yes => true,
            Can::No(why) => {
                println!("not for {}: {rule}: {why}", P::NAME);
                false
            }
        }
    }

    /// Waits until just these are connected, and no others are known.
    pub(crate) async fn until_ready(&self, rule: &str, want: &[Server]) {
        let mut want: Vec<String> = want.iter().map(|n| P::id(*n)).collect();
        want.sort();
        let now = || {
            let report = self.balance.report();
            let mut known: Vec<String> =
                report.endpoints.iter().map(|e| e.id.to_string()).collect();
            known.sort();
            let mut states = report.endpoints.iter().map(|e| e.state);
            report.resolved
                && known == want
                && states.all(|state| state == ConnectivityState::Ready)
        };
        self.until(rule, now).await;
    }

    /// Waits until `done` holds.
    pub(crate) async fn until(&self, rule: &str, mut done: impl FnMut() -> bool) {
        let wait = async {
            while !done() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let report = self.balance.report();
            panic!("{}: {rule}: not within {PATIENCE:?}: {report:?}", P::NAME);
        }
    }

    /// Who answers so many calls, in the order of ids.
    pub(crate) async fn answers(&self, calls: usize) -> Vec<String> {
        let mut answers = Vec::new();
        for _ in 0..calls {
            let call = within(P::NAME, self.balance.clone().oneshot(())).await;
            answers.push(call.unwrap_or_else(|error| panic!("{}: {error}", P::NAME)));
        }
        answers.sort();
        answers.dedup();
        answers
    }

    pub(crate) fn error(&self) -> Option<String> {
        self.balance.report().discovery_error
    }

    pub(crate) fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    pub(crate) fn items(&self) -> usize {
        self.items.load(Ordering::SeqCst)
    }

    pub(crate) fn builds(&self) -> usize {
        self.seen.builds.load(Ordering::SeqCst)
    }

    /// How often the stream of the source is held, beside here.
    pub(crate) fn streams(&self) -> usize {
        Arc::strong_count(&self.stream) - 1
    }

    /// The endpoint of this server, as the policy sees it.
    pub(crate) fn seen(&self, server: Server) -> Option<Endpoint> {
        let endpoints = self.seen.endpoints.lock().unwrap();
        let id = P::id(server);
        endpoints.iter().find(|e| e.id().as_str() == id).cloned()
    }

    /// Lets the balancer go, and keeps the rest.
    pub(crate) fn without_balancer(self) -> (P, Arc<()>) {
        (self.place, self.stream)
    }
}

pub(crate) async fn within<F: Future>(rule: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{rule}: not within {PATIENCE:?}"),
    }
}
