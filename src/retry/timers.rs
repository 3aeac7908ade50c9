use std::future::Future;
use std::panic::UnwindSafe;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::runtime::Handle as Runtime;
use tokio::time::{Instant, Sleep};

/// A timer that can be moved.
pub(super) type Timer = Pin<Box<Sleep>>;

/// Where timers are made.
#[derive(Debug, Clone)]
pub(super) struct Timers {
    /// For calls that are polled outside of a runtime.
    runtime: Option<Runtime>,
}

impl Timers {
    /// On the current runtime, if there is one and a call has none of its own.
    pub(super) fn here() -> Self {
        Self {
            runtime: Runtime::try_current().ok(),
        }
    }

    /// `None` where no runtime is, or one without timers: then nothing can be waited for.
    pub(super) fn after(&self, time: Duration) -> Option<Timer> {
        self.make(move || tokio::time::sleep(time))
    }

    /// As `after`, from another moment than now, which needs no look at the clock.
    pub(super) fn since(&self, moment: Instant, time: Duration) -> Option<Timer> {
        self.make(move || match moment.checked_add(time) {
            Some(end) => tokio::time::sleep_until(end),
            None => tokio::time::sleep(time),
        })
    }

    fn make(&self, timer: impl FnOnce() -> Sleep + UnwindSafe) -> Option<Timer> {
        let _context = match Runtime::try_current() {
            Ok(_) => None,
            Err(_) => Some(self.runtime.as_ref()?.enter()),
        };
        // That a runtime has no timers, or none any more, tokio says only by panics: the one when a timer
        // is made, the other when it is first polled.
        std::panic::catch_unwind(move || {
            let mut timer = Box::pin(timer());
            let _ = (timer.as_mut()).poll(&mut Context::from_waker(Waker::noop()));
            timer
        })
        .ok()
    }
}
