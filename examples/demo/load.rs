//! Calls at their time, whether earlier ones have been answered or not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::calls::{Caller, DEADLINE};
use crate::ledger::Ledger;
use crate::options::PolicyName;

/// The rate and its bounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) rps: u32,
    pub(crate) duration: Duration,
    pub(crate) policy: PolicyName,
}

impl Load {
    /// Sends calls until the time is over or `stop`, then waits for the calls under way.
    pub(crate) async fn run(self, caller: Caller, ledger: Arc<Ledger>, stop: CancellationToken) {
        // Half a second of calls, far more than even the slow server holds. Beyond that the machine
        // cannot keep up, and more calls would only wait for their deadline.
        let bound = (self.rps / 2).max(256);
        let room = Arc::new(Semaphore::new(bound as usize));
        let began = Instant::now();
        let mut pace = tokio::time::interval(Duration::from_millis(1));
        let mut number = 0;
        while !stop.is_cancelled() {
            let elapsed = began.elapsed().min(self.duration);
            let due = (elapsed.as_secs_f64() * f64::from(self.rps)).round() as u64;
            while number < due {
                match room.clone().try_acquire_owned() {
                    Err(_) => ledger.not_sent(),
                    Ok(permit) => {
                        let source = self.policy.caller(number);
                        let call = caller.clone().call(number, source);
                        let ledger = ledger.clone();
                        ledger.sent();
                        tokio::spawn(async move {
                            ledger.finished(call.await);
                            drop(permit);
                        });
                    }
                }
                number += 1;
            }
            if elapsed == self.duration {
                break;
            }
            tokio::select! {
                _ = pace.tick() => {}
                () = stop.cancelled() => {}
            }
        }
        // All calls have a deadline. One that outlives it stays open in the ledger and is reported.
        let _ = timeout(DEADLINE + Duration::from_secs(2), room.acquire_many(bound)).await;
    }
}
