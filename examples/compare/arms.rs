//! Who balances.

use std::time::Duration;

use clap::ValueEnum;
use evenkeel::BoxError;
use evenkeel::grpc::{Builder, Channel};
use evenkeel::policy::{
    Adaptive, C3, LeastRequest, OrcaWeightedRoundRobin, PeakEwma, Prequal, Random, RoundRobin,
};
use http::{Request, Response};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::transport::{self, Endpoint};
use tower::balance::p2c::Balance;
use tower::buffer::Buffer;
use tower::discover::ServiceList;
use tower::load::{CompleteOnResponse, PeakEwmaDiscover};
use tower::util::BoxCloneService;
use tower::{Service, ServiceExt};

use crate::connected::{CONNECTED_WITHIN, connected};
use crate::load::CLIENTS;
use crate::options::name_of;
use crate::proto::demo_client::DemoClient;

/// A client, whatever is below it. All pay for the same box.
pub(crate) type Client = DemoClient<BoxCloneService<Request<Body>, Response<Body>, Status>>;

/// What an unknown server is taken for, and how long answers count: linkerd's settings of tower's peak EWMA.
const TOWER_RTT: Duration = Duration::from_millis(30);
const TOWER_DECAY: Duration = Duration::from_secs(10);

/// The bound of tonic's own buffer.
const TOWER_BUFFER: usize = 1024;

/// When reports count and how often the order follows them: a cell has no 10 s for the default.
const ORCA_BLACKOUT: Duration = Duration::from_millis(300);
const ORCA_UPDATE: Duration = Duration::from_millis(100);

/// A balancer and its settings; evenkeel's own are the defaults where nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Arm {
    /// `tonic::transport::Channel::balance_list`
    BalanceList,
    /// tower's `p2c::Balance` by its `PeakEwma`, over tonic's channels, behind a `Buffer`
    TowerPeakEwma,
    RoundRobin,
    Random,
    LeastRequest,
    FullScan,
    PeakEwma,
    OrcaWeightedRoundRobin,
    C3,
    Prequal,
    Adaptive,
}

/// What the others' ratios are against.
pub(crate) const BASE: Arm = Arm::BalanceList;

impl Arm {
    /// For the table.
    pub(crate) fn title(self) -> String {
        match self {
            Self::BalanceList => "tonic balance_list".to_owned(),
            Self::TowerPeakEwma => "tower p2c, peak EWMA".to_owned(),
            Self::OrcaWeightedRoundRobin => "ORCA weighted round robin".to_owned(),
            Self::PeakEwma => "peak EWMA".to_owned(),
            Self::C3 => "C3".to_owned(),
            Self::FullScan => "least request, full scan".to_owned(),
            _ => name_of(&self).replace('_', " "),
        }
    }

    /// A new client with new connections.
    pub(crate) async fn client(self, uris: &[String], seed: u64) -> Result<Client, BoxError> {
        let builder = Channel::builder().endpoints(uris.to_vec()).seed(seed);
        let builder = match self {
            Self::BalanceList => {
                let balanced = transport::Channel::balance_list(endpoints(uris)?.into_iter());
                return Ok(client(balanced));
            }
            Self::TowerPeakEwma => return tower_peak_ewma(uris).await,
            Self::RoundRobin => builder.policy(RoundRobin::default()),
            Self::Random => builder.policy(Random::default()),
            Self::LeastRequest => builder.policy(LeastRequest::default()),
            Self::FullScan => builder.policy(LeastRequest::full_scan()),
            Self::PeakEwma => builder.policy(PeakEwma::default()),
            Self::OrcaWeightedRoundRobin => builder.policy(
                OrcaWeightedRoundRobin::default()
                    .with_blackout_period(ORCA_BLACKOUT)
                    .with_update_period(ORCA_UPDATE),
            ),
            Self::C3 => builder.policy(C3::default().with_clients(CLIENTS as u32)),
            Self::Prequal => builder.policy(Prequal::default()),
            Self::Adaptive => builder.policy(Adaptive::default()),
        };
        evenkeel(builder).await
    }
}

async fn evenkeel(builder: Builder) -> Result<Client, BoxError> {
    let channel = builder.build()?;
    connected(&channel).await?;
    Ok(client(
        channel.map_response(|response| response.map(Body::new)),
    ))
}

/// tower's balancer over tonic's channels, as one writes it who wants another load than tonic's constant.
async fn tower_peak_ewma(uris: &[String]) -> Result<Client, BoxError> {
    let mut channels = Vec::new();
    for endpoint in endpoints(uris)? {
        let connected = timeout(CONNECTED_WITHIN, endpoint.connect()).await;
        channels.push(connected.map_err(|_| "tonic's channel is not connected in time")??);
    }
    let list = ServiceList::new::<Request<Body>>(channels);
    let measured = PeakEwmaDiscover::new::<Request<Body>>(
        list,
        TOWER_RTT,
        TOWER_DECAY,
        CompleteOnResponse::default(),
    );
    let balanced = Buffer::new(Balance::new(measured), TOWER_BUFFER);
    Ok(client(balanced))
}

fn client<S>(service: S) -> Client
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
{
    let service = service.map_err(|error| Status::from_error(error.into()));
    DemoClient::new(BoxCloneService::new(service))
}

fn endpoints(uris: &[String]) -> Result<Vec<Endpoint>, transport::Error> {
    let uris = uris.iter();
    uris.map(|uri| Endpoint::from_shared(uri.clone())).collect()
}
