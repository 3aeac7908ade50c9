use std::collections::VecDeque;
use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::*;
use crate::grpc::http2::frames::tests::frame;
use crate::grpc::http2::{Caller, ConnectionGauge};

/// A transport whose writes fail from the start and whose reads follow a script; after the script
/// they stay pending.
#[derive(Default)]
struct Broken {
    reads: VecDeque<io::Result<Vec<u8>>>,
    writes: usize,
}

impl AsyncRead for Broken {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.reads.pop_front() {
            Some(Ok(bytes)) => {
                buf.put_slice(&bytes);
                Poll::Ready(Ok(()))
            }
            Some(Err(error)) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }
}

impl AsyncWrite for Broken {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writes += 1;
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
    }
}

struct Watched<T> {
    io: ObservedIo<T>,
    settings: SettingsSeen,
    events: ConnectionEvents,
    refusing: Refusing,
    gauge: ConnectionGauge,
}

fn watch<T>(io: T) -> Watched<T> {
    let events = ConnectionEvents::detached();
    let refusing = Refusing::default();
    let gauge = ConnectionGauge::default();
    let stall = Stall::new(&Caller::default(), Duration::from_secs(20));
    let counted = gauge.enter();
    let (io, settings) = ObservedIo::new(io, events.clone(), refusing.clone(), stall, counted);
    Watched {
        io,
        settings,
        events,
        refusing,
        gauge,
    }
}

fn broken(reads: impl IntoIterator<Item = io::Result<Vec<u8>>>) -> Watched<Broken> {
    watch(Broken {
        reads: reads.into_iter().collect(),
        writes: 0,
    })
}

async fn read(io: &mut ObservedIo<Broken>) -> io::Result<usize> {
    let mut buf = [0; 64];
    timeout(Duration::from_secs(30), io.read(&mut buf))
        .await
        .expect("a read ends")
}

#[tokio::test]
async fn settings_are_told_once_and_an_acknowledgement_is_none() {
    let (client, mut server) = tokio::io::duplex(64);
    let mut watched = watch(client);
    let mut buf = [0; 9];
    server.write_all(&frame(4, 1, 0)).await.unwrap();
    watched.io.read_exact(&mut buf).await.unwrap();
    assert!(
        watched.settings.try_recv().is_err(),
        "an ACK of our own SETTINGS is not the server's SETTINGS"
    );
    server.write_all(&frame(4, 0, 0)).await.unwrap();
    watched.io.read_exact(&mut buf).await.unwrap();
    assert!(
        watched.settings.try_recv().unwrap().is_ok(),
        "the server's SETTINGS are told"
    );
    assert!(!watched.events.has_ended(), "nothing has ended");
}

#[tokio::test]
async fn a_goaway_stops_calls_at_its_header_and_is_told_with_its_reason() {
    let (client, mut server) = tokio::io::duplex(64);
    let mut watched = watch(client);
    let goaway = frame(7, 0, 8);
    // The payload is still on its way.
    server.write_all(&goaway[..9]).await.unwrap();
    watched.io.read_exact(&mut [0; 9]).await.unwrap();
    assert!(watched.refusing.get(), "the service refuses calls");
    assert!(
        !watched.events.has_ended(),
        "whether the server wants a pause is not known yet"
    );
    server.write_all(&goaway[9..]).await.unwrap();
    watched.io.read_exact(&mut [0; 8]).await.unwrap();
    assert!(watched.events.has_ended(), "the balancer knows");
}

#[tokio::test]
async fn no_frame_is_seen_in_bytes_that_are_encrypted() {
    let (client, mut server) = tokio::io::duplex(64);
    let mut watched = watch(client);
    watched.io = watched.io.encrypted();
    // As chance may have it.
    let bytes = [frame(4, 0, 0), frame(7, 0, 8)].concat();
    server.write_all(&bytes).await.unwrap();
    let mut buf = vec![0; bytes.len()];
    watched.io.read_exact(&mut buf).await.unwrap();
    assert_eq!(buf, bytes, "nothing is kept back");
    assert!(
        !watched.refusing.get() && !watched.events.has_ended(),
        "a healthy connection goes on"
    );
    assert!(
        watched.settings.try_recv().is_err(),
        "nor does it tell of SETTINGS"
    );
    drop(server);
    assert_eq!(watched.io.read(&mut buf).await.unwrap(), 0, "its end");
    assert!(watched.events.has_ended(), "is seen nevertheless");
}

