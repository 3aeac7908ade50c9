//! Who balances.

use std::time::Duration;

use evenkeel::BoxError;
use evenkeel::grpc::Channel;
use evenkeel::health::{Ejection, OutlierDetection};
use evenkeel::retry::{HedgePolicy, RetryPolicy};
use http::{Request, Response};
use tonic::body::Body;
use tonic::transport::{self, Endpoint};
use tonic::{Code, Status};
use tower::ServiceExt;
use tower::util::BoxCloneService;

use crate::fault::Fault;
use crate::options::Options;
use crate::support::connected::connected;
use crate::support::proto::demo_client::DemoClient;

/// A client, whatever is below it.
pub(crate) type Client = DemoClient<BoxCloneService<Request<Body>, Response<Body>, Status>>;

/// When a connection that is silent is asked whether it lives, where the fault is one that nobody tells of.
const KEEP_ALIVE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(1));

/// A balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arm {
    /// evenkeel with retries.
    Retries,
    /// evenkeel with hedging.
    Hedging,
    BalanceList,
}

impl Arm {
    /// Nothing that a server which never answers does could be tried again, so there calls are hedged, too.
    pub(crate) fn of(fault: Fault, options: &Options) -> Vec<Self> {
        let mut arms = vec![Self::Retries];
        if fault == Fault::Silent {
            arms.push(Self::Hedging);
        }
        if !options.alone {
            arms.push(Self::BalanceList);
        }
        arms
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Retries => "evenkeel, retries",
            Self::Hedging => "evenkeel, hedging",
            Self::BalanceList => "tonic balance_list",
        }
    }
}

/// A client, and the channel below it if it is evenkeel's.
pub(crate) async fn client(
    arm: Arm,
    fault: Fault,
    uris: &[String],
) -> Result<(Client, Option<Channel>), BoxError> {
    let keep_alive = (fault == Fault::Dropped).then_some(KEEP_ALIVE);
    match arm {
        Arm::Retries | Arm::Hedging => {
            let channel = evenkeel(arm, fault, uris, keep_alive).await?;
            let service = channel
                .clone()
                .map_response(|response| response.map(Body::new));
            let client = DemoClient::new(BoxCloneService::new(service));
            Ok((client, Some(channel)))
        }
        Arm::BalanceList => {
            let endpoints = uris.iter().map(|uri| {
                let endpoint = Endpoint::from_shared(uri.clone())?;
                Ok::<_, BoxError>(match keep_alive {
                    Some((interval, limit)) => endpoint
                        .http2_keep_alive_interval(interval)
                        .keep_alive_timeout(limit)
                        .keep_alive_while_idle(true)
                        .connect_timeout(Duration::from_secs(1)),
                    None => endpoint,
                })
            });
            let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
            let channel = transport::Channel::balance_list(endpoints.into_iter());
            let service = channel.map_err(|error| Status::from_error(error.into()));
            Ok((DemoClient::new(BoxCloneService::new(service)), None))
        }
    }
}

async fn evenkeel(
    arm: Arm,
    fault: Fault,
    uris: &[String],
    keep_alive: Option<(Duration, Duration)>,
) -> Result<Channel, BoxError> {
    let outliers = OutlierDetection::default();
    let retry = match fault {
        // Three retries, and for what a full server says.
        Fault::Halved => RetryPolicy::default()
            .with_max_attempts(4)
            .with_codes([Code::Unavailable, Code::ResourceExhausted]),
        _ => RetryPolicy::default(),
    };
    let builder = Channel::builder()
        .endpoints(uris.to_vec())
        .ejection(Ejection::default().with_outlier_detection(outliers))
        .http2_with(|http2| {
            if let Some((interval, limit)) = keep_alive {
                http2.keep_alive_interval = Some(interval);
                http2.keep_alive_timeout = limit;
                http2.keep_alive_while_idle = true;
            }
        });
    let channel = match arm {
        Arm::Hedging => builder.hedge(HedgePolicy::default()),
        _ => builder.retry(retry),
    };
    let channel = channel.build()?;
    connected(&channel).await?;
    Ok(channel)
}
