use std::future::poll_fn;
use std::task::Waker;

use http_body_util::{BodyExt, Full};
use tonic::body::Body;

use super::*;
use crate::grpc::http2::streams::Streams;

/// A body from a script of frames.
struct Script(VecDeque<Result<Frame<Bytes>, tonic::Status>>);

impl HttpBody for Script {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Poll::Ready(self.0.pop_front())
    }
}

fn script(frames: impl IntoIterator<Item = Result<Frame<Bytes>, tonic::Status>>) -> Request<Body> {
    let mut request = Request::post("/p.S/M")
        .header("a", "1")
        .header("a", "2")
        .extension(7_u8)
        .body(Body::new(Script(frames.into_iter().collect())))
        .unwrap();
    *request.version_mut() = Version::HTTP_2;
    request
}

fn data(text: &'static str) -> Result<Frame<Bytes>, tonic::Status> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

fn split(request: Request<Body>, limit: usize) -> (Request<ReplayBody>, Replay) {
    let stream = Arc::<Streams>::default().open_anyway();
    split_on(request, limit, stream)
}

fn split_on(
    request: Request<Body>,
    limit: usize,
    stream: OpenStream,
) -> (Request<ReplayBody>, Replay) {
    let uri = Uri::from_static("http://h:1/p.S/M");
    Replay::split(request, |_| uri, limit, stream)
}

async fn next(body: &mut ReplayBody) -> Option<Result<Frame<Bytes>, BoxError>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

async fn collect(request: Request<Body>) -> (String, Option<HeaderMap>) {
    let collected = request.into_body().collect().await.unwrap();
    let trailers = collected.trailers().cloned();
    let bytes = collected.to_bytes();
    (String::from_utf8(bytes.to_vec()).unwrap(), trailers)
}

#[tokio::test]
async fn a_request_comes_back_whole_wherever_it_was_left() {
    for taken in 0..=4 {
        let mut trailers = HeaderMap::new();
        trailers.insert("t", "9".parse().unwrap());
        let trailers = Ok(Frame::trailers(trailers));
        let request = script([data("one"), data("two"), data("three"), trailers]);
        let (sent, kept) = split(request, 1024);
        assert!(
            sent.extensions().is_empty(),
            "hyper gets no extensions, they stay here"
        );
        let mut body = sent.into_body();
        for _ in 0..taken {
            next(&mut body).await.unwrap().unwrap();
        }
        assert_eq!(kept.is_untouched(), taken == 0, "after {taken} frames");
        let back = kept.rebuild().expect("it fits");
        assert_eq!(back.method(), Method::POST, "its own method");
        assert_eq!(back.uri(), "/p.S/M", "its own URI");
        assert_eq!(back.version(), Version::HTTP_2, "its own version");
        assert_eq!(
            back.headers().get_all("a").iter().count(),
            2,
            "all its headers"
        );
        assert_eq!(back.extensions().get(), Some(&7_u8), "its own extensions");
        let (text, trailers) = collect(back).await;
        assert_eq!(text, "onetwothree", "after {taken} frames");
        assert_eq!(trailers.unwrap()["t"], "9", "after {taken} frames");
    }
}

#[tokio::test]
async fn what_hyper_still_holds_ends_with_an_error() {
    let (sent, kept) = split(script([data("one"), data("two")]), 1024);
    let mut body = sent.into_body();
    next(&mut body).await.unwrap().unwrap();
    let back = kept.rebuild().expect("it fits");
    assert!(
        next(&mut body).await.unwrap().is_err(),
        "the old stream must not look complete"
    );
    assert_eq!(collect(back).await.0, "onetwo", "and takes nothing away");
}

#[tokio::test]
async fn a_second_refusal_is_survived_too() {
    let mut request = script([data("one"), data("two"), data("three")]);
    for _ in 0..3 {
        let (sent, kept) = split(request, 1024);
        let mut body = sent.into_body();
        next(&mut body).await.unwrap().unwrap();
        next(&mut body).await.unwrap().unwrap();
        request = kept.rebuild().expect("it fits");
    }
    assert_eq!(
        collect(request).await.0,
        "onetwothree",
        "it is whole each time"
    );
}

#[tokio::test]
async fn over_the_limit_nothing_comes_back() {
    let (sent, kept) = split(script([data("12345"), data("67890")]), 9);
    let mut body = sent.into_body();
    next(&mut body).await.unwrap().unwrap();
    next(&mut body).await.unwrap().unwrap();
    assert!(
        body.shared.lock().unwrap().taken.is_none(),
        "the copy is freed at once"
    );
    assert!(kept.rebuild().is_none(), "a part is no request");

    let (sent, kept) = split(script([data("12345"), data("6789")]), 9);
    let mut body = sent.into_body();
    while next(&mut body).await.is_some() {}
    assert!(kept.rebuild().is_some(), "exactly the limit fits");

    let (_sent, kept) = split(script([data("12345")]), 0);
    assert!(kept.rebuild().is_some(), "an untouched body needs no room");
}

#[tokio::test]
async fn a_body_that_failed_does_not_come_back() {
    let (sent, kept) = split(script([data("1"), Err(tonic::Status::aborted("x"))]), 1024);
    let mut body = sent.into_body();
    next(&mut body).await.unwrap().unwrap();
    let error = next(&mut body).await.unwrap().unwrap_err();
    assert!(error.is::<tonic::Status>(), "its own error passes: {error}");
    assert!(kept.rebuild().is_none(), "half a request is none");
}

#[tokio::test]
async fn the_copy_is_freed_when_the_response_begins() {
    let (sent, kept) = split(script([data("1"), data("2")]), 1024);
    let mut body = sent.into_body();
    next(&mut body).await.unwrap().unwrap();
    let _answered = kept.answered();
    assert!(
        body.shared.lock().unwrap().taken.is_none(),
        "nobody will ask for it"
    );
    assert!(
        next(&mut body).await.unwrap().is_ok(),
        "the rest of the request still flows"
    );
}

#[test]
fn an_empty_body_is_asked_before_it_ends() {
    let (sent, kept) = split(Request::new(Body::empty()), 1024);
    let mut body = sent.into_body();
    assert!(!body.is_end_stream(), "nothing was asked yet");
    assert_eq!(body.size_hint().exact(), Some(0), "its length is known");
    let mut cx = Context::from_waker(Waker::noop());
    let polled = Pin::new(&mut body).poll_frame(&mut cx);
    assert!(matches!(polled, Poll::Ready(None)), "it is empty");
    assert!(body.is_end_stream(), "and says so");
    assert!(!kept.is_untouched(), "it was asked for");
    assert!(
        kept.rebuild().expect("it fits").body().is_end_stream(),
        "what comes back is empty too"
    );
}

#[test]
fn a_known_length_stays_known() {
    let request = Request::new(Body::new(Full::new(Bytes::from_static(b"12345"))));
    let (sent, kept) = split(request, 1024);
    let mut body = sent.into_body();
    assert_eq!(body.size_hint().exact(), Some(5), "before it is sent");
    let mut cx = Context::from_waker(Waker::noop());
    assert!(
        Pin::new(&mut body).poll_frame(&mut cx).is_ready(),
        "the frame is there"
    );
    assert!(
        body.is_end_stream(),
        "the end that the body knows of is passed on: the last frame carries it"
    );
    let back = kept.rebuild().expect("it fits");
    assert_eq!(back.body().size_hint().exact(), Some(5), "and again");
}

#[tokio::test]
async fn the_last_frame_carries_the_end_of_the_stream() {
    let (sent, _kept) = split(script([data("one"), data("two")]), 1024);
    let mut body = sent.into_body();
    let first = next(&mut body).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "one", "the frame comes first");
    assert!(!body.is_end_stream(), "another frame follows");
    let second = next(&mut body).await.unwrap().unwrap();
    assert_eq!(second.into_data().unwrap(), "two", "the other frame");
    assert!(
        body.is_end_stream(),
        "no empty frame is needed after the last one"
    );
}

