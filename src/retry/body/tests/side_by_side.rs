//! Several attempts that read one body.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;

use super::*;

/// A body of which so much is kept, and two that read it; the id is the second one's.
fn two(
    limit: usize,
) -> (
    Sender,
    Kept<Frames>,
    RetryBody<Frames>,
    (ReaderId, RetryBody<Frames>),
) {
    let (sender, frames) = stream();
    let (kept, first) = Kept::new(frames, limit);
    let second = kept.beside().expect("all of it is there");
    (sender, kept, first, second)
}

/// Counts how often it is woken.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// Polls once; whether the reader has been woken since is in what comes back.
fn wait<B>(body: &mut RetryBody<B>) -> Arc<Wakes>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let polled = Pin::new(body).poll_frame(&mut Context::from_waker(&waker));
    assert!(polled.is_pending(), "there is nothing yet");
    wakes
}

impl Wakes {
    fn woken(&self) -> bool {
        self.0.load(Ordering::SeqCst) > 0
    }
}

fn ends_with_an_error<B>(body: &mut RetryBody<B>)
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    assert!(!body.is_end_stream(), "it is not whole");
    let polled = poll(body);
    assert!(matches!(polled, Poll::Ready(Some(Err(_)))), "{polled:?}");
}

/// Asserts that one that waits, and did not have all of it, is woken by `end` and told of an error.
fn waits_until<B>(body: &mut RetryBody<B>, rule: &str, end: impl FnOnce())
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let waiting = wait(body);
    end();
    assert!(waiting.woken(), "{rule}");
    ends_with_an_error(body);
}

#[test]
fn each_reads_all_of_it_at_its_own_pace() {
    let (sender, frames) = stream();
    let (kept, mut first) = Kept::new(frames, 100);
    sender.data("a");
    assert_eq!(read(&mut first), "a");
    let (_, mut second) = kept.beside().expect("all of it is there");
    sender.data("b");
    assert_eq!(read(&mut second), "ab", "it may run ahead of the first");
    assert_eq!(read(&mut first), "b", "which has what was read by another");
    let (_, mut third) = kept.beside().unwrap();
    drop(sender);
    assert!(matches!(poll(&mut first), Poll::Ready(None)), "its end");
    assert_eq!(read(&mut third), "ab");
    assert!(third.is_end_stream() && second.is_end_stream());
    assert!(kept.is_whole());
}

#[test]
fn there_are_no_more_readers_than_attempts() {
    let (kept, _first) = Kept::new(Full::new(Bytes::from("a")), 100);
    let beside: Vec<_> = (0..6).map_while(|_| kept.beside()).collect();
    assert_eq!(beside.len(), 4, "five in all");
    kept.release(beside[0].0);
    assert!(kept.beside().is_some(), "a place that is free again");
}

#[test]
fn all_who_wait_are_woken_by_the_body() {
    let (sender, frames) = stream();
    let (kept, mut first) = Kept::new(frames, 100);
    let alone = wait(&mut first);
    let (_, mut second) = kept.beside().unwrap();
    assert!(alone.woken(), "it is to wait as one of several from now on");
    let waiting = [wait(&mut first), wait(&mut second)];
    sender.data("a");
    for (reader, waiting) in waiting.iter().enumerate() {
        assert!(waiting.woken(), "not only the last that asked: {reader}");
    }
}

#[test]
fn one_that_waits_hears_of_what_another_has_read() {
    let (sender, _kept, mut first, (_, mut second)) = two(100);
    sender.data("a");
    assert_eq!(read(&mut first), "a");
    assert_eq!(read(&mut second), "a");
    sender.data("b");
    assert_eq!(read(&mut first), "b");
    assert_eq!(read(&mut second), "b");
    let waiting = wait(&mut second);
    drop(sender);
    assert!(matches!(poll(&mut first), Poll::Ready(None)));
    assert!(waiting.woken(), "the end is news, too");
    assert!(matches!(poll(&mut second), Poll::Ready(None)));
}

#[test]
fn one_that_is_gone_takes_no_wake_with_it() {
    let (sender, kept, mut first, (reader, mut second)) = two(100);
    let waiting = wait(&mut first);
    wait(&mut second);
    drop(second);
    sender.data("a");
    assert!(waiting.woken(), "though the other was the last to ask");
    assert_eq!(read(&mut first), "a");
    kept.release(reader);
    sender.data("b");
    assert_eq!(read(&mut first), "b");
}

