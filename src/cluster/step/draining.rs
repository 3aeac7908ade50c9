//! Endpoints that get no more calls by order, and not because of what they do.

use crate::cluster::step::Cluster;
use crate::cluster::step::order::Order;

impl<S: Clone> Cluster<S> {
    /// All endpoints leave, and no other will come.
    pub(super) fn shut_down(&mut self) {
        for row in std::mem::take(&mut self.rows) {
            self.remove(row.key);
        }
        self.touched.clear();
        self.next_comparison = None;
        self.warming = Default::default();
        self.order = self.order.take().map(Order::emptied);
        self.ejections.set_endpoints(0);
        self.dirty = true;
    }
}
