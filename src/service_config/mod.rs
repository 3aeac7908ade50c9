//! gRPC's service config: what a service says of how its clients are to call it, as JSON.
//!
//! The form is that of `grpc.service_config.ServiceConfig` by proto3's rules for JSON: names in lowerCamelCase or
//! as in the proto, `null` for what is not set. serde reads it; here is only what the fields mean. Other than in
//! gRPC, a field that is not known is refused, since what is misspelt would else silently not hold. Only a policy
//! that is not known is passed over, for the next one of its list.

mod balancing;
mod methods;
mod scalars;

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::Deserializer;

pub(crate) use balancing::Balancing;
pub(crate) use methods::{Attempts, MethodConfig, Name};

use crate::error::Error;
use crate::retry::ThrottleSettings;
use methods::ThrottleFields;
use scalars::{Integer, Object};

/// What of it is said. Nothing here is looked at a second time: what is given can be used.
#[derive(Debug)]
pub(crate) struct ServiceConfig {
    pub(crate) balancing: Option<Balancing>,
    /// Without names that come twice.
    pub(crate) methods: Vec<MethodConfig>,
    pub(crate) throttle: Option<ThrottleSettings>,
    /// The service whose health is asked for; the empty one is the whole server.
    pub(crate) health_service: Option<String>,
    /// How many connections an endpoint may have, from 1 on.
    pub(crate) max_connections: Option<u32>,
}

impl ServiceConfig {
    /// Reads the JSON.
    ///
    /// # Errors
    /// Says where in the JSON the mistake is.
    pub(crate) fn parse(json: &str) -> Result<Self, Error> {
        let mut reader = serde_json::Deserializer::from_str(json);
        let Object(config) = serde_path_to_error::deserialize::<_, Object<Self>>(&mut reader)
            .map_err(|error| match error.path().iter().next() {
                Some(_) => at(error.path(), error.inner()),
                None => Error::config("service_config", error.into_inner().to_string()),
            })?;
        reader
            .end()
            .map_err(|error| Error::config("service_config", error.to_string()))?;
        config.check_names()?;
        Ok(config)
    }

    fn check_names(&self) -> Result<(), Error> {
        let mut seen = HashMap::new();
        for (at_method, method) in self.methods.iter().enumerate() {
            for (at_name, name) in method.names.iter().enumerate() {
                let place = format!("methodConfig[{at_method}].name[{at_name}]");
                if let Some(first) = seen.get(name) {
                    return Err(at(&place, &format!("the same name as {first}")));
                }
                seen.insert(name, place);
            }
        }
        Ok(())
    }
}

fn at(path: &impl ToString, mistake: &impl ToString) -> Error {
    let message = format!("{}: {}", path.to_string(), mistake.to_string());
    Error::config("service_config", message)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ServiceFields {
    #[serde(alias = "load_balancing_policy")]
    load_balancing_policy: Option<String>,
    #[serde(alias = "load_balancing_config")]
    load_balancing_config: Option<Balancing>,
    #[serde(alias = "method_config")]
    method_config: Option<Vec<Object<MethodConfig>>>,
    #[serde(alias = "retry_throttling")]
    retry_throttling: Option<Object<ThrottleFields>>,
    #[serde(alias = "health_check_config")]
    health_check_config: Option<Object<HealthFields>>,
    #[serde(alias = "connection_scaling")]
    connection_scaling: Option<Object<ScalingFields>>,
}

impl<'de> Deserialize<'de> for ServiceConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = ServiceFields::deserialize(deserializer)?;
        let methods = fields.method_config.unwrap_or_default();
        let health = fields.health_check_config;
        let name = fields.load_balancing_policy.as_deref();
        let balancing = match (fields.load_balancing_config, name) {
            // The other one is there for older clients, and may name what only those know.
            (Some(list), _) => Some(list),
            (None, None | Some("" | "UNSPECIFIED")) => None,
            (None, Some(name)) => Some(Balancing::by_name(name)?),
        };
        Ok(Self {
            balancing,
            methods: methods.into_iter().map(|Object(method)| method).collect(),
            throttle: fields.retry_throttling.map(|Object(t)| t.settings()),
            health_service: health.and_then(|Object(health)| health.service_name),
            max_connections: (fields.connection_scaling)
                .and_then(|Object(scaling)| scaling.max_connections_per_subchannel)
                .map(|Integer(most)| most),
        })
    }
}

/// gRFC A17.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HealthFields {
    #[serde(alias = "service_name")]
    service_name: Option<String>,
}

/// gRFC A105.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScalingFields {
    #[serde(alias = "max_connections_per_subchannel")]
    max_connections_per_subchannel: Option<Integer<1, { u32::MAX }>>,
}

#[cfg(test)]
mod tests;
