//! The flags.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use clap::{Parser, ValueEnum, value_parser};
use evenkeel::BoxError;
use evenkeel::grpc::Builder;
use evenkeel::policy::{
    Adaptive, C3, HashSource, IpHash, LeastRequest, Maglev, OrcaWeightedRoundRobin, PeakEwma,
    Prequal, Random, Rendezvous, RingHash, RoundRobin,
};

/// Balances real gRPC calls over real servers, breaks the servers, and shows what happens.
///
/// Starts five tonic servers on loopback ports, sends unary and streaming calls through one
/// evenkeel::grpc::Channel, and plays a script: a server is killed, it restarts, another answers
/// UNAVAILABLE, another gets 20 times slower, one is added, one is removed. A table is shown every
/// second and a summary at the end.
#[derive(Debug, Parser)]
#[command(
    name = "demo",
    after_help = "Exit code: 0 if only calls failed that had to (under way on the killed server, or \
                  answered by the failing server before it was ejected), 1 if any other call \
                  failed, 2 if the flags cannot be used. Ctrl-C ends the run with its summary."
)]
pub(crate) struct Options {
    /// How an endpoint is chosen for each call.
    #[arg(long, value_enum, default_value_t, value_name = "NAME")]
    pub(crate) policy: PolicyName,

    /// How long calls are sent; the whole script is played in that time.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = value_parser!(u32).range(2..=86_400))]
    pub(crate) seconds: u32,

    /// Calls per second, sent at their time whether earlier ones have been answered or not.
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = value_parser!(u32).range(1..=100_000))]
    pub(crate) rps: u32,

    /// Have the servers report their load beside the calls each N seconds; for weighted_round_robin alone.
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..=86_400))]
    pub(crate) out_of_band: Option<u32>,

    /// Print one JSON object at the end, and nothing else, on stdout.
    #[arg(long)]
    pub(crate) json: bool,

    /// No table and no events while it runs.
    #[arg(long)]
    pub(crate) quiet: bool,

    /// Call these servers instead (http://host:port), with load and table but no script. They are
    /// sent evenkeel.demo.v1.Demo/Echo; if they do not have it, their UNIMPLEMENTED counts as an
    /// answer.
    #[arg(long, value_name = "URI,URI", value_delimiter = ',', value_parser = uri)]
    pub(crate) endpoints: Vec<String>,
}

impl Options {
    /// How long calls are sent.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.seconds.into())
    }

    /// How often servers are to report their load beside the calls, if they are.
    pub(crate) fn out_of_band(&self) -> Option<Duration> {
        let seconds = self.out_of_band.map(u64::from);
        seconds.map(Duration::from_secs)
    }

    /// Whether the demo has its own servers and breaks them.
    pub(crate) fn plays_script(&self) -> bool {
        self.endpoints.is_empty()
    }
}

/// The policies by name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum PolicyName {
    /// Of two endpoints drawn at random, the one where a call would take less time; by what the
    /// servers report where there are six and more
    #[default]
    Adaptive,
    /// Of two endpoints drawn at random, the one with fewer calls under way
    LeastRequest,
    /// Of all endpoints, the one with the fewest calls under way
    LeastRequestFull,
    /// Of two endpoints drawn at random, the one where a call would take less time
    PeakEwma,
    /// Of all endpoints, the one of the least score by its latency and load
    C3,
    /// By the servers' answers to three probes a call
    Prequal,
    /// One after the other
    RoundRobin,
    /// In turn, by the load that the servers report
    WeightedRoundRobin,
    /// Any, each equally likely
    Random,
    /// The same one for each of 1000 callers
    IpHash,
    /// The same, by the ring of gRPC and Envoy
    RingHash,
    /// The same, by Envoy's Maglev table
    Maglev,
    /// The same, by the highest random weight
    Rendezvous,
}

impl PolicyName {
    /// Makes it the policy of the channel, with load reports beside the calls if a period is given for them.
    ///
    /// # Errors
    /// A period where it means nothing.
    pub(crate) fn apply(
        self,
        builder: Builder,
        out_of_band: Option<Duration>,
    ) -> Result<Builder, BoxError> {
        if let Some(period) = out_of_band {
            if self != Self::WeightedRoundRobin {
                return Err("--out-of-band is for --policy weighted_round_robin".into());
            }
            let policy = OrcaWeightedRoundRobin::default()
                .with_out_of_band_reports(true)
                .with_out_of_band_period(period)?;
            return Ok(builder.policy(policy));
        }
        Ok(match self {
            Self::Adaptive => builder.policy(Adaptive::default()),
            Self::LeastRequest => builder.policy(LeastRequest::default()),
            Self::LeastRequestFull => builder.policy(LeastRequest::full_scan()),
            Self::PeakEwma => builder.policy(PeakEwma::default()),
            Self::C3 => builder.policy(C3::default()),
            Self::Prequal => builder.policy(Prequal::default()),
            Self::RoundRobin => builder.policy(RoundRobin::default()),
            Self::WeightedRoundRobin => builder.policy(OrcaWeightedRoundRobin::default()),
            Self::Random => builder.policy(Random::default()),
            Self::IpHash => builder.policy(IpHash::default()),
            Self::RingHash => builder.policy(RingHash::default().with_sources(by_caller())),
            Self::Maglev => builder.policy(Maglev::default().with_sources(by_caller())),
            Self::Rendezvous => builder.policy(Rendezvous::default().with_sources(by_caller())),
        })
    }

    /// On whose behalf the `number`-th call is made, where the policy asks for that.
    pub(crate) fn caller(self, number: u64) -> Option<IpAddr> {
        let callers = self.callers()?;
        let caller = u32::try_from(number % u64::from(callers)).unwrap_or_default();
        Some(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + caller)))
    }

    /// How many callers there are.
    fn callers(self) -> Option<u32> {
        match self {
            Self::Adaptive
            | Self::LeastRequest
            | Self::LeastRequestFull
            | Self::PeakEwma
            | Self::C3
            | Self::Prequal
            | Self::RoundRobin
            | Self::WeightedRoundRobin
            | Self::Random => None,
            Self::IpHash | Self::RingHash | Self::Maglev | Self::Rendezvous => Some(1000),
        }
    }

    /// The name as the flag has it.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

fn by_caller() -> [HashSource; 1] {
    [HashSource::source_ip()]
}

fn uri(text: &str) -> Result<String, String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("{error}"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("https"), Some(_)) if !cfg!(feature = "tls") => Err(
            "https needs a build with TLS: cargo run --release --features tls-webpki-roots \
             --example demo"
                .to_owned(),
        ),
        (Some("http" | "https"), Some(_)) => Ok(text.to_owned()),
        _ => Err("write it as http://host:port".to_owned()),
    }
}
