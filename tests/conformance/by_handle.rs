//! Endpoints that the program itself changes.

use evenkeel::discovery::{BoxDiscovery, Handle};

use crate::place::{Abilities, Burst, Can, Change, Place, State, What, endpoint};

struct InProgram(Handle);

conforms!(InProgram);

impl Place for InProgram {
    const NAME: &'static str = "Handle";

    const CAN: Abilities = Abilities {
        weights: Can::Yes,
        metadata: Can::Yes,
        empty: Can::Yes,
        errors: Can::No("a handle is in the process, and refuses what is wrong"),
        returns: Can::No("it never fails"),
        ends: Can::No("its stream goes on, and says nothing, when the last handle is gone"),
        reads: Can::No("nothing is read"),
    };

    const BURST: Burst = Burst::States(1);

    async fn start(first: &State) -> Option<(Self, BoxDiscovery)> {
        let endpoints = first.iter().map(|(server, said)| endpoint(*server, said));
        let (handle, updates) = Handle::new(endpoints).expect("they can be used");
        Some((Self(handle), Box::pin(updates)))
    }

    async fn write(&mut self, change: &Change) {
        match &change.what {
            What::Put(server, said) => self
                .0
                .insert(endpoint(*server, said))
                .expect("it can be used"),
            What::Remove(server) => assert!(self.0.remove(&Self::id(*server)), "it was there"),
        }
    }
}