#[test]
fn one_that_is_released_is_over_and_the_others_read_on() {
    let (sender, kept, mut first, (_, mut second)) = two(100);
    waits_until(&mut first, "it does not wait for ever", || {
        kept.release(ReaderId::FIRST);
    });
    sender.data("a");
    assert_eq!(read(&mut second), "a");
}

#[test]
fn who_reads_beyond_the_limit_has_the_rest_and_the_others_wait_for_their_end() {
    for leader in 0..2 {
        let (sender, kept, first, (second_id, second)) = two(2);
        let ids = [ReaderId::FIRST, second_id];
        let mut bodies = [first, second];
        let call = Arc::new(Wakes::default());
        assert_eq!(kept.ahead(&Waker::from(call.clone())), None);
        sender.data("ab");
        sender.data("c");
        assert_eq!(read(&mut bodies[leader]), "abc", "more than is kept");
        assert!(call.woken(), "the call is told");
        assert_eq!(kept.ahead(Waker::noop()), Some(ids[leader]));
        assert!(!kept.is_whole() && kept.beside().is_none());
        let other = &mut bodies[1 - leader];
        assert!(!other.is_end_stream(), "it is not whole");
        waits_until(other, "its end has come", || kept.commit_to(ids[leader]));
        sender.data("d");
        assert_eq!(read(&mut bodies[leader]), "d", "and the leader reads on");
    }
}

#[test]
fn who_cannot_have_all_of_it_is_never_the_one_that_is_kept() {
    let (sender, kept, mut first, (second_id, mut second)) = two(2);
    sender.data("ab");
    sender.data("c");
    assert_eq!(read(&mut first), "abc", "more than is kept");
    assert!(!kept.claim(second_id), "it never had what the first has");
    assert!(
        !kept.release(ReaderId::FIRST),
        "nobody else could send the request"
    );
    waits_until(&mut second, "its end has come", || {
        assert!(kept.release(second_id));
    });
    assert!(kept.claim(ReaderId::FIRST));
    sender.data("d");
    assert_eq!(read(&mut first), "d", "the one that can reads on");
}

#[test]
fn once_one_is_to_be_kept_no_other_gets_ahead_of_it() {
    let (sender, kept, mut first, (second_id, mut second)) = two(2);
    sender.data("ab");
    assert_eq!(read(&mut first), "ab");
    assert!(kept.claim(second_id));
    sender.data("c");
    waits_until(&mut first, "its end has come", || kept.commit_to(second_id));
    assert_eq!(read(&mut second), "abc", "all of it");
}

#[test]
fn a_body_that_fails_says_so_to_one_and_the_others_wait_for_their_end() {
    let (sender, kept, mut first, (_, mut second)) = two(100);
    sender.data("a");
    sender.0.send(Err(std::io::Error::other("gone"))).unwrap();
    assert!(matches!(poll(&mut second), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(poll(&mut first), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(poll(&mut first), Poll::Ready(Some(Err(_)))));
    assert!(kept.has_failed());
    waits_until(&mut second, "when the call is over", || drop(kept));
}

#[test]
fn the_one_that_is_kept_reads_on_and_nothing_is_kept_beyond_it() {
    let (sender, kept, mut first, (second_id, mut second)) = two(100);
    sender.data("a");
    sender.data("b");
    assert_eq!(read(&mut first), "ab");
    kept.commit_to(second_id);
    ends_with_an_error(&mut first);
    sender.data("c");
    assert_eq!(read(&mut second), "abc", "from its beginning");
    assert_eq!(lock(&kept.0).unwrap().taken.len(), 0, "and forgotten");
    assert!(kept.beside().is_none(), "there is no other");
}

#[tokio::test]
async fn many_readers_in_tasks_of_their_own_have_it_whole() {
    let (sender, frames) = stream();
    let (kept, first) = Kept::new(frames, 5_000);
    let beside = (0..4).map(|_| kept.beside().unwrap().1);
    let readers: Vec<_> = std::iter::once(first)
        .chain(beside)
        .map(|body| tokio::spawn(async move { body.collect().await.unwrap().to_bytes() }))
        .collect();
    for _ in 0..1_000 {
        sender.data("abcde");
        tokio::task::yield_now().await;
    }
    drop(sender);
    let limit = std::time::Duration::from_secs(20);
    for reader in readers {
        let body = tokio::time::timeout(limit, reader).await;
        let body = body.expect("nobody waits for ever").unwrap();
        assert_eq!(body, "abcde".repeat(1_000));
    }
}
