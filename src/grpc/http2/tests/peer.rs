//! A server written frame by frame.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use tonic::body::Body;

use crate::connection::{ConnectionEvents, Connector, DialTerms, End, Ended};
use crate::endpoint::Endpoint;
use crate::grpc::http2::{ConnectError, Http2, Http2Connector, Http2Settings};
use crate::health::{Ejection, Ejections};
use crate::policy::Subchannel;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;

pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) const INTERNAL_ERROR: u32 = 2;
pub(super) const REFUSED_STREAM: u32 = 7;

/// The one entry of HPACK's static table for `:status: 200`.
pub(super) const STATUS_200: &[u8] = &[0x88];

const LIMIT: Duration = Duration::from_secs(30);

/// Every wait in these tests ends.
pub(super) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("timed out waiting for {what}"),
    }
}

/// What a connection tells of its end.
pub(super) struct Ends(mpsc::UnboundedReceiver<Ended>);

impl Ends {
    /// With the events by which it is told.
    pub(super) fn new() -> (ConnectionEvents, Self) {
        let (inbox, ends) = mpsc::unbounded_channel();
        let rules = Arc::new(Ejections::new(Ejection::off()));
        let subchannel = Arc::new(Subchannel::new(0, "peer".into(), rules));
        let terms = DialTerms::default();
        (
            ConnectionEvents::new(subchannel, 1, inbox, terms),
            Self(ends),
        )
    }

    /// Waits until it is told.
    pub(super) async fn told(&mut self, what: &str) {
        while let End::Beside(_) | End::Moved = self.next(what).await {}
    }

    /// Waits until it is told that an attempt to make a further connection failed.
    pub(super) async fn told_beside(&mut self, what: &str) {
        let end = self.next(what).await;
        let failed = matches!(end, End::Beside(Some(_)));
        assert!(failed, "{what}: {end:?}");
    }

    async fn next(&mut self, what: &str) -> End {
        let ended = soon(what, self.0.recv()).await;
        let Some(ended) = ended else {
            panic!("told before its events are gone: {what}");
        };
        ended.end
    }

    /// Whether it was told by now.
    pub(super) fn were_told(&mut self) -> bool {
        let told = std::iter::from_fn(|| self.0.try_recv().ok());
        told.filter(|ended| !matches!(ended.end, End::Beside(_) | End::Moved))
            .count()
            > 0
    }
}

/// The client's end of the pipe to a [`Peer`].
pub(super) struct Near {
    io: DuplexStream,
    broken: Arc<AtomicBool>,
    _alive: oneshot::Sender<()>,
}

