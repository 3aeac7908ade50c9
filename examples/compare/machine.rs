//! What a server is in place of a machine: workers, a queue before them, and a speed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use crate::scenario::WORKERS;

/// A server's simulated machine. Work is waited for, so that many fit on one real machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Fair: first come, first served.
    workers: Semaphore,
    /// An `f64`; 1 is that of a common server.
    speed: AtomicU64,
    /// Nanoseconds that waits took longer than asked for. The next ones are shorter by that much: the timer
    /// always errs to the late side, and each server would be slower than it says.
    overslept: AtomicU64,
    busy_ns: AtomicU64,
    done: AtomicU64,
}

/// What a machine did since it began.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Done {
    pub(crate) calls: u64,
    /// Of all workers together.
    pub(crate) busy: Duration,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            workers: Semaphore::new(WORKERS),
            speed: AtomicU64::new(1.0_f64.to_bits()),
            overslept: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            done: AtomicU64::new(0),
        }
    }

    /// Counts from the next call that a worker takes up.
    pub(crate) fn set_speed(&self, speed: f64) {
        self.speed.store(speed.to_bits(), Ordering::Relaxed);
    }

    /// Does a call's `work`, when its turn has come. Dropped, it leaves the queue or its worker.
    pub(crate) async fn work(&self, work: Duration) {
        // Nobody closes it.
        let _worker = self.workers.acquire().await;
        let took = work.div_f64(f64::from_bits(self.speed.load(Ordering::Relaxed)));
        let owed = Duration::from_nanos(self.overslept.swap(0, Ordering::Relaxed));
        let rest = took.saturating_sub(owed);
        let mut late = owed.saturating_sub(took);
        if !rest.is_zero() {
            let start = Instant::now();
            sleep(rest).await;
            late += start.elapsed().saturating_sub(rest);
        }
        self.overslept.fetch_add(nanos(late), Ordering::Relaxed);
        self.busy_ns.fetch_add(nanos(took), Ordering::Relaxed);
        self.done.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn done(&self) -> Done {
        Done {
            calls: self.done.load(Ordering::Relaxed),
            busy: Duration::from_nanos(self.busy_ns.load(Ordering::Relaxed)),
        }
    }
}

fn nanos(time: Duration) -> u64 {
    time.as_nanos().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::scenario::MEAN_WORK;

    #[tokio::test(start_paused = true)]
    async fn a_machine_works_as_fast_as_its_speed_says() {
        for speed in [1.0, 0.25] {
            let machine = Arc::new(Machine::new());
            machine.set_speed(speed);
            let start = Instant::now();
            let calls = 1_000;
            let tasks: Vec<_> = (0..calls)
                .map(|call| {
                    let machine = machine.clone();
                    // No whole milliseconds, so that the timer is late each time.
                    let work = MEAN_WORK + Duration::from_micros(call % 10 * 100);
                    tokio::spawn(async move { machine.work(work).await })
                })
                .collect();
            for task in tasks {
                task.await.expect("work does not panic");
            }
            let mean = (MEAN_WORK + Duration::from_micros(450)).div_f64(speed);
            let expected = mean * calls as u32 / WORKERS as u32;
            let ratio = start.elapsed().as_secs_f64() / expected.as_secs_f64();
            assert!(
                (ratio - 1.0).abs() < 0.005,
                "{calls} calls at speed {speed} take {expected:?}, not {ratio} times that"
            );
            assert_eq!(machine.done().calls, calls, "each call is counted");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_leaves_its_worker() {
        let machine = Machine::new();
        let long = machine.work(Duration::from_secs(60));
        let given_up = tokio::time::timeout(Duration::from_millis(5), long).await;
        assert!(given_up.is_err(), "a minute's work is not done in 5 ms");
        assert_eq!(
            machine.workers.available_permits(),
            WORKERS,
            "its worker is free"
        );
    }
}
