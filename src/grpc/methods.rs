//! What a service config says of single methods.

#[cfg(feature = "service-config")]
mod table;

use http::Request;
use tonic::body::Body;

#[cfg(feature = "service-config")]
pub(super) use table::{Settings, Table, Timeout};

/// What holds for which methods; by default nothing. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Methods {
    #[cfg(feature = "service-config")]
    table: Option<std::sync::Arc<Table>>,
}

impl Methods {
    #[cfg(feature = "service-config")]
    pub(super) fn new(table: Table) -> Self {
        let table = Some(table).filter(|table| !table.is_empty());
        Self {
            table: table.map(std::sync::Arc::new),
        }
    }

    /// Puts on a request what holds for its method. Returns the place of its policy for retries or hedges, if it
    /// has one.
    #[inline]
    pub(super) fn apply(&self, request: &mut Request<Body>) -> Option<usize> {
        #[cfg(feature = "service-config")]
        if let Some(table) = &self.table {
            return table.apply(request);
        }
        let _ = request;
        None
    }
}