#[tokio::test]
async fn the_end_of_the_stream_is_told_with_the_reason_for_a_missing_settings() {
    let mut watched = broken([Ok(vec![])]);
    assert_eq!(
        read(&mut watched.io).await.unwrap(),
        0,
        "the end is passed on"
    );
    assert!(watched.events.has_ended(), "an EOF ends the connection");
    let error = watched.settings.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");

    let mut watched = broken([Err(io::ErrorKind::ConnectionReset.into())]);
    read(&mut watched.io).await.unwrap_err();
    assert!(watched.events.has_ended(), "so does a read error");
    let error = watched.settings.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");

    let mut watched = broken([Ok(b"HTTP/1.1 400 Bad Request\r\n".to_vec())]);
    read(&mut watched.io).await.unwrap();
    drop(watched.io);
    assert!(
        watched.events.has_ended(),
        "so does the drop of the transport"
    );
    let error = watched.settings.await.unwrap().unwrap_err();
    assert!(
        error.to_string().contains("does not speak HTTP/2"),
        "a peer of another protocol is named: {error}"
    );
    assert_eq!(
        watched.gauge.open(),
        0,
        "a dropped transport is not counted"
    );
}

#[tokio::test]
async fn a_goaway_behind_a_failed_write_is_still_read() {
    let mut watched = broken([Ok(frame(7, 0, 8)), Ok(vec![])]);
    let io = &mut watched.io;
    assert_eq!(io.write(b"abc").await.unwrap(), 3, "the error is held back");
    assert!(watched.events.has_ended(), "but no new call comes here");
    io.flush().await.expect("flush too");
    io.shutdown().await.expect("shutdown too");
    assert_eq!(
        io.write(b"def").await.unwrap(),
        3,
        "later bytes are dropped"
    );
    assert_eq!(read(io).await.unwrap(), 17, "the GOAWAY arrives");
    assert_eq!(read(io).await.unwrap(), 0, "then the end");
    assert_eq!(
        io.write(b"ghi").await.unwrap_err().kind(),
        io::ErrorKind::BrokenPipe,
        "after the reads ended, the error comes out"
    );
    assert_eq!(
        io.io.writes, 1,
        "a failed transport is not written to again"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_write_with_silent_reads_comes_out_after_the_grace() {
    let mut watched = broken([]);
    let started = Instant::now();
    watched.io.write_all(b"abc").await.unwrap();
    let error = read(&mut watched.io).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "the write's error");
    assert!(
        started.elapsed() >= WRITE_ERROR_GRACE,
        "not before the grace is over: {:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn the_grace_wakes_a_task_that_polled_nothing_but_the_write() {
    let mut watched = broken([]);
    let ended = poll_fn(|cx| {
        // Writes first, as h2 does, and looks at the reads only when woken.
        if watched.io.write_error.is_none() {
            let written = Pin::new(&mut watched.io).poll_write(cx, b"abc");
            assert!(matches!(written, Poll::Ready(Ok(3))), "held back");
            return Poll::Pending;
        }
        let mut buf = [0; 8];
        Pin::new(&mut watched.io).poll_read(cx, &mut ReadBuf::new(&mut buf))
    });
    let error = timeout(Duration::from_secs(30), ended)
        .await
        .expect("the timer wakes the writer's task")
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe, "the write's error");
}

#[tokio::test]
async fn a_write_of_nothing_counts_as_failed() {
    struct Full;
    impl AsyncWrite for Full {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(0))
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }
    let mut watched = watch(Full);
    assert_eq!(
        watched.io.write(b"abc").await.unwrap(),
        3,
        "the error is held back"
    );
    assert!(
        watched.events.has_ended(),
        "a full transport is a broken one"
    );
}

/// SETTINGS, then what a server that shuts down gracefully says first: a GOAWAY that refuses no
/// stream, and a PING.
fn settings_and_farewell() -> (Vec<u8>, Vec<u8>) {
    let mut farewell = frame(FrameHeaders::GOAWAY, 0, 8);
    farewell[9..].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
    farewell.extend(frame(6, 0, 8));
    (frame(4, 0, 0), farewell)
}

