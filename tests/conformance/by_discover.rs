//! tower's `Discover`, whose endpoints bring their services.

use evenkeel::connection::{ConnectionEvents, Connector, Discovered};
use evenkeel::discovery::{BoxDiscovery, from_discover};
use evenkeel::{BoxError, Endpoint};
use futures::channel::mpsc;
use tower::discover::Change as Told;

use crate::place::{Abilities, Burst, Can, Change, Dial, Named, Place, Server, State, What};

struct Services(mpsc::UnboundedSender<Word>);

type Word = Result<Told<String, Named>, BoxError>;

conforms!(Services);

impl Services {
    fn say(&self, word: Word) {
        self.0.unbounded_send(word).expect("it is read");
    }

    fn insert(&self, server: Server) {
        let id = Self::id(server);
        self.say(Ok(Told::Insert(id.clone(), Named::new(&id))));
    }
}

impl Place for Services {
    const NAME: &'static str = "Discover";

    const CAN: Abilities = Abilities {
        weights: Can::No("a Discover has a key and a service, and nothing else"),
        metadata: Can::No("a Discover has a key and a service, and nothing else"),
        empty: Can::Yes,
        errors: Can::Yes,
        returns: Can::No("its next word is what says that it is back"),
        ends: Can::Yes,
        reads: Can::No("a channel does not tell"),
    };

    const BURST: Burst = Burst::States(1);

    async fn start(first: &State) -> Option<(Self, BoxDiscovery)> {
        let (sender, changes) = mpsc::unbounded();
        let place = Self(sender);
        for server in first.keys() {
            place.insert(*server);
        }
        Some((place, Box::pin(from_discover(changes))))
    }

    fn dial(endpoint: &Endpoint) -> Dial {
        let dial = Discovered::<Named>::new().connect(endpoint, ConnectionEvents::detached());
        Box::pin(async move { dial.await.map_err(Into::into) })
    }

    async fn write(&mut self, change: &Change) {
        match &change.what {
            What::Put(server, _) => self.insert(*server),
            What::Remove(server) => self.say(Ok(Told::Remove(Self::id(*server)))),
        }
    }

    async fn fail(&mut self) -> &'static str {
        self.say(Err("the registry is down".into()));
        "the registry is down"
    }

    async fn mend(&mut self, _: &State) {}

    async fn end(&mut self) {
        self.0.close_channel();
    }
}
