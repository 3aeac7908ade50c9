//! A server written frame by frame.

use std::future::Future;
use std::time::Duration;

use http::{Request, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tonic::body::Body;

use crate::connection::{ConnectionEvents, Connector};
use crate::endpoint::Endpoint;
use crate::grpc::http2::{ConnectError, Http2, Http2Connector, Http2Settings};

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

/// Lets the other tasks of the runtime run until `done` says so.
pub(super) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    soon(what, async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
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
}

impl Peer {
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

    /// Reads until the client has closed.
    pub(super) async fn closed(&mut self) {
        while self.frame().await.is_some() {}
    }
}

/// A connector whose dials end at in-memory peers with room for `buffer` bytes each way.
pub(super) fn connector(
    settings: Http2Settings,
    buffer: usize,
) -> (Http2Connector, mpsc::UnboundedReceiver<Peer>) {
    let (peers, accept) = mpsc::unbounded_channel();
    let dial = tower::service_fn(move |_: Uri| {
        let (client, server) = tokio::io::duplex(buffer);
        let sent = peers.send(Peer { io: server });
        async move {
            sent.map_err(|_| std::io::Error::other("nobody accepts"))?;
            Ok::<_, std::io::Error>(TokioIo::new(client))
        }
    });
    let connector = Http2Connector::with_connector(settings, dial).expect("good settings");
    (connector, accept)
}

pub(super) struct Open {
    pub(super) service: Http2,
    pub(super) peer: Peer,
    pub(super) events: ConnectionEvents,
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
    let events = ConnectionEvents::detached();
    let peer = async {
        let mut peer = soon("a dial", accept.recv()).await.expect("a dial");
        peer.read_preface().await;
        peer.settings(settings).await;
        peer
    };
    let (service, peer) = tokio::join!(connect(&connector, events.clone()), peer);
    Open {
        service: service.expect("it connects"),
        peer,
        events,
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
