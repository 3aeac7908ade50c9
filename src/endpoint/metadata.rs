use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What the owner of an endpoint says of it beside address and weight: names with values, such as
/// `version` and `canary`. Cheap to clone.
///
/// ```
/// use evenkeel::Endpoint;
///
/// let endpoint = Endpoint::new("http://10.0.0.1:50051").with_metadata([("version", "canary")]);
/// assert_eq!(endpoint.metadata().get("version"), Some("canary"));
/// ```
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Metadata(Option<Arc<BTreeMap<Box<str>, Box<str>>>>);

impl Metadata {
    /// The value of this name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.as_ref()?.get(name).map(|value| &**value)
    }

    /// All names with their values, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let all = self.0.iter().flat_map(|all| all.iter());
        all.map(|(name, value)| (&**name, &**value))
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |all| all.len())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// Of a name that comes twice the last value counts.
impl<N: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(N, V)> for Metadata {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(pairs: I) -> Self {
        let pairs = pairs.into_iter();
        let all: BTreeMap<_, _> = pairs.map(|(n, v)| (n.into(), v.into())).collect();
        Self((!all.is_empty()).then(|| Arc::new(all)))
    }
}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Metadata;

    #[test]
    fn names_are_in_order_and_the_last_value_counts() {
        let metadata: Metadata = [("b", "1"), ("a", "2"), ("b", "3")].into_iter().collect();
        assert_eq!(
            metadata.iter().collect::<Vec<_>>(),
            [("a", "2"), ("b", "3")]
        );
        assert_eq!((metadata.len(), metadata.get("c")), (2, None));
        let none: [(&str, &str); 0] = [];
        let empty: Metadata = none.into_iter().collect();
        assert!(
            empty.is_empty() && empty == Metadata::default(),
            "there is one way to say nothing"
        );
    }
}
