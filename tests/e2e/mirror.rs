//! tonic's own server, with a service that tells the caller what it saw.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use http::{HeaderValue, Request as HttpRequest};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::transport::server::Connected;
use tonic::{Code, Request, Response, Status, Streaming};
use tower::util::MapRequestLayer;

use crate::support::proto::demo_server::{Demo, DemoServer};
use crate::support::proto::{EchoReply, EchoRequest};

/// Request metadata: answer with this code, a message, details and metadata.
pub const FAIL: &str = "x-fail";
/// Request metadata: answer after so many milliseconds.
pub const DELAY_MS: &str = "x-delay-ms";
/// Response metadata: the URI that the server was asked for.
pub const SEEN_URI: &str = "x-seen-uri";
/// What a message may weigh.
pub const MESSAGE_BYTES: usize = 16 << 20;

/// A running server; it stops when dropped.
pub struct Mirror {
    task: AbortHandle,
    addr: Option<SocketAddr>,
}

impl Mirror {
    /// On a free port of 127.0.0.1.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        Self::serve(Some(addr), TcpListenerStream::new(listener))
    }

    /// On what comes through the sender.
    pub fn in_memory() -> (Self, mpsc::UnboundedSender<DuplexStream>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let incoming = UnboundedReceiverStream::new(receiver).map(Ok::<_, io::Error>);
        (Self::serve(None, incoming), sender)
    }

    fn serve<I>(
        addr: Option<SocketAddr>,
        incoming: impl Stream<Item = io::Result<I>> + Send + 'static,
    ) -> Self
    where
        I: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let service = DemoServer::new(Service)
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let server = tonic::transport::Server::builder()
            .layer(MapRequestLayer::new(|mut request: HttpRequest<_>| {
                let uri = HeaderValue::try_from(request.uri().to_string()).unwrap();
                request.headers_mut().insert(SEEN_URI, uri);
                request
            }))
            .add_service(service)
            .serve_with_incoming(incoming);
        Self {
            task: tokio::spawn(server).abort_handle(),
            addr,
        }
    }

    /// `http://127.0.0.1:port`.
    ///
    /// # Panics
    /// If it has no port.
    pub fn uri(&self) -> String {
        format!("http://{}", self.addr.expect("it has a port"))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a failed call carries besides its code.
pub const FAIL_MESSAGE: &str = "told to fail: 100 % \u{fc}ber";
/// The details of a failed call.
pub const FAIL_DETAILS: &[u8] = b"\x00\x01details\xff";

struct Service;

/// What is to come back: all that begins with `x-`, and what the transport said.
async fn mirrored<T>(request: &Request<T>) -> Result<MetadataMap, Status> {
    let mut metadata = MetadataMap::new();
    for entry in request.metadata().iter() {
        match entry {
            KeyAndValueRef::Ascii(key, value) if key.as_str().starts_with("x-") => {
                metadata.append(key, value.clone());
            }
            KeyAndValueRef::Ascii(key, value) if key == "user-agent" || key == "grpc-timeout" => {
                let key = format!("x-seen-{key}");
                let key = tonic::metadata::MetadataKey::from_bytes(key.as_bytes()).unwrap();
                metadata.append(key, value.clone());
            }
            KeyAndValueRef::Binary(key, value) => {
                metadata.append_bin(key, value.clone());
            }
            KeyAndValueRef::Ascii(..) => {}
        }
    }
    let number = |key| request.metadata().get(key)?.to_str().ok()?.parse().ok();
    if let Some(delay) = number(DELAY_MS) {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    if let Some(code) = number(FAIL) {
        return Err(Status::with_details_and_metadata(
            Code::from_i32(code as i32),
            FAIL_MESSAGE,
            FAIL_DETAILS.into(),
            metadata,
        ));
    }
    Ok(metadata)
}

fn reply(request: EchoRequest, count: u64) -> EchoReply {
    EchoReply {
        server: "mirror".to_owned(),
        message: request.message,
        payload: request.payload,
        count,
    }
}

fn with<T>(metadata: MetadataMap, message: T) -> Response<T> {
    Response::from_parts(metadata, message, Default::default())
}

type Replies = stream::BoxStream<'static, Result<EchoReply, Status>>;

#[tonic::async_trait]
impl Demo for Service {
    type ServerStreamStream = Replies;
    type BidiStreamStream = Replies;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoReply>, Status> {
        let metadata = mirrored(&request).await?;
        Ok(with(metadata, reply(request.into_inner(), 1)))
    }

    /// Fails, if told so, after the replies.
    async fn server_stream(
        &self,
        request: Request<EchoRequest>,
    ) -> Result<Response<Replies>, Status> {
        let (metadata, end) = match mirrored(&request).await {
            Ok(metadata) => (metadata, None),
            Err(status) => (MetadataMap::new(), Some(Err(status))),
        };
        let request = request.into_inner();
        let replies = request.replies;
        let replies = stream::iter(1..=replies).map(move |n| Ok(reply(request.clone(), n)));
        Ok(with(metadata, replies.chain(stream::iter(end)).boxed()))
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<EchoReply>, Status> {
        let metadata = mirrored(&request).await?;
        let mut requests = request.into_inner();
        let mut last = EchoRequest::default();
        let mut count = 0;
        while let Some(request) = requests.message().await? {
            last = request;
            count += 1;
        }
        Ok(with(metadata, reply(last, count)))
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let metadata = mirrored(&request).await?;
        let requests = request.into_inner().enumerate();
        let replies = requests.map(|(index, request)| Ok(reply(request?, index as u64 + 1)));
        Ok(with(metadata, replies.boxed()))
    }
}
