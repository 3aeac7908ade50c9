//! Random numbers of the shapes that work and gaps have.

use std::f64::consts::TAU;

use evenkeel::math::Rng;

use crate::scenario::Work;

/// Exponential with this mean.
pub fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.unit()).ln()
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.unit()).ln()).sqrt();
    radius * (TAU * rng.unit()).cos()
}

impl Work {
    /// The work of one call: seconds of one core at speed 1.
    pub fn draw(&self, rng: &mut Rng) -> f64 {
        let ms = match *self {
            Self::Constant { ms } => ms,
            Self::Exponential { mean_ms } => exponential(rng, mean_ms),
            Self::Normal { mu_ms, sigma_ms } => loop {
                let ms = mu_ms + sigma_ms * normal(rng);
                if ms > 0.0 {
                    break ms;
                }
            },
            Self::Lognormal { mean_ms, sigma } => {
                mean_ms * (sigma * normal(rng) - sigma * sigma / 2.0).exp()
            }
            Self::Bimodal {
                short_ms,
                long_ms,
                long_share,
            } => {
                if rng.unit() < long_share {
                    long_ms
                } else {
                    short_ms
                }
            }
        };
        ms / 1e3
    }

    /// The mean of [`draw`](Self::draw), in seconds.
    pub fn mean(&self) -> f64 {
        let ms = match *self {
            Self::Constant { ms } => ms,
            Self::Exponential { mean_ms } | Self::Lognormal { mean_ms, .. } => mean_ms,
            Self::Normal { mu_ms, sigma_ms } => mean_over_zero(mu_ms, sigma_ms),
            Self::Bimodal {
                short_ms,
                long_ms,
                long_share,
            } => short_ms * (1.0 - long_share) + long_ms * long_share,
        };
        ms / 1e3
    }
}

/// The mean of a normal distribution cut off at 0, by the midpoint rule: std has no `erf`.
fn mean_over_zero(mu: f64, sigma: f64) -> f64 {
    const STEPS: u32 = 100_000;
    let end = (mu + 12.0 * sigma).max(0.0);
    let (mut mass, mut moment) = (0.0, 0.0);
    for step in 0..STEPS {
        let x = end * (f64::from(step) + 0.5) / f64::from(STEPS);
        let density = (-((x - mu) / sigma).powi(2) / 2.0).exp();
        mass += density;
        moment += density * x;
    }
    moment / mass
}
