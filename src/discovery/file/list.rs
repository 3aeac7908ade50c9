//! What a file says.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};

use super::nesting;
use crate::endpoint::{Endpoint, Locality};
use crate::policy::EndpointHashKey;

/// In what words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Json,
    Yaml,
}

impl Format {
    /// How large a file may be. The parser of YAML takes much longer for a byte than that of JSON.
    pub(super) fn most_mib(self) -> u64 {
        match self {
            Self::Json => 64,
            Self::Yaml => 4,
        }
    }
}

/// A mistake may quote a file that is all one word.
const LONGEST_MISTAKE: usize = 500;

/// Reads the list.
///
/// # Errors
/// Says what the mistake is, and where: the path to the field, the line and the column.
pub(super) fn decode(text: &str, format: Format) -> Result<Vec<Endpoint>, String> {
    // Some editors begin with a mark of the byte order, which is no JSON.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let rows = match format {
        Format::Json => json(text),
        Format::Yaml => yaml(text),
    };
    rows.and_then(endpoints).map_err(in_short)
}

/// Where the mistake is stands at both ends.
fn in_short(mistake: String) -> String {
    let length = mistake.chars().count();
    if length <= LONGEST_MISTAKE {
        return mistake;
    }
    let (head, tail) = (LONGEST_MISTAKE * 3 / 4, LONGEST_MISTAKE / 4);
    let head: String = mistake.chars().take(head).collect();
    let tail: String = mistake.chars().skip(length - tail).collect();
    format!("{head} .. {tail}")
}

fn json(text: &str) -> Result<Vec<Row>, String> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let read = serde_path_to_error::deserialize(&mut reader);
    let List(rows) = read.map_err(|error| {
        let path = error.path().to_string();
        // A text that ends within a map has a field without a name there.
        match path.trim_end_matches('?').trim_end_matches('.') {
            "" => error.into_inner().to_string(),
            path => format!("{path}: {}", error.inner()),
        }
    })?;
    reader.end().map_err(|error| error.to_string())?;
    Ok(rows)
}

fn yaml(text: &str) -> Result<Vec<Row>, String> {
    nesting::check(text)?;
    let List(rows) = serde_norway::from_str(text).map_err(|error| {
        let mistake = error.to_string();
        // Its paths begin with the dot of a root.
        match mistake.strip_prefix(".[") {
            Some(rest) => format!("[{rest}"),
            None => mistake,
        }
    })?;
    Ok(rows)
}

fn endpoints(rows: Vec<Row>) -> Result<Vec<Endpoint>, String> {
    let mut seen = HashMap::with_capacity(rows.len());
    let mut endpoints = Vec::with_capacity(rows.len());
    for (at, Row(endpoint)) in rows.into_iter().enumerate() {
        if let Some(first) = seen.insert(endpoint.id().clone(), at) {
            let id = endpoint.id();
            return Err(format!("[{at}].id: {id:?} is the id of [{first}], too"));
        }
        endpoints.push(endpoint);
    }
    Ok(endpoints)
}

/// Whether a file that names one now and the other then has said nothing new of it.
pub(super) fn says_the_same(one: &Endpoint, other: &Endpoint) -> bool {
    one.id() == other.id()
        && one.addresses().eq(other.addresses())
        && one.weight() == other.weight()
        && one.priority() == other.priority()
        && one.locality() == other.locality()
        && one.metadata() == other.metadata()
        && one.get::<EndpointHashKey>() == other.get::<EndpointHashKey>()
}

/// All entries. Serde's own lists are read from nothing, too, as an empty file in YAML is: that one was not written yet.
struct List(Vec<Row>);

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = List;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_none<E: Error>(self) -> Result<List, E> {
                Err(E::invalid_type(Unexpected::Other("nothing"), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<List, A::Error> {
                let mut rows = Vec::new();
                while let Some(row) = list.next_element()? {
                    rows.push(row);
                }
                Ok(List(rows))
            }
        }

        deserializer.deserialize_any(Entries)
    }
}

/// One entry of the list: a text alone is an address.
struct Row(Endpoint);

impl Short for Row {
    const FORM: &str = "an address, or a map with one";

    type Long = Fields;

