//! What queueing theory says exactly, to be met before anything else is believed.

use crate::engine::simulate;
use crate::rules::{self, Rule};
use crate::scenario::Scenario;

/// How far the simulator may be off.
pub const TOLERANCE: f64 = 0.03;

/// The mean work of a call in all of them.
const SERVICE_MS: f64 = 10.0;

/// A system with a known mean response time.
pub struct Oracle {
    /// What it is.
    pub name: &'static str,
    policy: &'static str,
    servers: usize,
    load: f64,
    /// How long to run for an estimate that is good enough; see [`ALL`].
    seconds: f64,
    /// The mean response time.
    pub expected_ms: f64,
    /// Whether it is quick enough for a debug build.
    pub small: bool,
}

/// All of them. One core a server, Poisson arrivals, exponential work, no network, one client.
///
/// The lengths: of M/M/1 the mean number present, over `t` service times, has a variance of
/// 2ρ(1 + ρ) / ((1 − ρ)⁴ t). For a standard deviation of 1 % of the mean, a third of what is allowed, that is
/// t = 2.4e5 at ρ = 0.5, 5.4e5 at 0.7 and 4.2e6 at 0.9, over all servers together: 2,400, 5,400 and 42,000 s
/// of one server. Two choices vary less, since no server is full for long; but their formula is the limit
/// of many servers, and 100 of them are 2 % over it at 0.9.
pub const ALL: &[Oracle] = &[
    Oracle::mm1(
        "M/M/1 processor sharing at 0.7",
        "round_robin",
        1,
        0.7,
        5_400.0,
        true,
    ),
    Oracle::mm1(
        "M/M/1 processor sharing at 0.9",
        "round_robin",
        1,
        0.9,
        42_000.0,
        false,
    ),
    Oracle::mm1(
        "random over 10 servers at 0.5",
        "random",
        10,
        0.5,
        240.0,
        true,
    ),
    Oracle::mm1(
        "random over 10 servers at 0.7",
        "random",
        10,
        0.7,
        540.0,
        false,
    ),
    Oracle::mm1(
        "random over 10 servers at 0.9",
        "random",
        10,
        0.9,
        4_200.0,
        false,
    ),
    Oracle::two_choices("two choices over 200 servers at 0.7", 200, 0.7, 8.0, true),
    Oracle::two_choices(
        "two choices over 1000 servers at 0.7",
        1_000,
        0.7,
        20.0,
        false,
    ),
    Oracle::two_choices(
        "two choices over 1000 servers at 0.9",
        1_000,
        0.9,
        40.0,
        false,
    ),
];

impl Oracle {
    /// 1 / (μ − λ), for each of `servers` that have a fair share of the arrivals.
    const fn mm1(
        name: &'static str,
        policy: &'static str,
        servers: usize,
        load: f64,
        seconds: f64,
        small: bool,
    ) -> Self {
        Self {
            name,
            policy,
            servers,
            load,
            seconds,
            expected_ms: SERVICE_MS / (1.0 - load),
            small,
        }
    }

    /// Mitzenmacher 2001: Σ λ^((2^i − 2) / (2 − 1)), i from 1, in service times.
    const fn two_choices(
        name: &'static str,
        servers: usize,
        load: f64,
        seconds: f64,
        small: bool,
    ) -> Self {
        // λ^(2^(i+1) − 2) = (λ^(2^i − 2))² · λ².
        let mut term = 1.0;
        let mut sum = 0.0;
        let mut i = 0;
        while i < 40 {
            sum += term;
            term = term * term * load * load;
            i += 1;
        }
        Self {
            name,
            policy: "least_request",
            servers,
            load,
            seconds,
            expected_ms: SERVICE_MS * sum,
            small,
        }
    }

    /// What the simulator says.
    pub fn simulated_ms(&self, seed: u64) -> f64 {
        let text = format!(
            "name = \"oracle\"\nabout = \"\"\nclients = 1\nload = {}\nseconds = {}\n\
             warmup_seconds = {}\nnetwork_ms = 0\ntimeout_ms = 0\n\
             [work]\nkind = \"exponential\"\nmean_ms = {SERVICE_MS}\n\
             [[servers]]\ncount = {}\ncores = 1\n",
            self.load,
            self.seconds,
            // The slowest of them forgets its start in 4 s (380 service times).
            (self.seconds / 10.0).clamp(2.0, 40.0),
            self.servers,
        );
        let scenario = Scenario::parse(self.name, &text).expect("it is as others are");
        simulate(&scenario, self.rule(), seed, |_| ()).whole.mean_ms
    }

    fn rule(&self) -> &'static Rule {
        rules::named(self.policy).expect("the policy is known")
    }
}
