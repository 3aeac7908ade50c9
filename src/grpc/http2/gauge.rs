use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many connections a connector holds open, those that still finish calls included. Cheap to
/// clone.
#[derive(Debug, Clone, Default)]
pub struct ConnectionGauge(Arc<AtomicUsize>);

impl ConnectionGauge {
    /// The connections that are open now.
    pub fn open(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    pub(in crate::grpc) fn enter(&self) -> GaugeGuard {
        self.0.fetch_add(1, Ordering::SeqCst);
        GaugeGuard(self.clone())
    }
}

/// One connection in a [`ConnectionGauge`].
#[derive(Debug)]
pub(in crate::grpc) struct GaugeGuard(ConnectionGauge);

impl Drop for GaugeGuard {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::SeqCst);
    }
}
