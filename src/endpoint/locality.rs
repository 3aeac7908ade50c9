use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use crate::error::Error;

/// Where a server or a client runs: region, zone and sub-zone, as xDS and Envoy name them. Cheap to clone.
///
/// A part that is not known is empty. Two localities are the same if all three parts are.
///
/// ```
/// use evenkeel::endpoint::Locality;
///
/// let rack: Locality = "eu-west-1/eu-west-1a/rack-7".parse()?;
/// let zone = Locality::new("eu-west-1").with_zone("eu-west-1a");
/// assert_eq!((rack.region(), rack.zone(), rack.sub_zone()), ("eu-west-1", "eu-west-1a", "rack-7"));
/// assert!(rack.is_in_zone_of(&zone) && rack != zone);
/// assert_eq!(zone.to_string(), "eu-west-1/eu-west-1a");
/// # Ok::<_, evenkeel::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality(Arc<Names>);

#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Names {
    region: Box<str>,
    zone: Box<str>,
    sub_zone: Box<str>,
}

impl Locality {
    /// A region, of which no zone is known. An empty name says that the region is not known, as it is where a
    /// source names zones alone.
    pub fn new(region: impl Into<Box<str>>) -> Self {
        Self(Arc::new(Names {
            region: region.into(),
            ..Names::default()
        }))
    }

    /// Sets the zone.
    #[must_use]
    pub fn with_zone(mut self, zone: impl Into<Box<str>>) -> Self {
        Arc::make_mut(&mut self.0).zone = zone.into();
        self
    }

    /// Sets the part of the zone: a rack, a host, a cell.
    #[must_use]
    pub fn with_sub_zone(mut self, sub_zone: impl Into<Box<str>>) -> Self {
        Arc::make_mut(&mut self.0).sub_zone = sub_zone.into();
        self
    }

    /// The region; empty if it is not known.
    pub fn region(&self) -> &str {
        &self.0.region
    }

    /// The zone; empty if it is not known.
    pub fn zone(&self) -> &str {
        &self.0.zone
    }

    /// The part of the zone; empty if it is not known.
    pub fn sub_zone(&self) -> &str {
        &self.0.sub_zone
    }

    /// Whether nothing is known at all.
    pub fn is_unknown(&self) -> bool {
        self.region().is_empty() && self.zone().is_empty() && self.sub_zone().is_empty()
    }

    /// Whether both are known to be in one region.
    pub fn is_in_region_of(&self, other: &Self) -> bool {
        !self.region().is_empty() && self.region() == other.region()
    }

    /// Whether both are known to be in one zone. The regions must be the same, too, unless that of one is not
    /// known.
    pub fn is_in_zone_of(&self, other: &Self) -> bool {
        let either_unknown = self.region().is_empty() || other.region().is_empty();
        let regions_agree = either_unknown || self.region() == other.region();
        regions_agree && !self.zone().is_empty() && self.zone() == other.zone()
    }
}

impl Default for Locality {
    /// Nothing known.
    fn default() -> Self {
        // One for all: most endpoints of most users have no other.
        static UNKNOWN: LazyLock<Locality> = LazyLock::new(|| Locality::new(""));
        UNKNOWN.clone()
    }
}

impl FromStr for Locality {
    type Err = Error;

    /// Reads `region`, `region/zone` or `region/zone/sub_zone`; parts may be empty, as in `/zone`.
    ///
    /// # Errors
    /// A configuration error of the field `locality`: more than three parts.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = text.split('/');
        let mut next = || parts.next().unwrap_or_default();
        let locality = Self(Arc::new(Names {
            region: next().into(),
            zone: next().into(),
            sub_zone: next().into(),
        }));
        if parts.next().is_some() {
            let message = format!("{text:?} has more parts than region/zone/sub_zone");
            return Err(Error::config("locality", message));
        }
        Ok(locality)
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.region())?;
        if !self.zone().is_empty() || !self.sub_zone().is_empty() {
            write!(f, "/{}", self.zone())?;
        }
        if !self.sub_zone().is_empty() {
            write!(f, "/{}", self.sub_zone())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Locality({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_and_written_alike() {
        for text in ["", "r", "r/z", "r/z/s", "/z", "//s", "r//s"] {
            let read: Locality = text.parse().expect(text);
            assert_eq!(read.to_string(), text, "what was read is written again");
        }
        let error = "a/b/c/d".parse::<Locality>().unwrap_err();
        assert_eq!(error.field(), Some("locality"), "{error}");
    }

    #[test]
    fn what_is_not_known_is_near_to_nothing() {
        let unknown = Locality::default();
        assert!(unknown.is_unknown() && !unknown.is_in_region_of(&unknown));
        assert!(!unknown.is_in_zone_of(&unknown), "no zone is no common one");
        let [a, b, bare] = ["r/a", "r/b", "/a"].map(|text| text.parse::<Locality>().unwrap());
        assert!(a.is_in_region_of(&b) && !a.is_in_zone_of(&b));
        assert!(
            a.is_in_zone_of(&bare) && !a.is_in_region_of(&bare),
            "a source that names zones alone"
        );
        let elsewhere: Locality = "q/a".parse().unwrap();
        assert!(
            !elsewhere.is_in_zone_of(&a),
            "zones of two regions may share a name"
        );
    }
}
