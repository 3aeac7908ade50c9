use std::collections::VecDeque;
use std::convert::Infallible;

use futures::task::noop_waker_ref;
use http::HeaderMap;
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::*;

mod side_by_side;

type Frames = StreamBody<UnboundedReceiverStream<Result<Frame<Bytes>, std::io::Error>>>;

struct Sender(mpsc::UnboundedSender<Result<Frame<Bytes>, std::io::Error>>);

impl Sender {
    fn data(&self, data: &'static str) {
        self.0.send(Ok(Frame::data(data.into()))).unwrap();
    }
}

fn stream() -> (Sender, Frames) {
    let (sender, frames) = mpsc::unbounded_channel();
    (
        Sender(sender),
        StreamBody::new(UnboundedReceiverStream::new(frames)),
    )
}

fn poll<B>(body: &mut RetryBody<B>) -> Polled
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    Pin::new(body).poll_frame(&mut Context::from_waker(noop_waker_ref()))
}

/// The data that is there now.
fn read<B>(body: &mut RetryBody<B>) -> String
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let mut text = String::new();
    while let Poll::Ready(Some(frame)) = poll(body) {
        match frame.expect("the body is well").into_data() {
            Ok(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
            Err(_) => text.push_str("<trailers>"),
        }
    }
    text
}

#[test]
fn a_later_attempt_reads_from_the_beginning_and_goes_on_with_the_rest() {
    let (sender, frames) = stream();
    let (kept, mut first) = Kept::new(frames, 100);
    sender.data("a");
    sender.data("b");
    assert_eq!(read(&mut first), "ab", "it streams on while it is kept");
    let mut second = kept.next().expect("all of it is there");
    assert_eq!(read(&mut second), "ab", "from the beginning");
    sender.data("c");
    let mut third = kept.next().unwrap();
    assert_eq!(read(&mut third), "abc", "what nobody has read yet, too");
    drop(sender);
    assert!(matches!(poll(&mut third), Poll::Ready(None)), "its end");
    let mut fourth = kept.next().unwrap();
    assert_eq!(read(&mut fourth), "abc");
    assert!(fourth.is_end_stream());
}

#[test]
fn an_attempt_that_was_replaced_cannot_end_as_if_it_were_whole() {
    let (kept, mut first) = Kept::new(Full::new(Bytes::from("a")), 100);
    let mut second = kept.next().unwrap();
    assert!(!first.is_end_stream());
    let Poll::Ready(Some(Err(error))) = poll(&mut first) else {
        panic!("it is told at once");
    };
    assert!(error.to_string().contains("sent again"), "{error}");
    assert_eq!(read(&mut second), "a", "the new one has it all");
}

#[tokio::test]
async fn an_attempt_that_waits_for_the_body_is_woken_when_it_is_replaced() {
    let (_sender, frames) = stream();
    let (kept, mut first) = Kept::new(frames, 100);
    let waiting = tokio::spawn(async move { first.frame().await });
    tokio::task::yield_now().await;
    let _second = kept.next().unwrap();
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await;
    let frame = ended.expect("it does not wait for ever").unwrap();
    assert!(matches!(frame, Some(Err(_))), "and is over");
}

#[test]
fn more_than_the_limit_is_not_kept_and_all_of_it_is_sent() {
    let (sender, frames) = stream();
    let (kept, mut first) = Kept::new(frames, 3);
    sender.data("abc");
    assert_eq!(read(&mut first), "abc");
    assert!(kept.is_whole(), "just at the limit");
    sender.data("d");
    assert_eq!(read(&mut first), "d", "it streams on");
    assert!(!kept.is_whole(), "beyond it");
    assert!(kept.next().is_none(), "and cannot be sent again");
    sender.data("e");
    assert_eq!(read(&mut first), "e");
}

#[test]
fn empty_frames_are_sent_and_not_kept() {
    let (sender, frames) = stream();
    let (kept, mut first) = Kept::new(frames, 2);
    for _ in 0..1_000 {
        sender.data("");
    }
    sender.data("a");
    sender.data("");
    sender.data("b");
    let mut frames = 0;
    while let Poll::Ready(Some(frame)) = poll(&mut first) {
        frame.expect("the body is well");
        frames += 1;
    }
    assert_eq!(frames, 1_003, "the server gets them as they come");
    assert!(kept.is_whole());
    let held = lock(&kept.0).unwrap().taken.len();
    assert_eq!(held, 2, "what is free of the limit takes no room");
    assert_eq!(read(&mut kept.next().unwrap()), "ab");
}

#[test]
fn a_response_that_begins_ends_the_keeping_but_not_the_request() {
    let (sender, frames) = stream();
    let (kept, mut first) = Kept::new(frames, 100);
    sender.data("a");
    sender.data("b");
    assert_eq!(read(&mut first), "ab");
    let mut second = kept.next().unwrap();
    let Poll::Ready(Some(Ok(frame))) = poll(&mut second) else {
        panic!("there is a frame");
    };
    assert_eq!(frame.into_data().unwrap(), "a");
    kept.commit();
    assert!(kept.next().is_none(), "there is no third");
    sender.data("c");
    assert_eq!(
        read(&mut second),
        "bc",
        "the second has the rest of what was kept, and what comes"
    );
    let state = lock(&kept.0).unwrap();
    assert_eq!(state.taken.len(), 0, "nothing is kept any more");
}

#[test]
fn trailers_are_sent_again_too() {
    let (sender, frames) = stream();
    let (kept, mut first) = Kept::new(frames, 100);
    sender.data("a");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "1".parse().unwrap());
    sender.0.send(Ok(Frame::trailers(trailers))).unwrap();
    assert_eq!(read(&mut first), "a<trailers>");
    let mut second = kept.next().unwrap();
    assert_eq!(read(&mut second), "a<trailers>");
    assert!(second.is_end_stream());
}

#[test]
fn a_body_that_failed_is_not_sent_again() {
    let (sender, frames) = stream();
    let (kept, mut first) = Kept::new(frames, 100);
    sender.data("a");
    sender.0.send(Err(std::io::Error::other("gone"))).unwrap();
    assert!(matches!(poll(&mut first), Poll::Ready(Some(Ok(_)))));
    assert!(matches!(poll(&mut first), Poll::Ready(Some(Err(_)))));
    assert!(!kept.is_whole(), "the request is not whole");
    assert!(kept.next().is_none());
}

#[test]
fn the_hints_are_those_of_the_whole_body_at_each_attempt() {
    let (kept, mut first) = Kept::new(Full::new(Bytes::from("abc")), 100);
    assert_eq!(first.size_hint().exact(), Some(3));
    assert!(!first.is_end_stream());
    read(&mut first);
    assert_eq!(first.size_hint().exact(), Some(0));
    assert!(first.is_end_stream());
    let second = kept.next().unwrap();
    assert_eq!(second.size_hint().exact(), Some(3), "from the beginning");
    assert!(!second.is_end_stream());
    let (_kept, empty) = Kept::new(Empty::<Bytes>::new(), 100);
    assert!(
        empty.is_end_stream(),
        "an empty body says so before it is read"
    );
}

#[test]
fn data_that_is_not_in_one_piece_is_sent_whole() {
    let piece = VecDeque::from(b"abc".to_vec());
    let body = Full::new(piece).map_err(|never: Infallible| match never {});
    let (kept, mut first) = Kept::new(body, 100);
    assert_eq!(read(&mut first), "abc");
    assert_eq!(read(&mut kept.next().unwrap()), "abc");
}
