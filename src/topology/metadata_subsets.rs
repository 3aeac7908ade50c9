use std::sync::Arc;

use http::header::HeaderName;

use crate::call::{EndpointSubset, RequestInfo};
use crate::endpoint::Endpoint;
use crate::error::Error;

/// Calls that go to the endpoints with one value of a [metadata](Endpoint::with_metadata) name: `version=canary`,
/// `model=llama-70b`, `shard=7` (Envoy's subset load balancing).
///
/// Which value a call wants is read from the sources in the order in which they were added; the request extension
/// [`EndpointSubset`] comes before them. A call of which none says anything is drawn by the
/// [split](Self::with_split), if there is one. Where nothing says anything, or there are no endpoints with the value
/// that is named, the [fallback](Self::with_fallback) holds; but where there are such endpoints and none can take the
/// call, it waits or fails as any other. What is drawn is not named: where nobody of it can take the call, the other
/// values of the split stand in, and then the fallback. Each attempt of a call draws anew, but for policies that hash.
///
/// Each subset has priorities, localities and the policy to itself.
///
/// ```
/// use evenkeel::topology::{MetadataSubsets, SubsetFallback, Topology};
///
/// // 5 % of the calls to the canary, unless a call names a version itself.
/// let versions = MetadataSubsets::by("version")
///     .from_header("x-version")?
///     .with_split([("stable", 95), ("canary", 5)])
///     .with_fallback(SubsetFallback::Subset("stable".into()));
/// let topology = Topology::default().with_subsets(versions);
/// # let _ = topology;
/// # Ok::<_, evenkeel::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataSubsets {
    name: Arc<str>,
    sources: Vec<Source>,
    split: Vec<(Box<str>, u32)>,
    fallback: SubsetFallback,
}

/// Where calls go that name no subset, or one that does not exist.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubsetFallback {
    /// Any endpoint.
    #[default]
    Any,
    /// None: such a call fails with `UNAVAILABLE`.
    None,
    /// The endpoints with this value; if there are none, the call fails.
    Subset(Box<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    Header(HeaderName),
    PathPrefix { prefix: Box<str>, value: Box<str> },
}

