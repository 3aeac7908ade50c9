//! What the servers of a scenario are like, and how many calls they get.

use std::time::Duration;

use clap::ValueEnum;
use evenkeel::math::Rng;

/// Servers of a scenario.
pub(crate) const SERVERS: usize = 10;

/// Calls that a server works on at once; the others wait in the order of their arrival.
pub(crate) const WORKERS: usize = 2;

/// The mean work of a call, on a server of speed 1: many times the runtime's timer, which is good to a
/// millisecond.
pub(crate) const MEAN_WORK: Duration = Duration::from_millis(20);

/// The part of the servers' whole capacity that the calls need.
const LOAD: f64 = 0.75;

/// How long a neighbour stays, at least and at most, in seconds.
const STAY: (f64, f64) = (0.5, 1.5);

/// What is wrong with some of the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Scenario {
    /// Two of the servers are four times slower
    Slow,
    /// One fails every call at once
    Failing,
    /// At any time three have half of their speed, others after 0.5 to 1.5 s
    Antagonist,
}

impl Scenario {
    /// In words, for the head of its table.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Slow => "slow: 2 of 10 servers are four times slower",
            Self::Failing => "failing: 1 of 10 servers fails every call at once",
            Self::Antagonist => {
                "antagonist: neighbours take half of 3 of 10 servers, of others after 0.5 to 1.5 s"
            }
        }
    }

    /// Whether this server fails all its calls.
    pub(crate) fn fails(self, server: usize) -> bool {
        self == Self::Failing && server == 0
    }

    /// How fast each server is at first, and how long that stays so, if not for ever. To be asked again
    /// then.
    pub(crate) fn speeds(self, rng: &mut Rng) -> ([f64; SERVERS], Option<Duration>) {
        let mut speeds = [1.0; SERVERS];
        match self {
            Self::Slow => {
                speeds[..2].fill(0.25);
                (speeds, None)
            }
            Self::Failing => (speeds, None),
            Self::Antagonist => {
                let mut hit = 0;
                while hit < 3 {
                    let server = &mut speeds[rng.below(SERVERS)];
                    if *server == 1.0 {
                        *server = 0.5;
                        hit += 1;
                    }
                }
                let stay = STAY.0 + rng.unit() * (STAY.1 - STAY.0);
                (speeds, Some(Duration::from_secs_f64(stay)))
            }
        }
    }

    /// Calls a second. Each scenario keeps the sum of its speeds, so its load does not change.
    pub(crate) fn rate(self) -> f64 {
        let (speeds, _) = self.speeds(&mut Rng::new(0));
        let working = (0..SERVERS).filter(|&server| !self.fails(server));
        let capacity: f64 = working.map(|server| speeds[server]).sum();
        LOAD * capacity * WORKERS as f64 / MEAN_WORK.as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_is_three_quarters_at_any_time() {
        let mut rng = Rng::new(7);
        for scenario in Scenario::value_variants() {
            for _ in 0..100 {
                let (speeds, _) = scenario.speeds(&mut rng);
                let working = (0..SERVERS).filter(|&server| !scenario.fails(server));
                // 2 workers, 20 ms a call.
                let most = working.map(|server| speeds[server]).sum::<f64>() * 100.0;
                let load = scenario.rate() / most;
                assert!(
                    (load - 0.75).abs() < 1e-9,
                    "{scenario:?} has a load of {load}"
                );
            }
        }
    }
}
