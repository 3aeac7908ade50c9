//! New states of the source, against what a walk by names makes of them.

use proptest::prelude::*;

use super::*;
use crate::math::testing::seeded;

/// What a new state comes to: of endpoints with one name the first counts, and an id that keeps its
/// address keeps its key.
fn by_names(before: &[(u64, Endpoint)], listed: &[Endpoint]) -> Vec<(Option<u64>, Endpoint)> {
    let mut names = HashSet::new();
    let listed = listed
        .iter()
        .filter(|endpoint| endpoint.validate().is_ok() && names.insert(endpoint.id().clone()));
    listed
        .map(|endpoint| {
            let same = |(_, old): &&(u64, Endpoint)| {
                old.id() == endpoint.id() && old.address() == endpoint.address()
            };
            let key = before.iter().find(same).map(|(key, _)| *key);
            (key, endpoint.clone())
        })
        .collect()
}

fn rows(m: &Machine) -> Vec<(u64, Endpoint)> {
    let rows = m.cluster.rows.iter();
    rows.map(|row| (row.key, row.candidate.endpoint().clone()))
        .collect()
}

/// Names that are described three times over: as they were, with another weight, at another address.
fn pool() -> Vec<Endpoint> {
    let described = |n: usize| {
        let endpoint = Endpoint::new(format!("at {n}")).with_id(n.to_string());
        let moved = Endpoint::new(format!("moved {n}")).with_id(n.to_string());
        [endpoint.clone(), endpoint.with_weight(2), moved]
    };
    (0..150).flat_map(described).collect()
}

proptest! {
    #![proptest_config(seeded(300, 11))]

    #[test]
    fn a_state_is_taken_as_if_by_names(
        states in prop::collection::vec(prop::collection::vec(0..450_usize, 0..200), 1..5),
        // Most states are the last one with a few changes: some taken out, some put in.
        edits in prop::collection::vec((0..200_usize, 0..90_usize, prop::collection::vec(0..450_usize, 0..4)), 0..8),
    ) {
        let pool = pool();
        let mut m = Machine::new(settings());
        let mut list = Vec::new();
        let mut take = |list: &[usize]| {
            let listed: Vec<Endpoint> = list.iter().map(|n| pool[*n].clone()).collect();
            let wanted = by_names(&rows(&m), &listed);
            m.update(listed);
            m.publish();
            let got = rows(&m);
            assert_eq!(got.len(), wanted.len(), "each name has one row");
            for ((key, got), (old, wanted)) in got.iter().zip(&wanted) {
                assert!(got.ptr_eq(wanted), "{got:?} in place of {wanted:?}");
                if let Some(old) = old {
                    assert_eq!(key, old, "{got:?} is the endpoint that it was");
                }
            }
            let keys: HashSet<u64> = got.iter().map(|(key, _)| *key).collect();
            assert_eq!(keys.len(), got.len(), "each row has a key of its own");
            assert_eq!(m.cluster.entries.len(), got.len(), "what is gone is forgotten");
            assert_eq!(m.cluster.keys.len(), got.len(), "so is its name");
        };
        for state in states {
            take(&state);
            list = state;
        }
        for (at, out, put) in edits {
            let at = at.min(list.len());
            let end = (at + out).min(list.len());
            list.splice(at..end, put);
            take(&list);
        }
    }
}
