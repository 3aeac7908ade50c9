//! What a balancer is told to do with itself, and how far that has come.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::cluster::drain::{Drain, deadline};
use crate::cluster::links::Links;
use crate::observe::Drained;

/// The end to come.
pub(crate) type Ending = Pin<Box<dyn Future<Output = Drained> + Send + Sync>>;

/// An order to the control plane.
#[derive(Debug)]
pub(super) enum Command {
    /// No more calls for anybody, by this deadline if there is one.
    ShutDown { deadline: Option<Instant> },
}

/// The handles' end.
pub(crate) struct Control {
    /// No snapshot is published any more. Locked by those who publish and shut down, and not by calls.
    shut_down: Mutex<bool>,
    commands: mpsc::UnboundedSender<Command>,
    ended: watch::Receiver<Option<Drained>>,
}

/// The control plane's end.
pub(super) struct Lifecycle {
    shutdown: Option<Drain>,
    ended: watch::Sender<Option<Drained>>,
}

/// Both ends, and what the first has to say to the second.
pub(super) fn lifecycle() -> (Control, Lifecycle, mpsc::UnboundedReceiver<Command>) {
    let (commands, heard) = mpsc::unbounded_channel();
    let (sender, ended) = watch::channel(None);
    let control = Control {
        shut_down: Mutex::new(false),
        commands,
        ended,
    };
    let lifecycle = Lifecycle {
        shutdown: None,
        ended: sender,
    };
    (control, lifecycle, heard)
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, bool> {
        self.shut_down
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Performs `publish`, unless the last snapshot of all is there already.
    pub(super) fn publishing(&self, publish: impl FnOnce()) {
        let shut_down = self.lock();
        if !*shut_down {
            publish();
        }
    }

    /// Has everything ended within `limit`. `publish_last` is performed the first time; what it publishes stays.
    pub(super) fn shut_down(&self, limit: Duration, publish_last: impl FnOnce()) -> Ending {
        let mut shut_down = self.lock();
        if !*shut_down {
            publish_last();
            *shut_down = true;
        }
        drop(shut_down);
        let deadline = deadline(limit);
        // Without a reader it has ended, and the future says so at once.
        let _ = self.commands.send(Command::ShutDown { deadline });
        let mut ended = self.ended.clone();
        Box::pin(async move {
            let outcome = ended.wait_for(Option::is_some).await;
            // A control plane that ended otherwise, with its runtime, has cut nothing.
            outcome
                .ok()
                .and_then(|outcome| *outcome)
                .unwrap_or_default()
        })
    }
}

impl Lifecycle {
    pub(super) fn is_shut_down(&self) -> bool {
        self.shutdown.is_some()
    }

    /// Has all endpoints drained, whose order to leave is given already.
    pub(super) fn shut_down(&mut self, deadline: Option<Instant>, links: &mut Links) {
        let keys: Vec<u64> = links.keys().collect();
        let drain = || Drain::new(keys, links);
        self.shutdown.get_or_insert_with(drain).end_by(deadline);
    }

    /// Something of this endpoint has ended.
    pub(super) fn look(&mut self, key: u64, links: &Links) {
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.look(key, links);
        }
    }

    /// When [`tick`](Self::tick) is due, if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        self.shutdown.as_ref()?.due()
    }

    /// Does what is due. Whether all has ended.
    pub(super) fn tick(&mut self, links: &Links, now: Instant) -> bool {
        let ended = self.shutdown.as_mut().and_then(|s| s.tick(links, now));
        if ended.is_some() {
            // Nobody has to wait for it.
            let _ = self.ended.send(ended);
        }
        ended.is_some()
    }
}