    fn of_text<E: Error>(text: &str) -> Result<Self, E> {
        Ok(Self(Endpoint::new(not_empty(text)?)))
    }

    fn of_map(fields: Fields) -> Self {
        Self(fields.endpoint())
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map(deserializer)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    address: Text,
    addresses: Option<Vec<Text>>,
    id: Option<Text>,
    weight: Option<Whole<1>>,
    priority: Option<Whole<0>>,
    locality: Option<Place>,
    metadata: Option<Pairs>,
    hash_key: Option<Text>,
}

impl Fields {
    fn endpoint(self) -> Endpoint {
        let more = self.addresses.unwrap_or_default();
        let mut endpoint = Endpoint::new(self.address.0)
            .with_addresses(more.into_iter().map(|address| address.0))
            .with_weight(self.weight.map_or(1, |weight| weight.0))
            .with_priority(self.priority.map_or(0, |priority| priority.0));
        if let Some(Text(id)) = self.id {
            endpoint = endpoint.with_id(id);
        }
        if let Some(Place(locality)) = self.locality {
            endpoint = endpoint.with_locality(locality);
        }
        if let Some(Pairs(pairs)) = self.metadata {
            endpoint = endpoint.with_metadata(pairs);
        }
        if let Some(Text(key)) = self.hash_key {
            endpoint = endpoint.with(EndpointHashKey::from(key));
        }
        endpoint
    }
}

/// A text with something in it.
struct Text(String);

fn not_empty<E: Error>(text: &str) -> Result<String, E> {
    match text {
        "" => Err(E::custom("is empty")),
        text => Ok(text.to_owned()),
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Some;

        impl Visitor<'_> for Some {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                not_empty(text).map(Text)
            }
        }

        deserializer.deserialize_str(Some)
    }
}

/// A whole number from `LEAST` on.
struct Whole<const LEAST: u32>(u32);

impl<'de, const LEAST: u32> Deserialize<'de> for Whole<LEAST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct From<const LEAST: u32>;

        impl<const LEAST: u32> Visitor<'_> for From<LEAST> {
            type Value = Whole<LEAST>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from {LEAST} to {}", u32::MAX)
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
                let fits = u32::try_from(number).ok();
                let fits = fits.filter(|number| *number >= LEAST).map(Whole);
                fits.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }

        deserializer.deserialize_any(From)
    }
}

/// `region/zone/sub_zone`, or a map of the three.
struct Place(Locality);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    #[serde(default)]
    region: String,
    #[serde(default)]
    zone: String,
    #[serde(default)]
    sub_zone: String,
}

impl Short for Place {
    const FORM: &str = "region/zone/sub_zone, or a map of these";

    type Long = Parts;

    fn of_text<E: Error>(text: &str) -> Result<Self, E> {
        let read = text.parse().map(Self);
        read.map_err(|_| E::invalid_value(Unexpected::Str(text), &Self::FORM))
    }

    fn of_map(parts: Parts) -> Self {
        let locality = Locality::new(parts.region).with_zone(parts.zone);
        Self(locality.with_sub_zone(parts.sub_zone))
    }
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text_or_map(deserializer)
    }
}

/// Names with values, none of them twice.
struct Pairs(BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ByName;

        impl<'de> Visitor<'de> for ByName {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, String>()? {
                    if pairs.contains_key(&name) {
                        return Err(Error::custom(format!("{name:?} is named twice")));
                    }
                    pairs.insert(name, value);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(ByName)
    }
}

/// What may be written in short, as a text, or field by field. By hand, since serde's untagged enums lose the place of
/// a mistake.
trait Short: Sized {
    /// What it looks like.
    const FORM: &str;

    type Long;

    fn of_text<E: Error>(text: &str) -> Result<Self, E>;

    fn of_map(map: Self::Long) -> Self;
}

fn text_or_map<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Short<Long: Deserialize<'de>>,
{
    struct Either<T>(PhantomData<T>);

    impl<'de, T: Short<Long: Deserialize<'de>>> Visitor<'de> for Either<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::FORM)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            T::of_text(text)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::Long::deserialize(MapAccessDeserializer::new(map)).map(T::of_map)
        }
    }

    deserializer.deserialize_any(Either(PhantomData))
}

#[cfg(test)]
mod tests;
