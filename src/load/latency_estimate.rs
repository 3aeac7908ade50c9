use std::time::Duration;

use crate::math::Moment;

/// How many answers are remembered.
const REMEMBERED: usize = 64;

/// How long an answer tells something.
const MAX_AGE: Duration = Duration::from_secs(1);

/// How many of the most similar answers are looked at.
const NEAREST: usize = 8;

/// The latency that a server expects of one more request, with so many under way (Prequal's server side,
/// NSDI '24, made safe for small fleets).
///
/// It remembers the last 64 answers, with how many requests were under way when each one's request came.
/// Of those at most a second old it takes the eight that are most like the present, more if there is a
/// tie; scales each from the queue that it met to the queue of now; and takes the median:
///
/// ```text
/// latency * (in_flight_now + 1) / (in_flight_at_arrival + 1)
/// ```
///
/// Without the scaling, a server whose queue has just drained goes on advertising the latencies of its
/// busy time, and nobody comes back to it.
///
/// ```
/// use std::time::Duration;
/// use evenkeel::load::LatencyEstimate;
/// use evenkeel::math::Moment;
///
/// let mut estimate = LatencyEstimate::new();
/// let now = Moment::from_nanos(0);
/// assert_eq!(estimate.latency(0, now), None, "nothing answered");
/// estimate.answered(Duration::from_millis(40), 3, now);
/// assert_eq!(estimate.latency(3, now), Some(Duration::from_millis(40)));
/// assert_eq!(estimate.latency(0, now), Some(Duration::from_millis(10)));
/// ```
#[derive(Debug, Clone)]
pub struct LatencyEstimate {
    answers: [Answer; REMEMBERED],
    /// How many there were ever.
    count: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Answer {
    latency: f64,
    in_flight: u32,
    at: Moment,
}

impl Default for LatencyEstimate {
    fn default() -> Self {
        Self {
            answers: [Answer::default(); REMEMBERED],
            count: 0,
        }
    }
}

impl LatencyEstimate {
    /// Nothing answered.
    pub fn new() -> Self {
        Self::default()
    }

    /// A request that found `in_flight` others under way was answered at `now`, after `latency`.
    pub fn answered(&mut self, latency: Duration, in_flight: u32, now: Moment) {
        self.answers[(self.count % REMEMBERED as u64) as usize] = Answer {
            latency: latency.as_secs_f64(),
            in_flight,
            at: now,
        };
        self.count += 1;
    }

    /// The latency to expect of a request that comes at `now` and finds `in_flight` others under way; none
    /// if nothing was answered within the last second. Looks at up to 64 answers, and allocates nothing.
    pub fn latency(&self, in_flight: u32, now: Moment) -> Option<Duration> {
        let known = self.count.min(REMEMBERED as u64) as usize;
        let mut fresh = [(0, 0.0); REMEMBERED];
        let mut count = 0;
        for answer in &self.answers[..known] {
            if now.since(answer.at) <= MAX_AGE {
                let queue = (f64::from(in_flight) + 1.0) / (f64::from(answer.in_flight) + 1.0);
                let distance = answer.in_flight.abs_diff(in_flight);
                fresh[count] = (distance, answer.latency * queue);
                count += 1;
            }
        }
        let fresh = &mut fresh[..count];
        fresh.sort_unstable_by_key(|&(distance, _)| distance);
        let farthest = fresh
            .get(NEAREST - 1)
            .map_or(u32::MAX, |&(distance, _)| distance);
        let nearest = fresh.partition_point(|&(distance, _)| distance <= farthest);
        let fresh = &mut fresh[..nearest];
        fresh.sort_unstable_by(|a, b| a.1.total_cmp(&b.1));
        let upper = fresh.get(fresh.len() / 2)?.1;
        let lower = fresh[(fresh.len() - 1) / 2].1;
        let median = (lower + upper) / 2.0;
        Some(Duration::try_from_secs_f64(median).unwrap_or(Duration::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn at(time: u64) -> Moment {
        Moment::from_origin(ms(time))
    }

    /// Answers at 0, of these latencies in ms, each with requests under way at its arrival.
    fn answered(answers: impl IntoIterator<Item = (u64, u32)>) -> LatencyEstimate {
        let mut estimate = LatencyEstimate::new();
        for (latency, in_flight) in answers {
            estimate.answered(ms(latency), in_flight, at(0));
        }
        estimate
    }

    #[test]
    fn the_median_of_odd_and_of_even() {
        let estimate = answered([(10, 0), (500, 0), (20, 0)]);
        assert_eq!(estimate.latency(0, at(0)), Some(ms(20)));
        let estimate = answered([(10, 0), (500, 0), (20, 0), (30, 0)]);
        assert_eq!(
            estimate.latency(0, at(0)),
            Some(ms(25)),
            "between the middle two"
        );
    }

    #[test]
    fn only_the_nearest_eight_count_and_those_as_near_as_the_last_of_them() {
        let near = [(10, 5); 8];
        let far = [(9_000, 40); 20];
        let estimate = answered(near.into_iter().chain(far));
        assert_eq!(estimate.latency(5, at(0)), Some(ms(10)));
        // At 4 and at 6 they are as near as each other: all twelve count, so half of them are slow.
        let estimate = answered([(50, 4); 6].into_iter().chain([(700, 6); 6]));
        let between = (50.0 * 6.0 / 5.0 + 700.0 * 6.0 / 7.0) / 2.0;
        let seen = estimate.latency(5, at(0)).expect("fresh").as_secs_f64();
        assert!((seen - between / 1e3).abs() < 1e-9, "{seen}");
    }

    #[test]
    fn a_drained_queue_does_not_advertise_its_busy_time() {
        let estimate = answered([(990, 98); 30]);
        assert_eq!(estimate.latency(0, at(0)), Some(ms(10)));
        assert_eq!(estimate.latency(197, at(0)), Some(ms(1_980)), "and up");
    }

    #[test]
    fn answers_are_forgotten_after_a_second_or_after_64_more() {
        let mut estimate = answered([(10, 0)]);
        assert_eq!(estimate.latency(0, at(1_000)), Some(ms(10)));
        assert_eq!(estimate.latency(0, at(1_001)), None);
        for _ in 0..64 {
            estimate.answered(ms(30), 0, at(500));
        }
        assert_eq!(estimate.latency(0, at(500)), Some(ms(30)));
        estimate.answered(ms(70), 0, at(1_600));
        assert_eq!(
            estimate.latency(0, at(1_600)),
            Some(ms(70)),
            "of many, one is fresh"
        );
    }

    #[test]
    fn extremes_do_no_harm() {
        let mut estimate = LatencyEstimate::new();
        estimate.answered(Duration::MAX, 0, at(0));
        assert_eq!(estimate.latency(u32::MAX, at(0)), Some(Duration::MAX));
        estimate.answered(Duration::ZERO, u32::MAX, at(0));
        assert!(estimate.latency(0, at(0)).is_some());
    }
}