/// What one poll of the reading side gives.
async fn poll_once<T: AsyncRead + Unpin>(io: &mut ObservedIo<T>) -> Option<Vec<u8>> {
    let mut bytes = [0; 1024];
    let mut buf = ReadBuf::new(&mut bytes);
    let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *io).poll_read(cx, &mut buf))).await;
    polled.is_ready().then(|| buf.filled().to_vec())
}

#[tokio::test]
async fn a_first_goaway_is_kept_until_what_is_queued_is_sent() {
    let (client, mut server) = tokio::io::duplex(1024);
    let mut watched = watch(client);
    let (settings, farewell) = settings_and_farewell();
    let both = [settings.clone(), farewell.clone()].concat();
    server.write_all(&both).await.unwrap();
    let io = &mut watched.io;
    assert_eq!(
        poll_once(io).await,
        Some(settings),
        "what came before is passed on"
    );
    assert!(
        watched.refusing.get() && watched.events.has_ended(),
        "no new call comes here from now on"
    );
    for request in [b"abc", b"def"] {
        assert_eq!(poll_once(io).await, None, "the GOAWAY is kept");
        io.write_all(request).await.unwrap();
        io.flush().await.unwrap();
    }
    assert_eq!(
        poll_once(io).await,
        None,
        "one more look for what is queued"
    );
    io.flush().await.unwrap();
    assert_eq!(
        poll_once(io).await,
        None,
        "and one after a turn of the task"
    );
    io.flush().await.unwrap();
    assert_eq!(
        poll_once(io).await,
        Some(farewell.clone()),
        "then it is passed on, whole"
    );

    let (mut last, _) = settings_and_farewell();
    last.extend(frame(FrameHeaders::GOAWAY, 0, 8));
    server.write_all(&last).await.unwrap();
    assert_eq!(
        poll_once(io).await,
        Some(last),
        "the GOAWAY that names the last stream is not kept"
    );
    server.write_all(&farewell).await.unwrap();
    assert_eq!(
        poll_once(io).await,
        Some(farewell),
        "only the first farewell is kept"
    );
}

#[tokio::test]
async fn a_farewell_is_whole_wherever_it_is_cut() {
    let (settings, farewell) = settings_and_farewell();
    let bytes = [settings, farewell].concat();
    for cut in 1..bytes.len() {
        let (client, mut server) = tokio::io::duplex(1024);
        let mut watched = watch(client);
        let mut got = Vec::new();
        for piece in [&bytes[..cut], &bytes[cut..]] {
            server.write_all(piece).await.unwrap();
            for _ in 0..4 {
                got.extend(poll_once(&mut watched.io).await.unwrap_or_default());
                watched.io.flush().await.unwrap();
            }
        }
        assert_eq!(got, bytes, "nothing is lost or changed, cut at byte {cut}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_farewell_does_not_wait_for_writes_that_never_pause() {
    let (client, mut server) = tokio::io::duplex(1024);
    let mut watched = watch(client);
    let (_, farewell) = settings_and_farewell();
    server.write_all(&farewell).await.unwrap();
    let started = Instant::now();
    let mut got = vec![0; farewell.len()];
    let read = watched.io.read_exact(&mut got);
    let read = timeout(Duration::from_secs(30), read).await;
    read.expect("the wait has an end").unwrap();
    assert_eq!(got, farewell, "it is passed on whole");
    assert!(
        started.elapsed() >= Duration::from_millis(100),
        "but it does wait"
    );
}

#[tokio::test]
async fn a_farewell_is_passed_on_when_writes_have_failed() {
    let (_, farewell) = settings_and_farewell();
    let mut watched = broken([Ok(farewell.clone()), Ok(vec![])]);
    let io = &mut watched.io;
    assert_eq!(poll_once(io).await, None, "the GOAWAY is kept");
    io.write_all(b"abc").await.unwrap();
    assert_eq!(
        poll_once(io).await,
        Some(farewell),
        "nothing more can be sent, so there is nothing to wait for"
    );
}
