//! The connections of all endpoints, those that left included, for as long as calls may be under way on them.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::connection::Line;
use crate::observe::Drained;
use crate::policy::Subchannel;

pub(super) struct Links {
    by_key: HashMap<u64, Link>,
    quiet: mpsc::UnboundedSender<u64>,
}

/// What leads to one endpoint.
struct Link {
    subchannel: Arc<Subchannel>,
    /// Those that may be open yet.
    lines: Vec<Line>,
    /// Whether its connections can be closed with their calls. One connector makes them all, so what is true of
    /// one is true of the others.
    can_be_cut: bool,
    /// It gets no more calls.
    left: bool,
}

impl Link {
    fn lines_that_can_be_cut(&self) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(|line| line.can_be_cut())
    }

    fn is_open(&self) -> bool {
        self.lines_that_can_be_cut().next().is_some()
    }

    fn calls(&self) -> u32 {
        self.subchannel.load().current()
    }
}

impl Links {
    /// Without any. The other end hears the keys of endpoints that have left, at the end of their last calls.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<u64>) {
        let (quiet, heard) = mpsc::unbounded_channel();
        let by_key = HashMap::new();
        (Self { by_key, quiet }, heard)
    }

    /// A dial for this connection of the endpoint begins.
    pub(super) fn begin(&mut self, subchannel: &Arc<Subchannel>, line: Line) {
        let link = self.by_key.entry(subchannel.key());
        let link = link.or_insert_with(|| Link {
            subchannel: subchannel.clone(),
            lines: Vec::new(),
            can_be_cut: false,
            left: false,
        });
        link.lines.retain(Line::is_open);
        link.lines.push(line);
    }

    /// A dial of the endpoint ended well.
    pub(super) fn taken_up(&mut self, key: u64) {
        if let Some(link) = self.by_key.get_mut(&key) {
            link.can_be_cut |= link.is_open();
        }
    }

    /// The endpoint gets no more calls, for good: it is forgotten after the last one.
    pub(super) fn leave(&mut self, key: u64) {
        let Some(link) = self.by_key.get_mut(&key) else {
            return;
        };
        link.left = true;
        let quiet = self.quiet.clone();
        link.subchannel.drain(move || {
            // Without a reader the balancer has ended, and so has the need to know.
            let _ = quiet.send(key);
        });
        self.look(key);
    }

    /// Something of an endpoint has ended.
    pub(super) fn look(&mut self, key: u64) {
        let Some(link) = self.by_key.get_mut(&key) else {
            return;
        };
        link.lines.retain(Line::is_open);
        if link.left && link.calls() == 0 && !link.is_open() {
            self.by_key.remove(&key);
        }
    }

    /// All that there are.
    pub(super) fn keys(&self) -> impl Iterator<Item = u64> + Clone {
        self.by_key.keys().copied()
    }

    /// Whether calls are under way.
    pub(super) fn has_calls(&self, key: u64) -> bool {
        self.by_key.get(&key).is_some_and(|link| link.calls() > 0)
    }

    /// Whether a connection that can be cut is open.
    pub(super) fn is_open(&self, key: u64) -> bool {
        self.by_key.get(&key).is_some_and(Link::is_open)
    }

    /// Closes what can be, and adds up the calls that are under way.
    pub(super) fn cut(&self, key: u64, outcome: &mut Drained) {
        let Some(link) = self.by_key.get(&key) else {
            return;
        };
        let calls = u64::from(link.calls());
        if link.can_be_cut || link.is_open() {
            outcome.cut += calls;
        } else {
            outcome.left += calls;
        }
        // Also those of which it is not known yet how.
        for line in &link.lines {
            line.cut();
        }
    }
}
