//! What all hashing policies share: a table over all endpoints, kept for as long as the set is the
//! same, and the way from a request's hash to an endpoint that can take it.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::endpoint::{Endpoint, EndpointId};
use crate::math::{MaglevTable, RendezvousTable, Ring};
use crate::policy::bounded_load::{Bound, BoundedLoad};
use crate::policy::endpoint_key::endpoint_key;
use crate::policy::hash_source::{self, HashSource};
use crate::policy::{Candidate, Candidates, Pick, PickContext, Picker};

/// From hashes to the numbers of keys.
pub(super) trait Table: Send + Sync + 'static {
    /// The first key for `hash` that `accept` takes, if a few steps find one.
    fn near(&self, hash: u64, accept: impl FnMut(usize) -> bool) -> Option<usize>;

    /// The first key for `hash` that `accept` takes, however far away.
    fn far(&self, hash: u64, accept: impl FnMut(usize) -> bool) -> Option<usize>;
}

/// The settings that a table is built by. Tables of equal shapes over equal keys are equal.
pub(super) trait Shape: Clone + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// What it builds.
    type Table: Table;

    /// What of an endpoint is hashed.
    fn key(endpoint: &Endpoint) -> Cow<'_, str> {
        endpoint_key(endpoint)
    }

    /// The table of these keys and weights, in ascending order.
    fn table<'k>(&self, keys: impl Iterator<Item = (&'k str, u32)> + Clone) -> Self::Table;
}

/// A policy that hashes, but for its name.
#[derive(Debug, Clone)]
pub(super) struct Hashing<S> {
    pub(super) shape: S,
    pub(super) sources: Arc<[HashSource]>,
    pub(super) bounded: Option<BoundedLoad>,
}

impl<S: Shape> Hashing<S> {
    pub(super) fn new(shape: S) -> Self {
        Self {
            shape,
            sources: Arc::default(),
            bounded: None,
        }
    }

    pub(super) fn build(
        &self,
        candidates: &Candidates,
        previous: Option<&dyn Picker>,
    ) -> Arc<dyn Picker> {
        let previous = previous
            .and_then(|picker| picker.downcast_ref::<HashPicker<S>>())
            .filter(|picker| picker.shape == self.shape);
        let all = candidates.all();
        let (table, order) = match previous {
            Some(previous) if same::<S>(all.iter(), previous.candidates.all().iter()) => {
                (previous.table.clone(), previous.order.clone())
            }
            _ => {
                let keys = sorted_keys::<S>(all);
                let order: Arc<[u32]> = keys.iter().map(|key| key.index).collect();
                let table = previous
                    .filter(|previous| same::<S>(sorted(all, &order), previous.sorted()))
                    .map_or_else(
                        || Arc::new(self.shape.table(keys.iter().map(|k| (&*k.key, k.weight)))),
                        |previous| previous.table.clone(),
                    );
                (table, order)
            }
        };
        Arc::new(HashPicker {
            bound: self.bounded.map(|by| Bound::new(by, candidates, &order)),
            candidates: candidates.clone(),
            table,
            order,
            shape: self.shape.clone(),
            sources: self.sources.clone(),
        })
    }
}

/// What all hashing policies are alike in. `sources`: what is hashed of a call can be chosen.
macro_rules! hashing_policy {
    ($policy:ident, $name:literal) => {
        impl $policy {
            /// Limits the calls that pile up on one endpoint; off by default.
            #[must_use]
            pub fn with_bounded_load(mut self, bound: $crate::policy::BoundedLoad) -> Self {
                self.hashing.bounded = Some(bound);
                self
            }
        }

        impl $crate::policy::Policy for $policy {
            fn name(&self) -> &'static str {
                $name
            }

            fn build(
                &self,
                candidates: &$crate::policy::Candidates,
                previous: Option<&dyn $crate::policy::Picker>,
            ) -> std::sync::Arc<dyn $crate::policy::Picker> {
                self.hashing.build(candidates, previous)
            }
        }
    };
    ($policy:ident, $name:literal, sources) => {
        $crate::policy::hashing::hashing_policy!($policy, $name);

        impl $policy {
            /// Sets what is hashed of a call; by default the extension
            /// [`HashKey`](crate::call::HashKey) only. A call without a hash has a random one.
            #[must_use]
            pub fn with_sources(
                mut self,
                sources: impl IntoIterator<Item = $crate::policy::HashSource>,
            ) -> Self {
                self.hashing.sources = sources.into_iter().collect();
                self
            }
        }
    };
}
pub(super) use hashing_policy;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key<'c> {
    key: Cow<'c, str>,
    weight: u32,
    id: &'c EndpointId,
    index: u32,
}

/// The keys of all candidates in ascending order, so that the order in which a client learned of them
/// does not matter.
fn sorted_keys<S: Shape>(all: &[Candidate]) -> Vec<Key<'_>> {
    let mut keys: Vec<Key<'_>> = (0..)
        .zip(all)
        .map(|(index, candidate)| Key {
            key: S::key(candidate.endpoint()),
            weight: candidate.endpoint().weight(),
            id: candidate.endpoint().id(),
            index,
        })
        .collect();
    keys.sort_unstable();
    keys
}

