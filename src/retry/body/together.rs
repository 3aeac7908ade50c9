//! How several readers of one body wait for it.

use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

use crate::retry::body::state::READERS;

/// The wakers of all who read.
///
/// A body wakes only who polled it last. That one may be gone by then, or not ask for more because its
/// server takes none; so the body is polled with this in place of a waker, which wakes all of them.
#[derive(Default)]
pub(super) struct Together {
    readers: [AtomicWaker; READERS],
    /// The call that the attempts belong to.
    call: AtomicWaker,
}

impl Together {
    /// Polls the body for the reader at `place`.
    pub(super) fn poll<T>(
        self: &Arc<Self>,
        place: usize,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // Ahead of the poll, so that no wake is lost in between.
        self.wait(place, cx);
        let waker = Waker::from(self.clone());
        poll(&mut Context::from_waker(&waker))
    }

    /// Wakes the reader at `place` with the next news.
    pub(super) fn wait(&self, place: usize, cx: &mut Context<'_>) {
        self.readers[place].register(cx.waker());
    }

    /// Wakes the call when one attempt alone can go on.
    pub(super) fn watch(&self, call: &Waker) {
        self.call.register(call);
    }

    /// There is something that the reader at `place` has had and the others have not.
    pub(super) fn wake_others(&self, place: usize, is_ahead: bool) {
        for (other, reader) in self.readers.iter().enumerate() {
            if other != place {
                reader.wake();
            }
        }
        if is_ahead {
            self.call.wake();
        }
    }

    pub(super) fn wake_readers(&self) {
        self.readers.iter().for_each(AtomicWaker::wake);
    }
}

impl Wake for Together {
    fn wake(self: Arc<Self>) {
        self.wake_readers();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_readers();
    }
}
