//! The keys below a prefix, added up.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::value::decode;
use crate::endpoint::Endpoint;

/// Every key there is, with the last good form of its endpoint.
#[derive(Debug, Default)]
pub(super) struct State {
    keys: BTreeMap<Bytes, Known>,
}

#[derive(Debug)]
struct Known {
    value: Bytes,
    /// None while no value of the key could be read.
    endpoint: Option<Endpoint>,
    /// The value cannot be read, and that was told.
    wrong: bool,
}

impl Known {
    /// Whether it leaves something to tell when it goes.
    fn is_known_of(&self) -> bool {
        self.wrong || self.endpoint.is_some()
    }
}

/// What a change came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    /// The endpoints are others than before, or a value that could not be read is none any more.
    pub(super) endpoints: bool,
    /// Values that could not be read, and were not known to be so.
    pub(super) wrong: Vec<String>,
}

impl State {
    /// A key was written.
    pub(super) fn put(&mut self, key: Bytes, value: Bytes, changed: &mut Changed) {
        let known = self.keys.get(&key);
        if known.is_some_and(|known| known.value == value) {
            return;
        }
        let (endpoint, wrong) = match decode(&value) {
            Ok(endpoint) => {
                changed.endpoints = true;
                (Some(endpoint), false)
            }
            Err(why) => {
                let name = String::from_utf8_lossy(&key);
                changed.wrong.push(format!("etcd's key {name:?}: {why}"));
                (known.and_then(|known| known.endpoint.clone()), true)
            }
        };
        let known = Known {
            value,
            endpoint,
            wrong,
        };
        self.keys.insert(key, known);
    }

    /// A key was deleted, or its lease expired.
    pub(super) fn delete(&mut self, key: &[u8], changed: &mut Changed) {
        let known = self.keys.remove(key);
        changed.endpoints |= known.is_some_and(|known| known.is_known_of());
    }

    /// These are all the keys.
    pub(super) fn replace(&mut self, keys: BTreeMap<Bytes, Bytes>, changed: &mut Changed) {
        let mut endpoints = false;
        self.keys.retain(|key, known| {
            let stays = keys.contains_key(key);
            endpoints |= !stays && known.is_known_of();
            stays
        });
        changed.endpoints |= endpoints;
        for (key, value) in keys {
            self.put(key, value, changed);
        }
    }

    /// The endpoints, in the order of their keys; what did not change is handed on by its pointer.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.keys
            .values()
            .filter_map(|known| known.endpoint.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(address: &str) -> Bytes {
        format!(r#"{{"Addr":"{address}"}}"#).into()
    }

    fn put(state: &mut State, key: &'static str, value: Bytes) -> Changed {
        let mut changed = Changed::default();
        state.put(key.into(), value, &mut changed);
        changed
    }

    fn ids(state: &State) -> Vec<String> {
        state.endpoints().map(|it| it.id().to_string()).collect()
    }

    #[test]
    fn changes_are_added_up_and_what_is_the_same_stays_the_same() {
        let mut state = State::default();
        assert!(put(&mut state, "b", value("b:1")).endpoints);
        assert!(put(&mut state, "a", value("a:1")).endpoints);
        assert_eq!(ids(&state), ["a:1", "b:1"]);
        let before: Vec<Endpoint> = state.endpoints().collect();
        let same = put(&mut state, "a", value("a:1"));
        assert_eq!(same, Changed::default(), "the same value is no change");
        assert!(put(&mut state, "b", value("c:1")).endpoints);
        let after: Vec<Endpoint> = state.endpoints().collect();
        assert!(after[0].ptr_eq(&before[0]), "by pointer");
        let mut changed = Changed::default();
        state.delete(b"a", &mut changed);
        assert!(changed.endpoints);
        let mut changed = Changed::default();
        state.delete(b"a", &mut changed);
        assert!(!changed.endpoints, "it was gone");
        assert_eq!(ids(&state), ["c:1"]);
    }

    #[test]
    fn a_whole_state_takes_the_place_of_the_old_one() {
        let mut state = State::default();
        put(&mut state, "a", value("a:1"));
        put(&mut state, "b", value("b:1"));
        let before: Vec<Endpoint> = state.endpoints().collect();
        let whole = |keys: &[(&'static str, &str)]| {
            let keys = keys.iter();
            keys.map(|(key, address)| (Bytes::from(*key), value(address)))
                .collect::<BTreeMap<_, _>>()
        };
        let mut changed = Changed::default();
        state.replace(whole(&[("a", "a:1"), ("b", "b:1")]), &mut changed);
        assert_eq!(changed, Changed::default(), "nothing is new");
        state.replace(whole(&[("b", "b:1"), ("c", "c:1")]), &mut changed);
        assert!(changed.endpoints);
        assert_eq!(ids(&state), ["b:1", "c:1"]);
        assert!(state.endpoints().next().unwrap().ptr_eq(&before[1]));
        state.replace(BTreeMap::new(), &mut changed);
        assert_eq!(ids(&state), [] as [&str; 0], "nothing is a state");
    }

    #[test]
    fn a_value_that_cannot_be_read_keeps_the_last_good_form_and_is_told_once() {
        let mut state = State::default();
        put(&mut state, "a", value("a:1"));
        let changed = put(&mut state, "a", "x".into());
        assert!(!changed.endpoints && changed.wrong.len() == 1);
        assert!(changed.wrong[0].contains("\"a\""), "{changed:?}");
        let again = put(&mut state, "a", "x".into());
        assert_eq!(again, Changed::default(), "it is told already");
        assert_eq!(ids(&state), ["a:1"], "the last good form");
        assert_eq!(put(&mut state, "b", "{}".into()).wrong.len(), 1);
        assert_eq!(ids(&state), ["a:1"], "one that never was good is left out");
        let mut changed = Changed::default();
        state.delete(b"b", &mut changed);
        assert!(changed.endpoints, "nothing is wrong with it any more");
        assert!(put(&mut state, "a", value("a:2")).endpoints);
        assert_eq!(ids(&state), ["a:2"], "a good value counts again");
    }
}
