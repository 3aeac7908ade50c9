//! What a source makes of what it sees, in paused time; `tests/discovery_file.rs` has real files.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Mutex;

use futures_util::StreamExt;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, advance, sleep, timeout};

use super::look::{Look, Print, Seen};
use super::updates::{MOST_PAUSES, PAUSE};
use super::*;
use crate::discovery::{Targets, Update};
use crate::endpoint::Endpoint;
use crate::error::BoxError;

const S: Duration = Duration::from_secs(1);

/// A file of which a test says what is in it.
#[derive(Clone)]
struct Fake {
    says: watch::Sender<Says>,
    /// What the next looks see, before what it says.
    ahead: Arc<Mutex<VecDeque<String>>>,
    /// What the next look waits for and sees.
    hangs: Arc<Mutex<Option<oneshot::Receiver<String>>>>,
    looks: Arc<Mutex<Vec<Instant>>>,
}

#[derive(Clone)]
enum Says {
    Text(String),
    Error(&'static str),
    /// Whoever looks waits until it says something else.
    Nothing,
}

impl Fake {
    fn new(text: &str) -> Self {
        Self {
            says: watch::Sender::new(Says::Text(text.into())),
            ahead: Arc::default(),
            hangs: Arc::default(),
            looks: Arc::default(),
        }
    }

    fn says(&self, text: &str) {
        self.says.send_replace(Says::Text(text.into()));
    }

    fn looks(&self) -> usize {
        self.looks.lock().unwrap().len()
    }

    fn updates(&self, settles: bool) -> FileUpdates {
        FileUpdates::new("list".into(), self.clone(), S, settles)
    }
}

impl Look for Fake {
    fn look(
        &self,
        wanted: impl FnOnce(Print) -> bool + Send + 'static,
    ) -> impl Future<Output = Result<Seen, BoxError>> + Send + 'static {
        self.looks.lock().unwrap().push(Instant::now());
        let ahead = self.ahead.lock().unwrap().pop_front();
        let hangs = self.hangs.lock().unwrap().take();
        let mut says = self.says.subscribe();
        async move {
            if let Some(hangs) = hangs {
                return Ok(Seen::of(hangs.await?.as_bytes(), Format::Yaml, wanted));
            }
            let text = match ahead {
                Some(text) => text,
                None => match says
                    .wait_for(|says| !matches!(says, Says::Nothing))
                    .await?
                    .clone()
                {
                    Says::Text(text) => text,
                    Says::Error(error) => return Err(error.into()),
                    Says::Nothing => unreachable!("that was waited for"),
                },
            };
            Ok(Seen::of(text.as_bytes(), Format::Yaml, wanted))
        }
    }
}

/// The next word, which comes within a day of paused time.
async fn word(updates: &mut FileUpdates) -> Result<Vec<Endpoint>, String> {
    let word = timeout(86_400 * S, updates.next()).await;
    let word = word.expect("a word comes").expect("a file does not end");
    word.map(Update::into_endpoints)
        .map_err(|error| error.to_string())
}

async fn state(updates: &mut FileUpdates) -> Vec<Endpoint> {
    word(updates).await.expect("a state")
}

/// Nothing is said for this long.
async fn silent(updates: &mut FileUpdates, time: Duration) {
    let word = timeout(time, updates.next()).await;
    assert!(word.is_err(), "nothing is new for {time:?}: {word:?}");
}

