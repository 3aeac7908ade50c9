//! The stream of states.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use futures_util::{FutureExt, StreamExt, stream};
use kube::Api;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::watcher::{self, Event, watcher};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use super::access::{Access, Guard};
use super::error::{KubernetesError, Mistake};
use super::failure::{After, Failure};
use super::merge::{ByName, Found, Wanted, merge};
use super::slice::Slice;
use crate::discovery::{BoxDiscovery, Update};
use crate::endpoint::{Authority, Endpoint};
use crate::error::BoxError;
use crate::math::{Backoff, Rng};

/// How many threads may make a client. One may wait for ever, for a program that does not end: what was mended meanwhile
/// is read beside it.
const MAX_MAKERS: usize = 2;

/// How many events are taken in before a state is told. A resync of a large service is one state all the same: the
/// list counts as a whole.
const MAX_BATCH: usize = 1024;

/// So long without a failure begins the delays anew, as client-go's reflector has it.
const FORGIVEN: Duration = Duration::from_secs(120);

/// What the API server says at most, for it might say anything.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(300);

/// The states of a service of Kubernetes, to give to a builder; see [`Kubernetes`](crate::discovery::Kubernetes).
pub struct KubernetesUpdates(BoxDiscovery);

impl Stream for KubernetesUpdates {
    type Item = Result<Update, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for KubernetesUpdates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KubernetesUpdates")
    }
}

impl KubernetesUpdates {
    /// Nothing is read or asked before the first poll.
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        let states = stream::once(async move {
            let source = Source::new(settings, seed);
            stream::unfold(source, |mut source| async {
                Some((source.next().await, source))
            })
        });
        Self(Box::pin(states.flatten()))
    }
}

/// See [`Kubernetes`](crate::discovery::Kubernetes).
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) access: Access,
    pub(super) context: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) service: String,
    pub(super) port: Wanted,
    pub(super) backoff: Backoff,
    pub(super) timeout: Duration,
    pub(super) watch_timeout: Duration,
}

type Events = Pin<Box<dyn Stream<Item = watcher::Result<Event<DynamicObject>>> + Send>>;

/// Where the service is, once the client says which namespace is its own.
struct Place {
    namespace: String,
    authority: Authority,
}

/// The slices of the service.
#[derive(Default)]
struct Slices {
    good: ByName,
    /// What is wrong with the others; of these the last good reading is in `good`, if there was one.
    bad: BTreeMap<String, Mistake>,
}

impl Slices {
    /// Takes a slice; `before` has its last good reading.
    fn take(&mut self, object: &DynamicObject, before: Option<&Arc<Slice>>) {
        let name = object.metadata.name.clone().unwrap_or_default();
        match Slice::read(&object.data) {
            Ok(slice) => {
                self.bad.remove(&name);
                self.good.insert(name, Arc::new(slice));
            }
            Err(mistake) => {
                if let Some(before) = before {
                    self.good.insert(name.clone(), before.clone());
                }
                self.bad.insert(name, mistake);
            }
        }
    }

    fn remove(&mut self, object: &DynamicObject) {
        let name = object.metadata.name.as_deref().unwrap_or_default();
        self.good.remove(name);
        self.bad.remove(name);
    }
}

pub(super) struct Source {
    settings: Settings,
    guard: Arc<Guard>,
    makers: Arc<Semaphore>,
    rng: Rng,
    place: Option<Place>,
    /// Where the events come from, unless that has to begin anew.
    events: Option<Events>,
    slices: Slices,
    /// A list that is under way.
    listing: Option<Slices>,
    /// A list was read to its end once.
    listed: bool,
    /// The API server could not be asked last.
    down: bool,
    failures: u32,
    last_failure: Option<Instant>,
    /// Nothing is asked before.
    pub(super) due: Option<Instant>,
    /// The last state that was told, its endpoints to be handed on as they are.
    known: Option<BTreeMap<String, (Found, Endpoint)>>,
    /// The error that was told after it.
    told: Option<String>,
    pub(super) items: VecDeque<Result<Update, BoxError>>,
}

