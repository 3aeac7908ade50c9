use std::future::Future;

use hyper::rt::Executor;

/// Runs each of hyper's futures as a task of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokioTasks;

impl<F> Executor<F> for TokioTasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}