fn ids(endpoints: &[Endpoint]) -> Vec<&str> {
    endpoints.iter().map(|e| e.id().as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn it_is_looked_at_by_the_interval_and_only_a_change_is_told() {
    let file = Fake::new("[a, b]");
    let mut updates = file.updates(false);
    sleep(100 * S).await;
    assert_eq!(file.looks(), 0, "nothing is read before it is asked for");
    let began = Instant::now();
    let first = state(&mut updates).await;
    assert_eq!(
        (ids(&first), began.elapsed()),
        (vec!["a", "b"], Duration::ZERO),
        "at once"
    );
    silent(&mut updates, 10 * S + S / 2).await;
    assert_eq!(file.looks(), 11, "each second");
    file.says("[  b, a]");
    let turned = state(&mut updates).await;
    assert_eq!(
        ids(&turned),
        ["b", "a"],
        "another order is another preference"
    );
    assert!(
        turned[0].ptr_eq(&first[1]) && turned[1].ptr_eq(&first[0]),
        "who is as before is the same endpoint"
    );
    file.says("# In other words.\n- b\n- {address: a, weight: 1}");
    silent(&mut updates, 10 * S).await;
    file.says("[b, {address: a, weight: 2}, c]");
    let heavier = state(&mut updates).await;
    assert!(
        heavier[0].ptr_eq(&turned[0]),
        "a change of one leaves the others"
    );
    assert_eq!(heavier[1].weight(), 2);
    file.says("[]");
    assert!(
        state(&mut updates).await.is_empty(),
        "an empty list is a state"
    );
    silent(&mut updates, 10 * S).await;
}

#[tokio::test(start_paused = true)]
async fn each_error_is_told_once_and_the_last_good_state_stands() {
    let file = Fake::new("[a, b]");
    let mut updates = file.updates(false);
    let first = state(&mut updates).await;
    for (says, error) in [
        (
            Says::Text("[a, {id: x}]".into()),
            "list: [1]: missing field `address`",
        ),
        (Says::Error("permission denied"), "list: permission denied"),
        (
            Says::Text("[a, a]".into()),
            "list: [1].id: \"a\" is the id of [0], too",
        ),
        (
            Says::Text("[c, c]".into()),
            "list: [1].id: \"c\" is the id of [0], too",
        ),
        (Says::Error("permission denied"), "list: permission denied"),
    ] {
        file.says.send_replace(says);
        let told = word(&mut updates).await.expect_err(error);
        assert!(told.starts_with(error), "{told} is {error}");
        silent(&mut updates, 100 * S).await;
    }
    file.says("[a, b]");
    let again = state(&mut updates).await;
    assert_eq!(again.len(), 2, "the end of an error is told");
    assert!(
        again
            .iter()
            .zip(&first)
            .all(|(one, other)| one.ptr_eq(other)),
        "what stood all the time is as it was"
    );
    // The text of before, after the file could not be read.
    file.says.send_replace(Says::Error("gone"));
    word(&mut updates).await.expect_err("it is gone");
    file.says("[a, b]");
    let again = state(&mut updates).await;
    assert!(again[0].ptr_eq(&first[0]));
    silent(&mut updates, 100 * S).await;

    let file = Fake::new("[a");
    let mut updates = file.updates(false);
    let error = word(&mut updates)
        .await
        .expect_err("there was no good state yet");
    assert!(error.starts_with("list: "), "{error}");
    file.says.send_replace(Says::Error("gone"));
    word(&mut updates).await.expect_err("another error");
    file.says("[a");
    let again = word(&mut updates).await.expect_err("the first one");
    assert_eq!(again, error, "it is told again after another one");
    file.says("[a]");
    assert_eq!(ids(&state(&mut updates).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_text_that_grows_counts_when_it_has_stopped() {
    let file = Fake::new("[a, b, c]");
    file.ahead
        .lock()
        .unwrap()
        .extend(["[a]", "[a, b]"].map(Into::into));
    let mut updates = file.updates(true);
    let began = Instant::now();
    assert_eq!(
        ids(&state(&mut updates).await),
        ["a", "b", "c"],
        "and not before"
    );
    assert_eq!((file.looks(), began.elapsed()), (4, 3 * PAUSE));
    silent(&mut updates, 10 * S).await;
    assert_eq!(
        file.looks(),
        14,
        "what counts is looked at by the interval again"
    );

    // Where half of a list is none, only mistakes wait.
    let file = Fake::new("[a, b]");
    file.ahead
        .lock()
        .unwrap()
        .extend(["[", "[a"].map(Into::into));
    let mut updates = file.updates(false);
    assert_eq!(
        ids(&state(&mut updates).await),
        ["a", "b"],
        "no error before it"
    );
    assert_eq!(file.looks(), 3);
    file.says("[c]");
    assert_eq!(ids(&state(&mut updates).await), ["c"]);
    assert_eq!(file.looks(), 4, "a good one counts at once");
    file.says("[c");
    word(&mut updates).await.expect_err("this one stays");
    assert_eq!(file.looks(), 6);

    // One that never stops is heard.
    let file = Fake::new("[a]");
    let mut updates = file.updates(true);
    state(&mut updates).await;
    let many = (0..10 * MOST_PAUSES).map(|n| format!("[{n}x]"));
    file.ahead.lock().unwrap().extend(many);
    let began = Instant::now();
    for _ in 0..3 {
        assert_eq!(state(&mut updates).await.len(), 1);
    }
    assert!(
        began.elapsed() <= 3 * (S + MOST_PAUSES * PAUSE),
        "{:?}",
        began.elapsed()
    );

    // What was there before and is there again is no news.
    let file = Fake::new("[a]");
    let mut updates = file.updates(true);
    state(&mut updates).await;
    file.ahead
        .lock()
        .unwrap()
        .extend(["[", "[b", "[b]"].map(Into::into));
    silent(&mut updates, 10 * S).await;
}

#[tokio::test(start_paused = true)]
async fn a_look_that_takes_for_ever_is_told_and_one_more_is_made_beside_it() {
    let file = Fake::new("[a]");
    let mut updates = file.updates(true);
    let first = state(&mut updates).await;
    let looks = file.looks();
    file.says.send_replace(Says::Nothing);
    let error = word(&mut updates).await.expect_err("it hangs");
    assert_eq!(error, "list: was not read within 10s");
    silent(&mut updates, 3600 * S).await;
    assert_eq!(file.looks(), looks + 2, "no third look beside them");
    file.says("[a]");
    let again = state(&mut updates).await;
    assert!(again[0].ptr_eq(&first[0]), "the end of the error is told");
    file.says.send_replace(Says::Nothing);
    word(&mut updates).await.expect_err("it hangs again");
    drop(updates);
    assert_eq!(file.says.receiver_count(), 0, "the drop does not wait");
}

#[tokio::test(start_paused = true)]
async fn what_is_mended_is_read_while_a_look_hangs_which_then_is_too_old() {
    let file = Fake::new("[a]");
    let mut updates = file.updates(false);
    state(&mut updates).await;
    let (end, hangs) = oneshot::channel();
    *file.hangs.lock().unwrap() = Some(hangs);
    word(&mut updates).await.expect_err("it hangs");
    file.says("[b]");
    let looks = file.looks();
    assert_eq!(ids(&state(&mut updates).await), ["b"], "by another look");
    silent(&mut updates, 10 * S).await;
    assert!(file.looks() > looks + 5, "and so it goes on");
    end.send("[old]".to_owned()).expect("it hangs until now");
    silent(&mut updates, 10 * S).await;

    // With nothing newer it counts.
    let (end, hangs) = oneshot::channel();
    *file.hangs.lock().unwrap() = Some(hangs);
    word(&mut updates).await.expect_err("it hangs again");
    file.says.send_replace(Says::Nothing);
    silent(&mut updates, 100 * S).await;
    end.send("[c]".to_owned()).expect("it hangs until now");
    assert_eq!(ids(&state(&mut updates).await), ["c"], "it took long");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_after_it_is_dropped() {
    let file = Fake::new("[a]");
    let mut updates = file.updates(false);
    state(&mut updates).await;
    drop(updates);
    advance(100 * S).await;
    assert_eq!(file.looks(), 1);
    assert_eq!(Arc::strong_count(&file.looks), 1, "it is gone as a whole");
}

#[test]
fn settings_that_cannot_be_are_named() {
    for (file, field) in [
        (File::new(""), "path"),
        (File::new("a\0b"), "path"),
        (File::new("a").with_interval(Duration::ZERO), "interval"),
    ] {
        let error = file.clone().updates().expect_err("it cannot be");
        assert_eq!(error.field(), Some(field), "{file:?}: {error}");
    }
    let far = File::new("a").with_interval(Duration::MAX);
    assert!(far.updates().is_ok(), "for ever is a time like any other");
}

#[test]
fn targets_are_paths() {
    for target in [
        "file:relative/list.json",
        "file:list",
        "file:/absolute/list.yaml",
        "file:///absolute/list.yml",
        "FILE:///with%20space/%3F%23",
    ] {
        let made = Targets::new().source(target);
        assert!(made.is_ok(), "{target}: {:?}", made.err());
    }
    for (target, why) in [
        ("file:", "path: is empty"),
        ("file:///a%00b", "NUL byte"),
        ("file://host/a", "three slashes, or none"),
        ("file:///a?b", "has a query"),
        ("file:///a#b", "has a fragment"),
        ("file:///%ff", "is not UTF-8"),
    ] {
        let Err(error) = Targets::new().source(target) else {
            panic!("{target} was taken");
        };
        assert_eq!(error.field(), Some("target"), "{error}");
        assert!(error.to_string().contains(why), "{target}: {error}");
    }
}

#[tokio::test]
async fn a_yaml_may_be_smaller_than_a_json() {
    let name = format!("evenkeel-large-{}", std::process::id());
    let path = Arc::new(std::env::temp_dir().join(name));
    let file = std::fs::File::create(&*path).expect("there is a folder for such files");
    for (format, most_mib) in [(Format::Yaml, 4), (Format::Json, 64)] {
        // Sparse: it takes no room.
        file.set_len((most_mib << 20) + 1).expect("it grows");
        let path = path.clone();
        let seen = timeout(60 * S, OnDisk { path, format }.look(|_| false)).await;
        let error = seen.expect("it is looked at").expect_err("one byte more");
        let says = format!("is larger than {most_mib} MiB");
        assert_eq!(error.to_string(), says, "{format:?}");
    }
    std::fs::remove_file(&*path).expect("it is there");
}
