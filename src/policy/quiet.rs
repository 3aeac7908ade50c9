//! The end of the last call to an endpoint that gets no more.

use std::sync::OnceLock;

use crate::policy::Subchannel;

/// Who hears of it.
pub(super) type OnQuiet = OnceLock<Box<dyn Fn() + Send + Sync>>;

impl Subchannel {
    /// It gets no more calls: `quiet` hears of the end of the last one, and of any that slipped in and ended.
    /// `quiet` is not called if none is under way. Only the first time counts.
    pub(crate) fn drain(&self, quiet: impl Fn() + Send + Sync + 'static) {
        // Ahead of the mark, by which the ends know that somebody is to be told.
        let _ = self.on_quiet.set(Box::new(quiet));
        self.load().drain();
    }

    /// The last call has ended, and that is waited for.
    #[cold]
    pub(super) fn tell_quiet(&self) {
        if self.load().is_draining()
            && let Some(quiet) = self.on_quiet.get()
        {
            quiet();
        }
    }
}
