//! The flags.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::{Parser, ValueEnum, value_parser};

use crate::fault::Fault;

/// Breaks real servers while calls go on, and says what that cost: with evenkeel's defaults, retries and outlier
/// detection, and with tonic's balance_list.
#[derive(Debug, Parser)]
#[command(
    name = "reliability",
    after_help = "A run has three parts: a sixth of it all is well, for half of it the fault lasts, and the rest is \
                  for coming back. The faults of the network (dropped, delayed, lossy, reset) need root, and all \
                  but the first iptables; they make a network namespace of its own, \
                  which goes with it, or with the next run if this one is broken off."
)]
pub(crate) struct Options {
    /// "all" or names with commas; a wrong one gets the list.
    #[arg(long, default_value = "all", value_name = "NAME,NAME")]
    pub(crate) fault: Chosen,

    /// How long one run takes.
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = value_parser!(u32).range(6..=3_600))]
    seconds: u32,

    /// How many calls a second.
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = value_parser!(u32).range(10..=20_000))]
    pub(crate) rate: u32,

    /// How many servers.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = value_parser!(u8).range(5..=100))]
    pub(crate) servers: u8,

    /// Only evenkeel.
    #[arg(long)]
    pub(crate) alone: bool,

    /// Print one JSON object a row.
    #[arg(long)]
    pub(crate) json: bool,

    #[arg(long, hide = true, value_name = "ADDRESS")]
    pub(crate) serve: Option<SocketAddr>,

    #[arg(long, hide = true)]
    pub(crate) late: bool,
}

impl Options {
    pub(crate) fn length(&self) -> Duration {
        Duration::from_secs(u64::from(self.seconds))
    }

    /// When the fault begins.
    pub(crate) fn begins(&self) -> Duration {
        self.length() / 6
    }

    /// When it is mended.
    pub(crate) fn ends(&self) -> Duration {
        self.length() * 2 / 3
    }
}

/// Some of the faults.
#[derive(Debug, Clone)]
pub(crate) struct Chosen(pub(crate) Vec<Fault>);

impl FromStr for Chosen {
    type Err = String;

    fn from_str(names: &str) -> Result<Self, String> {
        if names == "all" {
            return Ok(Self(Fault::value_variants().to_vec()));
        }
        let faults = names.split(',').map(|name| {
            Fault::from_str(name.trim(), false).map_err(|_| {
                let all = Fault::value_variants()
                    .iter()
                    .filter_map(|f| f.to_possible_value());
                let all: Vec<String> = all.map(|value| value.get_name().to_owned()).collect();
                format!("{name:?} is none of {}", all.join(", "))
            })
        });
        faults.collect::<Result<_, _>>().map(Self)
    }
}