impl AsyncRead for Near {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Near {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.broken.load(Ordering::SeqCst) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[derive(Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

pub(super) struct Peer {
    pub(super) io: DuplexStream,
    broken: Arc<AtomicBool>,
    gone: oneshot::Receiver<()>,
}

impl Peer {
    /// A peer, and the client's end of the pipe to it, with room for `buffer` bytes each way.
    pub(super) fn piped(buffer: usize) -> (Near, Self) {
        let (near, far) = tokio::io::duplex(buffer);
        let broken = Arc::<AtomicBool>::default();
        let (alive, gone) = oneshot::channel();
        let near = Near {
            io: near,
            broken: broken.clone(),
            _alive: alive,
        };
        let io = far;
        (near, Self { io, broken, gone })
    }

    /// From now on the client's writes fail, while its reads go on.
    pub(super) fn break_writes(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    /// Hangs up at once; the wait is for the client to let go of its end.
    pub(super) fn hang_up(self) -> impl Future<Output = ()> {
        drop(self.io);
        let_go(self.gone)
    }

    /// Waits until nothing of the client holds its end any more.
    pub(super) async fn let_go(self) {
        let _open = self.io;
        let_go(self.gone).await;
    }

    pub(super) async fn read_preface(&mut self) {
        let mut preface = [0; 24];
        soon("the preface", self.io.read_exact(&mut preface))
            .await
            .expect("a preface");
        assert_eq!(
            &preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "RFC 9113 section 3.4"
        );
    }

    /// The next frame, or `None` at the end.
    pub(super) async fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        let read = soon("a frame", self.io.read_exact(&mut header)).await;
        read.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        soon("a payload", self.io.read_exact(&mut payload))
            .await
            .ok()?;
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        })
    }

    /// The next frame of a kind, past all others.
    pub(super) async fn next(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.expect("the client is still there");
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads one request to its end; its stream and body.
    pub(super) async fn request(&mut self) -> (u32, Vec<u8>) {
        let stream = self.next(HEADERS).await.stream;
        let mut body = Vec::new();
        loop {
            let frame = self.next(DATA).await;
            assert_eq!(frame.stream, stream, "one request at a time");
            body.extend(frame.payload);
            if frame.flags & END_STREAM != 0 {
                return (stream, body);
            }
        }
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let len = (payload.len() as u32).to_be_bytes();
        let mut bytes = vec![len[1], len[2], len[3], kind, flags];
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        soon("room to write", self.io.write_all(&bytes))
            .await
            .expect("the client is still there");
    }

    pub(super) async fn settings(&mut self, settings: &[(u16, u32)]) {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        self.send(SETTINGS, 0, 0, &payload).await;
    }

    pub(super) async fn goaway(&mut self, last_stream: u32) {
        let payload = [last_stream.to_be_bytes(), [0; 4]].concat();
        self.send(GOAWAY, 0, 0, &payload).await;
    }

    pub(super) async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    /// Reads until the client has closed and let go of its end.
    pub(super) async fn closed(mut self) {
        while self.frame().await.is_some() {}
        self.let_go().await;
    }
}

async fn let_go(gone: oneshot::Receiver<()>) {
    let gone = soon("the client to let go of its end", gone).await;
    gone.expect_err("nothing is sent by this");
}

/// A connector whose dials end at in-memory peers with room for `buffer` bytes each way.
pub(super) fn connector(
    settings: Http2Settings,
    buffer: usize,
) -> (Http2Connector, mpsc::UnboundedReceiver<Peer>) {
    let (peers, accept) = mpsc::unbounded_channel();
    let dial = tower::service_fn(move |_: Uri| {
        let (near, peer) = Peer::piped(buffer);
        let sent = peers.send(peer);
        async move {
            sent.map_err(|_| io::Error::other("nobody accepts"))?;
            Ok::<_, io::Error>(TokioIo::new(near))
        }
    });
    let connector = Http2Connector::with_connector(settings, dial).expect("good settings");
    (connector, accept)
}

pub(super) struct Open {
    pub(super) service: Http2,
    pub(super) peer: Peer,
    pub(super) ends: Ends,
    pub(super) connector: Http2Connector,
}

pub(super) async fn connect(
    connector: &Http2Connector,
    events: ConnectionEvents,
) -> Result<Http2, ConnectError> {
    let endpoint = Endpoint::new("http://peer.test:80");
    soon("a connection", connector.connect(&endpoint, events)).await
}

/// A connection to a peer that has sent `settings`.
pub(super) async fn open_with(http2: Http2Settings, settings: &[(u16, u32)]) -> Open {
    let (connector, mut accept) = connector(http2, 1 << 20);
    let (events, ends) = Ends::new();
    let peer = async {
        let mut peer = soon("a dial", accept.recv()).await.expect("a dial");
        peer.read_preface().await;
        peer.settings(settings).await;
        peer
    };
    let (service, peer) = tokio::join!(connect(&connector, events), peer);
    Open {
        service: service.expect("it connects"),
        peer,
        ends,
        connector,
    }
}

pub(super) async fn open() -> Open {
    open_with(Http2Settings::default(), &[]).await
}

/// A gRPC-like request with a body of one frame.
pub(super) fn request(body: &'static str) -> Request<Body> {
    let body = http_body_util::Full::new(bytes::Bytes::from_static(body.as_bytes()));
    Request::post("/p.S/M")
        .header("te", "trailers")
        .header("x-test", "1")
        .extension(7_u8)
        .body(Body::new(body))
        .expect("a request")
}
