//! The stream of states.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep_until};

use super::ask::Ask;
use super::resolve::{Found, Last, Question, Round};
use super::timing::{Came, Schedule};
use crate::discovery::{BoxDiscovery, Update};
use crate::endpoint::{Authority, Endpoint, EndpointId, RefreshHint};
use crate::error::BoxError;

/// The states of a name in DNS, to give to a builder; see [`Dns`](crate::discovery::Dns).
pub struct DnsUpdates(BoxDiscovery);

impl Stream for DnsUpdates {
    type Item = Result<Update, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for DnsUpdates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DnsUpdates")
    }
}

impl DnsUpdates {
    /// One state that stays: an address needs no look-up.
    pub(super) fn fixed(address: SocketAddr, authority: Authority) -> Self {
        let endpoint = made(&Found::address(address)).with(authority);
        Self(Box::pin(stream::iter([Ok(Update::new([endpoint]))])))
    }

    /// `make` makes what is asked, at first and again after a failure. Nothing is asked before the first poll.
    pub(super) fn new<A: Ask + 'static>(
        question: Question,
        authority: Authority,
        schedule: impl FnOnce(Instant) -> Schedule + Send + 'static,
        make: impl Fn() -> Result<A, BoxError> + Send + 'static,
    ) -> Self {
        let states = stream::once(async move {
            let source = Source {
                question,
                authority,
                make,
                dns: None,
                schedule: schedule(Instant::now()),
                hint: RefreshHint::new(),
                last: Last::new(),
                known: HashMap::new(),
                told: None,
                failing: false,
                items: VecDeque::new(),
            };
            stream::unfold(source, |mut source| async {
                Some((source.next().await, source))
            })
        });
        Self(Box::pin(states.flatten()))
    }
}

struct Source<A, M> {
    question: Question,
    authority: Authority,
    make: M,
    dns: Option<A>,
    schedule: Schedule,
    hint: RefreshHint,
    last: Last,
    /// The endpoints of the last state, to be handed on as they are.
    known: HashMap<EndpointId, (Found, Endpoint)>,
    /// How many endpoints the last state has that was told.
    told: Option<usize>,
    /// The last word was an error.
    failing: bool,
    items: VecDeque<Result<Update, BoxError>>,
}

impl<A: Ask, M: Fn() -> Result<A, BoxError>> Source<A, M> {
    async fn next(&mut self) -> Result<Update, BoxError> {
        loop {
            if let Some(item) = self.items.pop_front() {
                return item;
            }
            self.wait().await;
            self.schedule.asks(Instant::now());
            let round = self.round().await;
            self.take(round, Instant::now());
        }
    }

    /// Until it is time to ask.
    async fn wait(&mut self) {
        tokio::select! {
            biased;
            () = sleep_until(self.schedule.next()) => {}
            () = self.hint.given() => sleep_until(self.schedule.next_after_hint()).await,
        }
    }

    async fn round(&mut self) -> Result<Round, BoxError> {
        let dns = match &mut self.dns {
            Some(dns) => dns,
            none => none.insert((self.make)()?),
        };
        let now = Instant::now();
        self.last
            .retain(|_, (at, _)| self.schedule.stands(*at, now));
        self.question.round(dns, &mut self.last).await
    }

    fn take(&mut self, round: Result<Round, BoxError>, now: Instant) {
        let name = self.question.name();
        match round {
            Ok(round) if !round.found.is_empty() => {
                let came = match &round.unanswered {
                    None => Came::Whole(round.ttl),
                    Some(error) => {
                        tracing::debug!(name, %error, "a question to DNS had no answer");
                        Came::Part(round.ttl)
                    }
                };
                self.schedule.came(came, now);
                self.tell(round.found.into_values().collect());
            }
            nothing => {
                // The system's configuration may be another by now.
                self.dns = None;
                let error = match nothing {
                    Ok(round) => round.unanswered,
                    Err(error) => Some(error),
                };
                let error = Round::nothing(name, error.as_ref());
                self.schedule.came(Came::Nothing, now);
                if !self.schedule.keeps(now) && self.told.is_some_and(|told| told > 0) {
                    self.last.clear();
                    self.tell(Vec::new());
                }
                self.failing = true;
                self.items.push_back(Err(error));
            }
        }
    }

    /// Makes a state of what was found, unless it is the one that was told already.
    fn tell(&mut self, found: Vec<Found>) {
        let mut changed = self.failing || self.told != Some(found.len());
        let mut known = HashMap::with_capacity(found.len());
        let mut endpoints = Vec::with_capacity(found.len());
        for found in found {
            let id = EndpointId::from(&*found.id);
            let endpoint = match self.known.remove(&id) {
                Some((same, endpoint)) if same == found => endpoint,
                _ => {
                    changed = true;
                    made(&found)
                        .with(self.authority.clone())
                        .with(self.hint.clone())
                }
            };
            endpoints.push(endpoint.clone());
            known.insert(id, (found, endpoint));
        }
        self.known = known;
        self.failing = false;
        if changed {
            self.told = Some(endpoints.len());
            self.items.push_back(Ok(Update::new(endpoints)));
        }
    }
}

fn made(found: &Found) -> Endpoint {
    let addresses = found.addresses.iter();
    let mut addresses = addresses.map(|address| format!("http://{address}"));
    let first = addresses.next().unwrap_or_default();
    Endpoint::new(first)
        .with_addresses(addresses.map(Arc::<str>::from))
        .with_id(&*found.id)
        .with_weight(found.weight)
        .with_priority(found.priority)
}
