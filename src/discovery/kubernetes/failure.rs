//! What the watcher's errors mean for what comes next.

use std::time::Duration;

use kube::core::response::Status;
use kube::runtime::watcher;

use super::error::KubernetesError;
use super::words::words;

/// Something went wrong on the way to the slices.
#[derive(Debug)]
pub(super) struct Failure {
    /// What is told of it; nothing of what is in the order of things.
    pub(super) error: Option<KubernetesError>,
    pub(super) after: After,
    /// How long the API server wants not to be asked.
    pub(super) retry_after: Duration,
}

/// Where it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// With the watch, from the last event.
    Watch,
    /// With the watch, if the API server could be asked before this; else as [`List`](Self::List), since its address or
    /// what it trusts may be others by now.
    Reach,
    /// With a list, by a client made anew: events may be lost, or the credentials old.
    List,
}

impl Failure {
    pub(super) fn told_anew(error: KubernetesError) -> Self {
        Self {
            error: Some(error),
            after: After::List,
            retry_after: Duration::ZERO,
        }
    }

    pub(super) fn no_list_within(limit: Duration) -> Self {
        Self::told_anew(KubernetesError::Request {
            verb: "list",
            code: None,
            message: format!("no whole answer within {limit:?}"),
        })
    }

    /// Says what an error of the watcher means.
    pub(super) fn read(error: watcher::Error, namespace: &str) -> Self {
        use watcher::Error as E;
        let (verb, after, error) = match error {
            E::InitialListFailed(error) => ("list", After::List, error),
            E::WatchStartFailed(error) => ("watch", After::Watch, error),
            // The connection broke in the middle of a watch: what comes of that, the next one will say.
            E::WatchFailed(kube::Error::ReadEvents(_) | kube::Error::HyperError(_)) => {
                return Self::quiet(After::Watch);
            }
            E::WatchFailed(error) => ("watch", After::List, error),
            E::WatchError(status) => ("watch", After::List, kube::Error::Api(status)),
            E::NoResourceVersion => {
                return Self::told_anew(KubernetesError::Request {
                    verb: "watch",
                    code: None,
                    message: "metadata.resourceVersion: is missing".into(),
                });
            }
        };
        let kube::Error::Api(status) = error else {
            let after = match after {
                After::Watch => After::Reach,
                _ => after,
            };
            return Self {
                after,
                ..Self::told_anew(KubernetesError::Request {
                    verb,
                    code: None,
                    message: words(&error),
                })
            };
        };
        // The server has forgotten what came after the last event: it is asked for the whole.
        if status.code == 410 || status.reason == "Expired" || status.reason == "Gone" {
            return Self::quiet(After::List);
        }
        let details = status.details.as_ref();
        let seconds = details.map_or(0, |details| details.retry_after_seconds);
        let after = match status.code {
            401 => After::List,
            _ => after,
        };
        Self {
            error: Some(refused(verb, namespace, &status)),
            after,
            retry_after: Duration::from_secs(seconds.into()),
        }
    }

    fn quiet(after: After) -> Self {
        Self {
            error: None,
            after,
            retry_after: Duration::ZERO,
        }
    }
}

fn refused(verb: &'static str, namespace: &str, status: &Status) -> KubernetesError {
    let message = match (&*status.message, &*status.reason) {
        ("", reason) => reason,
        (message, _) => message,
    };
    let message = message.to_owned();
    if status.code == 403 {
        return KubernetesError::Forbidden {
            verb,
            namespace: namespace.to_owned(),
            message,
        };
    }
    KubernetesError::Request {
        verb,
        code: (status.code != 0).then_some(status.code),
        message,
    }
}
