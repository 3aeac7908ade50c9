//! Any stream of states.

use std::collections::BTreeMap;

use evenkeel::discovery::{BoxDiscovery, Update};
use evenkeel::{BoxError, Endpoint};
use futures::channel::mpsc;

use crate::place::{Abilities, Burst, Can, Change, Place, Said, Server, State, endpoint};

struct Channel {
    sender: mpsc::UnboundedSender<Result<Update, BoxError>>,
    /// What was said last, to be handed on where it is said again.
    known: BTreeMap<Server, (Said, Endpoint)>,
}

conforms!(Channel);

impl Channel {
    fn say(&self, word: Result<Update, BoxError>) {
        self.sender.unbounded_send(word).expect("it is read");
    }

    fn say_state(&mut self, state: &State) {
        self.known
            .retain(|server, (said, _)| state.get(server) == Some(said));
        for (server, said) in state {
            let new = || (said.clone(), endpoint(*server, said));
            self.known.entry(*server).or_insert_with(new);
        }
        let endpoints = self.known.values().map(|(_, endpoint)| endpoint.clone());
        self.say(Ok(Update::new(endpoints)));
    }
}

impl Place for Channel {
    const NAME: &'static str = "stream";

    const CAN: Abilities = Abilities {
        weights: Can::Yes,
        metadata: Can::Yes,
        empty: Can::Yes,
        errors: Can::Yes,
        returns: Can::No("its next word is what says that it is back"),
        ends: Can::Yes,
        reads: Can::No("a channel does not tell"),
    };

    const BURST: Burst = Burst::Each;

    async fn start(first: &State) -> Option<(Self, BoxDiscovery)> {
        let (sender, receiver) = mpsc::unbounded();
        let mut place = Self {
            sender,
            known: BTreeMap::new(),
        };
        place.say_state(first);
        Some((place, Box::pin(receiver)))
    }

    async fn write(&mut self, change: &Change) {
        self.say_state(&change.state);
    }

    async fn fail(&mut self) -> &'static str {
        self.say(Err("the registry is down".into()));
        "the registry is down"
    }

    async fn mend(&mut self, _: &State) {}

    async fn end(&mut self) {
        self.sender.close_channel();
    }
}
