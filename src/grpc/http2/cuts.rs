//! The tasks of an endpoint's connections, to be ended by order with all of their calls.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;

#[derive(Debug, Default)]
pub(super) struct Cuts(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    cut: bool,
    tasks: Vec<AbortHandle>,
}

impl Cuts {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more task, which ends at once if the order has come.
    pub(super) fn add(&self, task: AbortHandle) {
        let mut state = self.lock();
        if state.cut {
            drop(state);
            task.abort();
            return;
        }
        // Connections come and go; what has ended needs no end.
        state.tasks.retain(|task| !task.is_finished());
        state.tasks.push(task);
    }

    /// Ends all of them.
    pub(super) fn cut(&self) {
        let mut state = self.lock();
        state.cut = true;
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        for task in tasks {
            task.abort();
        }
    }
}