impl Source {
    pub(super) fn new(settings: Settings, seed: u64) -> Self {
        let rng = Rng::stream(seed, 1);
        let guard = Guard::new(settings.timeout, settings.backoff, rng);
        Self {
            guard: Arc::new(guard),
            makers: Arc::new(Semaphore::new(MAX_MAKERS)),
            rng: Rng::stream(seed, 0),
            settings,
            place: None,
            events: None,
            slices: Slices::default(),
            listing: None,
            listed: false,
            down: false,
            failures: 0,
            last_failure: None,
            due: None,
            known: None,
            told: None,
            items: VecDeque::new(),
        }
    }

    async fn next(&mut self) -> Result<Update, BoxError> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return item;
            }
            if let Some(due) = self.due {
                sleep_until(due).await;
                self.due = None;
            }
            if let Err(failure) = self.advance().await {
                self.failed(failure, Instant::now());
            }
        }
    }

    /// Waits for what comes next, and takes it in.
    async fn advance(&mut self) -> Result<(), Failure> {
        let events = match &mut self.events {
            Some(events) => events,
            None => {
                let events = self.begin().await?;
                self.events.insert(events)
            }
        };
        let listing = self.listing.is_some();
        let limit = self.settings.timeout;
        let event = async {
            match listing {
                true => timeout(limit, events.next()).await.ok(),
                false => Some(events.next().await),
            }
        };
        let event = tokio::select! {
            biased;
            event = event => event,
            () = self.guard.began.notified(), if self.down => {
                self.down = false;
                self.publish();
                return Ok(());
            }
        };
        let Some(event) = event else {
            return Err(Failure::no_list_within(limit));
        };
        let mut event = Some(event);
        for _ in 0..MAX_BATCH {
            match event {
                Some(Some(Ok(event))) => self.take(event),
                Some(Some(Err(error))) => {
                    self.publish();
                    let namespace = self.place.as_ref().map(|place| &*place.namespace);
                    return Err(Failure::read(error, namespace.unwrap_or_default()));
                }
                // kube's watcher does not end.
                Some(None) => {
                    self.events = None;
                    break;
                }
                None => break,
            }
            let Some(events) = &mut self.events else {
                break;
            };
            event = events.next().now_or_never();
        }
        self.publish();
        Ok(())
    }

    async fn begin(&mut self) -> Result<Events, Failure> {
        let Settings {
            access,
            context,
            namespace,
            service,
            port,
            timeout,
            watch_timeout,
            ..
        } = &self.settings;
        let client = access.client(context.as_deref(), *timeout, &self.makers);
        let client = client.await;
        let client = client.map_err(Failure::told_anew)?;
        let place = match &self.place {
            Some(place) => place,
            None => {
                let own = || client.default_namespace().to_owned();
                let namespace = namespace.clone().unwrap_or_else(own);
                let port = match port {
                    Wanted::Number(number) => format!(":{number}"),
                    _ => String::new(),
                };
                let authority = Authority::new(&format!("{service}.{namespace}.svc{port}"));
                let authority = authority.map_err(|error| {
                    Failure::told_anew(KubernetesError::Access {
                        source: format!("the namespace {namespace:?}: {error}").into(),
                    })
                })?;
                self.place.insert(Place {
                    namespace,
                    authority,
                })
            }
        };
        let kind = GroupVersionKind::gvk("discovery.k8s.io", "v1", "EndpointSlice");
        let slices: Api<DynamicObject> = Api::namespaced_with(
            self.guard.around(client),
            &place.namespace,
            &ApiResource::from_gvk_with_plural(&kind, "endpointslices"),
        );
        let seconds = watch_timeout.as_secs().try_into().unwrap_or(u32::MAX);
        let config = watcher::Config::default()
            .labels(&format!("kubernetes.io/service-name={service}"))
            .timeout(seconds);
        Ok(Box::pin(watcher(slices, config)))
    }

    fn take(&mut self, event: Event<DynamicObject>) {
        match event {
            Event::Init => self.listing = Some(Slices::default()),
            Event::InitApply(object) => {
                let listing = self.listing.get_or_insert_default();
                let name = object.metadata.name.as_deref().unwrap_or_default();
                listing.take(&object, self.slices.good.get(name));
            }
            Event::InitDone => {
                self.slices = self.listing.take().unwrap_or_default();
                self.listed = true;
                self.down = false;
            }
            Event::Apply(object) => self.slices.take(&object, None),
            Event::Delete(object) => self.slices.remove(&object),
        }
    }

    pub(super) fn failed(&mut self, failure: Failure, now: Instant) {
        self.listing = None;
        let forgiven = |last: Instant| now.saturating_duration_since(last) > FORGIVEN;
        if self.last_failure.is_some_and(forgiven) {
            self.failures = 0;
        }
        let backoff = self.settings.backoff.delay(self.failures, &mut self.rng);
        self.failures = self.failures.saturating_add(1);
        let asked = failure.retry_after.min(LONGEST_RETRY_AFTER);
        let due = now + backoff.max(asked);
        self.last_failure = Some(due);
        self.due = Some(due);
        let anew = match failure.after {
            After::Watch => false,
            After::Reach => self.down,
            After::List => true,
        };
        if anew {
            self.events = None;
        }
        match failure.error {
            Some(error) => {
                self.down = true;
                // Only a watch that begins from now on says that it is over.
                let _ = self.guard.began.notified().now_or_never();
                self.tell(error);
            }
            None => tracing::debug!(
                service = self.settings.service,
                "a watch of EndpointSlices has ended early"
            ),
        }
    }

    /// Tells what the slices say, unless that was told already.
    fn publish(&mut self) {
        let Some(place) = &self.place else { return };
        if !self.listed || self.down {
            return;
        }
        let Slices { good, bad } = &self.slices;
        let mut wrong = None;
        if let Some((slice, mistake)) = bad.first_key_value() {
            wrong = Some(mistake.clone().of(slice));
        } else if good.is_empty() {
            wrong = Some(KubernetesError::NoSlices {
                namespace: place.namespace.clone(),
                service: self.settings.service.clone(),
            });
        }
        let clears = wrong.is_none() && self.told.is_some();
        match merge(good, &self.settings.port) {
            // Nothing can be said of a service whose slices cannot be read.
            Ok(found) if found.is_empty() && !bad.is_empty() => {}
            Ok(found) => {
                let changed = self.know(found);
                if (changed || clears)
                    && let Some(known) = &self.known
                {
                    let endpoints = known.values().map(|(_, endpoint)| endpoint.clone());
                    self.items.push_back(Ok(Update::new(endpoints)));
                    self.told = None;
                }
            }
            Err(error) => wrong = Some(wrong.unwrap_or(error)),
        }
        if let Some(wrong) = wrong {
            self.tell(wrong);
        }
    }

    /// Takes what was found for the last state; whether it is another one.
    fn know(&mut self, found: BTreeMap<String, Found>) -> bool {
        let Some(place) = &self.place else {
            return false;
        };
        let mut changed = self
            .known
            .as_ref()
            .is_none_or(|known| known.len() != found.len());
        let mut before = self.known.take().unwrap_or_default();
        let known = found.into_iter().map(|(id, found)| {
            let endpoint = match before.remove(&id) {
                Some((same, endpoint)) if same == found => endpoint,
                _ => {
                    changed = true;
                    found.endpoint(&id, &place.authority)
                }
            };
            (id, (found, endpoint))
        });
        self.known = Some(known.collect());
        changed
    }

    fn tell(&mut self, error: KubernetesError) {
        let text = error.to_string();
        if self.told.as_ref() != Some(&text) {
            self.told = Some(text);
            self.items.push_back(Err(error.into()));
        }
    }
}
