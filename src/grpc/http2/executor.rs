//! Where hyper's futures of one connection run: all in one task.
//!
//! hyper splits a connection into one future for the transport, one that takes requests, and one or
//! two for each call, and asks an executor to run them. A task for each costs every call an
//! allocation by the runtime and several rounds through its scheduler, often on another thread. Here
//! a call's futures are polled by the task that read the bytes which woke them, and what they cause
//! to be written goes out in one write at the end of the task's turn.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use hyper::rt::Executor;

use super::cork::Cork;

/// How often the driver looks at its queue before it lets other tasks run.
const ROUNDS: usize = 16;

/// hyper's futures for the connection itself; the others are those of calls.
const OWN_FUTURES: usize = 2;

/// One sends the body, one waits for the response.
const FUTURES_OF_A_CALL: usize = 2;

type Spawned = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Gives futures to a [`Driver`]. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tasks {
    queue: Arc<Queue>,
}

/// Polls the futures that came by its [`Tasks`]. It ends when none is left, and dropping it drops
/// them all.
pub(super) struct Driver {
    queue: Arc<Queue>,
    slots: Vec<Slot>,
    vacant: Vec<usize>,
    // Kept for their memory.
    spawned: Vec<Spawned>,
    woken: Vec<usize>,
    cork: Cork,
    /// The last turn ended before all was written.
    overdue: bool,
    /// How many futures the last turn took which took any.
    taken: usize,
    yielded: bool,
}

/// A place for a future. Its waker outlives the future: a late wake costs a look, no more.
struct Slot {
    future: Option<Spawned>,
    state: Arc<SlotState>,
    waker: Waker,
}

struct SlotState {
    queue: Arc<Queue>,
    index: usize,
    queued: AtomicBool,
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    spawned: Vec<Spawned>,
    woken: Vec<usize>,
    driver: Option<Waker>,
    /// The driver is at work and will look here again before it rests.
    awake: bool,
    closed: bool,
}

impl Tasks {
    pub(super) fn new() -> (Self, Driver) {
        let queue = Arc::<Queue>::default();
        let driver = Driver {
            queue: queue.clone(),
            slots: Vec::new(),
            vacant: Vec::new(),
            spawned: Vec::new(),
            woken: Vec::new(),
            cork: Cork::default(),
            overdue: false,
            taken: 0,
            yielded: false,
        };
        (Self { queue }, driver)
    }
}

impl<F> Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let future = Box::pin(future);
        let mut state = self.queue.lock();
        if state.closed {
            // Dropped without the lock: a future's drop may wake others.
            drop(state);
            return;
        }
        state.spawned.push(future);
        state.wake();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        // Nothing that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl QueueState {
    fn wake(&mut self) {
        if !self.awake
            && let Some(driver) = &self.driver
        {
            self.awake = true;
            driver.wake_by_ref();
        }
    }
}

impl Wake for SlotState {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            let mut state = self.queue.lock();
            state.woken.push(self.index);
            state.wake();
        }
    }
}

impl Driver {
    fn insert(&mut self, future: Spawned) -> usize {
        if let Some(index) = self.vacant.pop() {
            self.slots[index].future = Some(future);
            return index;
        }
        let index = self.slots.len();
        let state = Arc::new(SlotState {
            queue: self.queue.clone(),
            index,
            queued: AtomicBool::new(false),
        });
        self.slots.push(Slot {
            future: Some(future),
            waker: state.clone().into(),
            state,
        });
        index
    }

    fn poll_slot(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(future) = &mut slot.future else {
            return;
        };
        let mut cx = Context::from_waker(&slot.waker);
        // A panic in the body of one request must not take the other calls with it.
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut cx)));
        if !matches!(polled, Ok(Poll::Pending)) {
            slot.future = None;
            self.vacant.push(index);
        }
    }

    /// Holds back what the transport writes while the driver is at work.
    pub(super) fn cork(&self) -> Cork {
        self.cork.clone()
    }

    /// Whether other callers are about to bring calls too. One that is woken by its response mostly
    /// calls again, and the first to do so wakes the driver, which a runtime with many threads runs
    /// next. Then it had better stand back once, behind all that is ready to run, and take their
    /// calls in one turn: that is one write instead of one for each.
    fn expects_company(&self) -> bool {
        let under_way = (self.slots.len() - self.vacant.len()).saturating_sub(OWN_FUTURES);
        under_way + self.taken > FUTURES_OF_A_CALL
    }

    fn is_idle(&self) -> bool {
        self.vacant.len() == self.slots.len()
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let queue = this.queue.clone();
        {
            let mut state = queue.lock();
            state.awake = true;
            if !state
                .driver
                .as_ref()
                .is_some_and(|w| w.will_wake(cx.waker()))
            {
                state.driver = Some(cx.waker().clone());
            }
        }
        if !this.yielded && !this.overdue && this.expects_company() {
            this.yielded = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        this.yielded = false;
        if !std::mem::take(&mut this.overdue) {
            this.cork.hold();
        }
        let mut spawned = std::mem::take(&mut this.spawned);
        let mut woken = std::mem::take(&mut this.woken);
        let mut rounds = 0;
        let mut taken = 0;
        loop {
            {
                let mut state = queue.lock();
                if state.spawned.is_empty() && state.woken.is_empty() {
                    if !this.cork.is_waiting() {
                        state.awake = false;
                        break;
                    }
                    // The last thing to do in a turn. The wake takes the lock.
                    drop(state);
                    this.cork.release();
                    continue;
                }
                std::mem::swap(&mut state.spawned, &mut spawned);
                std::mem::swap(&mut state.woken, &mut woken);
            }
            taken += spawned.len();
            for future in spawned.drain(..) {
                let index = this.insert(future);
                this.poll_slot(index);
            }
            for index in woken.drain(..) {
                this.slots[index]
                    .state
                    .queued
                    .store(false, Ordering::Release);
                this.poll_slot(index);
            }
            rounds += 1;
            if rounds == ROUNDS || !tokio::task::coop::has_budget_remaining() {
                // What was gathered is written first thing in the next turn.
                this.overdue = this.cork.is_waiting();
                if this.overdue {
                    this.cork.release();
                }
                // `awake` stays set: this wake is the promise to look again.
                cx.waker().wake_by_ref();
                break;
            }
            this.cork.hold();
        }
        if taken > 0 {
            this.taken = taken;
        }
        let done = rounds < ROUNDS && this.is_idle() && !queue.lock().awake;
        this.spawned = spawned;
        this.woken = woken;
        if done { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closed = true;
        // The futures hold the queue, and the queue must not hold them.
        let spawned = std::mem::take(&mut state.spawned);
        drop(state);
        drop(spawned);
    }
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