#[tokio::test]
async fn a_body_that_fails_after_a_frame_passes_the_frame_on_first() {
    let failed = Err(tonic::Status::data_loss("torn"));
    let (sent, _kept) = split(script([data("one"), failed]), 1024);
    let mut body = sent.into_body();
    let first = next(&mut body).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "one", "the frame comes first");
    assert!(!body.is_end_stream(), "an error is no end");
    let error = next(&mut body).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("torn"), "{error}");
}

#[derive(Default)]
struct Wakes(std::sync::atomic::AtomicUsize);

impl std::task::Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_request_whose_response_is_dropped_ends_with_a_cancellation() {
    let idle = http_body_util::StreamBody::new(futures::stream::pending::<
        Result<Frame<Bytes>, tonic::Status>,
    >());
    let (sent, kept) = split(Request::new(Body::new(idle)), 1024);
    let mut body = sent.into_body();
    let answered = kept.answered();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    let polled = Pin::new(&mut body).poll_frame(&mut cx);
    assert!(polled.is_pending(), "the request has nothing to say");
    drop(answered);
    assert_eq!(
        wakes.0.load(Ordering::SeqCst),
        1,
        "who waits for the request is told"
    );
    let error = next(&mut body).await.unwrap().unwrap_err();
    let reason = error.downcast::<h2::Error>().unwrap().reason();
    assert_eq!(reason, Some(h2::Reason::CANCEL), "for hyper to pass on");
    assert!(body.is_end_stream(), "nothing follows");
}

