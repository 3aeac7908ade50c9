use crate::endpoint::Endpoint;
use crate::topology::{Aperture, RandomSubset};

/// Which of the endpoints a client uses at all. The rules are values of their own, of which this is made by `into`.
///
/// | rule | use it when |
/// |---|---|
/// | [`RandomSubset`] | a client knows nothing of the others |
/// | [`Aperture`] | it knows which one of how many it is, and servers are to have equally many clients |
///
/// An endpoint that is not in the subset is not dialled; a report [names](crate::observe::Report::left_out) it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientSubset {
    /// At random.
    Random(RandomSubset),
    /// By the client's place among all clients.
    Aperture(Aperture),
}

impl ClientSubset {
    /// The subset of `endpoints`, and what is not in it.
    pub(crate) fn split(
        &self,
        endpoints: Vec<Endpoint>,
        seed: u64,
    ) -> (Vec<Endpoint>, Vec<Endpoint>) {
        match self {
            Self::Random(rule) => rule.split(endpoints, seed),
            Self::Aperture(rule) => rule.split(endpoints),
        }
    }
}

impl From<RandomSubset> for ClientSubset {
    fn from(rule: RandomSubset) -> Self {
        Self::Random(rule)
    }
}

impl From<Aperture> for ClientSubset {
    fn from(rule: Aperture) -> Self {
        Self::Aperture(rule)
    }
}
