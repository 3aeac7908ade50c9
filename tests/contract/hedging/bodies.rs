//! Requests that stream while several attempts read them.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_body_streams_to_two_attempts_at_once() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(50 * MILLI))));
    let (_balance, hedged) = hedging!(servers, names, policy(2));
    let (frames, body) = futures::channel::mpsc::unbounded();
    let send = |text: &'static str| {
        let frame = Ok::<_, std::io::Error>(Frame::data(Bytes::from(text)));
        frames.unbounded_send(frame).unwrap();
    };
    send("one ");
    let request = Request::new(StreamBody::new(body).boxed_unsync());
    let calling = tokio::spawn(async move { call_with(&hedged, request).await });
    let reached = servers.clone();
    tokio::time::sleep(150 * MILLI).await;
    assert_eq!(reached.count(), 2, "both have it, and wait for the rest");
    send("two ");
    settle().await;
    send("three");
    drop(frames);
    let answer = within("the call", calling).await.unwrap().unwrap();
    let said = answer.said.split_once(' ').unwrap().1;
    assert_eq!(said, "got one two three", "each has all of it");
}

#[tokio::test(start_paused = true)]
async fn a_request_beyond_what_is_kept_goes_on_at_one_endpoint_and_none_is_at_fault() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(50 * MILLI))));
    let hedge = HedgeLayer::new(policy(2).with_buffer_limit_bytes(8)).unwrap();
    let (balance, hedged) = hedging!(
        servers,
        names,
        RoundRobin::default(),
        at_the_first_failure(),
        hedge
    );
    let (frames, body) = futures::channel::mpsc::unbounded();
    let send = |text: &'static str| {
        let frame = Ok::<_, std::io::Error>(Frame::data(Bytes::from(text)));
        frames.unbounded_send(frame).unwrap();
    };
    send("12345678");
    let request = Request::new(StreamBody::new(body).boxed_unsync());
    let calling = tokio::spawn(async move { call_with(&hedged, request).await });
    tokio::time::sleep(150 * MILLI).await;
    assert_eq!(servers.count(), 2, "two attempts");
    send("9");
    settle().await;
    assert_eq!(servers.take_dropped().len(), 1, "one goes on");
    drop(frames);
    let answer = within("the call", calling).await.unwrap().unwrap();
    assert!(answer.said.ends_with("got 123456789"), "{answer:?}");
    for name in names {
        assert_eq!(endpoint(&balance, name).failures, 0, "no fault of {name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fails_by_itself_ends_the_call_and_sends_no_hedge() {
    let names = ["a", "b"];
    let servers = Servers::of(names.map(|name| (name, answers(50 * MILLI))));
    let (_balance, hedged) = hedging!(servers, names, policy(3));
    let (frames, body) = futures::channel::mpsc::unbounded();
    let request = Request::new(StreamBody::new(body).boxed_unsync());
    let calling = tokio::spawn(async move { call_with(&hedged, request).await });
    tokio::time::sleep(150 * MILLI).await;
    let broken = Err::<Frame<Bytes>, _>(std::io::Error::other("the caller's own"));
    frames.unbounded_send(broken).unwrap();
    let error = within("the call", calling).await.unwrap().unwrap_err();
    assert!(error.is_endpoint(), "as it was: {error}");
    settle().await;
    assert_eq!(servers.count(), 2, "no third attempt");
}
