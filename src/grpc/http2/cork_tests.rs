use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::task::{Wake, Waker};

use tokio::io::AsyncWriteExt;

use super::*;

/// Takes at most `room` bytes, a write at a time.
#[derive(Clone)]
struct Sink(Arc<Mutex<Written>>);

struct Written {
    writes: Vec<Vec<u8>>,
    room: usize,
    error: Option<io::ErrorKind>,
    shut: bool,
}

impl Sink {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Written {
            writes: Vec::new(),
            room: usize::MAX,
            error: None,
            shut: false,
        })))
    }

    fn writes(&self) -> Vec<String> {
        let written = self.0.lock().unwrap();
        let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
        written.writes.iter().map(text).collect()
    }
}

impl AsyncRead for Sink {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Sink {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut written = self.0.lock().unwrap();
        if let Some(kind) = written.error {
            return Poll::Ready(Err(kind.into()));
        }
        let len = buf.len().min(written.room);
        if len == 0 {
            return Poll::Pending;
        }
        written.room -= len;
        written.writes.push(buf[..len].to_vec());
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().unwrap().shut = true;
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn corked() -> (Corked<Sink>, Cork, Sink) {
    let (cork, sink) = (Cork::default(), Sink::new());
    (Corked::new(sink.clone(), cork.clone()), cork, sink)
}

fn read(io: &mut Corked<Sink>) -> Poll<io::Result<()>> {
    let mut space = [0; 8];
    let mut buf = ReadBuf::new(&mut space);
    Pin::new(io).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf)
}

#[tokio::test]
async fn writes_go_through_while_the_cork_is_not_held() {
    let (mut io, cork, sink) = corked();
    io.write_all(b"a").await.unwrap();
    io.write_all(b"b").await.unwrap();
    assert_eq!(sink.writes(), ["a", "b"], "nothing is gathered unasked");
    assert!(!cork.is_waiting(), "nothing waits");
}

#[tokio::test]
async fn held_writes_go_out_as_one_in_their_order_when_the_cork_is_released() {
    let (mut io, cork, sink) = corked();
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    let mut cx = Context::from_waker(&waker);
    cork.hold();
    io.write_all(b"head ").await.unwrap();
    assert!(
        Pin::new(&mut io).poll_flush(&mut cx).is_ready(),
        "the writer must not wait for what is held back"
    );
    let body = [io::IoSlice::new(b"bo"), io::IoSlice::new(b"dy")];
    let wrote = Pin::new(&mut io).poll_write_vectored(&mut cx, &body);
    assert!(matches!(wrote, Poll::Ready(Ok(4))), "all slices are taken");
    assert!(read(&mut io).is_pending(), "nothing came");
    assert!(sink.writes().is_empty(), "held");
    assert!(
        Pin::new(&mut io).poll_flush(&mut cx).is_ready(),
        "nor for a second flush"
    );
    assert!(cork.is_waiting(), "the cork knows that something waits");
    assert_eq!(wakes.0.load(Ordering::SeqCst), 0, "not before its time");
    cork.release();
    assert_eq!(wakes.0.load(Ordering::SeqCst), 1, "the writer is told");
    assert!(read(&mut io).is_pending(), "nothing came");
    assert_eq!(sink.writes(), ["head body"], "one write, in order");
    assert!(!cork.is_waiting(), "nothing waits");
}

#[tokio::test]
async fn what_does_not_fit_is_written_after_what_was_gathered() {
    let (mut io, cork, sink) = corked();
    cork.hold();
    io.write_all(b"small").await.unwrap();
    let large = vec![b'x'; BUFFER_BYTES];
    io.write_all(&large).await.unwrap();
    let writes = sink.writes();
    assert_eq!(writes.len(), 2, "what was gathered, and what did not fit");
    assert_eq!(writes[0], "small", "the order stays");
    assert_eq!(writes[1].len(), BUFFER_BYTES, "too much is not copied");
}

#[tokio::test]
async fn a_peer_that_takes_little_gets_the_rest_later() {
    let (mut io, cork, sink) = corked();
    cork.hold();
    io.write_all(b"0123456789").await.unwrap();
    sink.0.lock().unwrap().room = 4;
    cork.release();
    assert!(read(&mut io).is_pending(), "nothing came");
    assert_eq!(sink.writes(), ["0123"], "the peer takes no more");
    let mut cx = Context::from_waker(Waker::noop());
    assert!(
        Pin::new(&mut io).poll_flush(&mut cx).is_pending(),
        "a flush that is not held back waits for the peer"
    );
    // The next turn begins before the peer has taken the rest.
    cork.hold();
    assert!(read(&mut io).is_pending(), "nothing came");
    assert!(cork.is_waiting(), "the rest is not forgotten");
    sink.0.lock().unwrap().room = 100;
    cork.release();
    assert!(read(&mut io).is_pending(), "nothing came");
    assert_eq!(sink.writes(), ["0123", "456789"], "the rest, once");
}

#[tokio::test]
async fn nothing_is_left_behind_at_a_shutdown() {
    let (mut io, cork, sink) = corked();
    cork.hold();
    io.write_all(b"goaway").await.unwrap();
    io.shutdown().await.unwrap();
    assert_eq!(sink.writes(), ["goaway"], "the last words are sent");
    assert!(
        sink.0.lock().unwrap().shut,
        "and the transport is shut down"
    );
}

#[tokio::test]
async fn a_failed_write_is_told_to_the_next_one() {
    let (mut io, cork, sink) = corked();
    cork.hold();
    io.write_all(b"lost").await.unwrap();
    sink.0.lock().unwrap().error = Some(io::ErrorKind::BrokenPipe);
    cork.release();
    assert!(
        read(&mut io).is_pending(),
        "reading goes on: the peer may have said why it went"
    );
    let error = io.write_all(b"more").await.unwrap_err();
    assert_eq!(
        error.kind(),
        io::ErrorKind::BrokenPipe,
        "the error of the one before"
    );
}

/// A transport of its own buffer, as TLS is, gets to know of each flush.
#[tokio::test]
async fn a_flush_of_what_was_written_at_once_goes_through() {
    use tokio::io::AsyncReadExt;

    let (client, mut server) = tokio::io::duplex(1 << 20);
    let cork = Cork::default();
    let mut io = Corked::new(
        tokio::io::BufWriter::with_capacity(1 << 20, client),
        cork.clone(),
    );
    cork.hold();
    let large = vec![b'x'; BUFFER_BYTES + 1];
    io.write_all(&large).await.unwrap();
    io.flush().await.unwrap();
    assert!(!cork.is_waiting(), "so nobody comes back to it");
    let mut got = vec![0; large.len()];
    let read = server.read_exact(&mut got);
    tokio::time::timeout(std::time::Duration::from_secs(20), read)
        .await
        .expect("what was flushed arrives")
        .unwrap();
}
