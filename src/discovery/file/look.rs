//! One look at a file.

use std::fs::{Metadata, OpenOptions};
use std::future::Future;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::oneshot;
use xxhash_rust::xxh64::xxh64;

use super::list::{Format, decode};
use crate::endpoint::Endpoint;
use crate::error::BoxError;

/// What a text is known again by: its length and a hash of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Print(usize, u64);

/// A text, and what is in it.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) print: Print,
    /// `None` if nobody asked for it.
    pub(super) list: Option<Result<Vec<Endpoint>, String>>,
}

impl Seen {
    pub(super) fn of(text: &[u8], format: Format, wanted: impl FnOnce(Print) -> bool) -> Self {
        let print = Print(text.len(), xxh64(text, 0));
        let list = wanted(print).then(|| match std::str::from_utf8(text) {
            Ok(text) => decode(text, format),
            Err(error) => Err(format!("byte {} is no UTF-8", error.valid_up_to())),
        });
        Self { print, list }
    }
}

/// Where texts are seen.
pub(super) trait Look: Send {
    /// Looks, and reads the list if the text is one that `wanted` wants.
    fn look(
        &self,
        wanted: impl FnOnce(Print) -> bool + Send + 'static,
    ) -> impl Future<Output = Result<Seen, BoxError>> + Send + 'static;
}

/// A file, read by a thread of its own: who waits for a file system that does not answer cannot be stopped, and the
/// threads that a runtime keeps for such work are waited for when it ends.
pub(super) struct OnDisk {
    pub(super) path: Arc<PathBuf>,
    pub(super) format: Format,
}

impl Look for OnDisk {
    fn look(
        &self,
        wanted: impl FnOnce(Print) -> bool + Send + 'static,
    ) -> impl Future<Output = Result<Seen, BoxError>> + Send + 'static {
        let (path, format) = (self.path.clone(), self.format);
        let (sender, receiver) = oneshot::channel();
        let look = move || {
            let seen = read(&path, format.most_mib()).map(|text| Seen::of(&text, format, wanted));
            // Nobody waits for it any more.
            let _ = sender.send(seen);
        };
        let thread = std::thread::Builder::new().name("evenkeel-file".into());
        let started = thread.spawn(look);
        async move {
            started.map_err(|error| format!("no thread to read it: {error}"))?;
            receiver.await.map_err(|_| "its reader panicked")?
        }
    }
}

/// Reads all of a regular file, if it is not larger than this.
fn read(path: &Path, most_mib: u64) -> Result<Vec<u8>, BoxError> {
    // To open something else may do something, such as to wake who waits at the other end of a pipe.
    is_regular(&std::fs::metadata(path)?)?;
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;

        // It may have become a pipe by now, and then this would wait for who writes to it.
        let flags = rustix::fs::OFlags::NONBLOCK.bits();
        options.custom_flags(flags.cast_signed());
    }
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    is_regular(&metadata)?;
    let most = most_mib << 20;
    let length = usize::try_from(metadata.len().min(most))?;
    let mut text = Vec::with_capacity(length);
    // One more byte tells a file that is larger, or grows meanwhile.
    file.take(most + 1).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        return Err(format!("is larger than {most_mib} MiB").into());
    }
    Ok(text)
}

fn is_regular(metadata: &Metadata) -> Result<(), &'static str> {
    match metadata.is_file() {
        true => Ok(()),
        false if metadata.is_dir() => Err("is a folder"),
        false => Err("is no regular file"),
    }
}
