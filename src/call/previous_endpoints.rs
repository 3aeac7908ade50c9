use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::endpoint::EndpointId;

/// How many endpoints are remembered: five attempts of gRFC A6, and some that handed the request back.
const REMEMBERED: usize = 8;

/// Request extension: the endpoints that earlier attempts of the same call went to, Envoy's "previous hosts"; and
/// which one the call would rather go to, if any.
///
/// A balancer notes here each endpoint that it gives the request to, and picks one that is not noted
/// as long as there is one that can be used. [`Retry`](crate::retry::Retry) puts it on the calls that
/// it may repeat; a loop of one's own puts clones of one of these on all attempts of a call. Clones
/// share what is noted. [`Hedge`](crate::retry::Hedge) has its attempts, which are side by side, go nowhere
/// rather than to an endpoint that is noted. Takes no lock; beyond eight endpoints nothing more is noted.
///
/// ```
/// use evenkeel::call::PreviousEndpoints;
///
/// let previous = PreviousEndpoints::new();
/// let mut first = http::Request::new("body");
/// first.extensions_mut().insert(previous.clone());
/// previous.insert("a".into());
/// let seen = first.extensions().get::<PreviousEndpoints>().unwrap();
/// assert!(seen.contains(&"a".into()));
/// ```
///
/// So an endpoint is avoided by one call if it is noted before, and preferred by
/// [`preferring`](Self::preferring).
#[derive(Clone, Default)]
pub struct PreviousEndpoints {
    noted: Arc<Noted>,
    only_others: bool,
    preferred: Option<EndpointId>,
}

#[derive(Default)]
struct Noted {
    ids: [OnceLock<EndpointId>; REMEMBERED],
    timed_out: AtomicBool,
}

impl PreviousEndpoints {
    /// No attempt yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Has the call go to this endpoint if it can be used and no attempt went there, whatever the policy says: to
    /// the one that holds what the call is about. Else it goes as without. One that is not known, not connected,
    /// ejected or full is no error.
    ///
    /// Finding it takes a look at the ids of the endpoints, one after the other: some microseconds for a
    /// thousand. For keys that many calls share there are the policies that hash.
    ///
    /// ```
    /// use evenkeel::call::PreviousEndpoints;
    ///
    /// let mut request = http::Request::new("body");
    /// let there = PreviousEndpoints::new().preferring("http://10.0.0.1:50051");
    /// request.extensions_mut().insert(there);
    /// ```
    #[must_use]
    pub fn preferring(mut self, id: impl Into<EndpointId>) -> Self {
        self.preferred = Some(id.into());
        self
    }

    /// The endpoint that the call would rather go to.
    pub fn preferred(&self) -> Option<&EndpointId> {
        self.preferred.as_ref()
    }

    /// Adds an endpoint.
    pub fn insert(&self, id: EndpointId) {
        let mut id = Some(id);
        for place in &self.noted.ids {
            let noted = place.get_or_init(|| id.take().expect("given to one place only"));
            // It may have been noted by this call, or before it.
            match &id {
                Some(id) if id != noted => {}
                _ => return,
            }
        }
    }

    /// Whether an attempt went to this endpoint.
    pub fn contains(&self, id: &EndpointId) -> bool {
        self.iter().any(|noted| noted == id)
    }

    /// Whether no attempt went to any endpoint yet.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.noted.ids[0].get().is_none()
    }

    /// The endpoints, in the order of the attempts.
    pub fn iter(&self) -> impl Iterator<Item = &EndpointId> {
        self.noted.ids.iter().map_while(OnceLock::get)
    }

    /// The same record, for an attempt that is to go to an endpoint that is not noted, or nowhere.
    pub(crate) fn for_others_only(&self) -> Self {
        Self {
            noted: self.noted.clone(),
            only_others: true,
            preferred: self.preferred.clone(),
        }
    }

    /// Whether this attempt goes nowhere rather than to an endpoint that is noted.
    #[inline]
    pub(crate) fn wants_only_others(&self) -> bool {
        self.only_others
    }

    /// Says of attempts that are dropped from now on whether a time limit is the reason.
    pub(crate) fn set_timed_out(&self, timed_out: bool) {
        self.noted.timed_out.store(timed_out, Ordering::Relaxed);
    }

    /// Whether an attempt that is dropped now took too long, which is its endpoint's fault.
    pub(crate) fn has_timed_out(&self) -> bool {
        self.noted.timed_out.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for PreviousEndpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_is_noted_once_in_order_and_by_all_clones() {
        let previous = PreviousEndpoints::new();
        assert!(previous.is_empty());
        let clone = previous.clone();
        for id in ["b", "a", "b", "a", "c"] {
            clone.insert(id.into());
        }
        let ids: Vec<&str> = previous.iter().map(EndpointId::as_str).collect();
        assert_eq!(ids, ["b", "a", "c"], "once each, in the order of attempts");
        assert!(!previous.is_empty() && previous.contains(&"a".into()));
        assert!(!previous.contains(&"d".into()), "never tried");
    }

    #[test]
    fn an_attempt_for_others_only_shares_the_record() {
        let previous = PreviousEndpoints::new();
        let others = previous.for_others_only();
        others.insert("a".into());
        assert!(previous.contains(&"a".into()), "one record");
        assert!(others.clone().wants_only_others() && !previous.wants_only_others());
    }

    #[test]
    fn more_than_it_holds_is_left_out() {
        let previous = PreviousEndpoints::new();
        for id in 0..20 {
            previous.insert(id.to_string().into());
        }
        assert_eq!(previous.iter().count(), REMEMBERED);
    }
}
