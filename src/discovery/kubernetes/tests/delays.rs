//! When it is asked again, and what is told meanwhile. Nothing is asked here.

use std::time::Duration;

use kube::core::response::Status;
use kube::runtime::watcher;
use tokio::time::Instant;

use crate::discovery::kubernetes::failure::{After, Failure};
use crate::discovery::kubernetes::source::Source;
use crate::discovery::kubernetes::{Kubernetes, KubernetesError};
use crate::math::Backoff;

const S: Duration = Duration::from_secs(1);

fn source() -> Source {
    let backoff = Backoff::default().with_multiplier(2.0).with_jitter(0.0);
    let backoff = backoff.with_max(30 * S);
    let kubernetes = Kubernetes::service("prod", "greeter").unwrap();
    Source::new(kubernetes.with_backoff(backoff).settings, 1)
}

fn refused(code: u16, reason: &str) -> watcher::Error {
    let status = Status::failure("no", reason).with_code(code);
    watcher::Error::InitialListFailed(kube::Error::Api(status.boxed()))
}

/// Fails at `now`; how long it waits then.
fn wait(source: &mut Source, failure: Failure, now: Instant) -> Duration {
    source.failed(failure, now);
    source.due.expect("it waits") - now
}

#[test]
fn delays_grow_and_begin_anew_after_two_minutes_without_a_failure() {
    let mut source = source();
    let mut now = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..7 {
        let waited = wait(&mut source, Failure::read(refused(500, ""), "prod"), now);
        waits.push(waited.as_secs());
        now += waited;
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
    let waited = wait(
        &mut source,
        Failure::read(refused(500, ""), "prod"),
        now + 121 * S,
    );
    assert_eq!(waited, S, "after two minutes it begins anew");
    assert_eq!(source.items.len(), 1, "the same error is told once");
}

#[test]
fn the_server_may_ask_for_more_time_up_to_five_minutes() {
    let asked = |seconds| Failure {
        retry_after: Duration::from_secs(seconds),
        ..Failure::read(refused(429, "TooManyRequests"), "prod")
    };
    let now = Instant::now();
    for (seconds, want) in [(0, 1), (1, 1), (90, 90), (86_400, 300)] {
        let waited = wait(&mut source(), asked(seconds), now);
        assert_eq!(waited.as_secs(), want, "{seconds} s were asked for");
    }
}

#[test]
fn what_is_in_the_order_of_things_is_not_told() {
    let gone = Status::failure("too old", "Expired").with_code(410).boxed();
    let broken = std::io::Error::other("reset");
    for (error, after) in [
        (refused(410, "Expired"), After::List),
        (watcher::Error::WatchError(gone.clone()), After::List),
        (
            watcher::Error::WatchFailed(kube::Error::Api(gone)),
            After::List,
        ),
        (
            watcher::Error::WatchFailed(kube::Error::ReadEvents(broken)),
            After::Watch,
        ),
    ] {
        let text = error.to_string();
        let failure = Failure::read(error, "prod");
        assert_eq!(failure.after, after, "{text}");
        assert!(failure.error.is_none(), "{text}: {:?}", failure.error);
    }
}

#[test]
fn other_refusals_are_told_by_their_kind() {
    let failure = Failure::read(refused(403, "Forbidden"), "prod");
    assert!(
        matches!(&failure.error, Some(KubernetesError::Forbidden { verb: "list", namespace, .. }) if namespace == "prod"),
        "{failure:?}"
    );
    let start = |code| {
        let status = Status::failure("no", "").with_code(code);
        watcher::Error::WatchStartFailed(kube::Error::Api(status.boxed()))
    };
    let failure = Failure::read(start(401), "prod");
    assert_eq!(failure.after, After::List, "by new credentials");
    let failure = Failure::read(start(503), "prod");
    assert_eq!(failure.after, After::Watch, "no event is lost by it");
    let unreached = kube::Error::Service("no way".into());
    let failure = Failure::read(watcher::Error::WatchStartFailed(unreached), "prod");
    assert_eq!(failure.after, After::Reach, "once more, if it is the first");
    let failure = Failure::read(watcher::Error::NoResourceVersion, "prod");
    let text = failure.error.expect("it is told").to_string();
    assert!(text.contains("metadata.resourceVersion"), "{text}");
}
