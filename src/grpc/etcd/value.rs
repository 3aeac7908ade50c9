//! What a key's value says of an endpoint: JSON as etcd's own gRPC naming writes it.

use serde_json::{Map, Value, json};

use crate::endpoint::{Endpoint, Locality};
use crate::error::Error;
use crate::grpc::http2::check_address;

/// Members of `Metadata` that are settings of the endpoint.
const WEIGHT: &str = "weight";
const PRIORITY: &str = "priority";
const LOCALITY: &str = "locality";

/// Reads a value.
///
/// # Errors
/// What is wrong, with the name of the field in front.
pub(super) fn decode(value: &[u8]) -> Result<Endpoint, String> {
    let value: Value =
        serde_json::from_slice(value).map_err(|error| format!("the value is no JSON: {error}"))?;
    let Value::Object(fields) = value else {
        return Err("the value is no JSON object".into());
    };
    let address = match field(&fields, "Addr") {
        Some(Value::String(address)) => address,
        Some(_) => return Err("Addr: is no string".into()),
        None => return Err("Addr: is missing".into()),
    };
    let (address, id) = read_address(address).map_err(|why| format!("Addr: {address:?} {why}"))?;
    let endpoint = Endpoint::new(address).with_id(id);
    match field(&fields, "Metadata") {
        Some(Value::Object(metadata)) => with_metadata(endpoint, metadata),
        // What servers of other makers put there is theirs to read.
        _ => Ok(endpoint),
    }
}

/// Go, which wrote these values first, reads names in any case.
fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let other_case = || fields.iter().find(|(it, _)| it.eq_ignore_ascii_case(name));
    let exact = fields.get(name);
    exact.or_else(|| other_case().map(|(_, value)| value))
}

/// The address and the id of `host:port`, which may have `http://` or `https://` in front.
fn read_address(text: &str) -> Result<(String, String), &'static str> {
    let address = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let uri = check_address(&address).map_err(|_| "is not of the form host:port")?;
    if uri.port_u16().is_none_or(|port| port == 0) {
        return Err("has no port");
    }
    let id = uri.authority().map(ToString::to_string);
    Ok((address, id.unwrap_or_default()))
}

fn with_metadata(
    mut endpoint: Endpoint,
    metadata: &Map<String, Value>,
) -> Result<Endpoint, String> {
    let mut texts = Vec::new();
    for (name, value) in metadata {
        match (name.as_str(), value) {
            (_, Value::Null | Value::Array(_) | Value::Object(_))
                if ![WEIGHT, PRIORITY, LOCALITY].contains(&&**name) => {}
            (WEIGHT, value) => {
                let weight = whole(value).filter(|weight| *weight > 0);
                let why = || wrong(name, value, "is no whole number from 1 to 4294967295");
                endpoint = endpoint.with_weight(weight.ok_or_else(why)?);
            }
            (PRIORITY, value) => {
                let why = || wrong(name, value, "is no whole number from 0 to 4294967295");
                endpoint = endpoint.with_priority(whole(value).ok_or_else(why)?);
            }
            (LOCALITY, value) => {
                let read = value.as_str().and_then(|text| text.parse().ok());
                let why = || wrong(name, value, "is not of the form region/zone/sub_zone");
                let locality: Locality = read.ok_or_else(why)?;
                endpoint = endpoint.with_locality(locality);
            }
            (name, Value::String(text)) => texts.push((name, text.clone())),
            (name, plain) => texts.push((name, plain.to_string())),
        }
    }
    Ok(endpoint.with_metadata(texts))
}

/// A whole number, also as the digits that clients with metadata of strings alone write.
fn whole(value: &Value) -> Option<u32> {
    match value {
        Value::Number(number) => u32::try_from(number.as_u64()?).ok(),
        Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

fn wrong(name: &str, value: &Value, why: &str) -> String {
    format!("Metadata.{name}: {value} {why}")
}

/// Writes the value that [`decode`] reads as `endpoint`.
///
/// # Errors
/// A configuration error of the field `endpoint`: more than one address, an address that has another form, a weight
/// of 0, metadata by a name that means something else here.
pub(super) fn encode(endpoint: &Endpoint) -> Result<Vec<u8>, Error> {
    let refused = |why: String| Error::config("endpoint", why);
    let address = endpoint.address();
    if endpoint.addresses().count() > 1 {
        return Err(refused("has more than one address".into()));
    }
    read_address(address).map_err(|why| refused(format!("{address:?} {why}")))?;
    let address = address.strip_prefix("http://").unwrap_or(address);
    let mut metadata = Map::new();
    for (name, text) in endpoint.metadata().iter() {
        if [WEIGHT, PRIORITY, LOCALITY].contains(&name) {
            let why = format!("has metadata by the name {name}, which is a setting of its own");
            return Err(refused(why));
        }
        metadata.insert(name.to_owned(), text.into());
    }
    match endpoint.weight() {
        0 => return Err(refused("has the weight 0; the least is 1".into())),
        1 => {}
        weight => drop(metadata.insert(WEIGHT.into(), weight.into())),
    }
    if endpoint.priority() > 0 {
        metadata.insert(PRIORITY.into(), endpoint.priority().into());
    }
    if !endpoint.locality().is_unknown() {
        metadata.insert(LOCALITY.into(), endpoint.locality().to_string().into());
    }
    let address = address.trim_end_matches('/');
    let value = match metadata.is_empty() {
        true => json!({ "Addr": address }),
        false => json!({ "Addr": address, "Metadata": metadata }),
    };
    Ok(value.to_string().into_bytes())
}

#[cfg(test)]
#[path = "value_tests.rs"]
mod tests;
