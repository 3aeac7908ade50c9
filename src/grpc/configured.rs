//! What a service config sets of a channel.

use std::sync::Arc;

#[cfg(feature = "service-config")]
use crate::grpc::builder::Builder;
use crate::grpc::calls::Repeats;
use crate::grpc::health_check::HealthCheck;
#[cfg(feature = "service-config")]
use crate::grpc::http2::MOST_CONNECTIONS;
use crate::grpc::methods::Methods;
#[cfg(feature = "service-config")]
use crate::grpc::methods::{Settings, Table, Timeout};
use crate::health::Ejection;
use crate::policy::Policy;
use crate::retry::ThrottleSettings;
#[cfg(feature = "service-config")]
use crate::service_config::{Attempts, ServiceConfig};
use crate::topology::RandomSubset;

/// Settings that hold where the application has none of its own. By default nothing is set.
#[derive(Default)]
pub(super) struct Configured {
    pub(super) policy: Option<Arc<dyn Policy>>,
    pub(super) ejection: Option<Ejection>,
    pub(super) subset: Option<RandomSubset>,
    pub(super) health_check: Option<HealthCheck>,
    /// How many connections an endpoint may have.
    pub(super) max_connections: Option<u32>,
    pub(super) methods: Methods,
    /// What `methods` name by their place here.
    pub(super) repeats: Vec<Repeats>,
    /// For all of them together.
    pub(super) throttle: Option<ThrottleSettings>,
}

#[cfg(feature = "service-config")]
impl<C> Builder<C> {
    /// Takes settings from gRPC's service config, as JSON: what is written once for the clients in all languages.
    ///
    /// | field | what it sets | gRFC |
    /// |---|---|---|
    /// | `loadBalancingConfig` | the [`policy`](Self::policy): the first of the list that is known, see below | A24 |
    /// | `loadBalancingPolicy` | the same by its name; not looked at where there is a `loadBalancingConfig` | |
    /// | `methodConfig` | by service or method: `timeout`, `waitForReady`, `retryPolicy`, `hedgingPolicy` | A2, A6 |
    /// | `retryThrottling` | the throttle of all retries and hedges | A6 |
    /// | `healthCheckConfig` | the [`health_check`](Self::health_check) | A17 |
    /// | `connectionScaling` | [`max_connections`](super::http2::Http2Settings::max_connections): `maxConnectionsPerSubchannel`, of which more than 10 count as 10; not for tonic's own endpoints and channels | A105 |
    ///
    /// What is set on this builder holds before what is here, whatever comes first: `policy`, `ejection`, `subset`,
    /// `health_check`, `max_connections`, and `retry` or `hedge`, which then holds for all methods and without the throttle that is here.
    /// Of two time limits the shorter one holds. A later service config takes the place of an earlier one.
    ///
    /// # Policies
    /// `pick_first` (A62), `round_robin`, `weighted_round_robin` (A58), `least_request_experimental` (A48),
    /// `ring_hash_experimental` (A42, A76); `outlier_detection_experimental` (A50) and
    /// `random_subsetting_experimental` (A68) around another. Beyond these, each
    /// [`PolicyConfig`](crate::policy::PolicyConfig) by its own name and settings. Others are passed over; it is a
    /// mistake if all of a list are. `least_request_experimental` draws different endpoints each time, where gRPC may
    /// draw one twice.
    ///
    /// With `outlier_detection_experimental` endpoints are ejected by A50's rules alone: neither for failures in a
    /// row, nor is there panic. Without it [`Ejection`]'s defaults hold, where gRPC ejects nobody.
    ///
    /// # Methods
    /// The most specific name counts, and its settings alone: those of the service are not added to those of its method.
    /// The `timeout` holds like a `grpc-timeout` of the caller's, for the whole call. `waitForReady` is for calls
    /// without the extension [`WaitForReady`](crate::call::WaitForReady). A `retryPolicy` and a
    /// `hedgingPolicy` have no budget, as in gRPC: what bounds the further attempts of all calls is `retryThrottling`, which
    /// counts the calls of methods that have such a policy.
    ///
    /// # Errors
    /// [`build`](Self::build) says by its path in the JSON which field has no such value, is missing, or is not known.
    /// Refused also: limits for the size of messages, which are the generated client's. gRPC passes over fields that it does not know; here they are mistakes.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), evenkeel::Error> {
    /// let builder = || evenkeel::grpc::Channel::builder().endpoints(["http://10.0.0.1:50051"]);
    /// let channel = builder()
    ///     .service_config(r#"{
    ///         "loadBalancingConfig": [{"round_robin": {}}],
    ///         "methodConfig": [{
    ///             "name": [{"service": "shop.Cart"}],
    ///             "timeout": "1.5s",
    ///             "retryPolicy": {
    ///                 "maxAttempts": 3, "initialBackoff": "0.05s", "maxBackoff": "1s",
    ///                 "backoffMultiplier": 2, "retryableStatusCodes": ["UNAVAILABLE"]
    ///             }
    ///         }],
    ///         "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1}
    ///     }"#)
    ///     .build()?;
    /// # let _ = channel;
    ///
    /// let error = builder().service_config(r#"{"methodConfig": [{"timeout": "1.5"}]}"#).build().unwrap_err();
    /// assert_eq!(error.field(), Some("service_config"));
    /// assert!(error.to_string().contains("methodConfig[0].timeout"), "{error}");
    /// # Ok(())
    /// # }
    /// ```
    pub fn service_config(mut self, json: impl AsRef<str>) -> Self {
        self.configured = ServiceConfig::parse(json.as_ref()).map(Configured::of);
        self
    }
}

#[cfg(feature = "service-config")]
impl Configured {
    pub(super) fn of(config: ServiceConfig) -> Self {
        let mut repeats = Vec::new();
        let mut table = Table::default();
        for method in config.methods {
            let policy = match method.attempts {
                Attempts::One => None,
                Attempts::Retries(policy) => {
                    repeats.push(Repeats::Retries(policy));
                    Some(repeats.len() - 1)
                }
                Attempts::Hedges(policy) => {
                    repeats.push(Repeats::Hedges(policy));
                    Some(repeats.len() - 1)
                }
            };
            let settings = Settings {
                timeout: method.timeout.and_then(Timeout::new),
                wait_for_ready: method.wait_for_ready,
                policy,
            };
            for name in &method.names {
                table.insert(name, settings.clone());
            }
        }
        let (policy, ejection, subset) = match config.balancing {
            None => (None, None, None),
            Some(balancing) => (Some(balancing.policy), balancing.ejection, balancing.subset),
        };
        Self {
            policy,
            ejection,
            subset,
            health_check: config.health_service.map(HealthCheck::of),
            max_connections: (config.max_connections).map(|most| most.min(MOST_CONNECTIONS)),
            methods: Methods::new(table),
            repeats,
            throttle: config.throttle,
        }
    }
}
