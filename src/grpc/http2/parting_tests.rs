use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;

use super::*;

fn update(stream: u32, increment: u32) -> Vec<u8> {
    let mut frame = HEADER.to_vec();
    frame.extend(stream.to_be_bytes());
    frame.extend(increment.to_be_bytes());
    frame
}

fn parting(room: usize) -> (Parting<DuplexStream>, Refusing, DuplexStream) {
    let (client, server) = tokio::io::duplex(room);
    let refusing = Refusing::default();
    (Parting::new(client, refusing.clone()), refusing, server)
}

/// What has come.
async fn came(server: &mut DuplexStream) -> Vec<u8> {
    let mut bytes = vec![0; 1024];
    let read = timeout(Duration::ZERO, server.read(&mut bytes)).await;
    bytes.truncate(read.map_or(0, |read| read.expect("a pipe")));
    bytes
}

async fn poll_read(io: &mut Parting<DuplexStream>) -> Poll<usize> {
    let mut bytes = vec![0; 1024];
    let mut buf = ReadBuf::new(&mut bytes);
    let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *io).poll_read(cx, &mut buf))).await;
    polled.map(|read| {
        read.expect("a pipe");
        buf.filled().len()
    })
}

#[tokio::test(start_paused = true)]
async fn updates_pass_until_the_connection_takes_no_more_calls() {
    let (mut io, refusing, mut server) = parting(1024);
    io.write_all(&update(1, 5)).await.unwrap();
    assert_eq!(
        came(&mut server).await,
        update(1, 5),
        "it takes calls still"
    );
    refusing.set();
    io.write_all(&update(1, 6)).await.unwrap();
    io.flush().await.unwrap();
    assert_eq!(came(&mut server).await, b"", "kept");
    io.write_all(&[update(0, 7), update(1, 8)].concat())
        .await
        .unwrap();
    assert_eq!(came(&mut server).await, b"", "two in one write too");
    let third = update(3, 1);
    let slices = [io::IoSlice::new(&third)];
    assert_eq!(
        io.write_vectored(&slices).await.unwrap(),
        FRAME_LEN,
        "it counts as written"
    );
    assert_eq!(came(&mut server).await, b"", "as a slice too");
    io.write_all(b"a frame").await.unwrap();
    let all = [
        update(1, 6),
        update(0, 7),
        update(1, 8),
        update(3, 1),
        b"a frame".into(),
    ]
    .concat();
    assert_eq!(
        came(&mut server).await,
        all,
        "what belongs to a call that goes on takes them along, in their order"
    );
    io.write_all(&[update(1, 9), b"x".into()].concat())
        .await
        .unwrap();
    assert_eq!(came(&mut server).await.len(), 14, "not with other bytes");
}

#[tokio::test(start_paused = true)]
async fn an_update_goes_out_when_the_server_has_used_what_it_had() {
    let (mut io, refusing, mut server) = parting(1024);
    refusing.set();
    io.write_all(&update(1, 50)).await.unwrap();
    for piece in [40, 59] {
        server.write_all(&vec![0; piece]).await.unwrap();
        assert_eq!(
            poll_read(&mut io).await,
            Poll::Ready(piece),
            "what came is passed on"
        );
        assert_eq!(came(&mut server).await, b"", "100 bytes are allowed");
    }
    server.write_all(&[0]).await.unwrap();
    assert!(poll_read(&mut io).await.is_ready(), "the last one too");
    assert_eq!(
        came(&mut server).await,
        update(1, 50),
        "then the server needs it"
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_goes_out_when_the_server_falls_silent() {
    let (mut io, refusing, mut server) = parting(1024);
    refusing.set();
    io.write_all(&update(1, 5000)).await.unwrap();
    let mut bytes = [0; 64];
    for _ in 0..10 {
        tokio::time::advance(SILENCE / 2).await;
        server.write_all(b"more").await.unwrap();
        assert_eq!(
            io.read(&mut bytes).await.unwrap(),
            4,
            "what came is passed on"
        );
    }
    assert_eq!(came(&mut server).await, b"", "it is not silent");
    let began = Instant::now();
    // Nothing but the timer wakes the reader.
    let reader = tokio::spawn(async move { io.read(&mut bytes).await });
    let mut got = [0; FRAME_LEN];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(got[..], update(1, 5000), "the update that was kept");
    // The timer has whole milliseconds.
    let waited = began.elapsed();
    assert!(
        waited >= SILENCE && waited <= SILENCE + Duration::from_millis(2),
        "{waited:?}"
    );
    reader.abort();
}

#[tokio::test(start_paused = true)]
async fn the_silence_wakes_a_task_that_only_wrote() {
    let (mut io, refusing, mut server) = parting(1024);
    refusing.set();
    let mut wrote = false;
    let writer = tokio::spawn(poll_fn(move |cx| {
        // As a connection that has just read all there was, and reads again only when it is woken.
        if !std::mem::replace(&mut wrote, true) {
            let kept = Pin::new(&mut io).poll_write(cx, &update(1, 5));
            assert!(
                matches!(kept, Poll::Ready(Ok(FRAME_LEN))),
                "it counts as written"
            );
            return Poll::Pending;
        }
        let mut bytes = [0; 8];
        Pin::new(&mut io).poll_read(cx, &mut ReadBuf::new(&mut bytes))
    }));
    let mut got = [0; FRAME_LEN];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(got[..], update(1, 5), "the update that was kept");
    writer.abort();
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_little_gets_whole_frames_in_order() {
    let (mut io, refusing, mut server) = parting(8);
    refusing.set();
    let expected = [update(0, 1), update(1, 2), b"a frame".into()].concat();
    let writer = tokio::spawn(async move {
        io.write_all(&update(0, 1)).await.unwrap();
        io.write_all(&update(1, 2)).await.unwrap();
        io.write_all(b"a frame").await.unwrap();
        io
    });
    let mut got = vec![0; expected.len()];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(got, expected, "whole and in order");
    let _io = writer.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_does_not_send_what_nobody_needs() {
    let (mut io, refusing, mut server) = parting(1024);
    refusing.set();
    io.write_all(&update(0, 1)).await.unwrap();
    io.shutdown().await.unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"", "no update");
}
