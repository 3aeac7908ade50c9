use std::collections::HashMap;

use crate::endpoint::{Endpoint, EndpointId};
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
    fn split(&self, endpoints: Vec<Endpoint>, seed: u64) -> (Vec<(Endpoint, u32)>, Vec<Endpoint>) {
        match self {
            Self::Random(rule) => {
                let (used, left_out) = rule.split(endpoints, seed);
                let weighted = |endpoint: Endpoint| {
                    let weight = endpoint.weight();
                    (endpoint, weight)
                };
                (used.into_iter().map(weighted).collect(), left_out)
            }
            Self::Aperture(rule) => rule.split(endpoints),
        }
    }
}

/// The subset of one state after the other. An endpoint that gets another weight in the subset is the same one each
/// time, so that nothing is done about it while nothing new is said of it.
#[derive(Debug, Default)]
pub(crate) struct Narrowing {
    made: HashMap<EndpointId, (Endpoint, Endpoint)>,
}

impl Narrowing {
    /// The subset of `endpoints`, and what is not in it.
    pub(crate) fn split(
        &mut self,
        rule: ClientSubset,
        endpoints: Vec<Endpoint>,
        seed: u64,
    ) -> (Vec<Endpoint>, Vec<Endpoint>) {
        let (used, left_out) = rule.split(endpoints, seed);
        let mut made = HashMap::new();
        let mut weigh = |(endpoint, weight): (Endpoint, u32)| {
            if endpoint.weight() == weight {
                return endpoint;
            }
            let before = self.made.remove(endpoint.id());
            let same = before.filter(|(of, is)| of.ptr_eq(&endpoint) && is.weight() == weight);
            let is = same.map_or_else(|| endpoint.clone().with_weight(weight), |(_, is)| is);
            made.insert(endpoint.id().clone(), (endpoint, is.clone()));
            is
        };
        let used = used.into_iter().map(&mut weigh).collect();
        self.made = made;
        (used, left_out)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_is_as_it_was_is_the_same_one_in_the_next_state() {
        let all: Vec<Endpoint> = (0..18)
            .map(|n| Endpoint::new(format!("10.0.0.{n}:1")))
            .collect();
        let rule = Aperture::new(12, 1, 4).unwrap().into();
        let mut narrowing = Narrowing::default();
        let (first, _) = narrowing.split(rule, all.clone(), 1);
        assert!(first.iter().any(|e| e.weight() == 50), "one at half");
        let (second, _) = narrowing.split(rule, all.clone(), 1);
        let same = |(a, b): (&Endpoint, &Endpoint)| a.ptr_eq(b);
        assert!(first.iter().zip(&second).all(same), "nothing new was said");
        let changed: Vec<Endpoint> = all.into_iter().map(|e| e.with_weight(2)).collect();
        let (third, _) = narrowing.split(rule, changed, 1);
        assert!(
            third.iter().any(|e| e.weight() == 200),
            "what is new is taken over"
        );
    }
}