fn sorted<'c>(
    all: &'c [Candidate],
    order: &'c [u32],
) -> impl ExactSizeIterator<Item = &'c Candidate> {
    order.iter().map(|&index| &all[index as usize])
}

/// Whether both give the same keys with the same weights.
fn same<'c, S: Shape>(
    a: impl ExactSizeIterator<Item = &'c Candidate>,
    b: impl ExactSizeIterator<Item = &'c Candidate>,
) -> bool {
    a.len() == b.len()
        && a.zip(b).all(|(a, b)| {
            let (a, b) = (a.endpoint(), b.endpoint());
            a.ptr_eq(b) || (a.weight() == b.weight() && S::key(a) == S::key(b))
        })
}

pub(super) struct HashPicker<S: Shape> {
    candidates: Candidates,
    pub(super) table: Arc<S::Table>,
    /// From the table's numbers to places in `candidates.all()`.
    order: Arc<[u32]>,
    shape: S,
    sources: Arc<[HashSource]>,
    bound: Option<Bound>,
}

impl<S: Shape> HashPicker<S> {
    fn sorted(&self) -> impl ExactSizeIterator<Item = &Candidate> {
        sorted(self.candidates.all(), &self.order)
    }

    #[inline]
    fn candidate(&self, number: usize) -> &Candidate {
        &self.candidates.all()[self.order[number] as usize]
    }

    #[inline]
    fn hash_of(&self, context: &mut PickContext<'_>) -> u64 {
        context.hash().unwrap_or_else(|| {
            let hash = hash_source::hash(&self.sources, context.request());
            let hash = hash.unwrap_or_else(|| context.rng().next_u64());
            // Kept for the call's next try, which need not read the request again.
            context.hash_with(|_| hash)
        })
    }

    #[inline]
    fn find(&self, hash: u64, context: &PickContext<'_>) -> Option<usize> {
        let usable = |number| context.is_usable(self.candidate(number));
        if let Some(bound) = &self.bound {
            let mut room = bound.room(self.candidates.usable());
            let mut has_room = |number| {
                let candidate = self.candidate(number);
                context.is_usable(candidate) && room.is_in(number, candidate.in_flight())
            };
            let found = self
                .table
                .near(hash, &mut has_room)
                .or_else(|| self.search(hash, has_room));
            // All that are left may be full, where some were lost or tried. Full is better than failed.
            if found.is_some() {
                return found;
            }
        }
        self.table
            .near(hash, usable)
            .or_else(|| self.search(hash, usable))
    }

    /// Looks whether there is anything to be found, and only then goes through the table: one full
    /// round of a large one would take a call without any usable endpoint a millisecond.
    #[cold]
    fn search(&self, hash: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        let any = (0..self.order.len()).find(|&number| accept(number))?;
        // A key may have no place in the table.
        Some(self.table.far(hash, accept).unwrap_or(any))
    }
}

impl<S: Shape> Picker for HashPicker<S> {
    #[inline]
    fn pick(&self, context: &mut PickContext<'_>) -> Pick {
        let hash = self.hash_of(context);
        self.find(hash, context).map_or(Pick::Nothing, |number| {
            Pick::Endpoint(self.candidate(number).slot())
        })
    }

    fn hash(&self, context: &mut PickContext<'_>) -> Option<u64> {
        Some(self.hash_of(context))
    }
}

impl<S: Shape> fmt::Debug for HashPicker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The table itself is thousands of numbers.
        f.debug_struct("HashPicker")
            .field("candidates", &self.candidates)
            .field("shape", &self.shape)
            .field("sources", &self.sources)
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}

/// Steps on a ring that are "near".
const STEPS: usize = 64;

impl Table for Ring {
    #[inline]
    fn near(&self, hash: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        self.walk(hash).take(STEPS).find(|&number| accept(number))
    }

    fn far(&self, hash: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        self.walk(hash).find(|&number| accept(number))
    }
}

/// Slots of a Maglev table that are "near": with half of the endpoints lost, 1 call in 2^16 goes on.
const DRAWS: usize = 16;

impl Table for MaglevTable {
    #[inline]
    fn near(&self, hash: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        self.draws(hash).take(DRAWS).find(|&number| accept(number))
    }

    fn far(&self, hash: u64, mut accept: impl FnMut(usize) -> bool) -> Option<usize> {
        self.walk(hash).find(|&number| accept(number))
    }
}

impl Table for RendezvousTable {
    #[inline]
    fn near(&self, hash: u64, accept: impl FnMut(usize) -> bool) -> Option<usize> {
        self.best(hash, accept)
    }

    fn far(&self, hash: u64, accept: impl FnMut(usize) -> bool) -> Option<usize> {
        self.best(hash, accept)
    }
}
