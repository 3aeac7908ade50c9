//! Endpoints from a file that somebody else writes: a deployment tool, a mounted Kubernetes ConfigMap, a person.
//!
//! The file is read again every so often, and not watched: what tells of changes (inotify and its kin) is silent on
//! network file systems, and follows neither an editor that renames nor the symbolic links that a ConfigMap is made
//! of, unless each folder above is watched too. To read a few kilobytes a second costs less than to be wrong about
//! that.
//!
//! - `list`: from a text to endpoints;
//! - `nesting`: how deep a YAML is, before it is parsed;
//! - `look`: from a path to a text, by a thread of its own;
//! - `updates`: when to look, and what is told of it.

mod list;
mod look;
mod nesting;
mod updates;

pub use updates::FileUpdates;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::discovery::BoxDiscovery;
use crate::discovery::target::{Target, bad};
use crate::error::Error;
use list::Format;
use look::OnDisk;

/// A file as a source of endpoints: a list of them in JSON, or in YAML where its name ends in `.yaml` or `.yml`.
///
/// ```yaml
/// - http://10.0.0.1:50051                   # an address alone
/// - address: http://10.0.0.2:50051
///   weight: 3                               # default 1
/// - address: http://10.0.0.3:50051
///   addresses: ["http://[fd00::3]:50051"]   # further ones of the same server
///   id: cart-3                              # default: the address
///   priority: 1                             # default 0, the highest
///   locality: eu-west-1/eu-west-1a/rack-7   # or {region: .., zone: .., sub_zone: ..}
///   metadata: {version: canary}
///   hash_key: cart-3                        # for the policies that hash
/// ```
///
/// What is not known is a mistake: another field, a weight of 0, an empty text, an id or a name in the metadata that
/// comes twice.
///
/// The file is read again each second, or as [`with_interval`](Self::with_interval) says; a state is told when what
/// it says has changed. An empty list is a state like any other; an empty file is not. While the file cannot be read, is
/// half written, or has a mistake in it, the last good state stands, and the balancer's report says what is wrong
/// and where; each error is told once. At first, before there was any good state, calls fail with it.
///
/// It is best written under another name and renamed. For those who write over it: a text with a mistake counts once
/// it was the same for 50 ms, or has been another one each time for a second. In YAML so does any text, since one that
/// was cut between two entries is a list, too.
///
/// A path that is relative begins at the working directory of the process, at each look. What is no regular file is
/// refused, and so is one over 64 MiB, or over 4 MiB or 128 brackets within each other in YAML, whose parser is slow. A
/// file system that does not answer keeps two threads waiting at most, and nothing else: the last good state stands,
/// after 10 s the report says why and the file is looked at once more, in case it can be read by now, and the end of the
/// balancer or of its runtime does not wait.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), evenkeel::Error> {
/// use evenkeel::discovery::File;
///
/// let updates = File::new("/etc/shop/cart.yaml").updates()?;
/// # #[cfg(feature = "grpc")]
/// let channel = evenkeel::grpc::Channel::builder().discovery(updates).build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "nothing is read until its updates are"]
pub struct File {
    path: PathBuf,
    interval: Duration,
}

impl File {
    /// The list in this file, read again each second. It need not be there yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            interval: Duration::from_secs(1),
        }
    }

    /// How long after it was read the file is read again; default 1 s.
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The source, to give to a builder's `discovery`. Nothing is read before the balancer asks.
    ///
    /// # Errors
    /// Names the setting that cannot be used: an interval of zero; a path that is empty or has a NUL byte in it.
    pub fn updates(self) -> Result<FileUpdates, Error> {
        if self.interval.is_zero() {
            return Err(Error::config("interval", "is zero"));
        }
        let bytes = self.path.as_os_str().as_encoded_bytes();
        if bytes.is_empty() {
            return Err(Error::config("path", "is empty"));
        }
        if bytes.contains(&0) {
            let message = format!("{:?} has a NUL byte", self.path);
            return Err(Error::config("path", message));
        }
        let extension = self.path.extension().unwrap_or_default();
        let yaml = ["yaml", "yml"]
            .iter()
            .any(|name| extension.eq_ignore_ascii_case(name));
        let format = if yaml { Format::Yaml } else { Format::Json };
        let name = self.path.display().to_string();
        let look = OnDisk {
            path: Arc::new(self.path),
            format,
        };
        Ok(FileUpdates::new(name, look, self.interval, yaml))
    }
}

/// The source of `file:relative/path` and `file:///absolute/path`.
pub(super) fn of_target(target: &Target) -> Result<BoxDiscovery, Error> {
    let path = target.without_authority()?.path();
    let updates = File::new(path).updates();
    let updates = updates.map_err(|error| bad(format!("{target}: {error}")))?;
    Ok(Box::pin(updates))
}

#[cfg(test)]
mod tests;
