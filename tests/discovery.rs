//! What holds of sources of endpoints in the process, in paused time: how words, turns of the scheduler and ends go
//! together. What holds of all sources is in `tests/conformance`.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use evenkeel::balance::Plain;
use evenkeel::connection::{Discovered, connector_fn};
use evenkeel::discovery::{Discovery, Handle, Targets, Update, from_discover};
use evenkeel::policy::RoundRobin;
use evenkeel::{Balance, BoxError, ConnectivityState, Endpoint};
use futures::channel::mpsc;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, poll};
use tower::buffer::Buffer;
use tower::discover::Change;
use tower::{Service, ServiceExt, service_fn};

/// What a test can make its source say.
#[derive(Debug, Clone)]
enum Word {
    Add(&'static str),
    Remove(&'static str),
    Error(&'static str),
    End,
}

/// What a source can do beyond adding and removing.
#[derive(Debug, Clone, Copy)]
struct Can {
    errors: bool,
}

/// A source under test: a way to say words to it, and the balancer behind it.
struct Source {
    name: &'static str,
    can: Can,
    say: Box<dyn FnMut(Word) + Send>,
    balance: Balance<Named, Plain>,
    dials: Arc<AtomicUsize>,
    /// Counts every time that the source's stream was polled to an item.
    updates: Arc<AtomicUsize>,
}

/// A service that answers with its name. The name is shared with all clones, to see when they are gone.
#[derive(Clone, Debug)]
struct Named(Arc<String>);

impl Service<()> for Named {
    type Response = String;
    type Error = Infallible;
    type Future = std::future::Ready<Result<String, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: ()) -> Self::Future {
        std::future::ready(Ok(self.0.to_string()))
    }
}

/// A stream that counts its items.
struct Counted<D> {
    inner: Pin<Box<D>>,
    updates: Arc<AtomicUsize>,
}

impl<D: Discovery> Stream for Counted<D> {
    type Item = Result<Update, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.inner.as_mut().poll_next(cx);
        if let Poll::Ready(Some(_)) = &polled {
            self.updates.fetch_add(1, Ordering::SeqCst);
        }
        polled
    }
}

type Dial = BoxFuture<'static, Result<Named, BoxError>>;

fn source(
    name: &'static str,
    can: Can,
    discovery: impl Discovery,
    dial: impl Fn(&Endpoint) -> Dial + Send + Sync + 'static,
    say: impl FnMut(Word) + Send + 'static,
) -> Source {
    let updates = Arc::new(AtomicUsize::new(0));
    let dials = Arc::new(AtomicUsize::new(0));
    let counted = Counted {
        inner: Box::pin(discovery),
        updates: updates.clone(),
    };
    let connector = {
        let dials = dials.clone();
        connector_fn(move |endpoint: &Endpoint, _| {
            dials.fetch_add(1, Ordering::SeqCst);
            dial(endpoint)
        })
    };
    let balance = Balance::builder()
        .discovery(counted)
        .connector(connector)
        .policy(RoundRobin::default())
        .seed(7)
        .build()
        .unwrap();
    Source {
        name,
        can,
        say: Box::new(say),
        balance,
        dials,
        updates,
    }
}

/// The dial of endpoints that are only an address.
fn by_address(endpoint: &Endpoint) -> Dial {
    let named = Named(Arc::new(endpoint.address().to_owned()));
    Box::pin(async { Ok(named) })
}

fn by_handle(first: &[&'static str]) -> Source {
    let (handle, updates) = Handle::new(first.iter().copied()).unwrap();
    let mut handle = Some(handle);
    let can = Can { errors: false };
    source("Handle", can, updates, by_address, move |word| match word {
        Word::Add(id) => handle.as_ref().unwrap().insert(id).unwrap(),
        Word::Remove(id) => assert!(handle.as_ref().unwrap().remove(id)),
        Word::Error(_) => unreachable!("a handle has no errors"),
        Word::End => drop(handle.take()),
    })
}

fn by_stream(first: &[&'static str]) -> Source {
    let (sender, updates) = mpsc::unbounded::<Result<Update, BoxError>>();
    let mut known: BTreeMap<&str, Endpoint> =
        first.iter().map(|id| (*id, Endpoint::new(*id))).collect();
    sender
        .unbounded_send(Ok(Update::new(known.values().cloned())))
        .unwrap();
    let can = Can { errors: true };
    source("stream", can, updates, by_address, move |word| {
        match word {
            Word::Add(id) => {
                known.insert(id, Endpoint::new(id));
            }
            Word::Remove(id) => {
                known.remove(id);
            }
            Word::Error(text) => return sender.unbounded_send(Err(text.into())).unwrap(),
            Word::End => return sender.close_channel(),
        }
        sender
            .unbounded_send(Ok(Update::new(known.values().cloned())))
            .unwrap();
    })
}

type Changes = Result<Change<&'static str, Named>, BoxError>;

fn by_discover(first: &[&'static str]) -> Source {
    let (sender, changes) = mpsc::unbounded::<Changes>();
    let insert = |id: &'static str| Ok(Change::Insert(id, Named(Arc::new(id.to_owned()))));
    for id in first {
        sender.unbounded_send(insert(id)).unwrap();
    }
    let discovered = Discovered::<Named>::new();
    let dial = move |endpoint: &Endpoint| -> Dial {
        use evenkeel::connection::{ConnectionEvents, Connector};
        let dial = discovered.connect(endpoint, ConnectionEvents::detached());
        Box::pin(async move { dial.await.map_err(Into::into) })
    };
    let can = Can { errors: true };
    source("Discover", can, from_discover(changes), dial, move |word| {
        let word = match word {
            Word::Add(id) => insert(id),
            Word::Remove(id) => Ok(Change::Remove(id)),
            Word::Error(text) => Err(text.into()),
            Word::End => return sender.close_channel(),
        };
        sender.unbounded_send(word).unwrap();
    })
}

fn sources(first: &[&'static str]) -> [Source; 3] {
    [by_handle(first), by_stream(first), by_discover(first)]
}

impl Source {
    fn say(&mut self, word: Word) {
        (self.say)(word);
    }

    /// The ids of the endpoints that are connected.
    fn ready(&self) -> Vec<String> {
        let report = self.balance.report();
        let ready = report.endpoints.iter();
        let mut ready: Vec<String> = ready
            .filter(|e| e.state == ConnectivityState::Ready)
            .map(|e| e.id.to_string())
            .collect();
        ready.sort();
        ready
    }

    /// Waits until just these are connected, and no others are known.
    async fn until_ready(&self, rule: &str, want: &[&str]) {
        until(&format!("{}: {rule}", self.name), || {
            self.ready() == want && self.balance.report().endpoints.len() == want.len()
        })
        .await;
    }

    fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    fn updates(&self) -> usize {
        self.updates.load(Ordering::SeqCst)
    }

    async fn call(&self) -> Result<String, evenkeel::Error> {
        let call = self.balance.clone().oneshot(());
        within(self.name, call).await
    }
}

/// Waits, in turns of the scheduler and no time, until `done` holds.
async fn until(rule: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if done() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never came to be: {rule}");
}

async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

/// Ten minutes of paused time, which pass at once when nothing else can happen.
async fn within<F: Future>(rule: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(600), future).await {
        Ok(output) => output,
        Err(_) => panic!("took for ever: {rule}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_may_begin_empty() {
    for mut source in [by_handle(&[]), by_stream(&[])] {
        source.until_ready("nothing is there", &[]).await;
        until("the empty set is known", || {
            source.balance.report().resolved
        })
        .await;
        assert!(source.call().await.unwrap_err().is_unavailable());
        source.say(Word::Add("a"));
        source.until_ready("a came", &["a"]).await;
    }
    // A Discover says nothing of being empty: calls wait for its first word.
    let mut source = by_discover(&[]);
    let mut call = Box::pin(source.balance.clone().oneshot(()));
    assert!(poll!(&mut call).is_pending());
    settle().await;
    source.say(Word::Add("a"));
    assert_eq!(within("a came", call).await.unwrap(), "a");
}

/// In one batch the order of the source's words is kept.
#[tokio::test(start_paused = true)]
async fn an_error_right_behind_a_change_is_the_last_word() {
    for mut source in sources(&["a"]) {
        if !source.can.errors {
            continue;
        }
        source.until_ready("the first state", &["a"]).await;
        source.say(Word::Add("b"));
        source.say(Word::Error("the registry is down"));
        source.until_ready("the change counts", &["a", "b"]).await;
        settle().await;
        assert!(
            source.balance.report().discovery_error.is_some(),
            "{}: and so does the error after it",
            source.name
        );
        source.say(Word::Error("still down"));
        source.say(Word::Remove("b"));
        source.until_ready("a change after an error", &["a"]).await;
        settle().await;
        assert_eq!(
            source.balance.report().discovery_error,
            None,
            "{}",
            source.name
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_change_is_visible_however_changes_and_turns_interleave() {
    for mut source in sources(&["a"]) {
        source.until_ready("the first state", &["a"]).await;
        for turn in 0..200 {
            source.say(Word::Add("b"));
            for _ in 0..turn % 7 {
                tokio::task::yield_now().await;
            }
            source.say(Word::Remove("b"));
            for _ in 0..turn % 5 {
                tokio::task::yield_now().await;
            }
        }
        source.say(Word::Add("z"));
        source.until_ready("the last change", &["a", "z"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_source_keeps_the_state() {
    for mut source in sources(&["a"]) {
        source.say(Word::Add("b"));
        source.say(Word::End);
        source.until_ready("the last state", &["a", "b"]).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(source.ready(), ["a", "b"], "{}", source.name);
        source.call().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_that_names_its_endpoints_says_them_once_and_for_all() {
    let targets = Targets::new();
    for target in [
        "static:///a:1,b:2",
        "ipv4:10.0.0.1,10.0.0.2",
        "ipv6:::1,::2",
    ] {
        let updates = targets.source(target).unwrap();
        let can = Can { errors: false };
        let nothing = |_| unreachable!("it cannot be told anything");
        let source = source("target", can, updates, by_address, nothing);
        until(target, || source.ready().len() == 2).await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(source.ready().len(), 2, "{target}: its end keeps the state");
        assert_eq!((source.dials(), source.updates()), (2, 1), "{target}");
        source.call().await.unwrap();
    }
}

/// The set is written down at once, and whether the balancer runs does not matter.
#[tokio::test(start_paused = true)]
async fn a_handle_never_waits_for_the_balancer() {
    let (handle, updates) = Handle::new(["a"]).unwrap();
    let balance = Balance::builder()
        .discovery(updates)
        .connector(connector_fn(|endpoint: &Endpoint, _| by_address(endpoint)))
        .build()
        .unwrap();
    // This task does not yield, so the balancer cannot have read any of this.
    for n in 0..100_000 {
        handle.replace([format!("{n}")]).unwrap();
    }
    assert_eq!(handle.endpoints()[0].id().as_str(), "99999");
    let answer = within("the latest state", balance.clone().oneshot(())).await;
    assert_eq!(answer.unwrap(), "99999", "states in between are skipped");
    drop(balance);
    settle().await;
    for n in 0..1_000 {
        handle.replace([format!("{n}")]).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_from_many_threads_are_all_seen() {
    const THREADS: usize = 4;
    const EACH: usize = 50;
    let (handle, updates) = Handle::new([] as [&str; 0]).unwrap();
    let balance = Balance::builder()
        .discovery(updates)
        .connector(connector_fn(|endpoint: &Endpoint, _| by_address(endpoint)))
        .build()
        .unwrap();
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let handle = handle.clone();
            std::thread::spawn(move || {
                for n in 0..EACH {
                    handle.insert(format!("{thread} {n}")).unwrap();
                    handle.insert(format!("passing {thread} {n}")).unwrap();
                    assert!(handle.remove(&format!("passing {thread} {n}")));
                }
            })
        })
        .collect();
    for thread in threads {
        tokio::task::spawn_blocking(|| thread.join().unwrap())
            .await
            .unwrap();
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let report = balance.report();
        let ready = report
            .endpoints
            .iter()
            .filter(|e| e.state == ConnectivityState::Ready);
        if ready.count() == THREADS * EACH && report.endpoints.len() == THREADS * EACH {
            break;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "the last change of each thread is seen"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_discover_that_removes_and_inserts_a_key_again_brings_a_new_service() {
    for removed_between in [true, false] {
        let (sender, changes) = mpsc::unbounded::<Result<Change<u16, Named>, BoxError>>();
        let say = |change| sender.unbounded_send(Ok(change)).unwrap();
        let (old, new) = (Arc::new("old".to_owned()), Arc::new("new".to_owned()));
        say(Change::Insert(1, Named(old.clone())));
        let balance = Balance::builder().discover(changes).build().unwrap();
        let answer = within("the first", balance.clone().oneshot(())).await;
        assert_eq!(answer.unwrap(), "old");
        if removed_between {
            say(Change::Remove(1));
        }
        say(Change::Insert(1, Named(new.clone())));
        until("the old service is let go", || Arc::strong_count(&old) == 1).await;
        for _ in 0..5 {
            let answer = within("the second", balance.clone().oneshot(())).await;
            assert_eq!(answer.unwrap(), "new", "removed between: {removed_between}");
        }
        let report = balance.report();
        assert_eq!(report.endpoints.len(), 1);
        assert_eq!(report.endpoints[0].id.as_str(), "1", "the key is the id");
        drop(balance);
        until("the new one is let go with the balancer", || {
            Arc::strong_count(&new) == 1
        })
        .await;
    }
}

/// A service's name, and which of its calls it was.
type Numbered = (&'static str, usize);

/// A service that cannot be cloned, by a buffer of its own for each endpoint.
struct Single {
    name: &'static str,
    calls: usize,
    all: Arc<Mutex<Vec<Numbered>>>,
}

type SingleBuffer = Buffer<(), BoxFuture<'static, Result<Numbered, BoxError>>>;

impl Service<()> for Single {
    type Response = Numbered;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        if self.name == "broken" {
            return Poll::Ready(Err("broken".into()));
        }
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: ()) -> Self::Future {
        self.calls += 1;
        let answer = (self.name, self.calls);
        self.all.lock().unwrap().push(answer);
        Box::pin(async move { Ok(answer) })
    }
}

/// A balancer over one of each name, and the list of all their calls.
fn singles(names: [&'static str; 2]) -> (Balance<SingleBuffer, Plain>, Arc<Mutex<Vec<Numbered>>>) {
    let all = Arc::default();
    let services = names.map(|name| {
        let single = Single {
            name,
            calls: 0,
            all: Arc::clone(&all),
        };
        (name, Buffer::new(single, 4))
    });
    let balance = Balance::builder()
        .services(services)
        .policy(RoundRobin::default())
        .build()
        .unwrap();
    (balance, all)
}

#[tokio::test(start_paused = true)]
async fn services_that_are_not_clone_take_a_buffer_each() {
    let (balance, all) = singles(["a", "b"]);
    let calls: Vec<_> = (0..40)
        .map(|_| tokio::spawn(balance.clone().oneshot(())))
        .collect();
    for call in calls {
        within("more calls than all buffers hold", call)
            .await
            .unwrap()
            .unwrap();
    }
    let all = all.lock().unwrap();
    for name in ["a", "b"] {
        let calls = all.iter().filter(|(of, _)| *of == name).count();
        assert!(calls > 0, "each endpoint has its own service");
        assert!(
            all.contains(&(name, calls)),
            "one service took all of {name}'s calls, one after the other"
        );
    }
    assert_eq!(all.len(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_buffer_whose_service_breaks_takes_one_endpoint_out() {
    let (balance, all) = singles(["broken", "good"]);
    let mut failed = 0;
    for _ in 0..40 {
        let answer = within("a call", balance.clone().oneshot(())).await;
        failed += usize::from(answer.is_err());
        settle().await;
    }
    assert!(
        failed <= 1,
        "the call that found out may fail, since a buffer is ready until then: {failed} did"
    );
    let good = all.lock().unwrap().len();
    assert_eq!(good, 40 - failed, "the other endpoint took all the others");
}

#[tokio::test(start_paused = true)]
async fn any_stream_of_updates_is_a_source() {
    fn assert_discovery(_: &impl Discovery) {}
    let stream = futures::stream::iter([Ok::<_, BoxError>(Update::new(["a"]))])
        .chain(futures::stream::pending());
    assert_discovery(&stream);
    let echo = connector_fn(|_: &Endpoint, _| async {
        Ok::<_, Infallible>(service_fn(|n: u32| async move { Ok::<_, Infallible>(n) }))
    });
    let balance = Balance::builder()
        .discovery(stream)
        .connector(echo)
        .build()
        .unwrap();
    assert_eq!(within("a call", balance.oneshot(7)).await.unwrap(), 7);
}