/// As a stream of requests that are made from the replies.
#[tokio::test]
async fn a_request_may_drop_its_own_response() {
    let own = Arc::new(Mutex::new(None::<Answered>));
    let held = own.clone();
    let stream = futures::stream::poll_fn(move |_| {
        held.lock().unwrap().take();
        Poll::<Option<Result<Frame<Bytes>, tonic::Status>>>::Pending
    });
    let body = Body::new(http_body_util::StreamBody::new(stream));
    let (sent, kept) = split(Request::new(body), 1024);
    let mut body = sent.into_body();
    *own.lock().unwrap() = Some(kept.answered());
    let ended = next(&mut body).await;
    assert!(
        matches!(ended, Some(Err(_))),
        "it is cancelled, and nothing is stuck"
    );
}

#[test]
fn a_stream_is_open_until_both_sides_have_ended_in_whatever_order() {
    let streams = Arc::<Streams>::default();
    let open = || streams.count().open();
    let both = || split_on(script([data("a")]), 100, streams.open_anyway());

    let (sent, kept) = both();
    drop(kept);
    assert_eq!(
        open(),
        1,
        "the response is given up, and the request is not"
    );
    drop(sent);
    assert_eq!(open(), 0, "nothing is left of the call");

    let (sent, kept) = both();
    drop(sent);
    assert_eq!(open(), 1, "the response may come yet");
    let answered = kept.answered();
    assert_eq!(open(), 1, "it has begun");
    drop(answered);
    assert_eq!(open(), 0, "it is given up");

    let (sent, kept) = both();
    let mut answered = kept.answered();
    answered.ended();
    assert_eq!(open(), 1, "the response has ended, and the request has not");
    drop(sent);
    assert_eq!(open(), 0, "both have ended, though the response is held");
    drop(answered);

    let (sent, kept) = both();
    drop(sent);
    let mut answered = kept.answered();
    answered.ended();
    assert_eq!(open(), 0, "and the other way round");

    let (sent, kept) = both();
    drop(kept.rebuild());
    assert_eq!(open(), 1, "hyper has its part of it");
    drop(sent);
    assert_eq!(
        open(),
        0,
        "a request that goes elsewhere is none of its streams"
    );
}