impl MetadataSubsets {
    /// Endpoints told apart by their metadata of this name. Those that have none are in no subset.
    pub fn by(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            sources: Vec::new(),
            split: Vec::new(),
            fallback: SubsetFallback::Any,
        }
    }

    /// Reads the value from this header, for gRPC metadata, of the request: the first one that is text, and not empty.
    ///
    /// # Errors
    /// A configuration error of the field `header`: no name of a header, or a binary one (`-bin`).
    pub fn from_header(mut self, name: &str) -> Result<Self, Error> {
        // Lower-cases it.
        let header = HeaderName::from_bytes(name.as_bytes())
            .ok()
            .filter(|header| !header.as_str().ends_with("-bin"));
        let Some(header) = header else {
            let message = format!("{name:?} is no name of a header with text");
            return Err(Error::config("header", message));
        };
        self.sources.push(Source::Header(header));
        Ok(self)
    }

    /// Takes `value` for requests whose path, for gRPC `/package.Service/Method`, begins with `prefix`.
    #[must_use]
    pub fn from_path_prefix(
        mut self,
        prefix: impl Into<Box<str>>,
        value: impl Into<Box<str>>,
    ) -> Self {
        self.sources.push(Source::PathPrefix {
            prefix: prefix.into(),
            value: value.into(),
        });
        self
    }

    /// Draws the value of calls that name none, in proportion to these weights; by default none is drawn. With a
    /// policy that hashes, calls of one hash have one value, but for those that move as weights do.
    #[must_use]
    pub fn with_split<V: Into<Box<str>>>(
        mut self,
        weights: impl IntoIterator<Item = (V, u32)>,
    ) -> Self {
        let weights = weights.into_iter();
        self.split = weights
            .map(|(value, weight)| (value.into(), weight))
            .collect();
        self
    }

    /// Sets where calls go that name no subset, or one that does not exist; by default to any endpoint.
    #[must_use]
    pub fn with_fallback(mut self, fallback: SubsetFallback) -> Self {
        self.fallback = fallback;
        self
    }

    /// The name by whose values endpoints are told apart.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where calls go that name no subset.
    pub fn fallback(&self) -> &SubsetFallback {
        &self.fallback
    }

    /// The value that the endpoint has.
    pub fn value_of<'e>(&self, endpoint: &'e Endpoint) -> Option<&'e str> {
        endpoint.metadata().get(&self.name)
    }

    /// The value that a call names.
    #[inline]
    pub fn wanted_by<'r>(&'r self, request: &RequestInfo<'r>) -> Option<&'r str> {
        if let Some(subset) = request.extension::<EndpointSubset>() {
            return Some(&subset.0);
        }
        self.sources.iter().find_map(|source| match source {
            Source::Header(name) => {
                let values = request.headers()?.get_all(name).into_iter();
                let mut texts = values.filter_map(|value| value.to_str().ok());
                texts.find(|text| !text.is_empty())
            }
            Source::PathPrefix { prefix, value } => {
                request.path()?.starts_with(&**prefix).then_some(&**value)
            }
        })
    }

    /// The value for a call that names none and drew `point`; `None` without a split.
    #[inline]
    pub fn drawn(&self, point: u64) -> Option<&str> {
        let sum: u64 = self
            .split
            .iter()
            .map(|(_, weight)| u64::from(*weight))
            .sum();
        let mut left = ((u128::from(point) * u128::from(sum)) >> 64) as u64;
        let drawn = self.split.iter().find(|(_, weight)| {
            let here = left < u64::from(*weight);
            left = left.saturating_sub(u64::from(*weight));
            here
        });
        drawn.map(|(value, _)| &**value)
    }

    /// Whether a call that names no value may be drawn to this one.
    pub(crate) fn may_draw(&self, value: &str) -> bool {
        let mut split = self.split.iter();
        split.any(|(of, weight)| *weight > 0 && **of == *value)
    }

    /// The values that may be drawn.
    pub(crate) fn drawable(&self) -> impl Iterator<Item = &str> {
        let split = self.split.iter().filter(|(_, weight)| *weight > 0);
        split.map(|(value, _)| &**value)
    }

    /// Whether calls that name no value are drawn.
    pub(crate) fn draws(&self) -> bool {
        !self.split.is_empty()
    }

    pub(super) fn validate(&self) -> Result<(), Error> {
        if self.name.is_empty() {
            return Err(Error::config("subsets.name", "is empty"));
        }
        let prefix = |source: &Source| match source {
            Source::PathPrefix { prefix, .. } if !prefix.starts_with('/') => Some(prefix.clone()),
            _ => None,
        };
        if let Some(prefix) = self.sources.iter().find_map(prefix) {
            let message = format!("{prefix:?} does not begin with a slash");
            return Err(Error::config("subsets.path_prefix", message));
        }
        let mut seen = std::collections::HashSet::new();
        if let Some((twin, _)) = self.split.iter().find(|(value, _)| !seen.insert(value)) {
            return Err(Error::config(
                "subsets.split",
                format!("{twin} is named twice"),
            ));
        }
        if self.draws() && self.split.iter().all(|(_, weight)| *weight == 0) {
            return Err(Error::config("subsets.split", "all weights are 0"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn versions() -> MetadataSubsets {
        MetadataSubsets::by("version")
    }

    fn wanted(rules: &MetadataSubsets, request: http::request::Builder) -> Option<String> {
        let request = request.body(()).expect("a request");
        rules
            .wanted_by(&RequestInfo::http(&request))
            .map(str::to_owned)
    }

    #[test]
    fn the_first_source_that_says_something_counts_and_the_extension_before_all() {
        let rules = versions()
            .from_header("X-Version")
            .unwrap()
            .from_path_prefix("/shop.Cart/", "cart");
        let cart = || Request::builder().uri("http://h/shop.Cart/Add");
        assert_eq!(wanted(&rules, cart()).as_deref(), Some("cart"));
        let named = cart().header("x-version", "v2");
        assert_eq!(wanted(&rules, named).as_deref(), Some("v2"));
        let second = cart().header("x-version", "").header("x-version", "v4");
        assert_eq!(
            wanted(&rules, second).as_deref(),
            Some("v4"),
            "an empty one is none"
        );
        let unread = cart().header("x-version", &b"\xff"[..]);
        assert_eq!(
            wanted(&rules, unread).as_deref(),
            Some("cart"),
            "no text says nothing"
        );
        let set = cart()
            .header("x-version", "v2")
            .extension(EndpointSubset::from("v3"));
        assert_eq!(wanted(&rules, set).as_deref(), Some("v3"));
        let other = Request::builder().uri("http://h/shop.Carts/Add");
        assert_eq!(wanted(&rules, other), None);
    }

    #[test]
    fn draws_are_by_weight() {
        let rules = versions().with_split([("stable", 95), ("never", 0), ("canary", 5)]);
        let at = |percent: u64| rules.drawn(u64::MAX / 200 * (2 * percent + 1));
        assert_eq!(
            [at(0), at(94), at(95), at(99)],
            [
                Some("stable"),
                Some("stable"),
                Some("canary"),
                Some("canary")
            ]
        );
        assert_eq!(rules.drawn(u64::MAX), Some("canary"));
        assert_eq!(
            versions().drawn(7),
            None,
            "without a split nothing is drawn"
        );
        assert!(rules.may_draw("stable") && !rules.may_draw("never"));
    }

    #[test]
    fn mistakes_name_their_field() {
        for (rules, field) in [
            (MetadataSubsets::by(""), "subsets.name"),
            (
                versions().from_path_prefix("shop", "x"),
                "subsets.path_prefix",
            ),
            (versions().with_split([("a", 1), ("a", 2)]), "subsets.split"),
            (versions().with_split([("a", 0)]), "subsets.split"),
        ] {
            let error = rules.validate().expect_err(field);
            assert_eq!(error.field(), Some(field), "{error}");
        }
        for header in ["", "a b", "x-bin"] {
            let error = versions().from_header(header).expect_err(header);
            assert_eq!(error.field(), Some("header"), "{error}");
        }
    }
}
