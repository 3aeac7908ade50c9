//! What a balancer is told to do with itself, and how far that has come.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::cluster::drain::{Drain, deadline};
use crate::cluster::links::Links;
use crate::endpoint::EndpointId;
use crate::error::Error;
use crate::observe::Drained;

/// The end to come.
pub(crate) type Ending = Pin<Box<dyn Future<Output = Drained> + Send + Sync>>;

/// The answer to come to an order.
pub(crate) type Answer<R> = oneshot::Receiver<Result<R, Error>>;

/// Where it goes.
pub(super) type Reply<R> = oneshot::Sender<Result<R, Error>>;

/// An order to the control plane.
#[derive(Debug)]
pub(super) enum Command {
    /// No more calls for anybody, by this deadline if there is one.
    ShutDown { deadline: Option<Instant> },
    /// No more calls for this one, by this deadline if there is one.
    Drain {
        id: EndpointId,
        deadline: Option<Instant>,
        done: Reply<Drained>,
    },
    /// This one may get calls again.
    Undrain { id: EndpointId, done: Reply<()> },
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
    /// By the keys of endpoints, with who waits for the end.
    drains: HashMap<u64, (Drain, Vec<Reply<Drained>>)>,
    ended: watch::Sender<Option<Drained>>,
    /// To be given once what they are about shows.
    answers: Vec<Box<dyn FnOnce() + Send>>,
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
        drains: HashMap::new(),
        ended: sender,
        answers: Vec::new(),
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
        let is_first = !std::mem::replace(&mut *shut_down, true);
        let deadline = deadline(limit);
        // Without a reader it has ended, and the future says so at once. Before the last snapshot, whose
        // predecessor drops services of the user's: whatever these do, the order is given.
        let _ = self.commands.send(Command::ShutDown { deadline });
        if is_first {
            publish_last();
        }
        drop(shut_down);
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

    pub(super) fn drain(&self, id: EndpointId, limit: Duration) -> Answer<Drained> {
        let deadline = deadline(limit);
        self.order(|done| Command::Drain { id, deadline, done })
    }

    pub(super) fn undrain(&self, id: EndpointId) -> Answer<()> {
        self.order(|done| Command::Undrain { id, done })
    }

    /// Gives an order, unless its answer is known: after a shutdown there may be no control plane to give it.
    fn order<R>(&self, command: impl FnOnce(Reply<R>) -> Command) -> Answer<R> {
        let (done, answer) = oneshot::channel();
        let shut_down = self.lock();
        if *shut_down {
            // Nobody has to wait for it.
            let _ = done.send(Err(Error::shut_down()));
        } else {
            // Under the lock, and so ahead of a shutdown, whose end nobody outlives who could answer. Without a
            // reader the answer is that there is none.
            let _ = self.commands.send(command(done));
        }
        answer
    }
}

impl Lifecycle {
    pub(super) fn is_shut_down(&self) -> bool {
        self.shutdown.is_some()
    }

    /// Has all endpoints drained, whose order to leave is given already.
    pub(super) fn shut_down(&mut self, deadline: Option<Instant>, links: &Links) {
        let drain = || Drain::new(links.keys(), links);
        self.shutdown.get_or_insert_with(drain).end_by(deadline);
    }

    /// Has this endpoint drained, whose order to leave is given already.
    pub(super) fn drain(
        &mut self,
        key: u64,
        deadline: Option<Instant>,
        done: Reply<Drained>,
        links: &Links,
    ) {
        let begun = self.drains.entry(key);
        let new = || (Drain::new(std::iter::once(key), links), Vec::new());
        let (drain, waiting) = begun.or_insert_with(new);
        drain.end_by(deadline);
        waiting.push(done);
    }

    /// An endpoint whose drain is over, if there is one.
    pub(super) fn drained(&mut self, links: &Links, now: Instant) -> Option<u64> {
        let drains = self.drains.iter_mut();
        let over =
            |(key, (drain, _)): (&u64, &mut (Drain, _))| Some((*key, drain.tick(links, now)?));
        let (key, outcome) = drains.into_iter().find_map(over)?;
        let (_, waiting) = self.drains.remove(&key)?;
        for done in waiting {
            self.answer(done, outcome);
        }
        Some(key)
    }

    /// Answers once what was ordered shows in what calls and reports see.
    pub(super) fn answer<R: Send + 'static>(&mut self, done: Reply<R>, with: R) {
        self.answers.push(Box::new(move || {
            // Nobody has to wait for it.
            let _ = done.send(Ok(with));
        }));
    }

    /// All that has happened shows.
    pub(super) fn shown(&mut self) {
        for answer in self.answers.drain(..) {
            answer();
        }
    }

    /// Something of this endpoint has ended.
    pub(super) fn look(&mut self, key: u64, links: &Links) {
        if let Some((drain, _)) = self.drains.get_mut(&key) {
            drain.look(key, links);
        }
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.look(key, links);
        }
    }

    /// When [`tick`](Self::tick) is due, if nothing happens before.
    pub(super) fn due(&self) -> Option<Instant> {
        let drains = self.drains.values().map(|(drain, _)| drain);
        drains.chain(&self.shutdown).filter_map(Drain::due).min()
    }

    /// Does what is due. Whether all has ended.
    pub(super) fn tick(&mut self, links: &Links, now: Instant) -> bool {
        let ended = self.shutdown.as_mut().and_then(|s| s.tick(links, now));
        if ended.is_some() {
            self.shown();
            // Nobody is here any more to see those through.
            for (_, (_, waiting)) in self.drains.drain() {
                for done in waiting {
                    let _ = done.send(Err(Error::shut_down()));
                }
            }
            // Nobody has to wait for it.
            let _ = self.ended.send(ended);
        }
        ended.is_some()
    }
}
